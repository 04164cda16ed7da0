# SPDX-License-Identifier: BSD-3-Clause
"""The primary and the seed as processes: start, watch, read what they say, hear of their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from dpsup.host import process
from dpsup.host.process import Identity, Spawned
from dpsup.supervisor.core import Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Child, Model

HEARD_TRIES = 50
LAST_WORDS_S = 0.01  # after an end, so that the last words have been read


async def until_end(pidfd: int) -> None:
    """Returns once that process has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)


async def how_of(ended: list[str]) -> str:
    """How a process ended, which `Children.expect` appends: before its pidfd says that it did, or
    soon after."""
    for _ in range(HEARD_TRIES):
        if ended:
            break
        await asyncio.sleep(LAST_WORDS_S)
    return ended[-1] if ended else "unknown"


class Children:
    """`on_end(pid, status)` hears of other children: workers whose seed died."""

    def __init__(self, core: Core, model: Model, on_end: Callable[[int, int], None]) -> None:
        self._core, self._model = core, model
        self._on_end = on_end
        self._mine: dict[int, Child] = {}
        self._foreign: dict[int, Callable[[str], None]] = {}  # pids that another part waits for

    def spawn(self, child: Child, argv: list[str], ready_s: float) -> Identity:
        """Raises: OSError where no process, no descriptor is to be had."""
        spawned = process.spawn(argv)
        self._mine[spawned.pid] = child
        identity = process.identify(spawned.pid)
        self._watch(child, identity, spawned.pidfd)
        self._core.deadline(child, ready_s, "late")
        self._read(child, spawned)
        self._core.record()
        return identity

    def meet(self, child: Child, identity: Identity) -> bool:
        """Watch a primary or a seed that another supervisor started. False: it is gone."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except OSError:
            return False
        if not identity.alive:
            os.close(pidfd)
            return False
        self._mine[identity.pid] = child
        self._watch(child, identity, pidfd)
        follow(identity.pid, lambda line: self._core.log.add(name=child.name, line=line))
        return True

    def _watch(self, child: Child, identity: Identity, pidfd: int) -> None:
        child.identity = identity
        child.pidfd = pidfd
        child.refused = ""
        asyncio.get_running_loop().add_reader(pidfd, self._core.guard, self._died, child)

    def _read(self, child: Child, spawned: Spawned) -> None:
        def noted(line: str) -> None:
            if line == "READY":
                child.met()
                self._core.fire(child, "ready")
            elif line.startswith("REFUSED "):
                child.refused = line.removeprefix("REFUSED ")
            elif line:
                self._core.skip(child.name, "a line about its start", repr(line))

        Lines(spawned.output, lambda line: self._core.log.add(name=child.name, line=line))
        Lines(spawned.notify, noted)

    def _died(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1
        child.met()
        self._core.later(LAST_WORDS_S, self._core.fire, child, "died")

    def reap(self) -> None:
        """Collect all children of ours that have ended."""
        for pid, ended in process.reap().items():
            child = self._mine.pop(pid, None)
            if child is not None:
                how = process.describe_status(ended)
                self._core.events.add(type="exit", name=child.name, pid=pid, how=how)
            elif (heard := self._foreign.pop(pid, None)) is not None:
                heard(process.describe_status(ended))
            else:
                process.end_group(pid)
                self._on_end(pid, ended)

    def expect(self, pid: int, heard: Callable[[str], None]) -> None:
        """Leave its end to another part, which watches its pidfd, and hears how it ended."""
        self._foreign[pid] = heard

    def kill_all(self) -> None:
        """The primary, the seed, and all that the seed forked."""
        for child in (self._model.seed, self._model.primary):
            if child.pidfd >= 0:
                process.signal_pidfd(child.pidfd, signal.SIGKILL)
        for sitter in self._model.living():
            process.signal_pidfd(sitter.pidfd, signal.SIGKILL)


def follow(pid: int, each: Callable[[str], None]) -> None:
    """Read on what a process prints: also what it printed while no supervisor was there."""
    with contextlib.suppress(OSError):
        Lines(process.reopen(pid), each)


def refusal(line: str) -> tuple[int | None, str]:
    """Exit code and reason, of a line "REFUSED CODE REASON" that a worker wrote. The plugin can
    write to that pipe too: a line that is none gives no code, and is the reason."""
    rest = line.removeprefix("REFUSED ")
    code, _, text = rest.partition(" ")
    if code.isascii() and code.isdigit() and len(code) < 4:
        return int(code), text
    return None, rest
