# SPDX-License-Identifier: BSD-3-Clause
"""The function `tunnel`, by `dpsup try`: scapy reads what it makes, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from tried import Step, Tried

OURS, FAR = "192.0.2.1", "192.0.2.2"
ENDS = f'inside = "lan", underlay = "wan", source = "{OURS}", remote = "{FAR}"'
ENDS += ', mac = "02:00:00:00:00:22"'
KINDS = {
    "vxlan": 'kind = "vxlan", vni = 7',
    "gre": 'kind = "gre"',
    "key": 'kind = "gre", key = 7',
    "ipip": 'kind = "ipip", inside_mac = "02:00:00:00:00:33"',
}


def tunnel(tmp_path: Path, kind: str, more: str = "", tables: str = "") -> Tried:
    args = f"args = {{ {KINDS[kind]}, {ENDS}{more} }}\n{tables}"
    return Tried(tmp_path, "tunnel", ("lan", "wan"), args)


def ether() -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def udp(size: int = 40, sport: int = 5000, **more: int | str) -> Packet:
    ip = {"src": "10.0.0.1", "dst": "10.1.0.1"} | more
    return ether() / IP(**ip) / UDP(sport=sport) / bytes(size)


def six(tc: int = 0, size: int = 20) -> Packet:
    return ether() / IPv6(src="2001:db8::1", dst="2001:db8::2", tc=tc) / UDP() / bytes(size)


FRAMES = [
    udp(), udp(tos=46 << 2 | 1), six(12 << 2 | 2), ether() / Dot1Q(vlan=5) / udp()[IP],
    ether() / ARP() / bytes(18),
]  # fmt: skip


def inner(packet: Packet, kind: str) -> bytes:
    if kind == "vxlan":
        return bytes(packet[VXLAN].payload)
    return bytes(packet[GRE].payload if kind in ("gre", "key") else packet[IP].payload)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    frames = [p for p in FRAMES if kind != "ipip" or p.type in (0x800, 0x86DD)]
    steps: list[Step] = [(i, "lan", p) for i, p in enumerate(frames)]
    doc, left = tunnel(tmp_path, kind).run(steps, "--kill-sweep")
    assert [port for port, _ in left] == ["wan"] * len(frames)
    assert doc["counters"]["encapsulated"] == len(frames)
    back: list[Step] = []
    for i, (was, (_, out)) in enumerate(zip(frames, left, strict=True)):
        ip = out[IP]
        assert (out.dst, ip.src, ip.dst, ip.ttl) == ("02:00:00:00:00:22", OURS, FAR, 64)
        assert ip.flags == "DF" and ip.len == len(bytes(ip))
        fresh = ip.copy()
        del fresh.chksum
        assert IP(bytes(fresh)).chksum == ip.chksum
        tos = was[IPv6].tc if IPv6 in was else was[IP].tos if IP in was else 0
        assert ip.tos == tos, "DSCP and ECN (RFC 6040)"
        carried = bytes(was)[14:] if kind == "ipip" else bytes(was)
        assert inner(out, kind) == carried
        if kind == "vxlan":
            assert (out[VXLAN].vni, out[VXLAN].flags, out[UDP].dport) == (7, 8, 4789)
            assert out[UDP].chksum == 0 and out[UDP].sport >= 49152
        elif kind != "ipip":
            assert out[GRE].proto == 0x6558
            assert (out[GRE].key_present, out[GRE].key or 0) == (
                (1, 7) if kind == "key" else (0, 0)
            )
        else:
            assert ip.proto == (41 if IPv6 in was else 4)
        ip.src, ip.dst = FAR, OURS
        del ip.chksum
        back.append((i, "wan", out))
    doc, left = tunnel(tmp_path, kind).run(back, "--kill-sweep")
    assert doc["counters"]["decapsulated"] == len(frames)
    for was, (port, out) in zip(frames, left, strict=True):
        assert port == "lan"
        if kind == "ipip":
            assert out.dst == "02:00:00:00:00:33" and out.type == was.type
            assert bytes(out)[14:] == bytes(was)[14:]
        else:
            assert bytes(out) == bytes(was)


def test_flows_have_source_ports_of_their_own(tmp_path: Path) -> None:
    steps: list[Step] = [(i, "lan", udp(sport=i)) for i in range(1, 200)]
    _, left = tunnel(tmp_path, "vxlan").run([*steps, *steps])
    ports = [out[UDP].sport for _, out in left]
    assert ports[:199] == ports[199:] and len(set(ports)) > 180


def test_what_is_too_long_is_answered(tmp_path: Path) -> None:
    """The null ports' MTU is 1500."""
    steps: list[Step] = [
        (0, "lan", udp(1500 - 28 - 36 - 14, flags="DF")), (1, "lan", udp(1472, flags="DF")),
        (2, "lan", udp(1472)), (3, "lan", six(size=1452)),
    ]  # fmt: skip
    doc, left = tunnel(tmp_path, "vxlan").run(steps, "--kill-sweep")
    assert [port for port, _ in left] == ["wan", "lan", "lan"]
    assert doc["dropped"]["too_big"] == 3 and doc["counters"]["icmp_errors"] == 2
    assert left[1][1][ICMP].nexthopmtu == 1450 and left[1][1][IP].dst == "10.0.0.1"
    assert left[2][1][ICMPv6PacketTooBig].mtu == 1450
    assert len(bytes(left[0][1])) == 1514


