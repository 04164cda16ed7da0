# SPDX-License-Identifier: BSD-3-Clause
"""Workers and spares as processes: ordered from the seed, watched, known by pid until their end.

A berth is a place for a process to come; its ticket is good for one. The seed may die between a
fork and its word of it, so an order that failed is called off: no unknown process lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial

from dpsup import _abi
from dpsup.documents.story import Sitters as Plane
from dpsup.errors import DpsupError
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import SEED
from dpsup.supervisor import disk
from dpsup.supervisor.core import AGAIN_S, HALT_S, Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Model, Sitter, Worker
from dpsup.supervisor.seed_socket import Seed, SeedError

ENDINGS_MOST = 512  # above all processes of an instance
ENDING_S = 30.0  # between a process's end and the word of which one it was; milliseconds
FATE_S = 0.002  # between two looks at whether a warden is done
NOTES_PER_SECOND = 1 << 16  # lines from one process; its plugin may write them too
STARTING, SEATED = _abi.DPS_HAND_STARTING, _abi.DPS_HAND_SEATED


class Sitters:
    """`on_death` hears of each end, `read_stories` brings the accounts up to date, `on_orders`
    hears that the seed takes orders again."""

    def __init__(self, core: Core, model: Model) -> None:
        self._core, self._model = core, model
        self._seed: Seed | None = None
        self._unheard: dict[int, Sitter] = {}  # by pid, until it is known how they ended
        self._endings: dict[int, tuple[int, float]] = {}  # of pids that are not known yet; when
        self.on_death: Callable[[Sitter], None] = lambda _: None
        self.read_stories: Callable[[], Awaitable[None]] | None = None
        self.on_orders: Callable[[], None] = lambda: None

    # --- the seed's socket -----------------------------------------------------------------------

    @property
    def can_fork(self) -> bool:
        return self._seed is not None

    def open_orders(self) -> None:
        """Raises: OSError while the seed does not listen."""
        if self._seed is None:
            path = self._model.runtime.file(SEED)
            self._seed = Seed(path, self.says, self._cut_off, self._skip, self._take_log)

    def _skip(self, message: str) -> None:
        self._core.skip("seed", "a message", repr(message))

    def _take_log(self, pid: int, pipe: int) -> None:
        """What a process prints that another supervisor ordered, and that /proc did not give."""
        try:
            sitter = self._model.sitters.get(pid)
            if sitter is not None and not sitter.is_read:
                self._read_log(sitter, process.reader_of(pipe))
        except OSError as e:
            self._core.events.add(type="error", message=f"no log of pid {pid}: {e}")
        finally:
            os.close(pipe)

    def _read_log(self, sitter: Sitter, pipe: int) -> None:
        Lines(pipe, lambda line: self._core.log.add(name=sitter.name, line=line))
        sitter.is_read = True

    def _cut_off(self) -> None:
        """The seed is dead, which its pidfd says too; or another process has come between."""
        self._seed = None
        self._core.later(AGAIN_S, self._call_again)

    def _call_again(self) -> None:
        if self._seed is not None or self._model.seed.state != "running":
            return
        try:
            self.open_orders()
        except OSError:
            self._core.later(AGAIN_S, self._call_again)
            return
        self._core.events.add(type="seed", name="seed", message="takes orders again")
        self.on_orders()

    def drop_orders(self) -> None:
        if self._seed is not None:
            self._seed.close()
            self._seed = None

    def quit_seed(self) -> None:
        if self._seed is not None:
            self._seed.quit()

    def says(self, pid: int, ended: int) -> None:
        """How a process ended, as waitpid gives it."""
        sitter = self._unheard.pop(pid, None)
        if sitter is not None:
            sitter.hear(ended)
        else:
            self._endings[pid] = ended, time.monotonic()
            while len(self._endings) > ENDINGS_MOST:
                del self._endings[next(iter(self._endings))]

    def _hear_early(self, sitter: Sitter) -> None:
        """Its end was told before it was known. What was told long ago is the end of another
        process, which had this pid before."""
        ended, at = self._endings.pop(sitter.pid, (0, -ENDING_S))
        if time.monotonic() - at < ENDING_S:
            self.says(sitter.pid, ended)

    # --- from order to process -------------------------------------------------------------------

    async def fork(
        self,
        name: str,
        berth: dict[str, int],
        noted: Callable[[Sitter, str], None],
        version: int,
    ) -> Sitter:
        """A process for an open berth; `noted` hears what it says of its start."""
        fds: list[int] = []
        try:
            # A worker never waits for the reader of its log, nor minds its death.
            fds += process.lasting_pipe()
            fds += process.lasting_pipe()
            log_r, log_w, note_r, note_w = fds
            if self._seed is None:
                raise SeedError("the seed is gone", code="E0803")
            pid, pidfd = await self._seed.fork(berth["berth"], berth["ticket"], log_w, note_w)
        except (DpsupError, OSError):
            for fd in fds:
                os.close(fd)
            self._core.spawn(self._call_off(**berth))
            raise
        os.close(log_w)
        os.close(note_w)
        sitter = self._model.sitters.get(pid)
        if sitter is None:
            sitter = self.know(Sitter(name, berth["berth"], pid, pidfd, version=version))
        else:
            # A warden's story named it first: it has a worker's place already.
            os.close(pidfd)
        self._read_log(sitter, log_r)
        Lines(note_r, lambda line: noted(sitter, line), NOTES_PER_SECOND)
        return sitter

    async def _call_off(self, berth: int, ticket: int) -> None:
        deadline = time.monotonic() + HALT_S
        while time.monotonic() < deadline:
            pid = await self._core.insist("call_off", berth=berth, ticket=ticket)
            if pid == 0 or pid in self._model.sitters:
                return
            if pid > 0:
                self._core.events.add(type="stranger", name="", pid=pid)
                self._end_stranger(pid)
            await asyncio.sleep(AGAIN_S)

    async def open_slot(self, worker: Worker) -> dict[str, int]:
        """A berth and ticket for the slot. An unknown worker, whose seed died on it, may have sat
        down meanwhile: it is ended, and its lanes are repaired."""
        deadline = time.monotonic() + HALT_S
        worker.takeovers = 0
        while True:
            found: dict[str, int] = await self._core.insist(
                "prepare", slot=worker.slot, core=worker.core
            )
            if "ticket" in found:
                return found
            if time.monotonic() > deadline:
                raise SeedError(f"pid {found['sitting']} sits in {worker.name}", code="E0803")
            if found["sitting"]:
                stranger = self._end_stranger(found["sitting"])
                await disk.aside(partial(process.wait_gone, [stranger], HALT_S))
            await asyncio.sleep(FATE_S)
            if self.read_stories is not None:
                await self.read_stories()

    def _end_stranger(self, pid: int) -> Identity:
        """Only if it is a worker of this instance's: the number comes from where a worker may have
        written."""
        stranger = process.identify(pid)
        if self._is_ours(pid):
            process.kill(stranger)
        return stranger

    def _is_ours(self, pid: int) -> bool:
        words = f"dpsup-worker: {self._model.name} ", self._model.runtime.file(SEED)
        return process.has_words(pid, *words)

    # --- known processes -------------------------------------------------------------------------

    def know(self, sitter: Sitter) -> Sitter:
        """Watch a process from now on."""
        sitter.start = process.start_ticks(sitter.pid)
        self._model.sitters[sitter.pid] = self._unheard[sitter.pid] = sitter
        self._hear_early(sitter)
        asyncio.get_running_loop().add_reader(sitter.pidfd, self._core.guard, self._ended, sitter)
        self._core.wake()
        return sitter

    def meet(self, name: str, berth: int, pid: int) -> Sitter | None:
        """Watch a worker or spare that another supervisor ordered. None: it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if not self._is_ours(pid):
            os.close(pidfd)
            return None
        sitter = self.know(Sitter(name, berth, pid, pidfd))
        with contextlib.suppress(OSError):
            self._read_log(sitter, process.reopen(pid))
        return sitter

    def mourn(self, sitter: Sitter) -> Sitter:
        """One that had ended before it could be watched: its end is accounted for all the same."""
        self._model.sitters[sitter.pid] = self._unheard[sitter.pid] = sitter
        self._hear_early(sitter)
        self.on_death(sitter)
        return sitter

    def _ended(self, sitter: Sitter) -> None:
        self._unwatch(sitter)
        self._core.wake()
        if self._model.primary.state in ("running", "stopping"):
            self.on_death(sitter)

    @staticmethod
    def _unwatch(sitter: Sitter) -> None:
        if sitter.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(sitter.pidfd)
            os.close(sitter.pidfd)
            sitter.pidfd = -1

    def forget(self, sitter: Sitter) -> None:
        self._unwatch(sitter)
        if self._model.sitters.get(sitter.pid) is sitter:
            del self._model.sitters[sitter.pid]

    def forget_all(self) -> None:
        """Their generation is gone."""
        for sitter in list(self._model.sitters.values()):
            self.forget(sitter)
        self._unheard.clear()
        self._endings.clear()

    async def hand(self, sitter: Sitter) -> int:
        """How far it is on its way to a slot, DPS_HAND_*."""
        plane: Plane = await self._core.insist("sitters")
        hands = [s["hand"] for s in plane["sitters"] if s["pid"] == sitter.pid]
        return int(hands[0]) if hands else STARTING


def end_if_late(sitter: Sitter) -> None:
    """A spare that is not ready in time is ended."""
    if not sitter.ready and sitter.pidfd >= 0:
        process.signal_pidfd(sitter.pidfd, signal.SIGKILL)
