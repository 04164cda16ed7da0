# SPDX-License-Identifier: BSD-3-Clause
"""Parts of the function `route`, by `dpsup try`: what the comparison with the kernel does not see.

tests/system/test_route_kernel.py is that comparison.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from routing import (
    MAC,
    TOPOLOGY,
    Network,
    Packets,
    Sent,
    by_dpsup,
    mac,
    own,
    packed,
    sum_of,
    tried,
)

FEW = TOPOLOGY.replace('"10k"', '"64"')
BACK = {4: "20.0.0.9", 6: "2001:db8:20::9"}  # behind wan
TO = {4: "30.0.0.9", 6: "2001:db8:30::9"}  # behind lan, two ways
TABLES = {
    "hops.txt": f"0 wan,{mac('wan', 2).hex(':')}\n1 lan,{mac('lan', 2).hex(':')}\n"
                f"2 dmz,{mac('dmz', 2).hex(':')}\n3 dmz,00:00:00:00:00:00\n",
    "routes.txt": "20.0.0.0/8 0\n30.0.0.0/8 1\n40.0.0.0/8 60\n50.0.0.0/8 3\n60.0.0.0/8 ecmp/1\n"
                  "70.0.0.0/8 ecmp/2\n10.1.0.1 local\n80.0.0.0/8 prohibited",
    "routes6.txt": "2001:db8:20::/48 0\n2001:db8:30::/48 1\n2001:db8:60::/48 ecmp/1\n"
                   "fd00:1::1 local\nfe80::/10 0",
}  # fmt: skip


def ipv4(target: str, source: str = BACK[4], body: bytes = b"", **more: int) -> bytes:
    """A UDP packet, unless `protocol` says something else."""
    body = body or struct.pack(">HHHH", more.get("sport", 1), 9, 8, 0)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, more.get("flags", 0),
                       more.get("ttl", 64), more.get("protocol", 17), 0, packed(source),
                       packed(target))  # fmt: skip
    head = head[:10] + (sum_of(head) ^ more.get("spoilt", 0)).to_bytes(2, "big") + head[12:]
    return b"\x08\0" + head + body


def ipv6(target: str, source: str = BACK[6], body: bytes = b"", **more: int) -> bytes:
    body = body or struct.pack(">HHHH", more.get("sport", 1), 9, 8, 0)
    return b"\x86\xdd" + struct.pack(">IHBB16s16s", 6 << 28, more.get("length", len(body)),
                                     more.get("protocol", 17), more.get("hops", 64),
                                     packed(source), packed(target)) + body  # fmt: skip


def at(port: str, packet: bytes, to: bytes = b"") -> Sent:
    return Sent(port, (to or MAC[port]) + mac(port, 2) + packet)


@pytest.fixture
def route(tmp_path: Path) -> Any:
    def do(sent: list[Sent], *words: str, args: str = "", ways: str = "") -> Any:
        text = FEW.replace("icmp_rate", f"{args}\nicmp_rate", 1)
        if ways:
            text = text.replace('entries = "16" }', 'entries = "16", file = "ecmp.txt" }')
            (tmp_path / "ecmp.txt").write_text(ways + "\n")
        return tried(tmp_path, TABLES, sent, text, *words)

    return do


def dropped(doc: dict[str, Any]) -> dict[str, int]:
    return {reason: n for reason, n in doc["dropped"].items() if n}


def counted(doc: dict[str, Any]) -> dict[str, int]:
    return {name: n for name, n in doc["counters"].items() if n}


def test_a_kill_at_every_store_changes_nothing(tmp_path: Path) -> None:
    """Of packets, errors, and the counters of next hops."""
    rng = random.Random(5)
    network = Network.draw(rng, 60)
    drawn = Packets(network, rng)
    sent = [drawn.one() for _ in range(30)] + [drawn.too_big() for _ in range(4)]
    left, doc = by_dpsup(tmp_path, network, sent, "--kill-sweep")
    assert doc["ok"] and doc["sweep"]["packets"] == len(sent)
    assert doc["counters"]["icmp_errors_sent"] > 3 and doc["dropped"]["too_big"] > 0
    assert left == by_dpsup(tmp_path, network, sent)[0]


def test_what_goes_to_the_kernel(route: Any) -> None:
    everyone = b"\xff" * 6
    sent = [
        at("wan", b"\x08\x06" + bytes(28), everyone),
        at("wan", b"\x81\0\0\x05" + ipv4(TO[4])),
        at("wan", ipv4("10.1.0.1")), at("wan", ipv6("fd00:1::1")),
        at("wan", ipv4("224.0.0.5"), b"\1\0\x5e\0\0\5"),
        at("wan", ipv4("255.255.255.255", "0.0.0.0"), everyone),
        at("wan", ipv6("ff02::1", "::"), b"\x33\x33\0\0\0\1"), at("wan", ipv6("fe80::1")),
        at("wan", ipv4("50.0.0.1")),
    ]  # fmt: skip
    left, doc = route(sent)
    assert (left, dropped(doc), doc["punted"]) == ([], {}, len(sent))
    assert counted(doc) == {"punted_not_ip": 2, "punted_local": 2, "punted_multicast": 4,
                            "punted_no_neighbour": 1}  # fmt: skip
    left, doc = route(sent[-1:], args='unresolved = "drop"')
    assert (left, dropped(doc)) == ([], {"unresolved": 1})
    assert dropped(route([at("wan", ipv4("40.0.0.1"))])[1]) == {"no_hop": 1}


def test_no_error_about_these(route: Any) -> None:
    """Errors, later fragments, redirects, what has no sender to tell."""
    error4, echo4 = bytes((3, 1)) + bytes(30), bytes((8, 0)) + bytes(6)
    error6, echo6, redirect6 = (bytes((kind, 0)) + bytes(40) for kind in (1, 128, 137))
    fragment = b"\x11\0\0\x08\0\0\0\1" + bytes(8)
    first_of_error = b"\x3a\0\0\1\0\0\0\1" + error6
    authenticated, shim = b"\x3a\4" + bytes(22), b"\x3a\0" + bytes(6)
    quiet = [
        ipv4("90.0.0.1", body=error4, protocol=1), ipv4("90.0.0.1", flags=1),
        ipv4("90.0.0.1", "0.0.0.9"), ipv4("90.0.0.1", "127.0.0.1"), ipv4("0.0.0.9"),
        ipv4("90.0.0.1", spoilt=1), ipv4("90.0.0.1", body=error4[:1], protocol=1, ttl=1),
        ipv6("2001:db8:90::1", body=error6, protocol=58), ipv6("::"), ipv6("::1"),
        ipv6("2001:db8:90::1", body=redirect6, protocol=58),
        ipv6("2001:db8:90::1", body=first_of_error, protocol=44),
        ipv6("2001:db8:90::1", "ff02::9"), ipv6("2001:db8:90::1", "::"),
        ipv6("2001:db8:90::1", body=authenticated + error6, protocol=51),
        ipv6("2001:db8:90::1", body=shim + error6, protocol=140),
        # Its type lies behind the end that the header says.
        ipv6("2001:db8:90::1", body=echo6, protocol=58, length=0),
    ]  # fmt: skip
    told = [
        ipv4("90.0.0.1"), ipv4("90.0.0.1", body=echo4, protocol=1), ipv4("80.0.0.1"),
        ipv4(TO[4], ttl=1), ipv4("90.0.0.1", flags=0x2000),
        ipv6("2001:db8:90::1"), ipv6("2001:db8:90::1", body=echo6, protocol=58),
        ipv6("2001:db8:90::1", body=fragment, protocol=44), ipv6(TO[6], hops=1),
        ipv6(TO[6], "fe80::9"),
        ipv6("2001:db8:90::1", body=authenticated + echo6, protocol=51),
    ]  # fmt: skip
    left, doc = route([at("wan", packet) for packet in quiet])
    assert left == [] and counted(doc) == {}
    everyone = [at("wan", packet, b"\xff" * 6) for packet in told]
    left, doc = route(everyone)
    assert left == [] and dropped(doc) == {"link_broadcast": len(told)}
    left, doc = route([at("wan", packet) for packet in told])
    assert counted(doc) == {"icmp_errors_sent": len(told)}
    assert [frame[34:36].hex() for _, frame in left[:5]] == ["0300", "0300", "030d", "0b00", "0300"]
    assert [f[54:56].hex() for _, f in left[5:]] == ["0100", "0100", "0100", "0300", "0102", "0100"]
    for port, frame in left:
        assert port == "wan" and frame[:12] == mac("wan", 2) + MAC["wan"]
        if frame[12:14] == b"\x08\0":
            assert sum_of(frame[14:34]) == sum_of(frame[34:]) == 0
            assert (frame[26:30], frame[30:34]) == (packed(own("wan", 4)), packed(BACK[4]))
        else:
            pseudo = frame[22:54] + struct.pack(">II", len(frame) - 54, 58)
            assert sum_of(pseudo + frame[54:]) == 0 and frame[22:38] == packed(own("wan", 6))


def test_headers_that_lie_or_end_early(route: Any) -> None:
    """Every length of a packet, from none; and every length of header that IPv4 can claim."""
    whole = [at("lan", ipv4(BACK[4], TO[4])).frame, at("lan", ipv6(BACK[6], TO[6])).frame]
    short = [Sent("lan", frame[:n]) for frame in whole for n in range(1, len(frame))]
    left, doc = route(short)
    assert left == [] and dropped(doc) == {"bad_header": len(short)}
    lies = []
    for first in range(256):
        frame = bytearray(whole[0])
        frame[14] = first
        frame[24:26] = bytes(2)
        head = (first & 15) * 4
        frame[24:26] = sum_of(bytes(frame[14 : 14 + head])).to_bytes(2, "big")
        lies.append(Sent("lan", bytes(frame)))
    left, doc = route(lies)
    assert len(left) == 1 and doc["punted"] == 2  # with 4 and 8 bytes of options
    assert dropped(doc) == {"bad_header": 253}


def test_the_checksum_at_each_of_its_ends(route: Any) -> None:
    """One's complement has two zeroes, RFC 1624: of any identification the sum holds."""
    sent = []
    for number in range(0, 65536, 97):
        frame = bytearray(at("lan", ipv4(BACK[4], TO[4])).frame)
        frame[18:20], frame[24:26] = number.to_bytes(2, "big"), bytes(2)
        frame[24:26] = sum_of(bytes(frame[14:34])).to_bytes(2, "big")
        sent.append(Sent("lan", bytes(frame)))
    for check in (0x0000, 0xFEFF, 0xFF00, 0xFFFE):
        frame = bytearray(sent[0].frame)
        frame[18:20], frame[24:26] = bytes(2), check.to_bytes(2, "big")
        frame[18:20] = sum_of(bytes(frame[14:34])).to_bytes(2, "big")
        sent.append(Sent("lan", bytes(frame)))
    left, _ = route(sent)
    assert len(left) == len(sent)
    for one, (port, frame) in zip(sent, left, strict=True):
        assert port == "wan" and frame[22] == one.frame[22] - 1
        assert sum_of(frame[14:34]) == 0 and frame[24:26] != b"\xff\xff"
        assert frame[14:22] + frame[23:24] + frame[26:] == (
            one.frame[14:22] + one.frame[23:24] + one.frame[26:]
        )


