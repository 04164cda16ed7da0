# SPDX-License-Identifier: BSD-3-Clause
"""Toeplitz hashing against Microsoft's published vectors ("Verifying the RSS hash calculation"),
through packets, and what the hash promises about flows."""

from __future__ import annotations

import ctypes
import ipaddress
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup._shim import ffi, lib
from dpsup.packets.traffic import frame
from dpsup.primary.layout import MICROSOFT_KEY, SYMMETRIC_KEY, rss_types

ROOT = Path(__file__).resolve().parents[2]
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


def burst(packets: list[bytes], by_tables: int = 0, by_nic: int = 0, given: int = 0) -> list[int]:
    """The hashes of a burst; packets with a bit in `by_nic` come with the hash `given`."""
    kept = [ffi.from_buffer(p) for p in packets]
    hashes = ffi.new("uint32_t[]", [given] * len(packets))
    lib.dps_test_hash_burst(
        ffi.new("uint8_t *[]", [ffi.cast("uint8_t *", k) for k in kept]),
        [len(p) for p in packets], len(packets), by_tables, by_nic, hashes,
    )  # fmt: skip
    return list(hashes)


@given(st.binary(min_size=40, max_size=52), st.binary(min_size=12, max_size=12), st.booleans())
def test_a_burst_is_hashed_as_its_packets(key: bytes, flow: bytes, symmetric: bool) -> None:
    """With and without products of polynomials; each bit of addresses and ports counts."""
    key = SYMMETRIC_KEY if symmetric else key
    configure(key, ALL)
    src, dst = (str(ipaddress.IPv4Address(flow[i : i + 4])) for i in (0, 4))
    sport, dport = struct.unpack(">HH", flow[8:])
    packets = [packet(src, sport, dst, dport, proto) for proto in (6, 17, 1)]
    wanted = [lib.dps_hash_bytes(key, len(key), flow, n) for n in (12, 12, 8)]
    assert [hash_of(p) for p in packets] == wanted
    for by_tables in (0, 1):
        assert burst(packets, by_tables) == wanted
        # What the NIC has hashed stays so.
        assert burst(packets, by_tables, by_nic=0b101, given=7) == [7, wanted[1], 7]


def agrees(data: bytes, by_nic: int) -> bool:
    return bool(lib.dps_test_hash_compare(ffi.from_buffer(data), len(data), by_nic))


def test_a_nics_hash_is_compared_with_the_softwares() -> None:
    """Another start of Toeplitz, another order of addresses, no ports: each is seen."""
    configure(MICROSOFT_KEY, ALL)
    src, dst, ports = bytes([10, 1, 2, 3]), bytes([10, 9, 8, 7]), struct.pack(">HH", 1024, 443)
    data = packet("10.1.2.3", 1024, "10.9.8.7", 443)

    def toeplitz(fields: bytes, key: bytes = MICROSOFT_KEY) -> int:
        return int(lib.dps_hash_bytes(key, len(key), fields, len(fields)))

    assert agrees(data, toeplitz(src + dst + ports))
    assert not agrees(data, toeplitz(dst + src + ports))
    assert not agrees(data, toeplitz(src + dst))
    assert not agrees(data, toeplitz(src + dst + ports, MICROSOFT_KEY[1:] + bytes(1)))
    assert not agrees(data, 0)


@given(st.binary(max_size=80))
def test_any_burst_is_hashed_as_its_packets(data: bytes) -> None:
    for by_tables in (0, 1):
        assert burst([data], by_tables) == [hash_of(data)]


def test_flows_of_chaos_are_spread() -> None:
    """Flows that all hash alike would be one worker's."""
    configure(SYMMETRIC_KEY, ALL)
    buckets = {hash_of(frame(flow, 0)) % 512 for flow in range(32)}
    assert len(buckets) == 32


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


