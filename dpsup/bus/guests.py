# SPDX-License-Identifier: BSD-3-Clause
"""What clients may cost the process whose sockets they connect to.

ZeroMQ bounds the bytes of a frame, but neither the frames of a message nor the connections; a
process that has no file descriptor left for a connection it aborts. So a process with sockets looks
at itself several times a second, and shuts connections that cost too much. A client of dpsup's
connects again, and repeats its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

CONNECTIONS_MOST = 512  # of all sockets of a process
MEMORY_MOST = 128 << 20  # bytes that the process may grow by
FILES = 65536
FILES_ENOUGH = 16384  # more than can connect between two looks
SPARE_FILES = Path(__file__).resolve().parents[1] / "spare_files.so"
LOOK_S = 0.2  # between two looks; some 20,000 connections a second can be made
TELL_S = 10.0  # between two words about it

_PEER = struct.Struct("3i")  # pid, uid, gid
_PAGE = os.sysconf("SC_PAGESIZE")
_FDS = Path("/proc/self/fd")


def allow_files() -> None:
    """More descriptors than clients can take between two looks, where that is allowed: ZeroMQ
    aborts a process that has none left. CAP_SYS_RESOURCE allows more than the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < FILES:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
            return
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def keep_files_back() -> None:
    """The same, and where few are allowed become this program anew with spare_files.so preloaded,
    as all that it starts is: accept(2) leaves descriptors that no connection gets."""
    allow_files()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    library, given = str(SPARE_FILES), os.environ.get("LD_PRELOAD", "")
    is_there = library in given.split(":") or not SPARE_FILES.exists() or set(library) & set(": ")
    if soft == resource.RLIM_INFINITY or soft >= FILES_ENOUGH or is_there:
        return
    env = {**os.environ, "LD_PRELOAD": f"{library}:{given}".rstrip(":")}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], env)


def _files() -> int:
    return sum(1 for _ in _FDS.iterdir())


def _memory() -> int:
    """Bytes of this process, without those of files and of shared memory."""
    _, resident, shared = Path("/proc/self/statm").read_text().split()[:3]
    return (int(resident) - int(shared)) * _PAGE


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket that ZeroMQ goes on to own."""
    one = socket.socket(fileno=fd)
    try:
        yield one
    finally:
        one.detach()


class Guests:
    """Those of the sockets at `paths` and TCP `ports`, which all belong to this process.
    `friend`: a process whose requests are not repeated, and whose connections stay."""

    def __init__(self, *paths: str, friend: int = 0, ports: Collection[int] = ()) -> None:
        self._paths, self._friend, self._ports = paths, friend, ports
        self._next = 0.0
        self._files = _files()
        self._least = _memory()
        self.shut = 0

    def limit(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_S / 2
        with contextlib.suppress(OSError):  # the next look is soon
            self._limit()

    async def keep(self, say: Callable[[str], object]) -> None:
        told, told_at = 0, 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            self.limit()
            if self.shut > told and time.monotonic() > told_at + TELL_S:
                say(
                    f"{self.shut - told} connections of clients were shut: clients took more than"
                    f" {CONNECTIONS_MOST} connections, or {MEMORY_MOST >> 20} MiB"
                )
                told, told_at = self.shut, time.monotonic()

    def _limit(self) -> None:
        if _files() > self._files + CONNECTIONS_MOST:
            self._shut_most()
        now = _memory()
        if now > self._least + MEMORY_MOST:
            # Of a message that has not arrived as a whole, ZeroMQ does not tell the sender.
            for fd, pid in self._connections().items():
                if pid != self._friend:
                    self._shut(fd)
            self._least = now  # and less, once it is freed
        self._least = min(self._least, now)

    def _connections(self) -> dict[int, int | str]:
        """By descriptor: the process at the other end, or its host's address."""
        found: dict[int, int | str] = {}
        for link in _FDS.iterdir():
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith("socket:"):
                    pid = self._client(int(link.name))
                    if pid is not None:
                        found[int(link.name)] = pid
        return found

    def _client(self, fd: int) -> int | str | None:
        with _borrowed(fd) as one:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                is_one = one.type == socket.SOCK_STREAM and one.getsockname()[1] in self._ports
                if not is_one or one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return None
                return str(one.getpeername()[0])
            if one.family != socket.AF_UNIX or one.getsockname() not in self._paths:
                return None
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            peer = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            return int(_PEER.unpack(peer)[0])

    def _shut_most(self) -> None:
        """Connections of the processes that have most of them."""
        of: dict[int | str, list[int]] = {}
        for fd, pid in self._connections().items():
            of.setdefault(pid, []).append(fd)
        for _ in range(sum(map(len, of.values())) - CONNECTIONS_MOST):
            self._shut(max(of.values(), key=len).pop())

    def _shut(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            # ZeroMQ's own thread may have closed it meanwhile.
            if self._client(fd) is not None:
                with _borrowed(fd) as one:
                    one.shutdown(socket.SHUT_RDWR)
                self.shut += 1
