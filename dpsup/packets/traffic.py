# SPDX-License-Identifier: BSD-3-Clause
"""Numbered packets of many flows, sent repeatedly, and what became of them. Pure.

net_pcap's `infinite_rx` sends one capture forever, so numbers repeat; the packets of a flow are
counted too, so that the loss of a whole round is noticed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

_ETHER = struct.Struct(">6s6sH")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_UDP = struct.Struct(">HHHH")
_MARK = struct.Struct(">4sIII")
MAGIC = b"dpch"


def _sum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(flow: int, number: int) -> bytes:
    """Packet `number` of a flow: Ethernet, IPv4, UDP, flow, number, bytes derived from them."""
    filler = bytes((flow * 31 + number * 7 + i) & 0xFF for i in range(flow * 7 % 61))
    payload = _MARK.pack(MAGIC, flow, number, flow ^ number) + filler
    source, target = bytes((10, 7, flow >> 8, flow & 0xFF)), bytes((10, 8, 0, 1))
    length = _IPV4.size + _UDP.size + len(payload)
    head = [0x45, 0, length, number & 0xFFFF, 0, 64, 17, 0, source, target]
    head[7] = _sum(_IPV4.pack(*head))
    ether = _ETHER.pack(b"\x02\0\0\0\0\x01", b"\x02\0\0\x07" + struct.pack(">H", flow), 0x0800)
    # The same ports for all: with a symmetric key, ports that go with the address cancel it out.
    udp = _UDP.pack(1024, 9, _UDP.size + len(payload), 0)
    return ether + _IPV4.pack(*head) + udp + payload


def swapped(packet: bytes) -> bytes:
    """A frame whose two MAC addresses have changed places: what the workers do, once."""
    return packet[6:12] + packet[:6] + packet[12:] if len(packet) >= 12 else packet


@dataclass(frozen=True, slots=True)
class Traffic:
    """`numbers` packets of each of `flows` flows, flow by flow in turns, then the same again."""

    flows: int = 32
    numbers: int = 256

    def frames(self) -> Iterable[bytes]:
        return (frame(f, n) for n in range(self.numbers) for f in range(self.flows))

    def of_flow(self, flow: int, packets: int) -> int:
        """How many of the first `packets` packets are that flow's."""
        rounds, rest = divmod(packets, self.flows)
        return rounds + (flow < rest)


@dataclass(slots=True)
class Count:
    """What became of packets. `arrived` counts every packet that came out, wrong ones too."""

    sent: int = 0
    arrived: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    damaged: int = 0  # none that was sent: changed by half, twice, or not at all
    unaccounted: int = 0  # in a generation that was killed: the end of what was received

    def add(self, other: Count) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.damaged)


@dataclass(slots=True)
class _Flow:
    next: int = 0  # absolute, not modulo
    missing: set[int] = field(default_factory=set)


def check(traffic: Traffic, arrived: Iterable[bytes], received: int | None) -> Count:
    """`received` packets went in, from the first on; each must come out once, its MAC addresses
    swapped, in order within its flow. None: unknown, as their primary was killed; then the last
    ones of each flow may be missing, and nothing else."""
    known = {
        swapped(packet): (i % traffic.flows, i // traffic.flows)
        for i, packet in enumerate(traffic.frames())
    }
    flows = [_Flow() for _ in range(traffic.flows)]
    count = Count()
    size = traffic.numbers
    for packet in arrived:
        count.arrived += 1
        place = known.get(packet)
        if place is None:
            count.damaged += 1
            continue
        flow = flows[place[0]]
        ahead = (place[1] - flow.next) % size
        if ahead == 0:
            flow.next += 1
        elif ahead < size // 2:
            flow.missing.update(range(flow.next, flow.next + ahead))
            flow.next += ahead + 1
        elif flow.next - size + ahead in flow.missing:
            flow.missing.discard(flow.next - size + ahead)
            count.reordered += 1
        else:
            count.duplicated += 1
    count.lost = sum(len(f.missing) for f in flows)
    count.sent = sum(f.next for f in flows) if received is None else received
    if received is not None:
        for i, flow in enumerate(flows):
            short = traffic.of_flow(i, received) - flow.next
            count.lost += max(0, short)
            count.duplicated += max(0, -short)
    return count
