# SPDX-License-Identifier: BSD-3-Clause
"""The primary's life: the actions of its machine in the table. A generation is what it owns."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from dpsup.bus.messages import as_error, as_exception
from dpsup.errors import DpsupError
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance import status
from dpsup.instance.runtime_dir import PLAN
from dpsup.plan.diff import keep
from dpsup.plan.model import PortPlan
from dpsup.supervisor import blocked, disk
from dpsup.supervisor.children import Children
from dpsup.supervisor.core import AGAIN_S, QUIT_S, Actions, Link, at_once
from dpsup.supervisor.model import Child, Model
from dpsup.supervisor.policy import Ending, Policy, Verdict, decide
from dpsup.supervisor.sitters import Sitters

READY_S = 120.0  # zeroing hugepages: 7 s for 32 GB
SPAWN_AGAIN_S = 2.0  # after a full disk, or no process, at the start of a later generation
LAST_WORDS = 6  # lines of a primary that did not start
POLICY = Policy(intensity=5, period=60, initial=0.1, factor=2, most=5)


class Generation:
    """`laid_out` returns once what workers map beside the primary's memory is there."""

    def __init__(self, core: Link, model: Model, children: Children, sitters: Sitters) -> None:
        self._core, self._model = core, model
        self.laid_out: Callable[[], Awaitable[None]] = at_once
        self._children, self._sitters = children, sitters
        # Generations that a port ended. One that an adopted plan leaves out stays so.
        self._blocked = Counter({p.name: blocked.TWICE for p in model.plan.ports if p.left_out})

    def actions(self) -> Actions:
        return {
            "spawn": self.spawn,
            "announce": lambda _: self._core.spawn(self._meet()),
            "kill": self.kill,
            "quit": self.quit,
            "sweep": lambda primary: self._core.spawn(self._sweep(primary)),
            "report": self.report,
        }

    def spawn(self, primary: Child) -> None:
        runtime = self._model.runtime
        try:
            runtime.write(PLAN, json.dumps(dataclasses.asdict(self._model.plan)))
            argv = [sys.executable, "-P", "-m", "dpsup.primary", runtime.file(PLAN)]
            self._children.spawn(primary, argv, READY_S)
        except OSError as e:  # a full disk, no process, no descriptor
            self._core.events.add(type="error", message=f"no primary: {e}")
            if self._model.primary_deaths and not runtime.is_gone():
                # It ran before, so nothing of the topology is wrong: until there is room again.
                self._core.later(SPAWN_AGAIN_S, self._spawn_again, primary)
                return
            error = DpsupError(f"the primary could not be started: {e}", code="E0801")
            if runtime.is_gone():
                error.why = f"{runtime.path} was removed while the instance ran"
            primary.refused = json.dumps(as_error(error))
            self._core.later(0, self._core.fire, primary, "died")

    def _spawn_again(self, primary: Child) -> None:
        if primary.state == "starting":
            self.spawn(primary)
        elif primary.state == "stopping":  # there is none that could die of it
            self._core.fire(primary, "died")

    async def _meet(self) -> None:
        model = self._model
        self._core.open_asks()
        model.told = 0
        model.hello = await self._core.insist("hello")
        assert model.primary.identity is not None
        model.progress(
            f"primary    pid {model.primary.identity.pid}, DPDK {model.hello['dpdk']}, "
            f"generation {model.plan.generation}"
        )
        for port in model.hello["ports"]:
            speed = f" {port['link_mbps']} Mbit/s" if port["link_mbps"] else ""
            queues = f"{port['rx_queues']} rx, {port['tx_queues']} tx queues"
            link = "up" if port["link_up"] else "down"
            note = f"; {port['note']}" if port["note"] else ""
            model.progress(
                f"port       {port['name']}: {port['driver']}, link {link}{speed}, {queues}{note}"
            )
        for note in model.hello["notes"]:
            model.progress(f"warning    {note}")
            self._core.events.add(type="warning", message=note)
        await self.laid_out()
        # That may take minutes: an order to end has come meanwhile, perhaps.
        if model.primary.state == "running" and model.state not in ("stopping", "stopped"):
            self._core.fire(model.seed, "start")

    def kill(self, primary: Child) -> None:
        if primary.pidfd >= 0:
            process.signal_pidfd(primary.pidfd, signal.SIGKILL)

    def quit(self, primary: Child) -> None:
        async def ask() -> None:
            with contextlib.suppress(DpsupError):
                await self._core.ask("stop")

        self._core.deadline(primary, QUIT_S, "late")
        self._core.spawn(ask())

    async def _sweep(self, primary: Child) -> None:
        """After the primary's death, end every process and remove every file of its generation."""
        model = self._model
        if self._core.close_asks() and model.state not in ("stopping", "stopped"):
            model.primary_deaths += 1
            if model.counters is not None:
                model.lost += max(0, status.in_flight(model.counters))
            model.progress("the primary died: its generation ends, the next one starts")
        left = [process.identify(s.pid) for s in model.living()]
        if model.seed.identity is not None:
            left.append(model.seed.identity)
        while not await self._ended(left):
            await asyncio.sleep(AGAIN_S)
        for worker in model.workers():
            self._core.fire(worker, "lost")
        for group in model.groups:
            group.spares.clear()
        self._sitters.forget_all()
        await self._core.until(lambda: model.seed.state == "absent", QUIT_S)
        primary.identity = None
        try:
            model.runtime.sweep()
        except OSError as e:  # files that stay are harmless: the next generation has other names
            self._core.events.add(type="error", message=f"cannot remove what is left: {e}")
        self._core.fire(primary, "swept")

    async def _ended(self, left: list[Identity]) -> bool:
        """End them. False: no descriptor was left to wait for their end."""
        try:
            if not await disk.aside(lambda: process.wait_gone(left, 1.0)):
                for one in left:
                    process.kill(one)
                await disk.aside(lambda: process.wait_gone(left, 5.0))
        except OSError as e:
            self._core.events.add(type="error", message=f"cannot end what is left: {e}")
            return False
        return True

    def report(self, primary: Child) -> None:
        model = self._model
        if model.state == "stopping":
            self._core.fire(model, "gone")
        elif primary.refused or model.primary_deaths == 0:
            error = DpsupError("the primary ended before it was ready", code="E0801")
            if primary.refused:
                error = _refusal(primary.refused)
            # Messages of EAL and the drivers say what an errno cannot.
            words = [e["line"] for e in self._core.log.since(0) if e["name"] == "primary"]
            error.why = error.why or "\n        ".join(_last_words(words))
            self._core.fail(error)
            self._core.fire(model, "gone")
        else:
            self._note_blocked()
            self._core.fire(model, "primary_lost")

    def _note_blocked(self) -> None:
        """Did the primary end for a driver that put an io core to sleep?"""
        lines = [e["line"] for e in self._core.log.since(0) if e["name"] == "primary"]
        port = blocked.port_in(lines[-2:])
        if not port:
            return
        self._blocked[port] += 1
        message = "its driver put an io core to sleep, and so ended the primary"
        if self._blocked[port] >= blocked.TWICE:
            message += " again: it is left out from now on"
        self._core.events.add(type="port", name=port, message=message)

    def _without_blocked(self, ports: tuple[PortPlan, ...]) -> tuple[PortPlan, ...]:
        return tuple(
            dataclasses.replace(p, left_out=blocked.WHY)
            if self._blocked[p.name] >= blocked.TWICE
            else p
            for p in ports
        )

    # --- the next one ----------------------------------------------------------------------------

    def again(self) -> None:
        """Start the next generation, unless primaries die again and again."""
        primary = self._model.primary
        decision = decide(POLICY, primary.history, Ending(), wanted=True, now=time.monotonic())
        primary.history = decision.history
        if decision.verdict is Verdict.GIVE_UP:
            self._core.fail(
                DpsupError(f"the primary died again and again: {decision.reason}", code="E0802")
            )
            return
        self._core.later(decision.delay, self._next)

    def _next(self) -> None:
        model = self._model
        if model.state != "starting":
            return
        # What was changed since the start stays so.
        plan = keep(model.replan(model.plan.generation + 1), [g.plan for g in model.groups])
        model.plan = dataclasses.replace(plan, ports=self._without_blocked(plan.ports))
        for group, ledger in zip(model.groups, model.ledgers, strict=True):
            group.version = 0
            ledger.slots[0] = ledger.current.number
        model.progress(f"generation {model.plan.generation} starts")
        self._core.fire(model.primary, "start")


def _last_words(lines: list[str]) -> list[str]:
    """The lines of a primary that say why it ended. What EAL panics of stands above the panic's
    backtrace."""
    panics = [i for i, line in enumerate(lines) if "PANIC in " in line]
    return lines[panics[0] :][:2] if panics else lines[-LAST_WORDS:]


def _refusal(text: str) -> DpsupError:
    try:
        return as_exception(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return DpsupError(f"the primary refused: {text}", code="E0801")
