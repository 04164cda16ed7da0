# SPDX-License-Identifier: BSD-3-Clause
"""The supervisor's end of the seed's socket: orders to fork, and word of exits.

Messages are short lines on a SOCK_SEQPACKET socket; descriptors travel with them.
"""

from __future__ import annotations

import array
import asyncio
import os
import re
import socket
from collections.abc import Callable

from dpsup import limits
from dpsup.errors import DpsupError, TimedOut

_CONNECT_S = 2.0
_FULL_S = 0.005  # between two tries while the socket has no room
_NUMBER = re.compile(r"[0-9]{1,10}")


class SeedError(DpsupError):
    """The seed refused an order."""

    code = "E0803"


class Seed:
    """A connection to the seed at `path`; `on_exit(pid, status)` hears of its children, `on_end` of
    the connection's end by the other side, `on_skip` of what is no message of a seed;
    `on_log(pid, fd)` gets a pipe that a child prints to, and closes it."""

    def __init__(
        self,
        path: str,
        on_exit: Callable[[int, int], None],
        on_end: Callable[[], None] = lambda: None,
        on_skip: Callable[[str], None] = lambda _: None,
        on_log: Callable[[int, int], None] = lambda _, fd: os.close(fd),
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Others may wait at the door, without end; the seed itself answers at once.
        self._socket.settimeout(_CONNECT_S)
        try:
            self._socket.connect(path)
            self._socket.send(b"hello")
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._on_exit, self._on_end, self._on_skip = on_exit, on_end, on_skip
        self._on_log = on_log
        self._waiting: dict[int, asyncio.Future[tuple[int, int]]] = {}
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    async def fork(
        self, berth: int, ticket: int, log: int, notify: int, timeout: float = 5.0
    ) -> tuple[int, int]:
        """Order a process for a berth that is open for `ticket`; it gets the two descriptors.
        Returns its pid and pidfd."""
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting[berth] = future
        fds = array.array("i", [log, notify])
        try:
            async with asyncio.timeout(timeout):
                await self._send(f"fork {berth} {ticket}".encode(), fds)
                return await future
        except TimeoutError:  # an OSError too
            raise TimedOut(
                f"the seed forked no process within {timeout:g} s", code="E0803"
            ) from None
        except OSError as e:
            raise SeedError(f"the seed does not take orders: {e}", code="E0803") from None
        finally:
            self._waiting.pop(berth, None)

    async def _send(self, order: bytes, fds: array.array[int]) -> None:
        while True:
            try:
                self._socket.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                return
            except BlockingIOError:  # many orders at once
                await asyncio.sleep(_FULL_S)

    def quit(self) -> None:
        try:
            self._socket.send(b"quit")
        except OSError:
            return

    def _read(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, limits.ORDER, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.close()
            self._on_end()
            return
        text = data.decode(errors="replace")
        word, *rest = text.split(maxsplit=3) or [""]
        numbers = [int(w) if _NUMBER.fullmatch(w) else None for w in rest]
        match word, numbers:
            case "exit", [_, int(pid), int(status)]:
                self._on_exit(pid, status)
            case "forked", [int(berth), int(pid), *_] if fds and self._awaits(berth):
                self._waiting[berth].set_result((pid, fds.pop()))
            case "log", [_, int(pid)] if fds:
                self._on_log(pid, fds.pop())
            case (("forked" | "refused"), [int(berth), *_]) if self._awaits(berth):
                self._waiting[berth].set_exception(SeedError(" ".join(rest[1:]) or "refused"))
            case (("exit" | "forked" | "refused"), [int(_), *_]):
                pass  # about a process that no part waits for any more
            case _:
                self._on_skip(text)
        for fd in fds:
            os.close(fd)

    def _awaits(self, berth: int) -> bool:
        return berth in self._waiting and not self._waiting[berth].done()

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SeedError("the seed is gone", code="E0803"))
