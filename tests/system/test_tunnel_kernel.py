# SPDX-License-Identifier: BSD-3-Clause
"""The function `tunnel` against the kernel's own vxlan device: TCP and pings to a host behind it,
while workers die and scale."""

from __future__ import annotations

import pytest
from harness import Run, wait_for
from netns import Transfer, sh, two_hosts

from dpsup import connect

pytestmark = [pytest.mark.system, pytest.mark.beside]

TOPOLOGY = """
[[ports]]
name = "lan"
vdev = "net_af_packet0,iface={lan}"
rss = {{ inner = ["vxlan:8472"] }}
[[ports]]
name = "wan"
vdev = "net_af_packet1,iface={wan}"
rss = {{ inner = ["vxlan:8472"] }}
[[io]]
cores = "1"
[[workers]]
name = "tunnel"
plugin = "tunnel"
input = ["lan", "wan"]
args = {{ inside = "lan", underlay = "wan", source = "10.99.0.77", remote = "{remote}",
         mac = "{mac}", vni = 7, port = 8472 }}
on_full = "hold"
count = 1
max = 3
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
""".replace(",\n         ", ", ")


def test_the_kernel_s_vxlan_is_the_other_end(instance: Run) -> None:
    with two_hosts() as (inside, outside):
        done = sh("ip", "-n", outside.name, "link", "add", "vx", "type", "vxlan", "id", "7",
                  "remote", "10.99.0.77", "local", outside.ipv4, "dstport", "8472", "dev",
                  outside.device, check=False)  # fmt: skip
        if "Unknown device type" in done.stderr:
            pytest.skip("this kernel has no vxlan device")
        assert done.returncode == 0, done.stderr
        # 50 bytes of headers fit the underlay; the far end computes its checksums itself.
        sh("ip", "-n", inside.name, "link", "set", inside.device, "mtu", "1450")
        sh("ip", "-n", inside.name, "addr", "add", "10.77.0.1/24", "dev", inside.device)
        sh("ip", "-n", outside.name, "addr", "add", "10.77.0.2/24", "dev", "vx")
        sh("ip", "-n", outside.name, "link", "set", "vx", "up")
        outside.run("ethtool", "-K", "vx", "tx", "off", "tso", "off", "gso", "off", check=False)
        outside.run(
            "ip", "neigh", "replace", "10.99.0.77", "lladdr", inside.mac, "dev", outside.device
        )
        text = TOPOLOGY.format(
            lan=inside.port, wan=outside.port, remote=outside.ipv4, mac=outside.mac
        )
        instance.start(text)
        assert inside.ping("10.77.0.2") == 5
        transfer = Transfer.start(inside, outside, "10.77.0.2", 1 << 20)
        with connect(instance.name) as live:
            for count in (3, 1):
                live.scale("tunnel", count)
                live.kill("tunnel/0")
                wait_for(lambda: live.status()["state"] == "running")
        sent, received = transfer.finish()
        assert sent["sha256"] == received["sha256"]
        status = instance.status()
        assert status["recovery"]["lost"] == 0
        counters = [w["counters"] for g in status["groups"] for w in g["workers"]]
        assert min(sum(c[k] for c in counters) for k in ("encapsulated", "decapsulated")) > 100
