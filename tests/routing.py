# SPDX-License-Identifier: BSD-3-Clause
"""A router with three ports, its routes, and packets for it that are drawn from a seed: what the
tests of `route` and of the Linux kernel's forwarding have in common."""

from __future__ import annotations

import ipaddress
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsup.packets import pcapng
from dpsup.packets.frames import frames

DPSUP = Path(sys.executable).with_name("dpsup")
PORTS = ("wan", "lan", "dmz")
MTU = 1500
MAC = {
    port: bytes((2, 0, 0, 0, 0, i)) for i, port in enumerate(PORTS, 1)
}  # as `dpsup try` has them
HOSTS = 100  # on each link
WORDS = ("blackhole", "unreachable", "prohibited")


def sum_of(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def own(port: str, version: int) -> str:
    """The router's address on a link."""
    n = PORTS.index(port) + 1
    return f"10.{n}.0.1" if version == 4 else f"fd00:{n}::1"


def link(port: str, version: int) -> str:
    n = PORTS.index(port) + 1
    return f"10.{n}.0.0/24" if version == 4 else f"fd00:{n}::/64"


def host(port: str, version: int, number: int) -> str:
    """A host on a link, numbers 2 and 3 are the next routers there."""
    n = PORTS.index(port) + 1
    return f"10.{n}.0.{number}" if version == 4 else f"fd00:{n}::{number:x}"


def mac(port: str, number: int) -> bytes:
    return bytes((2, 1, 0, 0, PORTS.index(port), number))


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


@dataclass(frozen=True)
class Route:
    prefix: str
    to: str  # "lan/2": by that host on that link; or a word

    @property
    def version(self) -> int:
        return 6 if ":" in self.prefix else 4


@dataclass
class Network:
    routes: list[Route] = field(default_factory=list)

    @classmethod
    def draw(cls, rng: random.Random, routes: int) -> Network:
        found: dict[str, Route] = {}
        while len(found) < routes:
            version = rng.choice((4, 4, 6))
            if version == 4:
                length = rng.randint(9, 32)
                base = bytes((rng.randint(20, 99), rng.randrange(32), rng.randrange(256), 0))
            else:
                length = rng.randint(20, 128)
                base = bytes((0x20, 0x01, rng.randrange(8), rng.randrange(8)))
                base += rng.randbytes(12)
            width = 8 * len(base)
            keep = ((1 << length) - 1) << (width - length)
            at = ipaddress.ip_address(
                (int.from_bytes(base, "big") & keep).to_bytes(len(base), "big")
            )
            to = f"{rng.choice(PORTS)}/{rng.choice((2, 3))}"
            if rng.random() < 0.1:
                to = rng.choice(WORDS)
            found[f"{at}/{length}"] = Route(f"{at}/{length}", to)
        return cls(list(found.values()))

    def tables(self) -> dict[str, str]:
        """The files of dpsup's tables."""
        hops, text4, text6 = [], [], []
        number = {}
        for port in PORTS:
            number[port] = len(hops)
            hops.append(f"{len(hops)} {port},00:00:00:00:00:00")
            for router in (2, 3):
                number[f"{port}/{router}"] = len(hops)
                hops.append(f"{len(hops)} {port},{mac(port, router).hex(':')}")
        for port in PORTS:
            for version, text in ((4, text4), (6, text6)):
                text.append(f"{link(port, version)} {number[port]}")
                text.append(f"{own(port, version)} local")
        for route in self.routes:
            text = text4 if route.version == 4 else text6
            text.append(f"{route.prefix} {number.get(route.to, route.to)}")
        return {
            "routes.txt": "\n".join(text4), "routes6.txt": "\n".join(text6),
            "hops.txt": "\n".join(hops),
            **{
                f"neighbours{'6' * (v == 6)}.txt": "\n".join(
                    f"{p},{host(p, v, n)} {mac(p, n).hex(':')}" for p in PORTS for n in neighbours()
                )
                for v in (4, 6)
            },
        }  # fmt: skip

    def commands(self, devices: dict[str, str]) -> list[str]:
        """The same for `ip -batch`."""
        out = []
        for port, device in devices.items():
            for version in (4, 6):
                bits = link(port, version).partition("/")[2]
                nodad = "" if version == 4 else " nodad"
                out.append(f"addr add {own(port, version)}/{bits} dev {device}{nodad}")
                out += (
                    f"neigh add {host(port, version, n)} lladdr {mac(port, n).hex(':')}"
                    f" dev {device} nud permanent"
                    for n in neighbours()
                )
        for route in self.routes:
            way, _, router = route.to.partition("/")
            if router:
                to = f"via {host(way, route.version, int(router))} dev {devices[way]}"
                out.append(f"route add {route.prefix} {to}")
            else:
                word = "prohibit" if way == "prohibited" else way
                out.append(f"route add {word} {route.prefix}")
        return out


def neighbours() -> range:
    return range(2, 2 + HOSTS)


TOPOLOGY = """
version = 1
name = "router"
[[ports]]
name = "wan"
vdev = "net_null0"
[[ports]]
name = "lan"
vdev = "net_null1"
[[ports]]
name = "dmz"
vdev = "net_null2"
[[io]]
cores = "0"
[host]
shared_cores = true
[[workers]]
name = "router"
plugin = "route"
input = ["wan", "lan", "dmz"]
state = "auto"
[workers.args]
address = { wan = "10.1.0.1", lan = "10.2.0.1", dmz = "10.3.0.1" }
address6 = { wan = "fd00:1::1", lan = "fd00:2::1", dmz = "fd00:3::1" }
icmp_rate = 1000000000
icmp_burst = 1000000000
count_hops = 1
[workers.tables]
routes = { kind = "ipv4", value = "hop", entries = "10k", file = "routes.txt" }
routes6 = { kind = "ipv6", value = "hop", entries = "10k", file = "routes6.txt" }
hops = { kind = "array", value = "port+mac", entries = "64", file = "hops.txt" }
ecmp = { kind = "array", value = "ways", entries = "16" }
[workers.tables.neighbours]
kind = "exact"
key = "port+ipv4"
value = "mac"
entries = "1k"
file = "neighbours.txt"
[workers.tables.neighbours6]
kind = "exact"
key = "port+ipv6"
value = "mac"
entries = "1k"
file = "neighbours6.txt"
[mempools.default]
mbufs = 16383
"""


@dataclass(frozen=True)
class Sent:
    port: str
    frame: bytes
    is_punted: bool = False  # route.c gives it to the kernel: nothing to compare


class Packets:
    """Packets that a network may see, and some that it should not."""

    def __init__(self, network: Network, rng: random.Random) -> None:
        self.rng = rng
        self.to: dict[int, list[Route]] = {4: [], 6: []}
        self.behind: dict[tuple[str, int], list[Route]] = {}
        for route in network.routes:
            self.to[route.version].append(route)
            port, _, router = route.to.partition("/")
            # Few packets from one address: the kernel limits errors to each.
            if router and int(route.prefix.partition("/")[2]) <= (
                24 if route.version == 4 else 100
            ):
                self.behind.setdefault((port, route.version), []).append(route)

    def inside(self, prefix: str) -> bytes:
        net = ipaddress.ip_network(prefix)
        size = net.max_prefixlen // 8
        free = net.max_prefixlen - net.prefixlen
        return (int(net.network_address) | self.rng.getrandbits(free) if free else
                int(net.network_address)).to_bytes(size, "big")  # fmt: skip

    def nowhere(self, version: int) -> bytes:
        rng = self.rng
        if version == 4:
            return bytes((rng.randint(150, 199), *rng.randbytes(3)))
        return b"\x2a" + rng.randbytes(15)

    def one(self) -> Sent:
        rng = self.rng
        version, port = rng.choice((4, 6)), rng.choice(PORTS)
        luck = rng.random()
        if luck < 0.75:
            target = self.inside(rng.choice(self.to[version]).prefix)
        elif luck < 0.9:
            link_of = rng.choice(PORTS)
            target = packed(host(link_of, version, rng.choice(neighbours())))
        else:
            target = self.nowhere(version)
        luck = rng.random()
        if luck < 0.85:
            source = self.inside(rng.choice(self.behind[port, version]).prefix)
        else:
            source = self.nowhere(version)
        hops = rng.choice((0, 1, 1, 2, 3, 63, 64, 128, 255))
        made = self.ipv4 if version == 4 else self.ipv6
        packet, punted = made(source, target, hops)
        to = MAC[port]
        luck = rng.random()
        if luck < 0.01:
            to = b"\x02\x09" + rng.randbytes(4)
        elif luck < 0.02:
            to, punted = b"\xff" * 6, False
        kind = b"\x08\0" if version == 4 else b"\x86\xdd"
        frame = to + mac(port, 2) + kind + packet
        if to[1] == 9 or (to[0] & 1):
            punted = False
        return Sent(port, frame, punted)

    def upper(self, protocol: int, size: int) -> bytes:
        rng = self.rng
        if protocol == 17:
            return struct.pack(">HHHH", rng.randrange(65536), 9, 8 + size, 0) + rng.randbytes(size)
        if protocol == 6:
            return struct.pack(">HHIIHHHH", rng.randrange(65536), 80, rng.getrandbits(32), 0,
                               0x5010, 1024, 0, 0) + rng.randbytes(size)  # fmt: skip
        if protocol == 1:
            return bytes((rng.choice((0, 8, 3, 5, 11, 12, 13, 40)), 0)) + rng.randbytes(6 + size)
        return bytes((rng.choice((128, 129, 1, 2, 3, 4, 137, 200)), 0)) + rng.randbytes(6 + size)

    def size(self) -> int:
        return self.rng.choice((0, 1, 18, 100, 500, 1000, self.rng.randrange(1400)))

    def ipv4(self, source: bytes, target: bytes, ttl: int) -> tuple[bytes, bool]:
        rng = self.rng
        protocol = rng.choice((1, 6, 17, 17, 47))
        body = self.upper(protocol if protocol != 47 else 17, self.size())
        flags = rng.choice((0, 0x4000, 0x4000, 0x2000, 0x2000 | rng.randrange(1, 8191), 0x00B9))
        options, punted = b"", False
        luck = rng.random()
        if luck < 0.02:
            options, punted = rng.choice((b"\x01\x01\x01\x00", b"\x94\x04\0\0")), True
        elif luck < 0.05:
            # What no router takes on.
            if rng.random() < 0.5:
                source = rng.choice((b"\0\0\0\x01", b"\x7f\0\0\x01", b"\xe0\0\0\x05", b"\xff" * 4))
            else:
                target = rng.choice((b"\0\0\0\x07", b"\x7f\0\0\x02"))
        head_len = 5 + len(options) // 4
        length = 4 * head_len + len(body)
        tail = b""
        luck = rng.random()
        if luck < 0.01:
            length += rng.randint(1, 100)  # cut short
            punted = False
        elif luck < 0.05:
            tail = rng.randbytes(rng.randint(1, 30))  # padding
        first = 0x40 | head_len
        if luck > 0.99:
            first, punted = rng.choice((0x44, 0x55, 0x4F, 0x00)), False
            if first == 0x4F and length >= 60:
                first = 0x43
        tos = rng.choice((0, 0, 0x10, 0xB8, 0xFF))
        head = struct.pack(">BBHHHBBH4s4s", first, tos, length, rng.randrange(65536), flags, ttl,
                           protocol, 0, source, target) + options  # fmt: skip
        checksum = sum_of(head)
        if rng.random() < 0.01:
            checksum, punted = checksum ^ (1 << rng.randrange(16)), False
        head = head[:10] + checksum.to_bytes(2, "big") + head[12:]
        packet = head + body + tail
        if rng.random() < 0.005:
            packet, punted = packet[: rng.randrange(6, 24)], False
        return packet, punted

    def ipv6(self, source: bytes, target: bytes, hops: int) -> tuple[bytes, bool]:
        rng = self.rng
        protocol = rng.choice((6, 17, 17, 58, 59))
        body = b"" if protocol == 59 else self.upper(protocol, self.size())
        for kind in reversed(
            rng.choice(((), (), (), (60,), (44,), (43,), (0,), (0, 60, 44), (60, 60)))
        ):
            if kind == 44:
                offset = rng.choice((1, 1, 0, 8 * rng.randrange(1, 100)))
                ext = struct.pack(">BBHI", protocol, 0, offset, rng.getrandbits(32))
            elif kind == 43:
                ext = bytes((protocol, 0, 3, 0, 0, 0, 0, 0))
            else:
                ext = bytes((protocol, 0, 1, 4, 0, 0, 0, 0))  # PadN
            body, protocol = ext + body, kind
        luck = rng.random()
        if luck < 0.03:
            ill = (bytes(16), bytes(15) + b"\1", b"\xff\x02" + rng.randbytes(14))
            if rng.random() < 0.6:
                source = rng.choice(ill)
            else:
                target = rng.choice(ill[:2])
        elif luck < 0.04:
            source = b"\xfe\x80" + bytes(6) + rng.randbytes(8)
        length, first, tail = len(body), 0x60 | rng.randrange(16), b""
        luck = rng.random()
        if luck < 0.01:
            length += rng.randint(1, 100)
        elif luck < 0.05:
            tail = rng.randbytes(rng.randint(1, 30))
        elif luck > 0.99:
            first = 0x45
        head = struct.pack(">BBHHBB16s16s", first, rng.randrange(256), rng.randrange(65536), length,
                           protocol, hops, source, target)  # fmt: skip
        packet = head + body + tail
        if rng.random() < 0.005:
            packet = packet[: rng.randrange(6, 44)]
        return packet, False

    def too_big(self) -> Sent:
        """Longer than the way out takes: they come in at wan, whose MTU is larger."""
        rng = self.rng
        version = rng.choice((4, 6))
        ways = [r for r in self.to[version] if r.to.startswith(("lan/", "dmz/"))]
        while True:
            route = rng.choice(ways)
            target = self.inside(route.prefix)
            longest = max(
                (r for r in self.to[version]
                 if ipaddress.ip_address(target) in ipaddress.ip_network(r.prefix)),
                key=lambda r: ipaddress.ip_network(r.prefix).prefixlen,
            )  # fmt: skip
            if longest.to.startswith(("lan/", "dmz/")):
                break
        source = self.inside(rng.choice(self.behind["wan", version]).prefix)
        size = rng.randint(MTU + 1, 4000) - (28 if version == 4 else 48)
        body = self.upper(17, size)
        may_fragment = version == 4 and rng.random() < 0.2
        if version == 4:
            flags = 0 if may_fragment else 0x4000
            head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, flags, 64, 17, 0,
                               source, target)  # fmt: skip
            head = head[:10] + sum_of(head).to_bytes(2, "big") + head[12:]
        else:
            head = struct.pack(">IHBB16s16s", 6 << 28, len(body), 17, 64, source, target)
        kind = b"\x08\0" if version == 4 else b"\x86\xdd"
        return Sent("wan", MAC["wan"] + mac("wan", 2) + kind + head + body, may_fragment)


