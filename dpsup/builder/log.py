# SPDX-License-Identifier: BSD-3-Clause
"""What is true of a table: a log of the batches that made it, in the runtime directory.

A record is a line that says its version, the ids of the requests that it carries out, the digest of
the topology's file as it was read last, the length and the checksum; then the batch as text. It
counts once it is there whole: what a builder that died has left of one is cut off.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

COMPACT_BYTES = 4 << 20  # of batches beyond twice the snapshot, then the log is written anew


class Record(NamedTuple):
    version: int
    requests: tuple[str, ...]  # a log that was written anew names the last ones in one record
    digest: str  # of the topology's file, "-": it was never read
    text: str


def encode(record: Record) -> bytes:
    body = record.text.encode()
    requests = ",".join(record.requests) or "-"
    head = f"batch {record.version} {requests} {record.digest} {len(body)} {zlib.crc32(body)}"
    return f"{head}\n".encode() + body


def decode(data: bytes) -> tuple[list[Record], int]:
    """The records that are whole, and how many bytes they are."""
    found: list[Record] = []
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        words = data[at:end].decode(errors="replace").split(" ")
        if len(words) != 6 or words[0] != "batch" or not (words[1] + words[4] + words[5]).isdigit():
            break
        body = data[end + 1 : end + 1 + int(words[4])]
        if len(body) != int(words[4]) or zlib.crc32(body) != int(words[5]):
            break
        requests = () if words[2] == "-" else tuple(words[2].split(","))
        found.append(Record(int(words[1]), requests, words[3], body.decode()))
        at = end + 1 + len(body)
    return found, at


class Log:
    """The file of one table. Raises: OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(f"{path.name}:new")
        self._new.unlink(missing_ok=True)  # of a builder that died while it wrote the log anew
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self.snapshot_bytes = 0
        self.bytes = 0

    def read(self) -> list[Record]:
        """All records; what follows the last whole one is removed."""
        with open(os.dup(self._fd), "rb") as f:  # noqa: PTH123
            f.seek(0)
            data = f.read()
        records, self.bytes = decode(data)
        if self.bytes < len(data):
            os.ftruncate(self._fd, self.bytes)
        return records

    def append(self, record: Record) -> None:
        """From its return on the batch is true. Where it raises, it is not."""
        data = encode(record)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], self.bytes + done)
        except OSError:
            os.ftruncate(self._fd, self.bytes)
            raise
        self.bytes += len(data)

    @property
    def is_long(self) -> bool:
        return self.bytes > 2 * self.snapshot_bytes + COMPACT_BYTES

    def replace(self, record: Record) -> None:
        """Write the log anew, with one record that says all."""
        data = encode(record)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._new, flags, 0o600)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], done)
            self._new.replace(self._path)
        except OSError:
            # What is there of it would keep a full disk full.
            os.close(fd)
            self._new.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd
        self.bytes = self.snapshot_bytes = len(data)

    def close(self) -> None:
        os.close(self._fd)
