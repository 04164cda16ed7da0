# SPDX-License-Identifier: BSD-3-Clause
"""Looks at the counters twice a second: statistics, corrupt lanes, a primary that hangs, what the
primary refused and now may grant, idle input. It ends with the supervisor and never before: it
reports what goes wrong in one look, and looks again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from dpsup.documents.counters import Counters
from dpsup.errors import DpsupError, TimedOut
from dpsup.instance import status
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.core import Link
from dpsup.supervisor.deaths import Deaths
from dpsup.supervisor.model import Model
from dpsup.supervisor.seed import Attach
from dpsup.supervisor.silence import ANSWER_S, SILENCES
from dpsup.supervisor.spares import Spares
from dpsup.supervisor.workers import Workers

LOOK_S, LOOK_IDLE_S = 0.5, 0.1  # between two looks; where an idle input ends the instance


class Monitor:
    """`watchers` see each reading of the counters: features by name, each of which may fail
    alone. `stop` ends the instance in order."""

    def __init__(
        self,
        core: Link,
        model: Model,
        attach: Attach,
        buckets: Buckets,
        spares: Spares,
        workers: Workers,
        deaths: Deaths,
        stop: Callable[[], None],
    ) -> None:
        self._core, self._model, self._attach = core, model, attach
        self._buckets, self._spares = buckets, spares
        self._workers, self._deaths, self._stop = workers, deaths, stop
        self.watchers: dict[str, Callable[[Counters], None]] = {}
        self._silences = 0
        self._granting = False
        self._told_silent = False
        self._quiet_since = time.monotonic()
        self._received = -1

    async def run(self) -> None:
        while not self._core.crashed:
            await asyncio.sleep(LOOK_IDLE_S if self._model.idle_limit is not None else LOOK_S)
            try:
                await self.observe()
            except Exception as e:
                self._core.fault("monitor", e)

    async def observe(self) -> None:
        model = self._model
        if not model.is_open or not model.rx_on:
            self._quiet_since = time.monotonic()
            return
        counters = await self._read()
        if counters is None:
            return
        model.counters = counters
        for name, watch in self.watchers.items():
            try:
                watch(counters)
            except Exception as e:
                self._core.fault(name, e)
        for group in model.groups:
            if group.spares_held and self._is_due(group.spares_retry_at):
                self._core.events.add(
                    type="retry", name=f"spare of {group.plan.name}", message="tried once more"
                )
                self._spares.forgive(group)
            self._spares.refill(group)
            if group.unsettled:
                group.unsettled = False
                self._core.spawn(self._buckets.steer(group))
        for worker in model.workers():
            if worker.unfed and worker.state == "running":
                worker.unfed = False
                self._core.spawn(self._buckets.feed(worker))
            if worker.state == "held" and worker.wanted and self._is_due(worker.retry_at):
                self._workers.try_again(worker)
            slot = counters["slots"][worker.slot]
            if slot["lanes_corrupt"] and worker.state == "running":
                self._core.events.add(type="corrupt", name=worker.name, message="lane isolated")
                self._workers.kill(worker)
        if not self._granting:
            self._granting = True
            self._core.spawn(self._grant(), feature="monitor")
        self._note_idle(counters)

    async def _grant(self) -> None:
        """Beside the looks: a grant that the primary is slow to take delays none of them."""
        try:
            for worker in self._model.workers():
                if self._model.is_open:
                    await self._try(self._buckets.grant(worker))
        finally:
            self._granting = False

    @staticmethod
    def _is_due(at: float) -> bool:
        return 0.0 < at <= time.monotonic()

    async def _read(self) -> Counters | None:
        """The counters; None where the primary did not answer."""
        try:
            await self._deaths.read_stories(must=False)
            counters: Counters = await self._core.ask("counters", ANSWER_S)
            self._silences, self._told_silent = 0, False
        except TimedOut as e:
            self._silences += 1
            if self._silences >= SILENCES:
                dead = await self._core.end_if_dead(f"hangs: {e}")
                if not dead and not self._told_silent:
                    self._told_silent = True
                    self._core.events.add(
                        type="error",
                        message=f"the primary does not answer, but its io cores forward: {e}",
                    )
            return None
        except DpsupError:
            return None
        if self._model.seed.state == "running":
            await self._try(self._attach.read_locks())
        return counters

    async def _try(self, work: Awaitable[None]) -> None:
        """The primary may refuse this, or be too dead to answer: the next look tries again."""
        try:
            await work
        except DpsupError as e:
            self._core.events.add(type="error", message=str(e))

    def _note_idle(self, counters: Counters) -> None:
        model, now = self._model, time.monotonic()
        received = sum(p["rx_packets"] for p in counters["ports"])
        if received != self._received or status.in_flight(counters):
            self._received = received
            self._quiet_since = now
        elif model.idle_limit is not None and now - self._quiet_since >= model.idle_limit:
            model.progress(f"no packet for {model.idle_limit:g} s: done")
            model.is_done = True
            self._stop()