def cut(frame: bytes) -> bytes:
    """Without what lies behind the end that the IP header says: the kernel cuts it off."""
    if frame[12:14] == b"\x08\0":
        return frame[: 14 + int.from_bytes(frame[16:18], "big")]
    return frame[: 54 + int.from_bytes(frame[18:20], "big")]


def comparable(frame: bytes) -> bytes:
    """And the router's own ICMP errors without identification, DF and so the checksum."""
    frame = cut(frame)
    own_addresses = {packed(own(port, 4)) for port in PORTS}
    if frame[12:14] == b"\x08\0" and frame[26:30] in own_addresses:
        return frame[:18] + bytes(4) + frame[22:24] + bytes(2) + frame[26:]
    return frame


def kernel_alone(frame: bytes) -> bool:
    """Does only the Linux kernel send this? docs/functions/route.md has the reasons."""
    if frame[12:14] == b"\x08\0":
        about = frame[42:] if frame[26:30] in [packed(own(p, 4)) for p in PORTS] else frame[14:]
        return about[12] == 0 or about[16] == 0
    if frame[22:38] not in [packed(own(p, 6)) for p in PORTS]:
        return frame[22] == 0xFE or frame[22:38] == bytes(16)
    about = frame[62:]
    at, kind = 40, about[6]
    while kind in (0, 43, 44, 60):
        kind, at = about[at], at + (8 if kind == 44 else 8 * (about[at + 1] + 1))
    return about[24:40] == bytes(16) or (kind == 58 and about[at] == 137)


