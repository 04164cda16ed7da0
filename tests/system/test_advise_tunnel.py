# SPDX-License-Identifier: BSD-3-Clause
"""A tunnel whose packets all come to one worker: advise looks at some of them and names the key."""

from __future__ import annotations

import json
from typing import Any

from harness import Run
from traffic import write_pcap

import dpsup

TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_pcap0,rx_pcap=in.pcap,infinite_rx=1,tx_pcap=/dev/null"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "delay"
args = { cycles = 20000 }
input = ["wan"]
count = 2
spares = 0
cores = "0"
"""


def tunnelled() -> list[bytes]:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    ends = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
    head = ends / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=9, dport=8472)
    head = head / VXLAN(flags="Instance", vni=7) / ends
    return [
        bytes(head / IP(src=f"10.0.0.{i}", dst="10.0.1.1") / UDP(sport=i, dport=53))
        for i in range(1, 129)
    ]


def test_the_tunnel_is_named_and_its_key(instance: Run) -> None:
    write_pcap(instance.folder / "in.pcap", tunnelled())
    instance.start(TOPOLOGY)
    done = instance.do("advise", "--for", "500ms", "-o", "json")
    doc: dict[str, Any] = json.loads(done.stdout)
    (piece,) = [one for one in doc["advice"] if one["kind"] == "tunnel"]
    assert piece["numbers"]["share"] == 1.0 and piece["numbers"]["flows"] > 4
    (change,) = piece["changes"]
    assert change["path"] == ["ports", "wan", "rss", "inner"] and change["value"] == ["vxlan:8472"]
    (what,) = doc["contents"].values()
    assert "VXLAN on port 8472" in what
    # The capture has ended with the look.
    with dpsup.connect(instance.name) as one:
        assert not any(io["watched"] for io in one.stats()["io"])
    said = instance.do("rebalance", "fw", "--dry-run").stdout
    assert "alone has" in said and "dpsup advise" in said
