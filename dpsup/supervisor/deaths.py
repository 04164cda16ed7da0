# SPDX-License-Identifier: BSD-3-Clause
"""Accounts for what the wardens did: deaths, successors, repairs, buckets given away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from dpsup.bus.sockets import Gone
from dpsup.documents.story import Story
from dpsup.errors import DpsupError
from dpsup.host import process
from dpsup.host.calls import call_name
from dpsup.supervisor import stories
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Model, Sitter, Worker
from dpsup.supervisor.policy import Ending, decide
from dpsup.supervisor.silence import ANSWER_S
from dpsup.supervisor.sitters import FATE_S, Sitters
from dpsup.supervisor.spares import Spares
from dpsup.supervisor.stories import DEATH, REBUCKETED
from dpsup.supervisor.workers import Workers

FATE_MOST_S = 10.0  # for a warden to notice an end; milliseconds
STATUS_WAIT_S = 0.2  # for the seed's word on how a worker ended

Reported = Callable[[Worker, Sitter, Story, int | None], None]


def _is_refused_call(story: Story, status: int | None) -> bool:
    """Which call it was is not noted where the plugin had blocked the signal, and where Python was
    told of the refusal."""
    if status is None or not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGSYS:
        return False
    is_own = story.get("sender") == story.get("pid")
    return bool(story.get("call")) or not story.get("signal") or is_own


def _reason(worker: Worker, story: Story, status: int | None) -> str:
    """More than a signal's name says; empty where it says all."""
    if story.get("hung"):
        return "stuck with work"
    if story.get("call"):
        return f"called {call_name(story['call'])}(), which a worker may not"
    if _is_refused_call(story, status):
        return "made a system call that a worker may not"
    return worker.refused[1] if worker.refused else ""


class Crashing(Core, Protocol):
    """The core, as it is used where a story's end must be the supervisor's, whatever called."""

    def crash(self, error: BaseException) -> None:
        """A fault of the core: the supervisor leaves, and the next one adopts."""