def test_an_atomic_fragment_stays_with_its_flow() -> None:
    """RFC 6946: offset 0 and no more fragments is a whole packet, whatever its identification."""
    data = bytearray(packet("2001:db8::1", 1000, "2001:db8::2", 2000))
    whole = hash_of(bytes(data))
    data[20] = 44
    rest = bytes(data[54:])
    for identification in (b"\0\0\0\1", b"\xff\xee\xdd\xcc"):
        atomic = bytes([6, 0, 0, 0]) + identification
        assert hash_of(bytes(data[:54]) + atomic + rest) == whole
        # The second byte is reserved: it is no length; so are two bits of the fourth.
        reserved = bytes([6, 3, 0, 6]) + identification
        assert hash_of(bytes(data[:54]) + reserved + rest) == whole
        for bits in (b"\0\1", b"\0\x08", b"\x10\0"):
            part = bytes([6, 0]) + bits + identification
            assert hash_of(bytes(data[:54]) + part + rest) != whole


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


# --- what plugins ask for -------------------------------------------------------------------------


class Tuple(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("fragment", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("from_port", ctypes.c_uint8 * 2),
        ("to_port", ctypes.c_uint8 * 2),
        ("source", ctypes.c_uint8 * 16),
        ("to", ctypes.c_uint8 * 16),
    ]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The worker's half: dps_hash_of."""
    path = tmp_path_factory.mktemp("hash") / "hash.so"
    include = [f"-I{ROOT / name}" for name in ("shim", "workers", "workers/sdk")]
    source = str(ROOT / "workers" / "hash.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", *include, source, "-o", path], check=True)
    return ctypes.CDLL(str(path))


def tell(worker: ctypes.CDLL, key: bytes, fields: list[str]) -> None:
    """As the primary tells it in the control block."""
    ctl = ffi.new("struct dps_ctl *")
    ffi.buffer(ctl.hash_key)[0 : len(key)] = key
    ctl.hash_key_len, ctl.hash_fields = len(key), rss_types(fields)
    worker.hash_init(ctypes.c_void_p(int(ffi.cast("uintptr_t", ctl))))


def asked(worker: ctypes.CDLL, src: str, sport: int, dst: str, dport: int, *more: int) -> int:
    a, b = (ipaddress.ip_address(one) for one in (src, dst))
    one = Tuple(a.version, *more)
    one.from_port[:], one.to_port[:] = sport.to_bytes(2, "big"), dport.to_bytes(2, "big")
    one.source[: len(a.packed)], one.to[: len(b.packed)] = a.packed, b.packed
    return int(worker.dps_hash_of(None, ctypes.byref(one))) & 0xFFFFFFFF


@pytest.mark.parametrize(("src", "sport", "dst", "dport", "with_ports", "without"), VECTORS)
def test_a_plugin_computes_the_published_vectors(
    worker: ctypes.CDLL, src: str, sport: int, dst: str, dport: int, with_ports: int, without: int
) -> None:
    tell(worker, MICROSOFT_KEY, ALL)
    assert asked(worker, src, sport, dst, dport, 6) == with_ports
    assert asked(worker, src, sport, dst, dport, 17) == with_ports
    assert asked(worker, src, sport, dst, dport, 1) == without
    assert asked(worker, src, sport, dst, dport, 6, 1) == without
    tell(worker, MICROSOFT_KEY, ["ipv4", "ipv6"])
    assert asked(worker, src, sport, dst, dport, 6) == without
    tell(worker, MICROSOFT_KEY, [])
    assert asked(worker, src, sport, dst, dport, 6) == 0


@given(
    st.binary(min_size=40, max_size=52),
    st.sampled_from([4, 6]),
    st.binary(min_size=36, max_size=36),
    st.sampled_from([1, 6, 17, 132]),
    st.sets(st.sampled_from([*ALL, "sctp"])).map(sorted),
)
def test_a_plugin_s_hash_is_the_io_core_s(
    worker: ctypes.CDLL, key: bytes, version: int, flow: bytes, proto: int, fields: list[str]
) -> None:
    size = 4 if version == 4 else 16
    src, dst = (
        str(ipaddress.ip_address(flow[i : i + size] if size == 16 else flow[i : i + 4]))
        for i in (0, 16)
    )
    sport, dport = struct.unpack(">HH", flow[32:])
    if f"ipv{version}" not in fields:
        fields = [*fields, f"ipv{version}"]
    configure(key, fields)
    tell(worker, key, fields)
    frame_ = packet(src, sport, dst, dport, proto)
    assert asked(worker, src, sport, dst, dport, proto) == hash_of(frame_)
    configure(MICROSOFT_KEY, ALL)