def test_reverse_path(route: Any) -> None:
    """Nothing leaves for an address that its sender has no right to, no error either."""
    strict, loose = 'urpf = { wan = "strict" }', 'urpf = { wan = "loose" }'
    for packet, is_strict, is_loose in (
        (ipv4(TO[4]), 1, 1), (ipv4(TO[4], "30.1.1.1"), 0, 1), (ipv4(TO[4], "99.0.0.1"), 0, 0),
        (ipv4(TO[4], "10.1.0.1"), 0, 0), (ipv4(TO[4], "80.0.0.1"), 0, 0),
        (ipv4(TO[4], "60.0.0.1"), 1, 1), (ipv4(TO[4], "70.0.0.1"), 0, 1),
        (ipv6(TO[6]), 1, 1), (ipv6(TO[6], "2001:db8:30::1"), 0, 1), (ipv6(TO[6], "2a00::1"), 0, 0),
    ):  # fmt: skip
        for args, passes in ((strict, is_strict), (loose, is_loose)):
            left, doc = route([at("wan", packet)], args=args, ways="1 0+1\n2 1+2")
            assert (len(left), dropped(doc)) == (passes, {} if passes else {"urpf": 1})
    spoofed = [ipv4("90.0.0.1", "30.0.0.1"), ipv4("80.0.0.1", "30.0.0.1"),
               ipv4(TO[4], "30.0.0.1", ttl=1), ipv6("2a00::1", "2001:db8:30::1")]  # fmt: skip
    left, doc = route([at("wan", packet) for packet in spoofed], args=strict)
    assert (left, dropped(doc)) == ([], {"urpf": 4})
    left, doc = route([at("wan", ipv4("10.1.0.1", "30.0.0.1"))], args=strict)
    assert counted(doc) == {"punted_local": 1}


