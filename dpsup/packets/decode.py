# SPDX-License-Identifier: BSD-3-Clause
"""A packet in one line: its source, its destination, its protocol. Pure.

Never raises: what it cannot read it names by number. Wireshark reads the rest. Own code: scapy and
dpkt build an object for each layer, and raise on bytes that are not what they claim to be.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

_VLANS = (0x8100, 0x88A8, 0x9100)
_TYPES = {0x0806: "ARP", 0x8847: "MPLS", 0x88CC: "LLDP", 0x8863: "PPPoE", 0x8864: "PPPoE"}
_PROTOCOLS = {
    1: "ICMP", 2: "IGMP", 4: "IPv4", 6: "TCP", 17: "UDP", 41: "IPv6", 47: "GRE", 50: "ESP",
    58: "ICMPv6", 89: "OSPF", 132: "SCTP",
}  # fmt: skip
_WITH_PORTS = (6, 17, 132)
_FLAGS = "FSRPAUEC"
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination
_FRAGMENT = 44


def one_line(data: bytes) -> str:
    """An Ethernet frame, or its first bytes, as a line of text."""
    if len(data) < 14:
        return "too short for Ethernet"
    kind, at, tags = struct.unpack_from(">H", data, 12)[0], 14, ""
    while kind in _VLANS and len(data) >= at + 4:
        tag, kind = struct.unpack_from(">HH", data, at)
        tags += f"vlan {tag & 0xFFF} "
        at += 4
    if kind == 0x0800:
        return tags + _ipv4(data[at:])
    if kind == 0x86DD:
        return tags + _ipv6(data[at:])
    ends = f"{_mac(data[6:12])} > {_mac(data[0:6])}"
    name = "802.3" if kind < 1536 else _TYPES.get(kind, f"type {kind:#06x}")
    return f"{tags}{ends} {name}"


def _mac(data: bytes) -> str:
    return data.hex(":")


def _ipv4(data: bytes) -> str:
    if len(data) < 20 or data[0] >> 4 != 4 or data[0] & 15 < 5:
        return "IPv4, header cut or damaged"
    source, target = (".".join(str(b) for b in data[i : i + 4]) for i in (12, 16))
    fragment = struct.unpack_from(">H", data, 6)[0]
    rest = data[(data[0] & 15) * 4 :]
    if fragment & 0x1FFF:
        return f"{source} > {target} {_protocol(data[9])} fragment at {(fragment & 0x1FFF) * 8}"
    return _transport(source, target, data[9], rest)


def _ipv6(data: bytes) -> str:
    if len(data) < 40 or data[0] >> 4 != 6:
        return "IPv6, header cut or damaged"
    source, target = (str(IPv6Address(data[i : i + 16])) for i in (8, 24))
    kind, at = data[6], 40
    while kind in _EXTENSIONS and len(data) >= at + 8:
        kind, at = data[at], at + 8 + data[at + 1] * 8
    if kind == _FRAGMENT and len(data) >= at + 8:
        offset = struct.unpack_from(">H", data, at + 2)[0] & 0xFFF8
        kind, at = data[at], at + 8
        if offset:
            return f"{source} > {target} {_protocol(kind)} fragment at {offset}"
    return _transport(source, target, kind, data[at:], brackets=True)


def _protocol(number: int) -> str:
    return _PROTOCOLS.get(number, f"protocol {number}")


def _transport(source: str, target: str, kind: int, data: bytes, *, brackets: bool = False) -> str:
    name = _protocol(kind)
    if kind not in _WITH_PORTS or len(data) < 4:
        return f"{source} > {target} {name}"
    ports = struct.unpack_from(">HH", data)
    source, target = (
        f"[{a}]:{p}" if brackets else f"{a}:{p}"
        for a, p in zip((source, target), ports, strict=True)
    )
    flags = ""
    if kind == 6 and len(data) >= 14:
        flags = " " + ("".join(f for i, f in enumerate(_FLAGS) if data[13] >> i & 1) or "-")
    return f"{source} > {target} {name}{flags}"