# --- tunnels --------------------------------------------------------------------------------------

TUNNELS = ["vxlan", "geneve", "gre", "gtpu", "vxlan:8472", "mpls", "pppoe", "ipip", "erspan"]


def tunnelled(
    kind: str, inner: bytes, outer: str = "10.0.0.1", sport: int = 9, six: bool = False
) -> bytes:
    """`inner` is an Ethernet frame; tunnels of IP carry it from byte 14 on."""
    type_, ip = inner[12:14], inner[14:]
    version = ip[0] >> 4
    below = {
        "mpls": b"\x88\x47" + b"\0\1\0\x40" * 7 + b"\0\2\1\x40" + ip,
        "mpls pseudowire": b"\x88\x48" + b"\0\2\1\x40" + b"\0\0\0\x05" + inner,
        "pppoe": b"\x88\x64" + struct.pack(
            ">BBHHH", 0x11, 0, 7, len(ip) + 2, 0x21 if version == 4 else 0x57
        ) + ip,
    }  # fmt: skip
    if kind in below:
        return outer.encode().rjust(12, b"\2")[-6:] + bytes(5) + bytes([sport]) + below[kind]
    port, body = {
        "ipip": (0, ip),
        "erspan i": (0, b"\0\0\x88\xbe" + inner),
        "erspan": (0, b"\x10\0\x88\xbe" + bytes(4) + b"\x10" + bytes(7) + inner),
        "erspan iii": (0, b"\x10\0\x22\xeb" + bytes(4) + b"\x20" + bytes(11) + inner),
        "erspan iii with more": (
            0,
            b"\x10\0\x22\xeb" + bytes(4) + b"\x20" + bytes(10) + b"\1" + bytes(8) + inner,
        ),
        "vxlan on its own port": (8472, struct.pack(">II", 8 << 24, 77 << 8) + inner),
        "gtpu with options": (
            2152,
            struct.pack(">BBHI", 0x32, 0xFF, len(ip) + 4, 7) + b"\0\1\0\0" + ip,
        ),
        "gtpu with many headers": (
            2152,
            struct.pack(">BBHI", 0x34, 0xFF, len(ip) + 36, 7)
            + b"\0\1\0\x85"
            + b"\1\0\0\x85" * 7
            + b"\1\0\0\0"
            + ip,
        ),
        "vxlan": (4789, struct.pack(">II", 8 << 24, 77 << 8) + inner),
        "geneve": (6081, struct.pack(">BBHI", 2, 0, 0x6558, 5) + bytes(8) + inner),
        "geneve of ip": (6081, struct.pack(">BB", 0, 0) + type_ + bytes(4) + ip),
        "gtpu": (2152, struct.pack(">BBHI", 0x30, 0xFF, len(ip), 7) + ip),
        "gtpu with more": (
            2152,
            struct.pack(">BBHI", 0x36, 0xFF, len(ip) + 8, 7) + b"\0\1\0\x85" + b"\1\0\0\0" + ip,
        ),
        "gre": (0, b"\0\0" + type_ + ip),
        "gre with more": (0, b"\xb0\0" + type_ + bytes(12) + ip),
        "gre of ethernet": (0, b"\0\0\x65\x58" + inner),
    }[kind]
    if port:
        body = struct.pack(">HHHH", sport, port, 8 + len(body), 0) + body
    proto = 17 if port else (4 if version == 4 else 41) if kind == "ipip" else 47
    a, b = ipaddress.ip_address(outer), ipaddress.ip_address("10.0.0.2")
    if six:
        head = struct.pack(">IHBB", 6 << 28, len(body), proto, 64) + bytes(12) + a.packed
        return bytes(12) + b"\x86\xdd" + head + bytes(12) + b.packed + body
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0)
    return bytes(12) + b"\x08\0" + head + a.packed + b.packed + body


