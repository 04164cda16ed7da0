# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel's routes and neighbours mean, as values. linux/rtnetlink.h, linux/neighbour.h.

Each dump is read whole. So no event has to be understood: what the kernel does without one (it
removes IPv4 routes of an interface that goes down), and those that were lost, are seen as any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

# Types of routes.
UNICAST, LOCAL, BROADCAST, ANYCAST, BLACKHOLE, UNREACHABLE, PROHIBIT, THROW = 1, 2, 3, 4, 6, 7, 8, 9
MAIN_TABLE, LOCAL_TABLE = 254, 255
V4, V6 = 2, 10  # AF_INET, AF_INET6
STALE = 0x04
USABLE = 0x02 | STALE | 0x08 | 0x10 | 0x40 | 0x80  # reachable ... delay, probe, noarp, permanent

_DEAD, _LINKDOWN, _CLONED = 0x1, 0x10, 0x200
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_NEXTHOP = struct.Struct("=HBBi")


class Hop(NamedTuple):
    link: int  # index of the interface
    gateway: bytes  # an address, of either family; empty: on the link
    weight: int = 1
    is_down: bool = False  # its interface has no carrier


class Route(NamedTuple):
    kind: int
    hops: tuple[Hop, ...] = ()
    is_wrapped: bool = False  # in MPLS or the like


class Neighbour(NamedTuple):
    mac: bytes  # empty: not known
    is_stale: bool


Prefix = tuple[bytes, int]
Routes = dict[Prefix, Route]
Neighbours = dict[tuple[int, bytes], Neighbour]  # by interface and address


def _attributes(data: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def _number(found: dict[int, bytes], kind: int, default: int = 0) -> int:
    data = found.get(kind, b"")
    return int.from_bytes(data, "little") if len(data) == 4 else default


def neighbours(found: Iterable[tuple[int, bytes, bytes, int]]) -> Neighbours:
    """`found`: interface, address, MAC address, state."""
    by_address: Neighbours = {}
    for link, address, mac, state in found:
        usable = bool(state & USABLE) and len(mac) == 6 and mac != bytes(6) and not mac[0] & 1
        by_address[link, address] = Neighbour(mac if usable else b"", bool(state & STALE))
    return by_address


def routes(found: Iterable[bytes], family: int) -> Routes:
    """The route that the kernel uses for each prefix: of the table local before main, then that of
    the lowest metric. Other tables, and routes for a type of service, are not read."""
    best: dict[Prefix, tuple[tuple[bool, int], Route]] = {}
    size = 4 if family == V4 else 16
    for one in found:
        if len(one) < _RTMSG.size:
            continue
        its, length, _, tos, table, _, _, kind, flags = _RTMSG.unpack_from(one)
        if its != family or tos or flags & _CLONED or length > size * 8:
            continue
        attributes = _attributes(one, _RTMSG.size)
        table = _number(attributes, 15, table)
        target = attributes.get(1, bytes(size))
        if table not in (MAIN_TABLE, LOCAL_TABLE) or len(target) != size:
            continue
        if _is_never_looked_up(target, length):
            continue
        hops = _hops(attributes, flags, kind)
        if kind == UNICAST and not hops:
            continue  # all dead: the kernel takes a shorter prefix
        rank = table != LOCAL_TABLE, _number(attributes, 6)
        route = Route(kind, hops, 22 in attributes)  # RTA_ENCAP
        key = target, length
        if (there := best.get(key)) is None or rank < there[0]:
            best[key] = rank, route
        elif rank == there[0] and family == V6 and kind == UNICAST == there[1].kind:
            # One of several ways, each in a message of its own.
            best[key] = rank, there[1]._replace(hops=(*there[1].hops, *hops))
    return {key: route for key, (_, route) in best.items()}


def _is_never_looked_up(target: bytes, length: int) -> bool:
    """Multicast, link-local and loopback addresses: `route` looks at none of these."""
    if len(target) == 4:
        return length >= 4 and (target[0] >> 4 == 14 or (length >= 8 and target[0] in (0, 127)))
    return length >= 8 and (
        target[0] == 0xFF
        or (target[0] == 0xFE and target[1] & 0xC0 == 0x80)
        or (length == 128 and target[:15] == bytes(15))
    )


def _hops(attributes: dict[int, bytes], flags: int, kind: int) -> tuple[Hop, ...]:
    if kind != UNICAST:
        return ()
    several = attributes.get(9)  # RTA_MULTIPATH
    if several is None:
        if flags & _DEAD:
            return ()
        link = _number(attributes, 4)
        return (Hop(link, _gateway(attributes), 1, bool(flags & _LINKDOWN)),)
    found, at = [], 0
    while at + _NEXTHOP.size <= len(several):
        length, state, weight, link = _NEXTHOP.unpack_from(several, at)
        if length < _NEXTHOP.size or at + length > len(several):
            break
        its = _attributes(several[at : at + length], _NEXTHOP.size)
        if not state & _DEAD and 22 not in its:
            found.append(Hop(link, _gateway(its), weight + 1, bool(state & _LINKDOWN)))
        at += length + 3 & ~3
    return tuple(found)


def _gateway(attributes: dict[int, bytes]) -> bytes:
    """RTA_GATEWAY, or RTA_VIA: of the other family."""
    return attributes.get(5, b"") or attributes.get(18, b"")[2:]