def outer(inside: Packet, tos: int = 0, **more: int | str) -> Packet:
    ip = IP(**({"src": FAR, "dst": OURS, "tos": tos} | more))
    return ether() / ip / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=7, flags=8) / inside


def test_congestion_goes_on_inside_or_ends(tmp_path: Path) -> None:
    steps: list[Step] = [
        (0, "wan", outer(udp(tos=1), 3)), (0, "wan", outer(udp(tos=0), 3)),
        (0, "wan", outer(six(2), 3)), (0, "wan", outer(udp(tos=2), 2)),
    ]  # fmt: skip
    doc, left = tunnel(tmp_path, "vxlan").run(steps)
    assert [p[IPv6].tc if IPv6 in p else p[IP].tos for _, p in left] == [3, 3, 2]
    assert doc["dropped"]["congested"] == 1
    marked = left[0][1][IP].copy()
    del marked.chksum
    assert IP(bytes(marked)).chksum == left[0][1][IP].chksum


def test_what_is_not_the_tunnel_s_is_dropped(tmp_path: Path) -> None:
    other = outer(udp())
    other[VXLAN].vni = 8
    cut = Ether(bytes(outer(udp()))[: 14 + 20 + 8 + 8 + 10])
    cut[IP].len = 20 + 8 + 8 + 10
    packets = {
        "not_ours": [
            outer(udp(), dst="192.0.2.3"), udp(dst=OURS), six(), ether() / ARP() / bytes(18)
        ],
        "other_number": [other],
        "fragment": [outer(udp(), flags="MF"), outer(udp(), frag=3)],
        "bad_header": [cut, outer(udp(), len=9000)],
    }  # fmt: skip
    steps: list[Step] = [(0, "wan", p) for some in packets.values() for p in some]
    doc, left = tunnel(tmp_path, "vxlan").run(steps)
    assert not left
    assert {k: n for k, n in doc["dropped"].items() if n} == {k: len(v) for k, v in packets.items()}


def test_remotes_by_inner_prefix(tmp_path: Path) -> None:
    (tmp_path / "prefixes.txt").write_text("10.1.0.0/16 0\n10.2.0.0/16 1\n")
    (tmp_path / "remotes.txt").write_text(
        "0 192.0.2.7,02:00:00:00:00:77,70\n1 192.0.2.8,02:00:00:00:00:88,80\n"
    )
    tables = (
        '[workers.tables]\nprefixes = { kind = "ipv4", entries = "1k",'
        f' file = "{tmp_path}/prefixes.txt" }}\n'
        'remotes = { kind = "array", value = "ipv4+mac+u32", entries = "16",'
        f' file = "{tmp_path}/remotes.txt" }}\n'
    )
    steps: list[Step] = [(0, "lan", udp(dst=f"10.{n}.0.1")) for n in (1, 2, 3)]
    _, left = tunnel(tmp_path, "vxlan", "", tables).run(steps)
    assert [(p.dst[-2:], p[IP].dst, p[VXLAN].vni) for _, p in left] == [
        ("77", "192.0.2.7", 70), ("88", "192.0.2.8", 80), ("22", FAR, 7)
    ]  # fmt: skip


WRONG = [
    ("vxlan", ", key = 3", "vni is VXLAN"),
    ("gre", ", vni = 3", "vni is VXLAN"),
    ("vxlan", ", vnis = 3", "it has no argument"),
    ("vxlan", ", dscp = 64", "more than it takes"),
    ("vxlan", ", ttl = 0", "above 0"),
]


@pytest.mark.parametrize(("kind", "more", "why"), WRONG, ids=[f"{k}{m}" for k, m, _ in WRONG])
def test_wrong_arguments_are_refused_with_a_reason(
    tmp_path: Path, kind: str, more: str, why: str
) -> None:
    assert why in tunnel(tmp_path, kind, more).refusal()