KINDS = (
    "vxlan", "geneve", "geneve of ip", "gtpu", "gtpu with more", "gre", "gre with more",
    "gre of ethernet", "vxlan on its own port", "gtpu with options", "gtpu with many headers",
    "mpls", "mpls pseudowire", "pppoe", "ipip", "erspan i", "erspan", "erspan iii",
    "erspan iii with more",
)  # fmt: skip


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vector", VECTORS[::4])
def test_the_flow_of_a_tunnel_is_that_inside(kind: str, vector: tuple[str, ...], six: bool) -> None:
    src, sport, dst, dport, with_ports, _ = vector
    inner = packet(src, int(sport), dst, int(dport))
    configure(MICROSOFT_KEY, [*ALL, *TUNNELS])
    hashes = {
        hash_of(tunnelled(kind, inner, outer, port, six))
        for outer in ("10.0.0.1", "10.0.0.9")
        for port in (1, 2)
    }
    assert hashes == {with_ports}
    # Not asked for: the outer headers decide, and differ.
    configure(MICROSOFT_KEY, ALL)
    assert hash_of(tunnelled(kind, inner, "10.0.0.1", 1, six)) != with_ports


def test_a_fragment_of_a_tunnel_goes_by_its_outer_addresses() -> None:
    configure(MICROSOFT_KEY, [*ALL, *TUNNELS])
    data = bytearray(tunnelled("vxlan", packet("1.2.3.4", 5, "6.7.8.9", 10)))
    data[20:22] = b"\x20\0"
    first = hash_of(bytes(data))
    data[20:22] = b"\0\x10"
    assert hash_of(bytes(data)) == first
    configure(MICROSOFT_KEY, ["ipv4"])
    assert hash_of(bytes(data)) == first


@given(st.binary(max_size=120), st.sampled_from(KINDS), st.booleans())
def test_no_tunnel_is_too_odd(body: bytes, kind: str, six: bool) -> None:
    configure(MICROSOFT_KEY, [*ALL, *TUNNELS])
    whole = tunnelled(kind, packet("1.2.3.4", 5, "6.7.8.9", 10), six=six)
    for data in (whole[: len(body)], whole[: 14 + len(body)] + body, whole[:42] + body):
        assert hash_of(data) == hash_of(data)


def test_a_tunnel_in_a_tunnel_in_a_tunnel_ends() -> None:
    configure(MICROSOFT_KEY, [*ALL, *TUNNELS])
    data = packet("1.2.3.4", 5, "6.7.8.9", 10)
    seen = [hash_of(data)]
    for _ in range(4):
        data = tunnelled("vxlan", data)
        seen.append(hash_of(data))
    # Two are looked into; of the third the outer headers of what lies in the second count.
    assert seen[0] == seen[1] == seen[2] != seen[3]


def key_of(kind: str) -> str:
    return "vxlan:8472" if kind == "vxlan on its own port" else kind.split(maxsplit=1)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tunnel_is_looked_into_by_its_own_word(kind: str) -> None:
    inner = packet("1.2.3.4", 5, "6.7.8.9", 10)
    wanted = hash_of(inner)
    configure(MICROSOFT_KEY, [*ALL, key_of(kind)])
    assert hash_of(tunnelled(kind, inner)) == wanted
    assert hash_of(inner) == wanted
    configure(MICROSOFT_KEY, [*ALL, *(one for one in TUNNELS if one != key_of(kind))])
    assert hash_of(tunnelled(kind, inner)) != wanted


def test_three_ports_of_vxlan_and_no_other() -> None:
    inner = packet("1.2.3.4", 5, "6.7.8.9", 10)
    wanted = hash_of(inner)
    configure(MICROSOFT_KEY, [*ALL, "vxlan:8472", "vxlan:65535", "vxlan:2152"])
    data = bytearray(tunnelled("vxlan", inner))
    for port, inside in ((8472, 1), (65535, 1), (2152, 1), (4789, 0), (0, 0), (8473, 0)):
        data[36:38] = port.to_bytes(2, "big")
        assert (hash_of(bytes(data)) == wanted) == bool(inside), port
    # Without the flag that says that there is a network's number it is no VXLAN (RFC 7348).
    data[36:38] = (8472).to_bytes(2, "big")
    data[42] = 0
    assert hash_of(bytes(data)) != wanted


