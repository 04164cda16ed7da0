# SPDX-License-Identifier: BSD-3-Clause
"""The life of a worker: the actions of its machine in the table, one method each."""

from __future__ import annotations

import asyncio
import random
import signal
import time

from dpsup.errors import DpsupError, Exit
from dpsup.host import process
from dpsup.supervisor import steering
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.children import refusal
from dpsup.supervisor.core import AGAIN_S, HALT_S, LOOK_S, WORKER_READY_S, Actions, Core
from dpsup.supervisor.model import Group, Model, Sitter, Worker
from dpsup.supervisor.policy import (
    PERMANENT,
    Ending,
    History,
    Verdict,
    decide,
    last_credit,
    others,
)
from dpsup.supervisor.sitters import SEATED, Sitters
from dpsup.supervisor.spares import Spares


class Workers:
    def __init__(
        self, core: Core, model: Model, sitters: Sitters, buckets: Buckets, spares: Spares
    ) -> None:
        self._core, self._model = core, model
        self._sitters, self._buckets, self._spares = sitters, buckets, spares

    def actions(self) -> Actions:
        """`repair` is deaths.py's."""
        return {
            "fork": self.fork,
            "await": self.await_seat,
            "feed": lambda w: self._core.spawn(self._buckets.feed(w)),
            "succeed": self.succeed,
            "unfeed": self.unfeed,
            "halt": self.halt,
            "kill": self.kill,
            "rebucket": self._buckets.rebucket,
            "wait": self.wait,
            "say": self.say,
            "forget": self.forget,
        }

    # --- up --------------------------------------------------------------------------------------

    def fork(self, worker: Worker) -> None:
        worker.met()
        group = self._model.group_of(worker)
        if group.given_up:  # no longer: what is dropped from now on has another reason
            self._core.spawn(self._buckets.steer(group))
        if self._sitters.can_fork and not worker.forking:
            worker.forking = True
            self._core.spawn(self._fork(worker))

    async def _fork(self, worker: Worker) -> None:
        """Have the seed fork; if that fails, the machine hears `unborn`."""
        worker.refused = None

        def noted(sitter: Sitter, line: str) -> None:
            if worker.sitter is not sitter:
                return
            if line == "READY":
                worker.met()
                self._core.fire(worker, "ready")
            elif line.startswith("REFUSED "):
                worker.refused = refusal(line)
            elif line:
                self._core.skip(worker.name, "a line about its start", repr(line))

        try:
            berth = await self._sitters.open_slot(worker)
            version = self._model.group_of(worker).version
            worker.sitter = await self._sitters.fork(worker.name, berth, noted, version)
        except (DpsupError, OSError):
            self._core.later(AGAIN_S, self._unborn, worker)
            raise
        finally:
            worker.forking = False
        worker.restarts += 1
        self._core.deadline(worker, WORKER_READY_S, "late")
        self._core.record()
        if worker.state == "draining":
            # Told to stop between the order and the fork.
            self.kill(worker)

    def _unborn(self, worker: Worker) -> None:
        if worker.pid is None and not worker.forking:
            self._core.fire(worker, "unborn")

    def await_seat(self, worker: Worker) -> None:
        """It was forked by order of a supervisor that is dead; is it in its seat?"""
        sitter = worker.sitter
        assert sitter is not None
        if sitter.ready:
            self._core.fire(worker, "ready")
            return

        async def await_hand() -> None:
            while worker.sitter is sitter and worker.state == "starting":
                if await self._sitters.hand(sitter) == SEATED:
                    worker.met()
                    sitter.ready = True
                    self._core.fire(worker, "ready")
                await asyncio.sleep(LOOK_S)

        self._core.deadline(worker, WORKER_READY_S, "late")
        self._core.spawn(await_hand())

    def succeed(self, worker: Worker) -> None:
        """A spare has taken the place already: keep the books, fork another spare."""
        group = self._model.group_of(worker)
        if worker.story and worker.story["handover"]:
            # The one before was asked to make room: no death. This one may need other things.
            self._core.spawn(self._buckets.feed(worker))
            self._spares.refill(group)
            return
        decision = decide(group.policy, worker.history, Ending(), wanted=True, now=time.monotonic())
        worker.history = decision.history
        self._restart_others(worker)
        group.spare_due_at = max(group.spare_due_at, time.monotonic() + decision.delay)
        # One that was stopped had given its buckets away.
        again = self._buckets.grant if worker.fed else self._buckets.feed
        self._core.spawn(again(worker))
        self._spares.refill(group)

    # --- down ------------------------------------------------------------------------------------

    def unfeed(self, worker: Worker) -> None:
        self._core.deadline(worker, self._model.drain_s + 1, "late")
        self._core.spawn(self._unfeed(worker))

    async def _unfeed(self, worker: Worker) -> None:
        worker.fed = False
        await self._buckets.grant(worker)
        group = self._model.group_of(worker)
        if self._model.state != "stopping":
            await self._buckets.steer(group)
        if worker.wanted and not any(w.fed for w in group.workers):
            # A restart with no worker to take over: its lanes wait for itself.
            self._core.fire(worker, "drained")
            return
        deadline = time.monotonic() + self._model.drain_s
        while worker.state == "draining" and time.monotonic() < deadline:
            counters = await self._core.ask("counters")
            if counters["slots"][worker.slot]["outstanding"] == 0:
                break
            await asyncio.sleep(0.005)
        if worker.state == "draining":
            self._core.fire(worker, "drained")

    def halt(self, worker: Worker) -> None:
        async def halt() -> None:
            if worker.sitter is not None:
                worker.sitter.asked = True
                self._core.record()
            await self._core.insist("command", slot=worker.slot, command="stop")

        self._core.deadline(worker, HALT_S, "late")
        self._core.spawn(halt())

    def kill(self, worker: Worker) -> None:
        if worker.sitter is not None and worker.state == "draining":
            worker.sitter.asked = True
        if worker.pidfd >= 0:
            process.signal_pidfd(worker.pidfd, signal.SIGKILL)
        else:
            self._core.later(0, self._unborn, worker)

    def forget(self, worker: Worker) -> None:
        """The primary has ended, and the slot with it."""
        worker.met()
        if worker.sitter is not None:
            self._sitters.forget(worker.sitter)
        worker.sitter = None
        worker.takeovers = 0
        worker.fed = worker.left = worker.unfed = False
        group = self._model.group_of(worker)
        group.map, group.given_up = steering.EMPTY, False

    # --- after a death ---------------------------------------------------------------------------

    def decide(self, worker: Worker, code: int | None, asked: bool) -> None:
        """Its lanes are repaired: does another process follow, and when?"""
        # What it said on its way out, where its exit code is not known: its seed died with it.
        codes = {code, worker.refused[0] if worker.refused else None}
        permanent = not codes.isdisjoint(PERMANENT)
        first, group = self._model.is_first, self._model.group_of(worker)
        if permanent and first and worker.refused:
            worker.wanted = False
            self._core.fail(_refused_to_start(worker, group, self._model.plan.topology_file))
        ending = Ending(asked=asked, permanent=permanent, failed=code != 0)
        now, chance = time.monotonic(), random.random()
        decision = decide(group.policy, worker.history, ending, worker.wanted, now, chance)
        worker.history = decision.history
        worker.due_at = now + decision.delay
        worker.retry_at = now + decision.retry if decision.retry else 0.0
        worker.held_for = decision.reason if decision.verdict is Verdict.GIVE_UP else ""
        if decision.verdict is Verdict.GIVE_UP:
            self._core.events.add(type="held", name=worker.name, message=decision.reason)
            if first:
                how = worker.last_exit.get("how", "its end") if worker.last_exit else "its end"
                self._core.fail(
                    DpsupError(
                        f"worker {worker.name} does not become ready: {how}, {decision.reason}",
                        code="E0806",
                        help=f"`plugin` and `args` of its group in "
                        f"{self._model.plan.topology_file}",
                    )
                )
        elif not asked and worker.wanted:
            self._restart_others(worker)
        self._core.fire(worker, decision.verdict.value)

    def _restart_others(self, worker: Worker) -> None:
        """Restart the workers that the strategy restarts with it. A worker that is down, or on its
        way up or down, starts again anyway."""
        strategy = self._model.group_of(worker).policy.strategy
        workers = self._model.workers()
        with_it = [
            workers[i]
            for i in others(strategy, workers.index(worker), [w.group for w in workers])
            if workers[i].state == "running" and workers[i].wanted
        ]
        if with_it and self._model.is_open:
            names = [w.name for w in with_it]
            self._core.events.add(
                type="restart", name=worker.name, message=strategy, restarted=names
            )
            for one in with_it:
                self._core.fire(one, "restart")

    def wait(self, worker: Worker) -> None:
        self._core.deadline(worker, max(0.0, worker.due_at - time.monotonic()), "due")

    def say(self, worker: Worker) -> None:
        last = worker.last_exit
        how = last.get("how", "its end") if last else "its end"
        reason = f" ({last['reason']})" if last and last.get("reason") else ""
        self._model.progress(
            f"{worker.name} is held after {how}{reason}: "
            f"`dpsup -n {self._model.name} reset-failed {worker.name}` tries again"
        )

    def try_again(self, worker: Worker) -> None:
        """One that was given up a while ago: what it lacked may be there by now."""
        now = time.monotonic()
        worker.history = last_credit(self._model.group_of(worker).policy, now)
        worker.held_for, worker.retry_at = "", 0.0
        self._core.events.add(type="retry", name=worker.name, message="it is tried once more")
        self._core.fire(worker, "restart")

    def reset_failed(self, workers: list[Worker], groups: list[Group]) -> list[Worker]:
        """Forget how often they died, and start those that are held; which these are."""
        for group in groups:
            self._spares.forgive(group)
        held = [w for w in workers if w.state == "held" and w.wanted]
        for worker in workers:
            worker.history = History()
            worker.held_for = ""
        for worker in held:
            self._core.fire(worker, "restart")
        return held


def _refused_to_start(worker: Worker, group: Group, file: str) -> DpsupError:
    why = worker.refused[1] if worker.refused else ""
    error = DpsupError(
        f"worker {worker.name} refused to start: {why}",
        code="E0805",
        help=f"`plugin` and `args` of group {group.plan.name} in {file}",
    )
    error.exit_code = Exit.BAD_TOPOLOGY
    return error
