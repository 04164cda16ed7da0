# SPDX-License-Identifier: BSD-3-Clause
"""Continues with a data plane whose supervisor is dead, once adopt.py has found that it can.

It learns from the primary which process sits where and what happened meanwhile, and brings the
machines to the states that they would have if the supervisor had not died. It skips and reports
what it cannot read of the record: the same input does not end the next supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from dpsup import _abi
from dpsup.bus.sockets import Gone
from dpsup.documents.story import Sitter as Seat
from dpsup.documents.story import Sitters as Plane
from dpsup.documents.story import Story
from dpsup.errors import DpsupError, TimedOut
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import SEED
from dpsup.supervisor import stories
from dpsup.supervisor.adopt import Found
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.children import Children
from dpsup.supervisor.core import LOOK_S, Link
from dpsup.supervisor.deaths import Deaths
from dpsup.supervisor.model import Model, Sitter, Worker
from dpsup.supervisor.policy import PERMANENT, Ending, Verdict, decide
from dpsup.supervisor.rollouts import Rollouts
from dpsup.supervisor.seed import Attach
from dpsup.supervisor.sitters import SEATED, STARTING, Sitters
from dpsup.supervisor.snapshot import Past
from dpsup.supervisor.spares import Spares

CENSUS_S = 2.0  # for those that were being forked to come, or to be called off
SEED_ANSWERS_S = 15.0  # a seed that was attaching; above EAL's own 5 s

AWAITED, LIVES = _abi.DPS_SITTER_AWAITED, _abi.DPS_SITTER_LIVES
STOPPED = _abi.DPS_STORY_STOPPED
NO_SLOT = _abi.DPS_NO_SLOT


class Rejoin:
    def __init__(
        self,
        core: Link,
        model: Model,
        children: Children,
        sitters: Sitters,
        buckets: Buckets,
        spares: Spares,
        deaths: Deaths,
        attach: Attach,
        rollouts: Rollouts,
    ) -> None:
        self._core, self._model, self._children = core, model, children
        self._sitters, self._buckets, self._spares = sitters, buckets, spares
        self._deaths, self._attach, self._rollouts = deaths, attach, rollouts

    def begin(self, found: Found, past: Past) -> None:
        self._core.spawn(self._try(found, past))

    async def _try(self, found: Found, past: Past) -> None:
        try:
            self._core.open_asks()
            self._core.fire(self._model.primary, "adopt")
            await self._resume(found, past)
        except Gone as e:
            # The primary has ended: its pidfd, or the lack of one, leads to the next generation.
            self._give_up(e)
        except TimedOut as e:
            self._core.events.add(type="error", message=f"adoption failed: {e}")
            if await self._core.end_if_dead(f"does not answer: {e}"):
                return
            raise RuntimeError(f"the primary forwards, and does not answer: {e}") from e
        except (DpsupError, OSError) as e:
            # It forwards. Another supervisor may fare better; this one leaves.
            raise RuntimeError(f"adoption failed: {e}") from e

    def _give_up(self, error: Exception) -> None:
        self._model.progress(f"cannot go on with what runs: {error}")
        self._core.events.add(type="error", message=f"adoption failed: {error}")
        if self._model.primary.pidfd < 0 and self._model.primary.state == "running":
            self._core.fire(self._model.primary, "died")

    async def _resume(self, found: Found, past: Past) -> None:
        model = self._model
        owed: dict[str, Story] = {}  # by worker: the death that is not judged yet
        model.hello = found.hello
        primary = Identity(found.hello["pid"], found.hello["start"])
        if not self._children.meet(model.primary, primary):
            raise Gone("the primary has just ended")
        plane = await self._census(past, owed)
        model.rx_on = plane["rx"]
        await self._buckets.read_maps()
        counters = await self._core.insist("counters")
        seats = self._seats(plane, past)
        for worker in model.workers():
            worker.wanted = worker.member < model.group_of(worker).desired
            # Whatever was granted before: the policy says anew.
            worker.takeovers = -1
            if worker.slot in seats:
                one, sitter = seats[worker.slot]
                worker.sitter = sitter
                worker.health = "stopped" if one["health"] == STOPPED else "ok"
                # All fed workers are known before the first steering: no bucket moves for nothing.
                worker.fed = sitter.ready and worker.wanted and worker.health != "stopped"
            else:
                worker.left = counters["slots"][worker.slot]["outstanding"] > 0
        # Before the first fork: of which version.
        await self._rollouts.resume()
        for worker in model.workers():
            if worker.sitter is not None and model.sitters.get(worker.pid or 0) is worker.sitter:
                self._core.fire(worker, "found")
                continue
            if worker.sitter is not None:
                # It died since it was met, and was buried at once: no other word of it will come.
                worker.sitter, worker.fed = None, False
            if worker.wanted:
                was = past.states.get(worker.name, "")
                self._bring_back(worker, was, worker.name in owed)
        await self._find_seed(found)
        for worker in model.workers():
            if worker.sitter is not None and not worker.wanted:
                self._core.fire(worker, "stop")
        for group in model.groups:
            group.given_up = None
            await self._buckets.steer(group)

    # --- which process sits where ----------------------------------------------------------------

    async def _census(self, past: Past, owed: dict[str, Story]) -> Plane:
        """All that live, at a moment at which every death so far is accounted for. Orders that the
        dead supervisor gave and no process came for are called off."""
        model = self._model
        deadline = time.monotonic() + CENSUS_S
        while True:
            news = await self._core.insist("stories", since=model.told)
            plane: Plane = await self._core.insist("sitters")
            for story in news:
                self._account(story, plane, past, owed)
                model.told = stories.seq_of(story, model.told)
            awaited = [s for s in plane["sitters"] if s["state"] == AWAITED]
            # Stories that were not kept are lost; which processes live is known all the same.
            settled = plane["stories"] == model.told
            if (settled and not awaited) or time.monotonic() > deadline:
                model.told = max(model.told, plane["stories"])
                return plane
            for one in awaited:
                await self._core.insist("call_off", berth=one["berth"])
            await asyncio.sleep(LOOK_S / 4)

    def _account(self, story: Story, plane: Plane, past: Past, owed: dict[str, Story]) -> None:
        if not self._deaths.is_readable(story):
            return
        try:
            worker = self._deaths.account(story, past.asked, dict(plane["exits"]))
        except Exception as e:
            # It may be what ended the last supervisor; which processes live is known all the same.
            self._deaths.skip(e)
            return
        if worker is not None:
            owed.pop(worker.name, None)
            if not story["successor"]:
                owed[worker.name] = story

    def _seats(self, plane: Plane, past: Past) -> dict[int, tuple[Seat, Sitter]]:
        """By slot, the worker that sits there; spares are taken up."""
        seats: dict[int, tuple[Seat, Sitter]] = {}
        for one in plane["sitters"]:
            if one["state"] != LIVES or one["told"]:
                continue
            sitter = self._meet(one, past)
            if sitter is None:
                continue
            if one["slot"] == NO_SLOT:
                self._spares.take_up(self._model.groups[one["group"]], sitter)
            elif one["slot"] not in seats or _is_dead(seats[one["slot"]][1]) < _is_dead(sitter):
                # Of two the dead one comes first: its story, yet to be told, is about the other.
                seats[one["slot"]] = one, sitter
        return seats

    def _meet(self, one: Seat, past: Past) -> Sitter | None:
        """A sitter that lives. None: it has just gone."""
        name = f"{self._model.groups[one['group']].plan.name}/spare"
        if one["slot"] != NO_SLOT:
            name = self._model.workers()[one["slot"]].name
        sitter = self._sitters.meet(name, one["berth"], one["pid"])
        if sitter is None:
            return None
        sitter.asked = one["pid"] in past.asked
        sitter.ready = one["hand"] != STARTING and (one["slot"] == NO_SLOT or one["hand"] == SEATED)
        return sitter

    def _bring_back(self, worker: Worker, was: str, owed: bool) -> None:
        """The seat is empty and should not be: fork at once, after its delay, or no more."""
        now = time.monotonic()
        if was == "held":
            self._core.fire(worker, "hold")
            return
        if owed or was == "recovering":
            code = worker.last_exit.get("code") if worker.last_exit else None
            ending = Ending(permanent=code is not None and code in PERMANENT, failed=code != 0)
            policy = self._model.group_of(worker).policy
            decision = decide(policy, worker.history, ending, wanted=True, now=now)
            worker.history = decision.history
            worker.due_at = now + decision.delay
            worker.retry_at = now + decision.retry if decision.retry else 0.0
            if decision.verdict is Verdict.GIVE_UP:
                self._core.events.add(type="held", name=worker.name, message=decision.reason)
                self._core.fire(worker, "hold")
                return
        elif was != "backoff":
            worker.due_at = now
        self._core.fire(worker, "recall")

    async def _find_seed(self, found: Found) -> None:
        """The seed that lives, also one that was attaching just now; else a new one."""
        seed, path = self._model.seed, self._model.runtime.file(SEED)
        mine = f"--primary\0{found.hello['pid']}\0"
        seeds = [s for s in process.with_words("--socket", path) if process.has_words(s.pid, mine)]
        known = found.state.seed
        if known is not None and known.alive:
            seeds = [known]
        self._attach.begins(seeds[0].pid if seeds else known.pid if known else 0)
        if not seeds or not self._children.meet(seed, seeds[0]):
            # What the dead one may have left locked is looked for first.
            self._attach.start_anew()
            return
        self._core.fire(seed, "adopt")
        deadline = time.monotonic() + SEED_ANSWERS_S
        while seed.state == "attaching" and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self._sitters.open_orders()
                self._core.fire(seed, "ready")
                return
            await asyncio.sleep(LOOK_S)
        self._core.fire(seed, "late")


def _is_dead(sitter: Sitter) -> bool:
    return process.start_ticks(sitter.pid) == 0