def test_several_ways(route: Any) -> None:
    """By their weights; a flow stays on its way; a slot without a next hop gives to the next."""
    sent = [at("wan", ipv4("60.0.0.1", sport=n)) for n in range(1, 1601)]
    sent += [at("wan", ipv6("2001:db8:60::1", sport=n)) for n in range(1, 1601)]
    left, _ = route([*sent, *sent], ways="1 1*3+2")
    share = Counter(port for port, _ in left)
    assert len(left) == 6400 and 0.70 < share["lan"] / 6400 < 0.80
    assert [port for port, _ in left[:3200]] == [port for port, _ in left[3200:]]
    left, _ = route(sent, ways="1 1*3+60")
    assert {port for port, _ in left} == {"lan"} and len(left) == 3200
    _, doc = route(sent[:10], ways="1 60")
    assert dropped(doc) == {"no_hop": 10}
    # A fragment goes where the others of its packet go.
    pieces = [at("wan", ipv4("60.0.0.1", sport=n, flags=f)) for n in range(40) for f in (0x2000, 9)]
    left, _ = route(pieces, ways="1 1+2")
    assert len({port for port, _ in left}) == 1


def test_counters_of_next_hops_and_the_limit(tmp_path: Path, route: Any) -> None:
    sent = [at("wan", ipv4("90.0.0.1")) for _ in range(30)]
    topology = FEW.replace("icmp_rate = 1000000000", "icmp_rate = 1").replace(
        "icmp_burst = 1000000000", "icmp_burst = 7"
    )
    left, doc = tried(tmp_path, TABLES, sent, topology)
    assert len(left) == 7
    assert counted(doc) == {"icmp_errors_sent": 7, "icmp_errors_limited": 23}
    left, doc = tried(
        tmp_path, TABLES, sent, FEW.replace("icmp_rate = 1000000000", "icmp_rate = 0")
    )
    assert left == [] and doc["counters"]["icmp_errors_limited"] == 30
    # A sender with no way back is not told, and takes nothing of the limit.
    _, doc = route([at("wan", ipv4("90.0.0.1", "91.0.0.1"))])
    assert counted(doc) == {"icmp_errors_not_sent": 1}
