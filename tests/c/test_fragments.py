# SPDX-License-Identifier: BSD-3-Clause
"""Fragments are counted by the thread that hashes them: once each, and nothing else is."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator

import pytest

from dpsup._shim import ffi, lib
from dpsup.primary.layout import MICROSOFT_KEY, rss_types

ALL = ["ipv4", "ipv6", "tcp", "udp"]


@pytest.fixture(autouse=True)
def microsoft() -> Iterator[None]:
    configure(ALL)
    yield
    configure(ALL)


def configure(fields: list[str]) -> None:
    assert lib.dps_hash_conf(MICROSOFT_KEY, len(MICROSOFT_KEY), rss_types(fields)) == 0


def counted(data: bytes) -> int:
    return int(lib.dps_test_hash_fragments(data, len(data)))


def four(bits: int, proto: int = 6, tags: int = 0, rest: bytes = bytes(24)) -> bytes:
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(rest), 0, bits, 64, proto, 0)
    ends = ipaddress.ip_address("10.0.0.1").packed + ipaddress.ip_address("10.0.0.2").packed
    return bytes(12) + b"\x81\x00\x00\x01" * tags + b"\x08\x00" + ip + ends + rest


def six(*headers: bytes, first: int) -> bytes:
    rest = b"".join(headers) + bytes(24)
    ends = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed
    return (
        bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(rest), first, 64) + ends + rest
    )


def fragment(bits: int, then: int = 6) -> bytes:
    return struct.pack(">BBHI", then, 0, bits, 1)


@pytest.mark.parametrize("proto", [1, 6, 17, 47, 250])
def test_a_fragment_of_ipv4_counts_once_whatever_it_carries(proto: int) -> None:
    for bits in (0x2000, 0x2010, 0x0010, 0x1FFF):
        assert [counted(four(bits, proto, tags)) for tags in (0, 1, 2)] == [1, 1, 1]
    for bits in (0, 0x4000, 0x8000):
        assert counted(four(bits, proto)) == 0


def test_a_fragment_of_ipv6_counts_once_and_an_atomic_one_is_whole() -> None:
    options = bytes([44, 0]) + bytes(6)
    for bits in (1, 8, 0xFFF9):
        assert counted(six(fragment(bits), first=44)) == 1
        assert counted(six(options, fragment(bits), first=0)) == 1
        assert counted(six(fragment(0, 44), fragment(bits), first=44)) == 1
    for bits in (0, 2, 6):
        assert counted(six(fragment(bits), first=44)) == 0
    assert counted(six(first=6)) == counted(six(first=58)) == 0


def test_of_a_tunnel_the_packet_that_is_hashed_counts() -> None:
    configure([*ALL, "gre"])
    gre = struct.pack(">HH", 0, 0x0800)
    assert counted(four(0, 47, rest=gre + four(0x2000)[14:])) == 1, "the inner one"
    assert counted(four(0x2000, 47, rest=gre + four(0x2000)[14:])) == 1, "the outer one"
    assert counted(four(0, 47, rest=gre + four(0)[14:])) == 0


def test_what_is_not_ip_is_no_fragment() -> None:
    assert counted(bytes(12) + b"\x08\x06" + bytes(40)) == counted(b"") == 0
    configure(["ipv6", "tcp"])
    assert counted(four(0x2000)) == 0, "ipv4 is not among the fields: it is steered by its MACs"


# --- tracked --------------------------------------------------------------------------------------

LONG = 1 << 60  # TSC cycles
PORTS = struct.pack(">HH", 1234, 80)


def tracked(frames: list[bytes], lasts: int = LONG) -> tuple[list[int], int, int, int]:
    """The hashes of frames that one io core gets in this order; how many fragments it counted as
    steered by their addresses alone, as tracked, and how many datagrams as forgotten."""
    kept = [ffi.from_buffer(one) for one in frames]
    hashes = ffi.new("uint32_t[]", len(frames))
    stats = ffi.new("struct dps_io_stats *")
    pointers = ffi.new("uint8_t *[]", [ffi.cast("uint8_t *", one) for one in kept])
    sizes = [len(one) for one in frames]
    assert lib.dps_test_hash_tracked(pointers, sizes, len(frames), lasts, hashes, stats) == 0
    return list(hashes), stats.fragments, stats.fragments_tracked, stats.fragments_forgotten


def datagram(
    version: int = 4, id: int = 7, proto: int = 17, ports: bytes = PORTS, ends: int = 1
) -> list[bytes]:
    """A whole packet of a flow, then a datagram of it in three fragments."""
    bodies = (ports + bytes(20), ports + bytes(20), bytes(24), bytes(8))
    if version == 6:
        pair = (
            ipaddress.ip_address("2001:db8::").packed[:-1] + bytes([ends])
            + ipaddress.ip_address("2001:db8:1::1").packed
        )  # fmt: skip
        heads = [
            struct.pack(">BBHI", proto, 0, bits, id) if bits else b"" for bits in (0, 1, 25, 48)
        ]
        return [
            bytes(12) + b"\x86\xdd"
            + struct.pack(">IHBB", 6 << 28, len(head + body), 44 if head else proto, 64)
            + pair + head + body
            for head, body in zip(heads, bodies, strict=True)
        ]  # fmt: skip
    pair = bytes((10, ends >> 16 & 255, ends >> 8 & 255, ends & 255, 192, 0, 2, 1))
    return [
        bytes(12) + b"\x08\x00"
        + struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), id, bits, 64, proto, 0)
        + pair + body
        for bits, body in zip((0, 0x2000, 0x2003, 0x0006), bodies, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [6, 17])
def test_the_fragments_of_a_datagram_meet_their_flow(version: int, proto: int) -> None:
    frames = datagram(version, proto=proto)
    hashes, *counted_ = tracked(frames)
    assert len(set(hashes)) == 1 and counted_ == [0, 3, 0]
    # Not tracked: by their addresses.
    assert len({lib.dps_hash_packet(one, len(one)) for one in frames}) == 2


def test_one_that_comes_before_the_first_goes_by_its_addresses() -> None:
    whole, first, second, third = datagram()
    alone = lib.dps_hash_packet(second, len(second))
    hashes, *counted_ = tracked([second, whole, first, third, second])
    assert hashes[0] == alone != hashes[1]
    assert len(set(hashes[1:])) == 1 and counted_ == [1, 3, 0]


def test_a_first_fragment_is_forgotten() -> None:
    whole, first, second, _ = datagram()
    hashes, *counted_ = tracked([whole, first, second], lasts=0)
    assert hashes[0] == hashes[1] != hashes[2] and counted_ == [1, 1, 0]


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_that_are_alike_are_told_apart(version: int) -> None:
    one = datagram(version)
    for other in (
        datagram(version, id=8, ports=b"\x01\x02\x03\x04"),
        datagram(version, ends=2, ports=b"\x01\x02\x03\x04"),
        *([datagram(proto=6, ports=b"\x01\x02\x03\x04")] if version == 4 else []),
    ):
        hashes, *counted_ = tracked([one[1], other[1], one[2], other[2], other[0]])
        assert hashes[0] == hashes[2] != hashes[1] == hashes[3] == hashes[4]
        assert counted_ == [0, 4, 0]
    # An id that is used again is the newer datagram's.
    again = datagram(version, ports=b"\x01\x02\x03\x04")
    hashes, *_ = tracked([one[1], again[1], again[2]])
    assert hashes[0] != hashes[1] == hashes[2]


def test_what_has_no_ports_is_as_its_flow_anyway() -> None:
    hashes, *counted_ = tracked(datagram(proto=1))
    assert len(set(hashes)) == 1 and counted_ == [3, 0, 0]


def test_the_records_are_bounded_and_the_newest_stay() -> None:
    many = [datagram(id=n & 0xFFFF, ends=1 + n % 50_000) for n in range(9000)]
    frames = [one[1] for one in many] + [one[2] for one in many[-500:]]
    hashes, alone, with_flow, forgotten = tracked(frames)
    assert forgotten >= 9000 - 4096
    assert alone + with_flow == len(frames) and alone < 100
    first = hashes[8500:9000]
    assert sum(a == b for a, b in zip(first, hashes[9000:], strict=True)) >= 400
    # What is too old to be wanted gives way without being counted.
    assert tracked(frames, lasts=0)[3] == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("step", [1, 256, 257])
def test_ids_that_are_counted_up_have_their_room(version: int, step: int) -> None:
    """Between the same two hosts, in either order of bytes."""
    many = [datagram(version, id=n * step & 0xFFFF or n) for n in range(1, 200)]
    hashes, alone, with_flow, forgotten = tracked([one[1] for one in many])
    assert (alone, with_flow, forgotten) == (0, 199, 0) and len(set(hashes)) == 1


def test_the_fragments_of_a_tunnel_go_as_its_inner_flow() -> None:
    configure([*ALL, "vxlan"])
    inner = four(0, 6, rest=PORTS + bytes(20))
    head = struct.pack(">HHHHII", 5555, 4789, 0, 0, 8 << 24, 0)
    outer = datagram(ports=head + inner + bytes(50))
    alone = lib.dps_hash_packet(inner, len(inner))
    hashes, *_ = tracked(outer)
    assert hashes == [alone] * 4
    # And those of an inner datagram that was split before it came to the tunnel.
    wrapped = [datagram(ports=head + one, ends=9)[0] for one in datagram(proto=6)]
    hashes, *counted_ = tracked(wrapped)
    assert len(set(hashes)) == 1 and counted_ == [0, 3, 0]


def test_fragments_that_are_cut_short() -> None:
    for version in (4, 6):
        for one in datagram(version):
            frames = [one[:size] for size in range(len(one) + 1)]
            tracked(frames)
    options = bytes([17, 5]) + bytes(6)  # longer than what is there
    frame = six(fragment(1, 60), options, first=44)
    assert tracked([frame])[1] == 1
    # With options of its own behind the fragment's header.
    first = six(fragment(1, 60), bytes([17, 0]) + bytes(6), PORTS, first=44)
    whole = six(bytes([17, 0]) + bytes(6), PORTS, first=60)
    hashes, *counted_ = tracked([whole, first])
    assert hashes[0] == hashes[1] and counted_ == [0, 1, 0]
