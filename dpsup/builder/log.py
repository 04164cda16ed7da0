# SPDX-License-Identifier: BSD-3-Clause
"""What is true of a table: a log of the batches that made it, in the runtime directory.

A record is a line that says its version, the ids of the requests that it carries out, the digest of
the topology's file as it was read last, the length and the checksum; then the batch as text. It
counts once it is there whole: what a builder that died has left of one is cut off.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
import zlib
from pathlib import Path
from typing import NamedTuple

OTHER_S = 5.0  # for a builder that is on its way out
_BATCH, _LEARNED = "batch", "learned"
COMPACT_BYTES = 4 << 20  # of batches beyond twice the snapshot, then the log is written anew


class Record(NamedTuple):
    version: int
    requests: tuple[str, ...]  # a log that was written anew names the last ones in one record
    digest: str  # of the topology's file, "-": it was never read
    text: str
    learned: bool = False  # from workers: what of it is not told again ages


def encode(record: Record) -> bytes:
    body = record.text.encode()
    requests = ",".join(record.requests) or "-"
    word = _LEARNED if record.learned else _BATCH
    head = f"{word} {record.version} {requests} {record.digest} {len(body)}".encode()
    return b"%b %d\n" % (head, zlib.crc32(body, zlib.crc32(head))) + body


def decode(data: bytes) -> tuple[list[Record], int]:
    """The records that are whole, and how many bytes they are."""
    found: list[Record] = []
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        head = data[at:end].rpartition(b" ")[0]
        words = data[at:end].decode(errors="replace").split(" ")
        if len(words) != 6 or words[0] not in (_BATCH, _LEARNED):
            break
        if not (words[1] + words[4] + words[5]).isdecimal():
            break
        body = data[end + 1 : end + 1 + int(words[4])]
        if len(body) != int(words[4]) or zlib.crc32(body, zlib.crc32(head)) != int(words[5]):
            break
        requests = () if words[2] == "-" else tuple(words[2].split(","))
        learned = words[0] == _LEARNED
        found.append(Record(int(words[1]), requests, words[3], body.decode(), learned))
        at = end + 1 + len(body)
    return found, at


def _trust(fd: int) -> None:
    """It is this user's, and no other instance's. Raises: OSError."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise OSError(errno.EPERM, "it is not a file that this user alone can write")
    deadline = time.monotonic() + OTHER_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "another instance has it in use") from None
            time.sleep(0.01)
        else:
            return


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _has_record(data: bytes) -> bool:
    """Is there a whole record anywhere in it?"""
    found = re.finditer(rb"(?:%b|%b) [0-9]+ " % (_BATCH.encode(), _LEARNED.encode()), data)
    return any(decode(data[one.start() :])[0] for one in found)


class Corrupt(Exception):
    """What a file says is not what was written there."""


class Log:
    """The file of one table. `durable`: what is appended is on the disk when `append` returns.
    Raises: OSError."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._path, self._durable = path, durable
        self._new = path.with_name(f"{path.name}:new")
        self._new.unlink(missing_ok=True)  # of a builder that died while it wrote the log anew
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        if durable:
            _trust(self._fd)
        self.snapshot_bytes = 0
        self.bytes = 0
        self.cut = 0  # bytes of an unfinished record, when it was read

    def read(self) -> list[Record]:
        """All records; what follows the last whole one is removed."""
        with open(os.dup(self._fd), "rb") as f:  # noqa: PTH123
            f.seek(0)
            data = f.read()
        records, self.bytes = decode(data)
        self.cut = len(data) - self.bytes
        if self.cut:
            if self._durable and (not records or _has_record(data[self.bytes + 1 :])):
                # Not the end that a death or a power cut left: a change that was acknowledged.
                raise Corrupt(f"what begins at byte {self.bytes} is damaged")
            os.ftruncate(self._fd, self.bytes)
        return records

    def set_aside(self) -> Path:
        """Begin with an empty file; returns where the old one is."""
        old = self._path.with_name(f"{self._path.name}.aside")
        self._path.replace(old)
        os.close(self._fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        if self._durable:
            _trust(self._fd)
        self.bytes = 0
        return old

    def append(self, record: Record) -> None:
        """From its return on the batch is true. Where it raises, it is not."""
        data = encode(record)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], self.bytes + done)
            if self._durable and not record.learned:
                os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self.bytes)
            raise
        self.bytes += len(data)

    @property
    def is_long(self) -> bool:
        return self.bytes > 2 * self.snapshot_bytes + COMPACT_BYTES

    def replace(self, *records: Record) -> None:
        """Write the log anew, with records that say all."""
        data = b"".join(map(encode, records))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._new, flags, 0o600)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], done)
            if self._durable:
                _trust(fd)
                os.fdatasync(fd)
            self._new.replace(self._path)
            if self._durable:
                _sync_directory(self._path.parent)
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
