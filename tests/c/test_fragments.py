# SPDX-License-Identifier: BSD-3-Clause
"""Fragments are counted by the thread that hashes them: once each, and nothing else is."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator

import pytest

from dpsup._shim import lib
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
