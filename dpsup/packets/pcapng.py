# SPDX-License-Identifier: BSD-3-Clause
"""pcapng, as much of it as dpsup needs: four kinds of block written, packets found. Pure.

Own code, although python-pcapng and scapy exist: a capture writes a block a packet and must not
wait 0.6 s for an import, a scan reads untrusted files and must not raise, and the layout
(draft-ietf-opsawg-pcapng) of four kinds of block is a page. What is written is little-endian, with
times in nanoseconds since 1970.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from mmap import mmap

ETHERNET = 1  # LINKTYPE_ETHERNET
INBOUND, OUTBOUND = 1, 2  # direction

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _STATISTICS, _PACKET = (
    0x0A0D0D0A, 1, 2, 3, 5, 6,
)  # fmt: skip
_ORDER_MAGIC = 0x1A2B3C4D
_COMMENT = 1
_USER_APPLICATION = 4
_NAME, _DESCRIPTION, _RESOLUTION, _FILTER = 2, 3, 9, 11
_NANOSECONDS = 9  # 10^-9 s
_FLAGS, _PACKET_ID = 2, 5
_RECEIVED, _DROPPED = 4, 5

Option = tuple[int, bytes]

# --- written --------------------------------------------------------------------------------------


def _options(options: Iterable[Option]) -> bytes:
    out = b"".join(
        struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in options
    )
    return out + bytes(4) if out else b""


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def section(application: str) -> bytes:
    """The first block of a file."""
    head = struct.pack("<IHHq", _ORDER_MAGIC, 1, 0, -1)
    return _block(_SECTION, head + _options([(_USER_APPLICATION, application.encode())]))


def interface(name: str, description: str, snap: int, filter: str = "") -> bytes:
    """The first one is number 0, and so on."""
    options = [
        (_NAME, name.encode()),
        (_DESCRIPTION, description.encode()),
        (_RESOLUTION, bytes([_NANOSECONDS])),
    ]
    if filter:
        options.append((_FILTER, b"\0" + filter.encode()))  # 0: as libpcap is told it
    return _block(_INTERFACE, struct.pack("<HHI", ETHERNET, 0, snap) + _options(options))


def packet(
    number: int,
    at_ns: int,
    data: bytes,
    length: int,
    *,
    direction: int = 0,
    comment: str = "",
    packet_id: int | None = None,
) -> bytes:
    """A packet of interface `number` that was `length` bytes long; the same packet seen at two
    interfaces has the same `packet_id`."""
    options: list[Option] = []
    if comment:
        options.append((_COMMENT, comment.encode()))
    if direction:
        options.append((_FLAGS, struct.pack("<I", direction)))
    if packet_id is not None:
        options.append((_PACKET_ID, struct.pack("<Q", packet_id)))
    head = struct.pack("<IIIII", number, at_ns >> 32, at_ns & 0xFFFFFFFF, len(data), length)
    return _block(_PACKET, head + data + bytes(-len(data) % 4) + _options(options))


def statistics(number: int, at_ns: int, received: int, missed: int) -> bytes:
    """The packets that an interface had, and those of them that are not in the file."""
    options = [(_RECEIVED, struct.pack("<Q", received)), (_DROPPED, struct.pack("<Q", missed))]
    head = struct.pack("<III", number, at_ns >> 32, at_ns & 0xFFFFFFFF)
    return _block(_STATISTICS, head + _options(options))


# --- read -----------------------------------------------------------------------------------------


def is_pcapng(data: bytes | mmap) -> bool:
    return len(data) >= 12 and data[:4] == b"\n\r\r\n"


SKIPPED = -2  # captured bytes of a packet that libpcap, and so net_pcap, passes over
_SNAP_MOST = 256 << 10  # libpcap's, in place of 0 or more


@dataclass(slots=True)
class Interface:
    """The first one of a file."""

    link_type: int = ETHERNET
    snap: int | None = None


def snapshot(length: int) -> int:
    """The bytes of a packet that libpcap hands on, of a file or interface that says so."""
    return length if 0 < length <= _SNAP_MOST else _SNAP_MOST


def records(data: bytes | mmap, first: Interface) -> Iterator[tuple[int, int, int]]:
    """Where each block ends, up to the first one that cannot be whole; of a packet also how many
    bytes were captured and how many it had, of another block -1. Fills in `first`.

    libpcap knows interfaces by count, leaves out each whose link type or snap length is not the
    first one's, and passes over packets of interfaces that it does not know: they are SKIPPED."""
    at, order, size_of_all, known = 0, "<", len(data), 0
    begun = None  # the byte order of the file's first section, which the others must have
    head = struct.Struct("<II").unpack_from
    while at + 12 <= size_of_all:
        kind, size = head(data, at)
        if kind == _SECTION:  # the same in both byte orders
            order = "<" if struct.unpack_from("<I", data, at + 8)[0] == _ORDER_MAGIC else ">"
            head = struct.Struct(f"{order}II").unpack_from
            kind, size = head(data, at)
            known, begun = 0, begun or order
        end = at + size
        if size < 12 or size % 4 or end > size_of_all:
            return
        captured = length = -1
        if kind in (_PACKET, _OLD_PACKET) and size >= 32:
            captured, length = head(data, at + 20)
            number = struct.unpack_from(f"{order}{'I' if kind == _PACKET else 'H'}", data, at + 8)
            if number[0] >= known or captured > snapshot(first.snap or 0):
                captured = SKIPPED
        elif kind == _SIMPLE_PACKET and size >= 16:
            (length,) = struct.unpack_from(f"{order}I", data, at + 8)
            captured = min(length, first.snap or length) if known else SKIPPED
        elif kind == _INTERFACE and size >= 20:
            link_type, snap = struct.unpack_from(f"{order}HxxI", data, at + 8)
            if first.snap is None:
                first.link_type, first.snap = link_type, snap
            same = link_type == first.link_type and snapshot(snap) == snapshot(first.snap)
            known += same and order == begun
        yield end, captured, length
        at = end
