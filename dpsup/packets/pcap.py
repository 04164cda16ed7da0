# SPDX-License-Identifier: BSD-3-Clause
"""Capture files: reads and writes pcap, and scans files of either format.

Own code, although dpkt, python-pcapng and scapy read such files: `check` and every start scan the
captures of a topology, so it must load at once (scapy takes 0.6 s), follow a million record headers
in a quarter of a second, and survive any bytes. pcapng.py has the blocks of the other format.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dpsup.packets import pcapng

ETHERNET = pcapng.ETHERNET
MOST_BYTES = 1 << 30  # that a scan reads
MOST_RECORDS = 1 << 21  # likewise: half a second

_FILE, _RECORD = struct.Struct("<IHHiIII"), struct.Struct("<IIII")
_MAGIC = 0xA1B2C3D4
_HEADS = {_MAGIC: 16, 0xA1B23C4D: 16, 0xA1B2CD34: 24}  # magic: bytes of a record's header
_RECORD_MOST = 256 << 10  # libpcap treats a longer record as damage

Data = bytes | mmap.mmap


class CutError(ValueError):
    """A file that ends in the middle of a record, or is no pcap file."""


class _Format(NamedTuple):
    order: str  # "<" | ">"
    head: int  # bytes of a record's header
    link_type: int
    snap: int  # libpcap hands on no more of a packet


def _format(data: Data) -> _Format | None:
    if len(data) >= _FILE.size:
        for order in "<>":
            magic, snap, link_type = struct.unpack_from(f"{order}I12xII", data)
            if magic in _HEADS:
                link_type &= 0xFFFF
                return _Format(order, _HEADS[magic], link_type, pcapng.snapshot(snap))
    return None


def _records(data: Data, order: str, head: int) -> Iterator[tuple[int, int, int]]:
    """Where each record ends, how many bytes were captured, and how many the packet had; up to the
    first record that is not whole."""
    lengths = struct.Struct(f"{order}8xII").unpack_from
    at, size = _FILE.size, len(data)
    while at + head <= size:
        captured, length = lengths(data, at)
        at += head + captured
        if captured > _RECORD_MOST or at > size:
            return
        yield at, captured, length


# --- whole files ----------------------------------------------------------------------------------


def to_bytes(frames: Iterable[bytes], at: float = 0.0) -> bytes:
    """A pcap file of whole Ethernet frames, the first captured `at` seconds since 1970, each
    further one a microsecond later."""
    parts = [_FILE.pack(_MAGIC, 2, 4, 0, 0, _RECORD_MOST, ETHERNET)]
    for i, frame in enumerate(frames, int(at * 1e6)):
        parts.append(_RECORD.pack(i // 1_000_000, i % 1_000_000, len(frame), len(frame)))
        parts.append(frame)
    return b"".join(parts)


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    path.write_bytes(to_bytes(frames))


def read_pcap(path: Path, *, torn: bool = False) -> Iterator[bytes]:
    """The frames of a pcap file. `torn`: its writer was killed, and the end that it had not
    written is missing. Raises: CutError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < _FILE.size:
            if torn:
                return
            raise CutError(f"{path} is no pcap file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _format(data)
            if found is None:
                raise CutError(f"{path} is no pcap file")
            end = _FILE.size
            for end, captured, length in _records(data, found.order, found.head):
                if captured != length:
                    raise CutError(
                        f"the record that ends at byte {end} of {path} is cut: "
                        f"{captured} of {length}"
                    )
                yield data[end - captured : end]
            if end != size and not torn:
                raise CutError(f"{path} ends in the middle of a record")


def count(path: Path) -> int:
    """The whole packets of a pcap file. Raises: OSError."""
    with path.open("rb") as file:
        if file.seek(0, 2) < _FILE.size:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _format(data)
            return sum(1 for _ in _records(data, found.order, found.head)) if found else 0


# --- headers alone --------------------------------------------------------------------------------


@dataclass(slots=True)
class Capture:
    """Packets are numbered from 1, as in Wireshark; 0: there is none."""

    link_type: int = ETHERNET
    packets: int = 0
    cut: int = 0  # packets of which a part was captured
    first_cut: int = 0
    long: int = 0  # those longer than the caller asked about
    first_long: int = 0
    longest: int = 0  # bytes
    skipped: int = 0  # packets that libpcap passes over
    first_skipped: int = 0
    snap: int = field(default=0, compare=False)  # of a pcap file, as its head says
    clipped: int = 0  # packets of which libpcap hands on no more than that
    first_clipped: int = 0
    damaged: bool = False  # its last packet is not whole, or no packet at all
    whole: bool = True  # nothing was left unread


def scan(data: Data, longest: int) -> Capture | None:
    """What the packets are like, and how many have more than `longest` bytes. None: not a capture.
    Judges nothing and never raises: where one record does not lead to another, the file ends."""
    found = Capture()
    pcap = _format(data)
    if pcap is not None:
        found.link_type, found.snap = pcap.link_type, pcap.snap
        _count(_records(data, pcap.order, pcap.head), _FILE.size, data, longest, found)
    elif pcapng.is_pcapng(data):
        first = pcapng.Interface()
        _count(pcapng.records(data, first), 0, data, longest, found)
        found.link_type = first.link_type
    else:
        return None
    return found


def _count(
    records: Iterator[tuple[int, int, int]], begin: int, data: Data, longest: int, found: Capture
) -> None:
    end, packets = begin, 0
    for n, (end, captured, length) in enumerate(records, 1):
        if captured == pcapng.SKIPPED:
            packets += 1
            found.skipped += 1
            found.first_skipped = found.first_skipped or packets
        elif captured >= 0:
            packets += 1
            if captured < length:
                found.cut += 1
                found.first_cut = found.first_cut or packets
            if captured > found.snap > 0:
                found.clipped += 1
                found.first_clipped = found.first_clipped or packets
            if captured > longest:
                found.long += 1
                found.first_long = found.first_long or packets
                found.longest = max(found.longest, captured)
        if n >= MOST_RECORDS or end >= MOST_BYTES:
            found.whole = end == len(data)
            break
    else:
        found.damaged = end != len(data)
    found.packets = packets
