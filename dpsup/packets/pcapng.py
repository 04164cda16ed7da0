# SPDX-License-Identifier: BSD-3-Clause
"""pcapng, as much of it as captures need: blocks as bytes. Pure.

Of the packages that write pcapng none is needed by many, and four kinds of block are a page; their
layout is that of draft-ietf-opsawg-pcapng. Times are nanoseconds since 1970. Little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

ETHERNET = 1  # LINKTYPE_ETHERNET
INBOUND, OUTBOUND = 1, 2  # direction

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_ORDER_MAGIC = 0x1A2B3C4D
_COMMENT = 1
_USER_APPLICATION = 4
_NAME, _DESCRIPTION, _RESOLUTION, _FILTER = 2, 3, 9, 11
_NANOSECONDS = 9  # 10^-9 s
_FLAGS, _PACKET_ID = 2, 5
_RECEIVED, _DROPPED = 4, 5

Option = tuple[int, bytes]


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
    """What a file begins with."""
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
    """What there was at an interface, and what of it is not in the file."""
    options = [(_RECEIVED, struct.pack("<Q", received)), (_DROPPED, struct.pack("<Q", missed))]
    head = struct.pack("<III", number, at_ns >> 32, at_ns & 0xFFFFFFFF)
    return _block(_STATISTICS, head + _options(options))
