# SPDX-License-Identifier: BSD-3-Clause
"""Toeplitz hashing against Microsoft's published vectors ("Verifying the RSS hash calculation"),
through packets, and what the hash promises about flows."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup._shim import lib
from dpsup.primary import MICROSOFT_KEY, SYMMETRIC_KEY, rss_types

ALL = ["ipv4", "ipv6", "tcp", "udp"]

# source, its port, destination, its port, hash with ports, hash of the addresses alone
VECTORS = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51CCC178, 0x323E8FC2),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xC626B0EA, 0xD718262A),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5C2B394A, 0xD2D0A5DE),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xAFC7327F, 0x82989176),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10E828A2, 0x5D1809C5),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207D3D, 0x2CC18CD5),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0xDDE51BBF, 0x0F0C461C),
    (
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251,
        "fe80::200:f8ff:fe21:67cf", 38024, 0x02D1FEEF, 0x4B61E985,
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def microsoft() -> Iterator[None]:
    configure(MICROSOFT_KEY, ALL)
    yield


def configure(key: bytes, fields: list[str]) -> None:
    assert lib.dps_hash_conf(key, len(key), rss_types(fields)) == 0


def packet(src: str, sport: int, dst: str, dport: int, proto: int = 6, tags: int = 0) -> bytes:
    a, b = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    ports = struct.pack(">HH", sport, dport) + bytes(16)
    if a.version == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(ports), 0, 0, 64, proto, 0)
        kind = 0x0800
    else:
        ip = struct.pack(">IHBB", 6 << 28, len(ports), proto, 64)
        kind = 0x86DD
    vlan = b"".join(struct.pack(">HH", 0x88A8 if i else 0x8100, i + 1) for i in range(tags))
    return bytes(range(12)) + vlan + struct.pack(">H", kind) + ip + a.packed + b.packed + ports


def hash_of(data: bytes) -> int:
    return int(lib.dps_hash_packet(data, len(data)))


@pytest.mark.parametrize(("src", "sport", "dst", "dport", "with_ports", "without"), VECTORS)
def test_published_vectors(
    src: str, sport: int, dst: str, dport: int, with_ports: int, without: int
) -> None:
    tuple_ = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    ports = struct.pack(">HH", sport, dport)
    key = MICROSOFT_KEY
    assert lib.dps_hash_bytes(key, len(key), tuple_, len(tuple_)) == without
    assert lib.dps_hash_bytes(key, len(key), tuple_ + ports, len(tuple_) + 4) == with_ports
    for tags in (0, 1, 2):
        for proto in (6, 17):
            data = packet(src, sport, dst, dport, proto, tags)
            assert hash_of(data) == with_ports
        assert hash_of(packet(src, sport, dst, dport, 1, tags)) == without
    configure(MICROSOFT_KEY, ["ipv4", "ipv6"])
    assert hash_of(packet(src, sport, dst, dport)) == without


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535))
def test_the_symmetric_key_hashes_both_directions_alike(
    a: ipaddress.IPv4Address, b: ipaddress.IPv4Address, p: int, q: int
) -> None:
    configure(SYMMETRIC_KEY, ALL)
    there = packet(str(a), p, str(b), q)
    back = packet(str(b), q, str(a), p)
    assert hash_of(there) == hash_of(back)
    configure(MICROSOFT_KEY, ALL)


def test_fragments_hash_by_addresses_alone() -> None:
    src, sport, dst, dport, _, without = VECTORS[0]
    whole = bytearray(packet(src, sport, dst, dport))
    for offset in (0x2000, 0x2010, 0x0010):
        whole[20:22] = struct.pack(">H", offset)
        assert hash_of(bytes(whole)) == without
    whole[20:22] = struct.pack(">H", 0x4000)  # don't fragment
    assert hash_of(bytes(whole)) == VECTORS[0][4]


def test_ports_behind_ipv6_extension_headers_are_found() -> None:
    src, sport, dst, dport, with_ports, without = VECTORS[5]
    data = packet(src, sport, dst, dport, proto=0)
    hop_by_hop = bytes([60, 1]) + bytes(14)
    options = bytes([6, 0]) + bytes(6)
    assert hash_of(data[:54] + hop_by_hop + options + data[54:]) == with_ports
    fragment = bytes([6, 0, 0, 1, 0, 0, 0, 1])
    data = packet(src, sport, dst, dport, proto=44)
    assert hash_of(data[:54] + fragment + data[54:]) == without


def test_other_packets_hash_by_mac_and_type() -> None:
    arp = bytes(range(12)) + b"\x08\x06" + bytes(28)
    same = bytes(range(12)) + b"\x08\x06" + bytes(range(28))
    other = bytes(range(1, 13)) + b"\x08\x06" + bytes(28)
    assert hash_of(arp) == hash_of(same) != hash_of(other)
    llc = [bytes(range(12)) + n.to_bytes(2, "big") + bytes(n) for n in (3, 500, 1500)]
    assert len({hash_of(frame) for frame in llc}) == 1


@given(st.binary(max_size=120))
def test_no_packet_is_too_odd(data: bytes) -> None:
    for cut in range(0, len(data), 7):
        hash_of(data[:cut])
    hash_of(data)


def test_short_keys_are_refused() -> None:
    assert lib.dps_hash_conf(bytes(39), 39, 0) < 0
