# SPDX-License-Identifier: BSD-3-Clause
"""What a capture file says of its packets, read from the headers of its records alone.

Knows pcap (either byte order, micro- or nanoseconds) and pcapng, as libpcap reads them. Judges
nothing and never raises: where a record cannot be followed by another, the file ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

ETHERNET = 1  # LINKTYPE_ETHERNET
MOST_BYTES = 1 << 30
MOST_PACKETS = 1 << 21  # half a second

_MAGIC = {0xA1B2C3D4: 16, 0xA1B23C4D: 16, 0xA1B2CD34: 24}  # bytes of a record's header
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_ORDER_MAGIC = 0x1A2B3C4D
_RECORD_MOST = 256 << 10  # libpcap takes a longer one for damage


@dataclass(slots=True)
class Capture:
    """Packets are numbered from 1, as Wireshark does; 0: there is none."""

    link_type: int = ETHERNET
    packets: int = 0
    cut: int = 0  # those whose end was not captured
    first_cut: int = 0
    long: int = 0  # those longer than was asked about
    first_long: int = 0
    longest: int = 0  # bytes
    damaged: bool = False  # its last packet is not whole, or no packet at all
    whole: bool = True  # nothing was left unread


def scan(data: bytes | mmap, longest: int) -> Capture | None:
    """What the packets are like, and how many have more than `longest` bytes. None: no capture."""
    found = Capture()
    for order in "<>":
        if len(data) >= 24:
            magic, link_type = struct.unpack_from(f"{order}I16xI", data)
            if magic in _MAGIC:
                found.link_type = link_type & 0xFFFF
                _count(_pcap(data, order, _MAGIC[magic], found), found, longest)
                return found
    if len(data) >= 12 and struct.unpack_from("<I", data)[0] == _SECTION:
        _count(_pcapng(data, found), found, longest)
        return found
    return None


def _count(lengths: Iterator[tuple[int, int]], found: Capture, longest: int) -> None:
    n = 0
    for n, (captured, length) in enumerate(lengths, 1):
        if captured < length:
            found.cut += 1
            found.first_cut = found.first_cut or n
        if captured > longest:
            found.long += 1
            found.first_long = found.first_long or n
            found.longest = max(found.longest, captured)
        if n == MOST_PACKETS:
            found.whole = False
            break
    found.packets = n


def _pcap(data: bytes | mmap, order: str, head: int, found: Capture) -> Iterator[tuple[int, int]]:
    """The captured and the original length of each packet."""
    lengths = struct.Struct(f"{order}8xII").unpack_from
    at, end = 24, min(len(data), MOST_BYTES)
    while at + head <= end:
        captured, length = lengths(data, at)
        at += head + captured
        if captured > _RECORD_MOST or at > len(data):
            found.damaged = True
            return
        yield captured, length
    _ended(data, at, found)


def _pcapng(data: bytes | mmap, found: Capture) -> Iterator[tuple[int, int]]:
    at, order = 0, "<"
    snap_length = 0
    seen_interface = False
    while at + 12 <= min(len(data), MOST_BYTES):
        if data[at : at + 4] == b"\n\r\r\n":
            order = "<" if struct.unpack_from("<I", data, at + 8)[0] == _ORDER_MAGIC else ">"
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if size < 12 or size % 4 or at + size > len(data):
            found.damaged = True
            return
        if kind == _INTERFACE and not seen_interface and size >= 20:
            link_type, snap_length = struct.unpack_from(f"{order}HxxI", data, at + 8)
            found.link_type = link_type
            seen_interface = True
        elif kind in (_PACKET, _OLD_PACKET) and size >= 32:
            captured, length = struct.unpack_from(f"{order}II", data, at + 20)
            yield captured, length
        elif kind == _SIMPLE_PACKET and size >= 16:
            (length,) = struct.unpack_from(f"{order}I", data, at + 8)
            yield min(length, snap_length or length), length
        at += size
    _ended(data, at, found)


def _ended(data: bytes | mmap, at: int, found: Capture) -> None:
    if at < MOST_BYTES:
        found.damaged = at != len(data)
    else:
        found.whole = at == len(data)
