# SPDX-License-Identifier: BSD-3-Clause
"""Traffic of many flows and odd shapes, and the question whether all of it came through in order.

Each flow is a few frames that scapy builds once; a packet is one of them with the flow's next
sequence number written over its last bytes, which costs microseconds. Which flow a packet belongs
to is noted beside it when it is made: the comparison knows nothing of how dpsup tells flows apart.
"""

from __future__ import annotations

import functools
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dpsup.packets.pcap import read_pcap, write_pcap
from dpsup.packets.traffic import swapped

__all__ = [
    "Flow", "Packet", "compare", "flows", "mix", "read_pcap", "save", "swapped", "write_pcap",
]  # fmt: skip

_SEQUENCE = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Packet:
    flow: str
    frame: bytes


@dataclass(slots=True)
class Flow:
    """Packets that must stay in order: `frames` in turns, numbered where there is room."""

    name: str
    frames: list[bytes]
    sent: int = 0
    # Bytes at the end of each frame that no header owns, at most a sequence number's eight.
    room: list[int] = field(default_factory=list)

    def next(self) -> Packet:
        turn = self.sent % len(self.frames)
        frame, room = self.frames[turn], self.room[turn]
        number = _SEQUENCE.pack(self.sent)[_SEQUENCE.size - room :]
        self.sent += 1
        return Packet(self.name, frame[: len(frame) - room] + number)


def _flow(name: str, *frames: bytes, room: int = _SEQUENCE.size) -> Flow:
    return Flow(name, list(frames), room=[room] * len(frames))


# --- flows --------------------------------------------------------------------------------------


def flows(count: int = 8, jumbo: int = 0) -> list[Flow]:
    """`count` flows of each kind; `jumbo` > 0 adds large frames, up to that many bytes."""
    return [Flow(f.name, f.frames, room=f.room) for f in _flows(count, jumbo)]


@functools.cache  # scapy takes 0.3 s of CPU for them
def _flows(count: int, jumbo: int) -> list[Flow]:
    from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
        fragment6,
    )
    from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Packet as Layers
    from scapy.packet import Raw

    made: list[Flow] = []
    tail = Raw(bytes(_SEQUENCE.size))

    # What tells flows apart is in the source alone: a symmetric hash cancels what is on both sides.
    def ether(i: int, **fields: int) -> Layers:
        return Ether(dst="02:00:00:00:00:01", src=f"02:00:00:00:02:{i:02x}", **fields)

    def v4(i: int, **fields: object) -> Layers:
        return IP(src=f"10.1.{i}.1", dst="10.2.0.2", **fields)

    def v6(i: int) -> Layers:
        return IPv6(src=f"2001:db8:1::{i:x}", dst="2001:db8:2::1")

    def tcp(i: int) -> Layers:
        return TCP(sport=1024 + i, dport=443, flags="PA")

    def udp(i: int, dport: int = 5353) -> Layers:
        return UDP(sport=2048 + i, dport=dport)

    def text(size: int) -> Layers:
        return Raw(bytes(k & 0xFF for k in range(size)))

    extension = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=["::1"])
    gtp_u = struct.pack(">BBHI", 0x30, 0xFF, 60, 0x1234)
    kinds: dict[str, Callable[[int], Layers]] = {
        "tcp4": lambda i: ether(i) / v4(i) / tcp(i) / text(100 + 40 * i),
        "udp4": lambda i: ether(i) / v4(i) / udp(i) / text(20),
        "udp4 short": lambda i: ether(i) / v4(i + 16) / udp(i),
        "tcp4 full": lambda i: ether(i) / v4(i + 32) / tcp(i) / text(1500 - 40 - 8),
        "icmp4": lambda i: ether(i) / v4(i + 48) / ICMP(id=i) / text(56),
        "options4": lambda i: ether(i) / v4(i, options=[b"\x44\x04\x05\x00"] * 3) / tcp(i),
        "tcp6": lambda i: ether(i) / v6(i) / tcp(i) / text(300),
        "udp6": lambda i: ether(i) / v6(i) / udp(i) / text(9),
        "icmp6": lambda i: ether(i) / v6(i + 16) / ICMPv6EchoRequest(id=i) / text(48),
        "extensions6": lambda i: ether(i) / v6(i) / extension / udp(i, 4000) / text(64),
        "vlan": lambda i: ether(i) / Dot1Q(vlan=100 + i, prio=5) / v4(i + 64) / tcp(i) / text(77),
        "vlan6": lambda i: ether(i) / Dot1Q(vlan=i) / v6(i + 32) / udp(i) / text(77),
        "qinq": lambda i: (
            ether(i, type=0x88A8) / Dot1AD(vlan=7) / Dot1Q(vlan=i) / v4(i + 80) / udp(i) / text(50)
        ),
        "vlan arp": lambda i: ether(i + 32) / Dot1Q(vlan=i) / ARP(psrc=f"10.9.0.{i}") / text(10),
        "vxlan": lambda i: (
            ether(i) / v4(i + 96) / UDP(sport=49152 + i, dport=4789) / VXLAN(vni=i)
            / ether(i + 64) / v4(i) / tcp(i) / text(200)
        ),
        "gre": lambda i: ether(i) / v4(i + 112) / GRE() / v4(i) / udp(i) / text(200),
        "gre ethernet": lambda i: (
            ether(i) / v6(i + 48) / GRE(proto=0x6558) / ether(i) / v6(i) / udp(i) / text(30)
        ),
        "gtp-u": lambda i: ether(i) / v4(i + 128) / udp(i, 2152) / gtp_u / v4(i) / tcp(i),
        "ip in ip": lambda i: ether(i) / v4(i + 144) / v4(i) / udp(i) / text(33),
        "mpls": lambda i: ether(i, type=0x8847) / struct.pack(">I", i << 12 | 0x140) / v4(i),
        "arp": lambda i: ether(i + 96) / ARP(psrc=f"10.8.0.{i}"),
        "lldp": lambda i: ether(i + 112, type=0x88CC) / bytes.fromhex("0207040200000000010000"),
        "unknown type": lambda i: ether(i + 128, type=0x88B5) / text(11),
        # Headers that lie: a router would drop them, a forwarder of frames does not look.
        "longer than it is": lambda i: ether(i) / v4(i + 160, len=1400) / udp(i) / text(5),
        "header beyond its end": lambda i: ether(i + 144) / v4(i, ihl=15),
        "extension beyond its end": lambda i: ether(i) / v6(i + 80) / IPv6ExtHdrHopByHop(len=99),
        "header too short": lambda i: ether(i + 160) / v4(i, ihl=3) / udp(i),
        "version 6 in type 4": lambda i: ether(i + 176, type=0x0800) / v6(i) / udp(i),
    }  # fmt: skip
    for kind, build in kinds.items():
        made += [_flow(f"{kind} {i}", bytes(build(i) / tail)) for i in range(count)]
    for i in range(count):
        whole = ether(i) / v4(i + 176, id=i + 1) / udp(i) / text(4000)
        made.append(_flow(f"fragments4 {i}", *(bytes(f) for f in fragment(whole, 1480))))
        whole = ether(i) / v6(i + 64) / IPv6ExtHdrFragment(id=i) / udp(i) / text(4000)
        made.append(_flow(f"fragments6 {i}", *(bytes(f) for f in fragment6(whole, 1400))))
        # In 802.3 frames the length stands where others have their type: it tells no flows apart.
        spanning = Dot3(dst="01:80:c2:00:00:00", src=f"02:00:00:00:05:{i:02x}") / LLC() / STP()
        made.append(_flow(f"llc {i}", *(bytes(spanning / text(n) / tail) for n in (0, 9, 99))))
    for size in range(1, 60):
        # With less than a header's bytes, what is there is all that could tell flows apart.
        frame = bytes(ether(size, type=0x88B6) / text(60))[:size]
        made.append(_flow(f"runt {size}", frame, room=min(max(0, size - 14), _SEQUENCE.size)))
        if size >= 14:
            frame = bytes(ether(size) / v4(size + 192) / tcp(size) / text(20))[:size]
            made.append(_flow(f"runt of tcp {size}", frame, room=0))
    for i, size in enumerate((1519, 2047, 2048, 2049, 4096, 4097, 8000, 9000, 9014, 9018)):
        if size <= jumbo:
            frame = ether(i) / v4(i + 208) / udp(i) / text(size - 42 - _SEQUENCE.size)
            made.append(_flow(f"jumbo {size}", bytes(frame / tail)))
    return made