def test_what_is_malformed_below_ip_goes_by_its_mac_addresses() -> None:
    inner = packet("1.2.3.4", 5, "6.7.8.9", 10)
    configure(MICROSOFT_KEY, [*ALL, *TUNNELS])

    def plain(kind: str) -> int:
        return hash_of(bytes(tunnelled(kind, inner)[:14]))

    deep = tunnelled("mpls", inner)
    ninth = deep[:14] + b"\0\1\0\x40" + deep[14:]
    tall = bytearray(deep)
    tall[14 + 32 + 2 : 14 + 32 + 4] = b"\xff\xff"  # a total length, or a MAC address of 45:00:ff:ff
    odd = bytearray(deep)
    odd[14 + 32] = 0x55
    for data in (ninth, bytes(tall), bytes(odd), deep[:40], deep[:47]):
        assert hash_of(data) == plain("mpls")
    wire = bytearray(tunnelled("mpls pseudowire", inner))
    wire[14 + 8 + 12 : 14 + 8 + 14] = b"\x08\x06"
    assert hash_of(bytes(wire)) == plain("mpls pseudowire")
    session = bytearray(tunnelled("pppoe", inner))
    for at, value in ((14, 0x21), (15, 0xA7), (21, 0x2D)):
        other = bytearray(session)
        other[at] = value
        assert hash_of(bytes(other)) == plain("pppoe")


def test_a_nibble_that_is_no_version_of_ip_is_not_looked_into() -> None:
    inner = packet("1.2.3.4", 5, "6.7.8.9", 10)
    configure(MICROSOFT_KEY, ALL)
    outer = {kind: hash_of(tunnelled(kind, inner)) for kind in ("gtpu", "ipip")}
    configure(MICROSOFT_KEY, [*ALL, *TUNNELS])
    for kind, at in (("gtpu", 50), ("ipip", 34)):
        data = bytearray(tunnelled(kind, inner))
        data[at] = 0x75
        assert hash_of(bytes(data)) == outer[kind]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("frames") / "hash_frames"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True
    ).stdout.split()
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-g", "-w", *sanitize, f"-I{ROOT}/shim", f"-I{ROOT}/shim/io",
         *flags, ROOT / "tests" / "c" / "hash_frames.c", "-o", program],
        check=True,
    )  # fmt: skip
    return program


def test_no_frame_is_read_beyond_its_end(sanitized: Path) -> None:
    """Each kind of tunnel, cut at each byte and with bytes that lie: lengths, versions, flags; of
    fragments too, tracked or not."""
    random = Random(1)
    frames = []
    ends = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed
    for bits in (0, 1, 9, 8):
        head = struct.pack(">BBHI", 60, 0, bits, 5) + bytes([17, 0]) + bytes(22)
        six = bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 32, 44, 64) + ends + head
        four = bytearray(packet("1.2.3.4", 5, "6.7.8.9", 10, 17))
        four[20:22] = struct.pack(">H", 0x2000 if bits & 1 else bits)
        frames += [bytes(one[:cut]) for one in (six, four) for cut in range(len(one) + 1)]
    for kind in KINDS:
        for inner in (packet("1.2.3.4", 5, "6.7.8.9", 10), packet("2001:db8::1", 5, "::2", 10)):
            for outer in ("", "vxlan", "mpls pseudowire"):
                whole = tunnelled(kind, inner, six=bool(random.getrandbits(1)))
                whole = tunnelled(outer, whole) if outer else whole
                frames += [whole[:cut] for cut in range(len(whole) + 1)]
                for _ in range(100):
                    lying = bytearray(whole)
                    for _ in range(random.randint(1, 4)):
                        odd = random.choice((0, 1, 0x45, 0x60, 0xFF, random.randrange(256)))
                        lying[random.randrange(12, len(lying))] = odd
                    frames.append(bytes(lying[: random.randint(12, len(lying))]))
    for more in ([], ["fragments"]):
        done = subprocess.run(
            [sanitized, str(rss_types([*ALL, "sctp", *TUNNELS, *more]))],
            input=b"".join(len(one).to_bytes(2, "little") + one for one in frames),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert int(done.stdout) == len(frames)
