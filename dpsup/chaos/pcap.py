# SPDX-License-Identifier: BSD-3-Clause
"""Captures of whole Ethernet frames, as net_pcap reads and writes them on this machine."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_MAGIC = 0xA1B2C3D4
_MAGIC_NS = 0xA1B23C4D  # timestamps in nanoseconds: what net_pcap writes
_SNAP = 1 << 18  # more than any record here


class CutError(ValueError):
    """A capture that ends in the middle of a record, or is none."""


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    """A pcap file of whole Ethernet frames."""
    parts = [_FILE.pack(_MAGIC, 2, 4, 0, 0, _SNAP, 1)]
    for i, frame in enumerate(frames):
        parts.append(_RECORD.pack(i // 1_000_000, i % 1_000_000, len(frame), len(frame)))
        parts.append(frame)
    path.write_bytes(b"".join(parts))


def read_pcap(path: Path, *, torn: bool = False) -> Iterator[bytes]:
    """The frames of a pcap file that net_pcap or write_pcap wrote. `torn`: its writer was killed,
    and what it had not written yet is not there. Raises: CutError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if torn and size < _FILE.size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _frames(data, size, path, torn)


def _frames(data: mmap.mmap, size: int, path: Path, torn: bool) -> Iterator[bytes]:
    if _FILE.unpack_from(data)[0] not in (_MAGIC, _MAGIC_NS):
        raise CutError(f"{path} is no pcap file")
    at, head, unpack = _FILE.size, _RECORD.size, _RECORD.unpack_from
    while at + head <= size:
        caught, length = unpack(data, at)[2:]
        if caught != length:
            raise CutError(f"record at byte {at} of {path} is cut: {caught} of {length}")
        end = at + head + caught
        if end > size:
            break
        yield data[at + head : end]
        at = end
    if at != size and not torn:
        raise CutError(f"{path} ends in the middle of a record")
