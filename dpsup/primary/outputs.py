# SPDX-License-Identifier: BSD-3-Clause
"""Did what was sent to a port arrive in its files? net_pcap does not look at what a write says.

The files are looked at by descriptors of their own, so that one that is renamed or deleted is
looked at all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from dpsup.errors import DpsupError

_FILE_HEAD, _RECORD_HEAD = 24, 16  # bytes, of a pcap file and of each of its packets
_WHOLE_MOST = 65_535  # bytes of a packet that the driver writes whole in any case


class Output:
    """The files of one port. `sent` are packets and bytes that its driver has taken, counted after
    they were written: the files are never behind them."""

    def __init__(self, paths: list[str], *, counts: bool) -> None:
        self._paths, self._counts = paths, counts
        self._files: list[int] = []
        self._locks: dict[str, int] = {}  # by path
        self._whole = False
        self._missing = 0  # bytes, when it was last looked

    def claim(self) -> None:
        """Locks the files before the device opens them, as it empties them: of two instances that
        start at once, `check` finds neither. Raises: DpsupError."""
        self.close()
        for path in self._paths:
            if path not in self._locks and (fd := _regular(path)) is not None:
                self._locks[path] = fd
                self._lock(path, fd)

    def open(self) -> None:
        """Once its device is. A driver that opens a file anew has emptied it: what it had is
        missing from then on. Raises: DpsupError."""
        found = [(path, fd) for path in self._paths if (fd := _writer_of(path)) is not None]
        self._files = [fd for _, fd in found]
        modes = [os.fstat(fd).st_mode for fd in self._files]
        locked = [os.fstat(fd) for fd in self._locks.values()]
        for path, fd in found:
            # Another file has its name now, perhaps.
            file = os.fstat(fd)
            if stat.S_ISREG(file.st_mode) and not any(os.path.samestat(file, s) for s in locked):
                self._lock(path, fd)
        # What goes to which of them is not known: devices, such as /dev/null, take anything.
        regular = all(stat.S_ISREG(m) for m in modes)
        self._whole = self._counts and len(modes) == len(self._paths) and regular

    def close(self) -> None:
        """Gives the files back."""
        for fd in (*self._files, *self._locks.values()):
            os.close(fd)
        self._files, self._locks, self._whole = [], {}, False

    def _lock(self, path: str, fd: int) -> None:
        try:
            _lock(path, fd)
        except DpsupError:
            self.close()
            raise

    def unwritten(self, packets: int, sent: int) -> int:
        """Bytes that are missing."""
        if self._whole:
            sizes = [os.fstat(fd).st_size for fd in self._files]
            # A file's head is written together with its first packets.
            heads = _FILE_HEAD * sum(size > 0 for size in sizes)
            self._missing = max(0, sent + packets * _RECORD_HEAD + heads - sum(sizes))
        return self._missing


def output_of(vdev: str, mtu: int) -> Output | None:
    """The files that a port writes."""
    pairs = [part.partition("=") for part in vdev.split(",")[1:]]
    paths = [value for key, _, value in pairs if key.strip() == "tx_pcap"]
    return Output(paths, counts=mtu <= _WHOLE_MOST - 22) if paths else None


def _regular(path: str) -> int | None:
    """A descriptor of a file, which is made where there is none, and left as it is. None: it is no
    regular file, or cannot be opened, which the driver says better."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(path, flags, 0o666)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    return None


def _writer_of(path: str) -> int | None:
    """A duplicate of this process's descriptor that writes to the file."""
    with contextlib.suppress(OSError):
        file = os.stat(path)  # noqa: PTH116
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                fd = int(name)
                writes = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
                if writes and os.path.samestat(file, os.fstat(fd)):
                    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    return None


def _lock(path: str, fd: int) -> None:
    """Raises: DpsupError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DpsupError(
            f"another process writes to {path}",
            code="E0440",
            why="two ports that write to one file leave neither's packets whole",
            help="name another file in tx_pcap",
        ) from None
    except OSError:
        pass  # a file system without locks
