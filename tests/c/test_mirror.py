# SPDX-License-Identifier: BSD-3-Clause
"""The function `mirror`, by `dpsup try`: which packets are copied, and what a copy is."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.contrib.erspan import ERSPAN_II
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet
from tried import Step, Tried

ENDS = 'source = "192.0.2.1", destination = "192.0.2.9", mac = "02:00:00:00:00:09"'
ENDS6 = 'source = "2001:db8::1", destination = "2001:db8::9", mac = "02:00:00:00:00:09"'


def mirror(tmp_path: Path, args: str = "", more: str = "") -> Tried:
    group = f'state = "auto"\nargs = {{ to = "mon"{args and ", "}{args} }}\n{more}'
    return Tried(tmp_path, "mirror", ("lan", "wan", "mon"), group)


def ether() -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def udp(i: int, size: int = 100) -> Packet:
    return ether() / IP(src=f"10.0.0.{i}", dst="10.1.0.1") / UDP(sport=i, dport=53) / bytes(size)


TRAFFIC: dict[str, Packet] = {
    "udp": udp(1),
    "tcp": ether() / IP(src="10.0.0.2", dst="10.1.0.1") / TCP(sport=4, dport=443) / bytes(20),
    "tagged": ether() / Dot1Q(vlan=100, prio=5) / udp(3)[IP],
    "six": ether() / IPv6(src="2001:db8::3", dst="2001:db8:1::3") / UDP(sport=9, dport=53) / b"x",
    "rest": ether() / IP(src="10.0.0.4", dst="10.1.0.1", frag=5) / bytes(26),
    "arp": ether() / ARP(psrc="10.0.0.5", pdst="10.1.0.1") / bytes(18),
    "short": ether() / bytes([0x45, 0, 0, 40]),
}


@pytest.mark.parametrize(
    ("args", "more", "expected"),
    [
        ("", "", set(TRAFFIC)),
        ('protocol = "udp"', "", {"udp", "tagged", "six"}),
        ('l4_port = "443, 1"', "", {"udp", "tcp"}),
        ('protocol = "17", l4_port = "53"', "", {"udp", "tagged", "six"}),
        ('from = "wan"', "", set()),
        ("", "prefixes 10.0.0.0/30 1, 10.0.0.1 0", {"tcp", "tagged"}),
        ("", "prefixes 10.1.0.0/16 1, 10.0.0.0/30 0", {"udp", "tcp", "tagged", "rest"}),
        ("", "prefixes6 2001:db8:1::/48 1", {"six"}),
    ],
)
def test_which_packets_are_copied(tmp_path: Path, args: str, more: str, expected: set[str]) -> None:
    """As GRE, so that copies are packets of their own, which `dpsup try` writes."""
    table = ""
    if more:
        name, _, lines = more.partition(" ")
        (tmp_path / "prefixes.txt").write_text(lines.replace(", ", "\n") + "\n")
        kind = "ipv6" if name.endswith("6") else "ipv4"
        table = (
            f'[workers.tables]\n{name} = {{ kind = "{kind}", entries = "100",'
            f' file = "{tmp_path}/prefixes.txt" }}\n'
        )
    gre = f'tunnel = "gre", {ENDS}' + (f", {args}" if args else "")
    steps: list[Step] = [(i, "lan", packet) for i, packet in enumerate(TRAFFIC.values())]
    doc, left = mirror(tmp_path, gre, table).run(steps)
    assert [bytes(packet) for port, packet in left if port != "mon"] == [
        bytes(packet) for packet in TRAFFIC.values()
    ]
    names = {bytes(packet): name for name, packet in TRAFFIC.items()}
    copies = [packet for port, packet in left if port == "mon"]
    assert {names[bytes(packet[GRE].payload)] for packet in copies} == expected
    assert doc["counters"]["matched"] == doc["counters"]["copied"] == len(expected)


def test_a_whole_copy_is_one_of_the_io_core(tmp_path: Path) -> None:
    steps: list[Step] = [(i, "lan", packet) for i, packet in enumerate(TRAFFIC.values())]
    doc, _ = mirror(tmp_path).run(steps)
    assert doc["out"]["mon"]["copies"] == len(steps) and doc["emitted"] == 0


def test_what_comes_from_the_monitor_is_not_copied_to_it(tmp_path: Path) -> None:
    doc, _ = mirror(tmp_path).run([(0, "mon", udp(1))])
    assert doc["counters"]["matched"] == 0


@pytest.mark.parametrize("ends", [ENDS, ENDS6], ids=["ipv4", "ipv6"])
def test_erspan_has_sequence_session_tag_and_length(tmp_path: Path, ends: str) -> None:
    args = f'tunnel = "erspan", {ends}, session = 7, bytes = 60, ttl = 9'
    steps: list[Step] = [(i, "wan", packet) for i, packet in enumerate(TRAFFIC.values())]
    doc, left = mirror(tmp_path, args).run(steps, "--kill-sweep")
    copies = [packet for port, packet in left if port == "mon"]
    assert len(copies) == len(steps)
    assert doc["sweep"]["points"] > len(steps)
    for i, (copy, was) in enumerate(zip(copies, TRAFFIC.values(), strict=True)):
        assert copy.dst == "02:00:00:00:00:09"
        if IPv6 in copy and ends == ENDS6:
            ip = copy[IPv6]
            assert (ip.src, ip.dst, ip.nh, ip.hlim) == ("2001:db8::1", "2001:db8::9", 47, 9)
            assert ip.plen == len(bytes(ip.payload))
        else:
            ip = copy[IP]
            assert (ip.src, ip.dst, ip.proto, ip.ttl) == ("192.0.2.1", "192.0.2.9", 47, 9)
            assert ip.len == len(bytes(ip)) and ip.chksum == IP(bytes(_without_sum(ip))).chksum
        gre, erspan = copy[GRE], copy[ERSPAN_II]
        assert (gre.proto, gre.seqnum_present, gre.sequence_number) == (0x88BE, 1, i)
        tagged = Dot1Q in was
        assert (erspan.ver, erspan.session_id, erspan.index) == (1, 7, 1)
        assert (erspan.vlan, erspan.cos, erspan.en) == ((100, 5, 3) if tagged else (0, 0, 0))
        cut = len(bytes(was)) > 60
        assert erspan.t == cut
        assert bytes(erspan.payload) == bytes(was)[:60]
    assert doc["counters"]["truncated"] == sum(len(bytes(p)) > 60 for p in TRAFFIC.values())


def _without_sum(ip: Packet) -> Packet:
    fresh = ip.copy()
    del fresh.chksum
    return fresh


@pytest.mark.parametrize("by", ["packet", "flow"])
def test_one_of_n(tmp_path: Path, by: str) -> None:
    steps: list[Step] = [(i / 1000, "lan", udp(i % 200 + 1)) for i in range(1000)]
    args = f'sample = 5, sample_by = "{by}", tunnel = "gre", {ENDS}'
    doc, left = mirror(tmp_path, args).run(steps)
    copies = [packet[GRE].payload[IP].src for port, packet in left if port == "mon"]
    assert doc["counters"]["matched"] == 1000
    if by == "packet":
        assert len(copies) == 200
    else:
        flows = set(copies)
        assert 15 < len(flows) < 75 and all(copies.count(flow) == 5 for flow in flows)


def test_a_sample_is_exact_over_kills(tmp_path: Path) -> None:
    steps: list[Step] = [(i, "lan", udp(i)) for i in range(1, 16)]
    args = f'sample = 3, tunnel = "erspan", {ENDS}'
    doc, left = mirror(tmp_path, args).run(steps, "--kill-sweep")
    copies = [packet[GRE].sequence_number for port, packet in left if port == "mon"]
    assert copies == [0, 1, 2, 3, 4] and doc["counters"]["copied"] == 5


WRONG = [
    ("bytes = 9", "write a number from 14 to 65535"),
    ('tunnel = "vxlan"', "none of: none, gre, erspan"),
    ('tunnel = "gre"', "it needs the argument"),
    (f"tunnel = 'gre', {ENDS6.replace('2001:db8::9', '192.0.2.9')}", "of the same kind"),
    (f"tunnel = 'gre', {ENDS.replace('00:09', '0g')}", "is not a MAC address"),
    ('from = "dmz"', "there is no port"),
    ('from = "mon"', "to and from are the same port"),
    ('l4_port = "99999"', "is not a port number"),
    ('protocol = "osi"', "is not tcp, udp"),
    (ENDS, "are a tunnel's"),
]


@pytest.mark.parametrize(("args", "why"), WRONG, ids=[why for _, why in WRONG])
def test_wrong_arguments_are_refused_with_a_reason(tmp_path: Path, args: str, why: str) -> None:
    assert why in mirror(tmp_path, args).refusal()
