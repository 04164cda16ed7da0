# SPDX-License-Identifier: BSD-3-Clause
"""Spares: processes with the plugin loaded, parked until a warden seats one. This part keeps up
their number in each group; the warden alone chooses which spare follows a worker:
shim/recovery/successor.c."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from dpsup.host import process
from dpsup.supervisor.children import refusal
from dpsup.supervisor.core import LOOK_S, WORKER_READY_S, Core
from dpsup.supervisor.model import Group, Model, Sitter
from dpsup.supervisor.policy import PERMANENT, Ending, History, Policy, decide
from dpsup.supervisor.sitters import STARTING, Sitters, end_if_late

# Spares that do not come up are forked anew less and less often, without end.
POLICY = Policy(intensity=12, period=60, initial=0.001, factor=2, most=5)


class Spares:
    """`on_refusal(group, sitter, why)`: does a spare that refuses to start belong to a rollout?"""

    def __init__(self, core: Core, model: Model, sitters: Sitters) -> None:
        self._core, self._model, self._sitters = core, model, sitters
        self.on_refusal: Callable[[Group, Sitter, str], bool] = lambda *_: False

    def refill(self, group: Group) -> None:
        wants = group.plan.spares > 0 and not group.spares_held
        if wants and not group.filling and _lacks(group):
            group.filling = True
            self._core.spawn(self._fill(group))

    async def _fill(self, group: Group) -> None:
        try:
            while _lacks(group):
                await asyncio.sleep(max(0.0, group.spare_due_at - time.monotonic()))
                if not self._model.is_open or not self._sitters.can_fork or group.spares_held:
                    return
                await self.fork(group, group.version)
        finally:
            group.filling = False

    async def fork(self, group: Group, version: int) -> None:
        told = False

        def noted(sitter: Sitter, line: str) -> None:
            nonlocal told
            if line == "READY":
                sitter.ready = True
                self._core.wake()
            elif line.startswith("REFUSED "):
                code, why = refusal(line)
                if not told:  # its plugin may write such lines too, without end
                    self._core.events.add(type="spare", name=sitter.name, message=why)
                told = True
                if code in PERMANENT and not self.on_refusal(group, sitter, why):
                    self._hold(group, sitter.name, why)
            elif line:
                self._core.skip(sitter.name, "a line about its start", repr(line))

        berth = await self._core.insist("spare", group=group.index, version=version)
        sitter = await self._sitters.fork(f"{group.plan.name}/spare", berth, noted, version)
        if any(w.sitter is sitter for w in group.workers):
            return  # it took over before the seed's word of it came
        group.spares.append(sitter)
        self._core.later(WORKER_READY_S, end_if_late, sitter)
        self._core.record()
        if not self._model.is_open:
            self.retire(group.spares)

    def take_up(self, group: Group, sitter: Sitter) -> None:
        """A spare that another supervisor ordered; its message that it is ready was not read."""
        group.spares.append(sitter)
        if not sitter.ready:
            self._core.later(WORKER_READY_S, end_if_late, sitter)
            self._core.spawn(self._await(group, sitter))

    async def _await(self, group: Group, sitter: Sitter) -> None:
        while not sitter.ready and sitter.pidfd >= 0 and sitter in group.spares:
            sitter.ready = await self._sitters.hand(sitter) != STARTING
            await asyncio.sleep(LOOK_S)

    def take_out(self, sitter: Sitter) -> Group | None:
        """It is no spare any more: it is dead, or a worker. The group that it was a spare of."""
        for group in self._model.groups:
            if sitter in group.spares:
                group.spares.remove(sitter)
                return group
        return None

    def died(self, group: Group, sitter: Sitter) -> None:
        if not sitter.asked:
            self._core.events.add(type="spare", name=sitter.name, pid=sitter.pid, message="died")
        if not sitter.asked and not sitter.ready and sitter.version == group.version:
            now = time.monotonic()
            decision = decide(POLICY, group.spare_history, Ending(), wanted=True, now=now)
            group.spare_history = decision.history
            due_at = now + (decision.delay or POLICY.most)
            group.spare_due_at = max(group.spare_due_at, due_at)
        self.refill(group)

    def _hold(self, group: Group, name: str, why: str) -> None:
        """A plugin that refuses will refuse the next spare too: until a person says otherwise, or
        `retry` has passed, no further one is forked. The workers that run have nothing to do with
        it."""
        if not group.spares_held:
            retry = group.policy.retry
            group.spares_held = why
            group.spares_retry_at = time.monotonic() + retry if retry else 0.0
            self._core.events.add(type="held", name=name, message=why)
            self._model.progress(
                f"{name}s are held: {why}: "
                f"`dpsup -n {self._model.name} reset-failed {group.plan.name}` tries again"
            )

    def forgive(self, group: Group) -> None:
        """Forget how often spares died, and fork again."""
        group.spare_history, group.spare_due_at, group.spares_held = History(), 0.0, ""
        self.refill(group)

    def retire(self, spares: list[Sitter]) -> None:
        """End them; new ones are forked while the instance runs."""
        for sitter in spares:
            sitter.asked = True
        self._core.record()
        for sitter in spares:
            if sitter.pidfd >= 0:
                process.signal_pidfd(sitter.pidfd, signal.SIGKILL)


def _lacks(group: Group) -> bool:
    return sum(s.version == group.version for s in group.spares) < group.plan.spares
