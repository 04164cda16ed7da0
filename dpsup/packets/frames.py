# SPDX-License-Identifier: BSD-3-Clause
"""The packets of a capture file of either format, with their times and interfaces. Pure.

What is damaged raises: a trial of part of a capture would be no trial. pcap.scan, which `check`
uses on files of any size, reads as far as it can and never raises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from dpsup.packets.pcapng import ETHERNET, is_pcapng

_MAGICS = {  # of pcap: nanoseconds of a unit of a record's second number, bytes of its header
    0xA1B2C3D4: (1000, 16),
    0xA1B23C4D: (1, 16),
    0xA1B2CD34: (1000, 24),
}
_SECTION, _INTERFACE, _SIMPLE, _PACKET = 0x0A0D0D0A, 1, 3, 6
_NAME, _RESOLUTION = 2, 9


class DamagedError(ValueError):
    """It is no capture of Ethernet packets, or not whole; in words."""


class Frame(NamedTuple):
    at_ns: int
    interface: str  # its name, "": the file does not say
    data: bytes


def frames(data: bytes) -> Iterator[Frame]:
    """Raises: DamagedError."""
    return _pcapng(data) if is_pcapng(data) else _pcap(data)


def _whole(number: int, captured: int, length: int) -> None:
    if captured < length:
        raise DamagedError(f"packet {number} was captured in part: {captured} of {length} bytes")


def _ethernet(link_type: int) -> None:
    if link_type != ETHERNET:
        raise DamagedError(f"its packets are not Ethernet (link type {link_type})")


def _pcap(data: bytes) -> Iterator[Frame]:
    order = "<"
    magic = struct.unpack_from("<I", data)[0] if len(data) >= 24 else 0
    if magic not in _MAGICS and len(data) >= 24:
        order = ">"
        (magic,) = struct.unpack_from(">I", data)
    if magic not in _MAGICS:
        raise DamagedError("it is neither a pcap nor a pcapng file")
    unit, head = _MAGICS[magic]
    _ethernet(struct.unpack_from(f"{order}20xI", data)[0] & 0xFFFF)
    at, number = 24, 0
    while at < len(data):
        number += 1
        if at + head > len(data):
            raise DamagedError(f"it ends in the middle of packet {number}")
        seconds, rest, captured, length = struct.unpack_from(f"{order}IIII", data, at)
        at += head
        if at + captured > len(data):
            raise DamagedError(f"it ends in the middle of packet {number}")
        _whole(number, captured, length)
        yield Frame(seconds * 10**9 + rest * unit, "", data[at : at + captured])
        at += captured


def _options(data: bytes, at: int, end: int, order: str) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= end:
        code, size = struct.unpack_from(f"{order}HH", data, at)
        if code == 0 or at + 4 + size > end:
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4


def _interface(data: bytes, at: int, end: int, order: str) -> tuple[str, int]:
    """Its name, and how many of its units of time are a second."""
    _ethernet(struct.unpack_from(f"{order}H", data, at + 8)[0])
    name, units = "", 10**6
    for code, value in _options(data, at + 16, end - 4, order):
        if code == _NAME:
            name = value.decode(errors="replace").rstrip("\0")
        elif code == _RESOLUTION and value:
            units = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** min(value[0], 18)
    return name, units


def _pcapng(data: bytes) -> Iterator[Frame]:
    at, number, order = 0, 0, "<"
    interfaces: list[tuple[str, int]] = []
    while at < len(data):
        if at + 12 > len(data):
            raise DamagedError(f"it ends in the middle of a block, after packet {number}")
        if data[at : at + 4] == b"\n\r\r\n":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, size = struct.unpack_from(f"{order}II", data, at)
        end = at + size
        if size < 12 or size % 4 or end > len(data):
            raise DamagedError(f"it ends in the middle of a block, after packet {number}")
        if kind == _INTERFACE and size >= 20:
            interfaces.append(_interface(data, at, end, order))
        elif kind == _PACKET and size >= 32:
            number += 1
            index, high, low, captured, length = struct.unpack_from(f"{order}IIIII", data, at + 8)
            if index >= len(interfaces) or captured > size - 32:
                raise DamagedError(f"packet {number} is damaged")
            _whole(number, captured, length)
            name, units = interfaces[index]
            ns = (high << 32 | low) * 10**9 // units
            yield Frame(ns, name, data[at + 28 : at + 28 + captured])
        elif kind == _SIMPLE and size >= 16 and interfaces:
            number += 1
            (length,) = struct.unpack_from(f"{order}I", data, at + 8)
            _whole(number, min(length, size - 16), length)
            yield Frame(0, interfaces[0][0], data[at + 12 : at + 12 + length])
        at = end