def capture(sent: list[Sent]) -> bytes:
    parts = [pcapng.section("test"), *(pcapng.interface(port, "", 0) for port in PORTS)]
    parts += (pcapng.packet(PORTS.index(p.port), 10**18, p.frame, len(p.frame)) for p in sent)
    return b"".join(parts)


def tried(
    folder: Path, tables: dict[str, str], sent: list[Sent], topology: str, *words: str
) -> tuple[list[tuple[str, bytes]], dict[str, Any]]:
    """What leaves, and what `dpsup try` says."""
    for name in ("routes", "routes6", "hops", "neighbours", "neighbours6"):
        (folder / f"{name}.txt").write_text(tables.get(f"{name}.txt", "") + "\n")
    (folder / "router.toml").write_text(topology)
    (folder / "in.pcapng").write_bytes(capture(sent))
    out = folder / "out.pcapng"
    done = subprocess.run(
        [DPSUP, "try", "route", folder / "in.pcapng", "--topology", folder / "router.toml", "--out",
         out, "-o", "json", *words],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    left = [(one.interface, one.data) for one in frames(out.read_bytes())]
    return left, json.loads(done.stdout)


def by_dpsup(
    folder: Path, network: Network, sent: list[Sent], *words: str
) -> tuple[Counter[tuple[str, bytes]], dict[str, Any]]:
    left, doc = tried(folder, network.tables(), sent, TOPOLOGY, *words)
    return Counter((port, comparable(data)) for port, data in left), doc


def told(which: Counter[tuple[str, bytes]]) -> str:
    return "\n".join(
        f"{port} {frame[:110].hex(' ')} ({len(frame)})" for port, frame in list(which)[:12]
    )
