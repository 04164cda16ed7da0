# SPDX-License-Identifier: BSD-3-Clause
"""The instance's life as a whole: the actions of the topology's machine in the table."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dpsup.bus.sockets import Gone
from dpsup.errors import DpsupError
from dpsup.instance import status
from dpsup.supervisor import outputs
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.core import AGAIN_S, AUDIT_S, HALT_S, QUIT_S, WORKER_READY_S, Actions, Core
from dpsup.supervisor.model import Model
from dpsup.supervisor.primary import Generation
from dpsup.supervisor.spares import Spares

SPARE_ENDS_S = 5.0
EVIDENCE_S = 2.0


class Life:
    """`keep_evidence` writes down what is in quarantine; `rejoin` adopts a data plane; `end` is
    called once the instance has ended."""

    def __init__(
        self,
        core: Core,
        model: Model,
        buckets: Buckets,
        spares: Spares,
        generation: Generation,
        keep_evidence: Callable[[], Awaitable[None]],
        end: Callable[[], None],
    ) -> None:
        self._core, self._model = core, model
        self._buckets, self._spares, self._generation = buckets, spares, generation
        self._keep_evidence, self._end = keep_evidence, end
        self._opening = False
        self.rejoin: Callable[[], None] = lambda: None
        self.on_running: Callable[[], None] = lambda: None
        self.on_stopping: Callable[[], None] = lambda: None

    def actions(self) -> Actions:
        return {
            "begin": lambda _: self._core.fire(self._model.primary, "start"),
            "rejoin": lambda _: self.rejoin(),
            "open": self.open,
            "opened": self.opened,
            "announce": self.announce,
            "wind_down": self.wind_down,
            "again": self.again,
            "finish": lambda _: self._end(),
        }

    def judge(self) -> None:
        """After a change of any worker: is every group as large as it should be?"""
        model = self._model
        for worker in model.workers():
            worker.growing &= worker.state in ("stopped", "starting")
        # Between two sizes a group lacks no worker: those that it grows by are on their way.
        whole = all(
            g.ready + sum(w.growing and w.wanted for w in g.workers) >= g.desired
            for g in model.groups
        )
        if model.state == "starting" and (model.plan.generation > 1 or model.adopted):
            # A start that follows, or goes on, opens with the workers that there are; the rest is
            # held, and said.
            whole = all(w.state in ("running", "held") for w in model.workers() if w.wanted)
        elif model.state != "starting":
            whole = whole and not (model.absent or model.short or model.troubles)
        if model.state == "starting" and model.primary.state != "running":
            whole = False  # a group of no workers lacks none, but nothing can be opened
        if model.state in ("starting", "running", "degraded"):
            self._core.fire(model, "whole" if whole else "short")

    def announce(self, _: Any) -> None:
        model = self._model
        if model.state == "running":
            model.progress(f"{model.name} is running, all workers ready")
        else:
            short = [f"{g.plan.name} {g.ready}/{g.desired} ready" for g in model.groups]
            wrong = {**dict.fromkeys(model.absent, "it is not there"), **model.troubles}
            short += [f"port {name}: {why}" for name, why in wrong.items()]
            short += [f"the output of port {name} lacks bytes" for name in model.short]
            model.progress(f"{model.name} is degraded: {', '.join(short)}")

    def open(self, _: Any) -> None:
        if not self._opening:
            self._opening = True
            self._core.spawn(self._open(self._model.plan.generation))

    async def _open(self, generation: int) -> None:
        """Input begins once every worker that is ready has its buckets."""
        model = self._model

        def is_due() -> bool:
            return model.state == "starting" and model.plan.generation == generation

        try:
            await self._core.until(
                lambda: (
                    not is_due() or all(w.fed == (w.state == "running") for w in model.workers())
                ),
                HALT_S,
            )
            for group in model.groups:
                if is_due():
                    await self._buckets.steer(group)
            if not is_due():
                return
            await self._core.insist("rx", on=True)
            if not is_due():  # an order to end came meanwhile
                await self._core.ask("rx", on=False)
                return
        except Gone:
            raise
        except DpsupError as e:  # an io core that did not answer: no other part opens the input
            self._core.events.add(type="error", message=str(e))
            self._core.later(AGAIN_S, self._open_again, generation)
            return
        model.rx_on = True
        self._core.fire(model, "opened")
        # A later generation opens with the workers that there are; it may be degraded.
        self.judge()

    def _open_again(self, generation: int) -> None:
        if self._model.plan.generation == generation:
            self._opening = False
            self.judge()

    def opened(self, _: Any) -> None:
        model = self._model
        if model.primary_deaths:
            model.progress(f"{model.name} is running again, generation {model.plan.generation}")
        self.on_running()
        for group in model.groups:
            self._spares.refill(group)

    def again(self, _: Any) -> None:
        self._model.rx_on = self._opening = False
        self._model.short.clear()
        self._generation.again()

    # --- the end ---------------------------------------------------------------------------------

    def wind_down(self, _: Any) -> None:
        self.on_stopping()
        self._core.spawn(self._wind_down())

    async def _wind_down(self) -> None:
        """Stop input, workers, seed and primary, in the reverse order of the start."""
        model = self._model
        if model.primary.state == "running":
            with contextlib.suppress(DpsupError):
                await self._core.ask("rx", on=False)
                await self._drained(model.drain_s)
        for worker in model.workers():
            worker.wanted = False
            self._core.fire(worker, "stop")
        await self._core.until(
            lambda: all(w.state == "stopped" for w in model.workers()),
            HALT_S * 2 + WORKER_READY_S,
        )
        for group in model.groups:
            self._spares.retire(group.spares)
        await self._core.until(lambda: not model.living(), SPARE_ENDS_S)
        if model.primary.state == "running":
            with contextlib.suppress(DpsupError):
                await self._settle()
        self._core.fire(model.seed, "stop")
        await self._core.until(lambda: model.seed.state == "absent", QUIT_S)
        self._core.fire(model.primary, "stop")
        if model.primary.state == "absent":
            self._core.fire(model, "gone")

    async def _drained(self, timeout: float) -> bool:
        """Wait until no packet is under way."""
        deadline = time.monotonic() + timeout
        while True:
            counters = await self._core.ask("counters")
            if status.in_flight(counters) == 0:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)

    async def _settle(self) -> None:
        """The final account, taken while everything stands still."""
        try:
            await asyncio.wait_for(self._keep_evidence(), EVIDENCE_S)
        except Exception as e:
            # A full disk, or a fault of its own: the end does not depend on it.
            self._core.events.add(
                type="fault", name="quarantine", message=f"no evidence is kept: {e!r}"
            )
        counters = await self._core.ask("counters")
        account = status.account(counters)
        unwritten = await outputs.settle(self._model, counters, account)
        # A person may end a job before it has read everything.
        promised = self._model.promised if self._model.is_done else {}
        self._model.summary = {
            **account,
            "unwritten": unwritten,
            "unread": outputs.unread(promised, counters),
            "deaths": self._model.deaths,
            "audit": await self._core.ask("audit", AUDIT_S),
        }
