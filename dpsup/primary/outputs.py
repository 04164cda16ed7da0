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

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        self._files: list[int] = []
        self._whole = False
        self._missing = 0  # bytes, when it was last looked
        self.open()

    def open(self) -> None:
        """Once its device is. A driver that opens a file anew has emptied it: what it had is
        missing from then on. Raises: DpsupError."""
        self.close()
        self._files = [fd for path in self._paths if (fd := _writer_of(path)) is not None]
        modes = [os.fstat(fd).st_mode for fd in self._files]
        for path, fd, mode in zip(self._paths, self._files, modes, strict=False):
            if stat.S_ISREG(mode):
                _claim(path, fd)
        # What goes to which of them is not known: devices, such as /dev/null, take anything.
        regular = all(stat.S_ISREG(m) for m in modes)
        self._whole = bool(self._paths) and len(modes) == len(self._paths) and regular

    def close(self) -> None:
        """Gives the files back, for their device to open them again."""
        for fd in self._files:
            os.close(fd)
        self._files, self._whole = [], False

    def unwritten(self, packets: int, sent: int) -> int:
        """Bytes that are missing."""
        if self._whole:
            sizes = [os.fstat(fd).st_size for fd in self._files]
            # A file's head is written together with its first packets.
            heads = _FILE_HEAD * sum(size > 0 for size in sizes)
            self._missing = max(0, sent + packets * _RECORD_HEAD + heads - sum(sizes))
        return self._missing


def output_of(vdev: str, mtu: int) -> Output | None:
    """The files that a port writes; called once its device is open."""
    pairs = [part.partition("=") for part in vdev.split(",")[1:]]
    paths = [value for key, _, value in pairs if key.strip() == "tx_pcap"]
    if not paths or mtu > _WHOLE_MOST - 22:
        return None
    return Output(paths)


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


def _claim(path: str, fd: int) -> None:
    """`check` finds neither of two instances that start at once: the second one is refused here.
    Raises: DpsupError."""
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
