# SPDX-License-Identifier: BSD-3-Clause
"""Real TCP through the function `acl` between two namespaces: what a rule keeps passes both ways
while workers die and scale, rules change under traffic, and nothing begins from outside."""

from __future__ import annotations

import pytest
from harness import Run, wait_for
from netns import TCP_PORT, Host, Transfer, two_hosts

from dpsup import connect
from dpsup.errors import DpsupError

pytestmark = [pytest.mark.system, pytest.mark.beside]

TOPOLOGY = """
[[ports]]
name = "lan"
vdev = "net_af_packet0,iface={lan}"
[[ports]]
name = "wan"
vdev = "net_af_packet1,iface={wan}"
[[io]]
cores = "1"
[[workers]]
name = "firewall"
plugin = "acl"
state = "auto"
bucket_state = "auto"
on_full = "hold"
count = 1
max = 3
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
[workers.tables.rules]
kind = "own"
key = "be32"
value = "words200"
entries = "10k"
bytes = "32MiB"
file = "rules.txt"
[[chains]]
name = "line"
path = ["lan", "firewall", "wan"]
"""
RULES = """
10 permit tcp in lan keep
20 permit icmp in lan keep
"""


def refused(source: Host, address: str) -> str:
    """How a connection to an address ends that nobody listens at: "refused", "late"."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(); s.settimeout(1)\n"
        "try: s.connect((sys.argv[1], int(sys.argv[2]))); print('open')\n"
        "except ConnectionRefusedError: print('refused')\n"
        "except TimeoutError: print('late')\n"
    )
    out, err = source.popen("python3", "-c", program, address, str(TCP_PORT + 1)).communicate()
    assert not err
    return out.strip()


def test_a_firewall(instance: Run) -> None:
    with two_hosts() as (inside, outside):
        (instance.folder / "rules.txt").write_text(RULES)
        instance.start(TOPOLOGY.format(lan=inside.port, wan=outside.port))
        assert inside.ping(outside.ipv4) == 5
        assert outside.ping(inside.ipv4, "-W", "1", count=1) == 0
        transfer = Transfer.start(inside, outside, outside.ipv4, 1 << 20)
        with connect(instance.name) as live:
            for count in (3, 1, 2):
                live.scale("firewall", count)
                live.kill("firewall/0")
                wait_for(lambda: live.status()["state"] == "running")
            # Connections from outside are dropped, then answered, then let in; all live.
            assert refused(outside, inside.ipv4) == "late"
            live.table_change("rules", "add 30 reject tcp in wan count 1")
            assert refused(outside, inside.ipv4) == "refused"
            with pytest.raises(DpsupError, match="rule 40: there is no port"):
                live.table_change("rules", "add 40 permit in dmz")
            live.table_change("rules", f"replace 30 permit tcp in wan to {inside.ipv4} keep")
            assert outside.ping(inside.ipv4, "-W", "1", count=1) == 0
            answering = Transfer.start(outside, inside, inside.ipv4, 1 << 16)
            assert answering.finish()[1]["bytes"] > 0
            # A rule that denies what is open already ends nothing; it begins no more.
            live.table_change("rules", "replace 10 deny tcp in lan")
            assert refused(inside, outside.ipv4) == "late"
            sent, received = transfer.finish()
            assert sent["sha256"] == received["sha256"]
            counters = live.status()["groups"][0]["workers"]
            assert sum(w["counters"]["of_a_flow"] for w in counters) > 100
        assert instance.status()["recovery"]["lost"] == 0