def mix(flows: Sequence[Flow], packets: int, seed: int) -> list[Packet]:
    """That many packets of all these flows, mixed at random; first one of each."""
    assert packets >= len(flows)
    rng = random.Random(seed)
    turns = [*flows, *rng.choices(flows, k=packets - len(flows))]
    return [flow.next() for flow in turns]


def save(path: Path, packets: Sequence[Packet]) -> Path:
    write_pcap(path, (p.frame for p in packets))
    return path


# --- comparison ---------------------------------------------------------------------------------


def compare(
    sent: Sequence[Packet],
    received: Iterable[bytes],
    change: Callable[[bytes], bytes] = lambda frame: frame,
    *,
    missing: int = 0,
) -> None:
    """What was sent arrived, changed exactly as said, in order within each flow, and nothing else
    did; all but `missing` packets."""
    expected: dict[str, list[bytes]] = {}
    flow_of: dict[bytes, str] = {}
    for packet in sent:
        frame = change(packet.frame)
        expected.setdefault(packet.flow, []).append(frame)
        assert flow_of.setdefault(frame, packet.flow) == packet.flow, "two flows with one frame"
    arrived: dict[str, list[bytes]] = {flow: [] for flow in expected}
    strange = []
    for frame in received:
        flow = flow_of.get(frame)
        if flow is None:
            strange.append(frame)
        else:
            arrived[flow].append(frame)
    wrong = [
        f"{len(strange)} packets were never sent, the first: {f.hex()[:160]}" for f in strange[:1]
    ]
    for flow, frames in expected.items():
        if missing and _is_part(arrived[flow], frames):
            missing -= len(frames) - len(arrived[flow])
        elif frames != arrived[flow]:
            wrong.append(_difference(flow, frames, arrived[flow]))
    if missing:
        wrong.append(f"{missing} more packets were to be missing")
    assert not wrong, f"{len(wrong)} differences, the first:\n" + "\n".join(wrong[:10])


def _is_part(some: list[bytes], whole: list[bytes]) -> bool:
    """Is it `whole` with packets left out?"""
    rest = iter(whole)
    return all(frame in rest for frame in some)


def _difference(flow: str, frames: list[bytes], arrived: list[bytes]) -> str:
    lost, extra = Counter(frames), Counter(arrived)
    lost.subtract(extra)
    missing = sum(n for n in lost.values() if n > 0)
    again = -sum(n for n in lost.values() if n < 0)
    at = next((i for i, (a, b) in enumerate(zip(frames, arrived, strict=False)) if a != b), -1)
    return (
        f"{flow}: {len(frames)} sent, {len(arrived)} arrived, {missing} missing, {again} twice, "
        f"out of order from packet {at} on"
    )