class Deaths:
    """`on_report(worker, sitter, story, exit code)` hears of each death that was not asked for."""

    def __init__(
        self,
        core: Crashing,
        model: Model,
        sitters: Sitters,
        buckets: Buckets,
        spares: Spares,
        workers: Workers,
    ) -> None:
        self._core, self._model = core, model
        self._sitters, self._buckets = sitters, buckets
        self._spares, self._workers = spares, workers
        self._reading = asyncio.Lock()
        self.on_report: Reported = lambda *_: None
        sitters.on_death = lambda sitter: core.spawn(self._account_for(sitter))
        sitters.read_stories = self.read_stories

    async def _account_for(self, sitter: Sitter) -> None:
        """Read what the wardens did about a death, then decide what follows."""
        deadline = time.monotonic() + FATE_MOST_S
        while not await self._is_settled(sitter):
            if time.monotonic() > deadline:
                # Its lanes are not repaired, and never will be: packets wait in them without end.
                if self._model.primary.pidfd >= 0:
                    process.signal_pidfd(self._model.primary.pidfd, signal.SIGKILL)
                raise Gone(f"no warden has noticed the end of pid {sitter.pid}", code="E0807")
            await asyncio.sleep(FATE_S)
        await self.read_stories()
        if self._model.sitters.get(sitter.pid) is sitter:
            # It had not come far enough for a warden to know it.
            await self._bury(sitter, None)

    async def _is_settled(self, sitter: Sitter) -> bool:
        """Has a warden finished with it? A process that the primary does not know has no story."""
        try:
            return bool(await self._core.insist("fate", berth=sitter.berth, pid=sitter.pid))
        except DpsupError as e:
            self._core.events.add(type="error", message=str(e))
            return True

    # --- stories ---------------------------------------------------------------------------------

    async def read_stories(self, *, must: bool = True) -> None:
        """In the order in which it happened: which process succeeded which follows from that. The
        monitor only looks for news, and does not insist."""
        async with self._reading:
            news = self._core.insist if must else partial(self._core.ask, timeout=ANSWER_S)
            for story in await news("stories", since=self._model.told):
                if self.is_readable(story):
                    await self._hear(story)
                if self._core.crashed:
                    return
                # Only now: the next supervisor begins with what was not dealt with.
                self._model.told = stories.seq_of(story, self._model.told)

    def is_readable(self, story: Story) -> bool:
        try:
            slots = len(self._model.workers())
            stories.check(story, io_cores=len(self._model.plan.io), slots=slots)
        except stories.Unreadable as e:
            self.skip(e)
            return False
        return True

    def skip(self, error: Exception) -> None:
        self._core.events.add(
            type="fault", name="stories", message=f"a warden's story is skipped: {error}"
        )

    async def _hear(self, story: Story) -> None:
        try:
            await self._follow(story)
        except (DpsupError, OSError):
            raise
        except Exception as e:
            # The next supervisor meets it again, by another way: rejoin.py's.
            self._core.crash(e)

    async def _follow(self, story: Story) -> None:
        if story["kind"] == DEATH:
            await self._hear_death(story)
        elif story["kind"] == REBUCKETED:
            await self._hear_rebucketed(story)
        elif story["kind"] in stories.IO_SAID:
            self._hear_io(story)
        else:
            self._hear_health(story)

    def _hear_io(self, story: Story) -> None:
        core = self._model.plan.io[story["sitter"]].core
        said = stories.IO_SAID[story["kind"]]
        self._core.events.add(type="health", name=f"io core {core}", pid=story["pid"], message=said)

    def _hear_health(self, story: Story) -> None:
        """The others of its group have a stopped worker's buckets until it continues: what comes
        from now on need not wait for it. What is in its lanes does: no process may touch that while
        it lives."""
        for worker in self._model.workers():
            if worker.pid != story["pid"]:
                continue
            worker.health = stories.HEALTH[story["kind"]]
            said = stories.SAID[story["kind"]]
            self._core.events.add(type="health", name=worker.name, pid=worker.pid, message=said)
            stopped = worker.health == "stopped"
            if worker.state == "running" and worker.fed == stopped:
                worker.fed = not stopped
                self._core.spawn(self._buckets.steer(self._model.group_of(worker)))

    async def _hear_rebucketed(self, story: Story) -> None:
        """The primary gave a slot's buckets away, as no answer came in time: take over its map."""
        worker = self._model.worker_in(story["slot"])
        if worker is None:
            return
        group = self._model.group_of(worker)
        async with group.lock:
            moved = await self._buckets.read_map(group)
        if worker.state != "running":
            worker.fed = False
        self._core.events.add(
            type="lent", name=worker.name, buckets_moved=moved, requeued=story["left"]
        )
        # A worker that is back by now gets its share; one that was stopped loses it.
        self._core.spawn(self._buckets.steer(group))

    async def _hear_death(self, story: Story) -> None:
        sitter = self._model.sitters.get(story["pid"])
        if sitter is not None:
            await self._bury(sitter, story)
            return
        worker = self._model.worker_in(story["slot"])
        if worker is not None:
            self._core.events.add(type="stranger", name=worker.name, pid=story["pid"])
            await self._give_up_lanes(worker, story)

    # --- one death -------------------------------------------------------------------------------

    async def _bury(self, sitter: Sitter, story: Story | None) -> None:
        worker = next((w for w in self._model.workers() if w.sitter is sitter), None)
        successor = await self._successor(story) if story and story["successor"] else None
        self._sitters.forget(sitter)
        if worker is not None and worker.sitter is not sitter:
            return  # the primary went meanwhile, and the slot with it
        if worker is None:
            group = self._spares.take_out(sitter)
            if group is not None:
                self._spares.died(group, sitter)
            return
        worker.story = story
        worker.health = "ok"
        handed_over = bool(story and story["handover"])
        sitter.asked |= handed_over
        if handed_over and successor is not None and story is not None:
            us = (story["seated_ns"] - story["noticed_ns"]) / 1000
            version = self._model.ledgers[worker.group].slots[successor.version]
            self._core.events.add(type="handover", name=worker.name, revision=version, seated_us=us)
        self._model.unreported += not sitter.asked
        worker.met()
        if successor is None:
            self._core.fire(worker, "died")
            return
        self._spares.take_out(successor)
        worker.sitter = successor
        worker.since_ns = time.monotonic_ns()
        successor.name = worker.name
        if not handed_over:
            worker.restarts += 1
            worker.takeovers -= 1
        self._core.fire(worker, "succeeded")
        self._core.spawn(self._report(worker, sitter, story))
        self._core.record()

    async def _successor(self, story: Story) -> Sitter:
        """The spare that took over. The seed's word on its birth may still be on its way, or may
        never come; and it may be dead itself by now. Then its own story is among the next ones,
        and says which process took the place after it."""
        pid = story["successor"]
        if await self._core.until(lambda: pid in self._model.sitters, STATUS_WAIT_S):
            return self._model.sitters[pid]
        sitter = self._sitters.meet("", story["successor_sitter"], pid)
        if sitter is None:
            sitter = self._sitters.mourn(Sitter("", story["successor_sitter"], pid, -1))
        slot = (await self._core.insist("counters"))["slots"][story["slot"]]
        sitter.version = max(0, slot["version"])
        return sitter

    async def _report(self, worker: Worker, sitter: Sitter, story: Story | None) -> int | None:
        """Say how a worker ended; its exit code, negative for a signal, None if that is unknown."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sitter.heard.wait(), STATUS_WAIT_S)
        status, found = sitter.status, cast(Story, story or {})
        if found.get("signal"):
            status = found["signal"]
        how = "unknown" if status is None else process.describe_status(status)
        code = os.waitstatus_to_exitcode(status) if status is not None else None
        died_ns = found.get("died_ns") or found.get("noticed_ns") or time.monotonic_ns()
        worker.last_exit = {
            "pid": sitter.pid,
            "how": how,
            "code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "asked": sitter.asked,
            "reason": _reason(worker, found, status),
            "at_ns": died_ns,
        }
        if not sitter.asked:
            self._model.deaths += 1
            self._model.refused_calls += _is_refused_call(found, status)
            self._model.unreported -= 1
            worker.failed_ns = died_ns if story is None else story["noticed_ns"]
            self._core.events.add(
                type="death", name=worker.name, pid=sitter.pid, how=how, **stories.repaired(found)
            )
            self.on_report(worker, sitter, found, code)
        return code

    async def _give_up_lanes(self, worker: Worker, story: Story) -> None:
        """The warden could not repair the lanes."""
        if story["corrupt"]:
            self._core.events.add(
                type="corrupt",
                name=worker.name,
                message="the slot's shared memory was found corrupt; what it had is given up",
            )
            try:
                await self._core.insist("reset", slot=worker.slot)
            except DpsupError as e:
                self._core.events.add(type="error", message=str(e))

    def repair(self, worker: Worker) -> None:
        self._core.spawn(self._repair(worker))

    async def _repair(self, worker: Worker) -> None:
        """The warden has repaired the lanes and had no spare: say so, decide how to go on."""
        sitter, story = worker.sitter, worker.story
        if story is not None:
            await self._give_up_lanes(worker, story)
        # What is in its lanes now, and what still comes until its buckets are given away.
        worker.left = True
        code = None
        if sitter is not None:
            code = await self._report(worker, sitter, story)
        if worker.sitter is sitter:
            worker.sitter = None
        if worker.state != "recovering":
            return  # the primary went meanwhile, and the slot with it
        self._workers.decide(worker, code, sitter is not None and sitter.asked)
        self._core.record()

    # --- of the time without a supervisor --------------------------------------------------------

    def account(self, story: Story, asked: set[int], exits: dict[int, int]) -> Worker | None:
        """A story from when no supervisor heard it; the worker, if it tells of a worker's death."""
        worker = self._model.worker_in(story["slot"])
        if story["kind"] != DEATH:
            if worker is not None and story["kind"] == REBUCKETED:
                self._core.events.add(type="lent", name=worker.name, requeued=story["left"])
            elif worker is not None and story["kind"] in stories.SAID:
                said = stories.SAID[story["kind"]]
                self._core.events.add(
                    type="health", name=worker.name, pid=story["pid"], message=said
                )
            elif story["kind"] in stories.IO_SAID:
                self._hear_io(story)
            return None
        sitter = Sitter("", story["sitter"], story["pid"], -1, asked=story["pid"] in asked)
        if worker is None:
            if not sitter.asked:
                self._core.events.add(type="spare", name="spare", pid=sitter.pid, message="died")
            return None
        sitter.status = exits.get(sitter.pid)
        sitter.heard.set()
        self._model.unreported += not sitter.asked
        if story["successor"]:
            worker.restarts += 1
            policy, at = self._model.group_of(worker).policy, story["noticed_ns"] / 1e9
            worker.history = decide(policy, worker.history, Ending(), wanted=True, now=at).history
        self._core.spawn(self._report(worker, sitter, story))
        self._core.spawn(self._give_up_lanes(worker, story))
        return None if sitter.asked else worker
