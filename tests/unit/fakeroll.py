# SPDX-License-Identifier: BSD-3-Clause
"""A fake data plane for rollouts: slots, versions and packets in a time that passes at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from unit.fakecore import FakeCore, Parts, sitter
from unit.fakehost import MINIMAL

from dpsup.documents.story import Story
from dpsup.errors import DpsupError
from dpsup.host import process
from dpsup.supervisor import rollout, spares
from dpsup.supervisor.model import Sitter, Worker
from dpsup.supervisor.revisions import Revision
from dpsup.supervisor.rollout import Options, Rollout

THREE = f"{MINIMAL}count = 3\nmax = 3\nspares = 1\n"
RATE = 1000  # packets per second and slot
LEAVE_S = 0.001
FORK_S = 0.004
OPTIONS = Options(judge=1.0)


class Clock(selectors.SelectSelector):
    """A loop with it never waits: the time of its next timer is there at once. Its time is whole
    microseconds, as a wait for less than a float can add to it would not end."""

    us = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "all tasks wait for each other"
        self.us += math.ceil(max(0.0, timeout) * 1e6)
        return super().select(0)

    def now(self) -> float:
        return self.us / 1e6

    def loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(self)
        loop.time = self.now  # type: ignore[method-assign]
        return loop


@dataclass
class Plugin:
    """A version, and how it goes about it."""

    drops: float = 0.0
    bad: float = 0.0
    cost: int = 100  # cycles per packet
    comes: str = "READY"  # what its spares say; "dies", or "" for nothing
    forgets: int = 0  # blocks of state


@dataclass
class Slot:
    version: int = 0
    packets: float = 0.0
    dropped: float = 0.0
    bad: float = 0.0
    busy: float = 0.0
    forgotten: int = 0
    kept: int = 0  # packets in its lane, which do not leave it


class World(Parts):
    """Three workers with packets, and what the primary, the wardens and the seed make of orders."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, THREE)
        self.folder, self.clock = folder, Clock()
        self.plugins = [Plugin(), Plugin()]  # by version
        self.slots = [Slot() for _ in self.group.workers]
        self.counted = 0.0
        self.heir = 0
        self.heirs: list[int] = []
        self.told: list[tuple[str, int]] = []  # orders to change over
        self.seated: list[tuple[str, int, int]] = []  # worker, its version, the heir at the time
        self.seated_at = 0.0
        self.moving = self.most = 0
        self.stays = 0  # how many orders workers do not obey
        self.killed: list[Sitter] = []
        self.forks: list[int] = []  # versions
        self.on_seated: list[Callable[[Worker, int], None]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.broken: asyncio.Future[Exception]
        self.pids = itertools.count(600)
        for member in range(3):
            self.seat(member, 500 + member).pidfd = 1_000_500 + member
        self.group.spares.append(self.process(0, ready=True))
        core: Any = self.core
        core.steps = True
        core.answers = {
            "counters": self._counters,
            "version": lambda **_: True,
            "spare": lambda group, version: {"berth": 7, "ticket": 7},
            "state_lost": lambda **_: lost(),
            "facts": lambda **_: {"needs": 0, "rewrites": 0, "prepends": 0},
            "handover": self._handover,
            "heir": self._heir,
        }
        core.until, core.spawn, core.fire = self._until, self.spawn, self._fire
        seams: Any = self.sitters
        seams.fork, seams._seed = self._fork, object()
        # These modules' clock alone.
        here = SimpleNamespace(monotonic=self.clock.now)
        monkeypatch.setattr(rollout, "time", here)
        monkeypatch.setattr(spares, "time", here)
        monkeypatch.setattr(process, "signal_pidfd", self._signal)

    # --- a rollout ---------------------------------------------------------------------------

    def prepared(self, options: Options = OPTIONS) -> Rollout:
        target = Revision(2, "l2fwd", "", (("a", "b"),), "d", 5.0, "rolling")
        ledger = self.model.ledgers[0]
        ledger.add(target)
        return Rollout(self.rollouts._hands, self.group, ledger, target, options, 0, 1)

    def roll(self, options: Options = OPTIONS) -> Rollout:
        return self.follow(self.prepared(options))

    def follow(self, one: Rollout) -> Rollout:
        """To its end, and a little longer."""

        async def work() -> None:
            self.broken = asyncio.get_running_loop().create_future()
            one.start()
            await asyncio.wait(
                {asyncio.create_task(one.done.wait()), self.broken},
                timeout=2000,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not self.broken.done():
                await asyncio.sleep(1.0)
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

        with asyncio.Runner(loop_factory=self.clock.loop) as runner:
            runner.run(work())
            if self.broken.done():
                raise self.broken.result()
        assert one.done.is_set(), "it has no end"
        assert self.model.ledgers[0].running is None
        return one

    def later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        async def work() -> None:
            await asyncio.sleep(seconds)
            call(*args)

        self.spawn(work())

    def phases(self) -> list[str]:
        return [e["phase"] for e in self.core.events.of("rollout")]

    def versions(self) -> list[int]:
        return [slot.version for slot in self.slots]

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "rollout.json").read_text())
        return found["groups"]["fw"]  # type: ignore[no-any-return]

    # --- the engine --------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = self.clock.now() + timeout
        while not condition():
            if self.clock.now() >= deadline:
                return False
            await asyncio.sleep(0.001)
        return True

    def spawn(self, work: Coroutine[Any, Any, Any], *, feature: str = "") -> None:
        async def guarded() -> None:
            try:
                await work
            except DpsupError as e:
                self.core.events.add(type="error", message=f"{feature}: {e}")
            except Exception as e:  # of a fake, or a fault of the core
                if not self.broken.done():
                    self.broken.set_result(e)

        self.tasks.append(asyncio.create_task(guarded()))

    def _fire(self, worker: Any, event: str) -> None:
        FakeCore.fire(self.core, worker, event)
        if event == "restart" and worker.state == "starting":
            self.later(FORK_S, self._start, worker)

    # --- the primary, the wardens, the seed --------------------------------------------------

    def _count(self) -> None:
        now = self.clock.now()
        packets, self.counted = (now - self.counted) * RATE, now
        for slot in self.slots:
            plugin = self.plugins[slot.version]
            slot.packets += packets
            slot.dropped += packets * plugin.drops
            slot.bad += packets * plugin.bad
            slot.busy += packets * plugin.cost

    def _counters(self) -> dict[str, Any]:
        self._count()
        return {
            "slots": [
                {
                    "version": s.version,
                    "sent": int(s.packets) + s.kept,
                    "collected": int(s.packets),
                    "requeued": 0,
                    "bad_verdict": int(s.bad),
                    "quarantined": 0,
                    "lane_full": 0,
                    "busy": int(s.busy),
                    "dropped": {"x": int(s.dropped)},
                    "forgotten": s.forgotten,
                    "needs": 0,
                    "changes": 0,
                }
                for s in self.slots
            ]
        }

    def _heir(self, group: int, version: int) -> None:
        assert self.record()["version"] == version, "written down before it is done"
        self.heir = version
        self.heirs.append(version)

    def _handover(self, slot: int, version: int) -> str:
        worker = self.model.worker_in(slot)
        assert worker is not None
        self.told.append((worker.name, version))
        if self.stays:
            self.stays -= 1
            return "told"
        self.moving += 1
        self.most = max(self.most, self.moving)
        self.later(LEAVE_S, self._leave, worker, version)
        return "told"

    def _leave(self, worker: Worker, version: int) -> None:
        self.moving -= 1
        self._follow(worker, version)

    def _follow(self, worker: Worker, version: int) -> None:
        """A spare of that version sits down in the worker's place."""
        ready = [s for s in self.group.spares if s.version == version and s.ready and not s.asked]
        assert ready, f"no spare of version {version} for {worker.name}"
        self.spares.take_out(ready[0])
        if worker.sitter is not None:
            worker.sitter.pidfd = -1
        self.sit(worker, ready[0])
        self.spares.refill(self.group)

    def _start(self, worker: Worker) -> None:
        if worker.state == "starting":
            worker.state = "running"
            self.sit(worker, self.process(self.group.version, ready=True))

    def sit(self, worker: Worker, one: Sitter) -> None:
        self._count()
        worker.sitter = one
        slot = self.slots[worker.slot]
        slot.version = one.version
        slot.forgotten += self.plugins[one.version].forgets
        self.seated.append((worker.name, one.version, self.heir))
        self.seated_at = self.clock.now()
        for call in self.on_seated:
            call(worker, one.version)

    def die(self, worker: Worker, story: dict[str, Any], code: int | None = None) -> None:
        """Its process ends unasked; the heir follows."""
        dead, told = worker.sitter, cast(Story, story)
        assert dead is not None
        dead.pidfd = -1
        self.sit(worker, self.process(self.heir, ready=True))
        self.rollouts.note_death(worker, dead, told, code)

    def process(self, version: int, **more: Any) -> Sitter:
        pid = next(self.pids)
        one = sitter(pid, 7, version=version, **more)
        one.pidfd = 1_000_000 + pid  # no descriptor
        return one

    async def _fork(
        self, name: str, berth: Any, noted: Callable[[Sitter, str], None], version: int
    ) -> Sitter:
        assert berth == {"berth": 7, "ticket": 7}
        self.forks.append(version)
        one = self.process(version)
        comes = self.plugins[version].comes
        if comes == "dies":
            self.later(FORK_S, self._died, one)
        elif comes:
            self.later(FORK_S, noted, one, comes)
        return one

    def _signal(self, pidfd: int, _: int) -> None:
        for one in [w.sitter for w in self.group.workers] + self.group.spares:
            if one is not None and one.pidfd == pidfd:
                self.killed.append(one)
                self.later(LEAVE_S, self._died, one)

    def _died(self, one: Sitter) -> None:
        one.pidfd = -1
        for worker in self.group.workers:
            if worker.sitter is one:
                self._follow(worker, self.heir)
                return
        if (group := self.spares.take_out(one)) is not None:
            self.spares.died(group, one)


def lost(buckets: int = 0, **more: Any) -> dict[str, Any]:
    """What a version would forget, as the primary says it."""
    none = dict.fromkeys(("places", "bytes", "others", "bucket_room", "place_room"), 0)
    return {**none, "buckets": buckets, "version": 1, "to": 2, **more}
