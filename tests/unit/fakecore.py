# SPDX-License-Identifier: BSD-3-Clause
"""A fake of the supervisor's engine, for its parts: it notes what they ask and fire, answers as it
was told to, and runs nothing by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from unit.fakehost import FILE, MINIMAL, machine

from dpsup.instance.runtime_dir import Runtime
from dpsup.plan.place import make_plan
from dpsup.supervisor import fsm
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.children import Children
from dpsup.supervisor.deaths import Deaths
from dpsup.supervisor.model import Model, Sitter, StateMachine
from dpsup.supervisor.primary import Generation
from dpsup.supervisor.rollouts import Rollouts
from dpsup.supervisor.scale import Scaler
from dpsup.supervisor.seed import Attach
from dpsup.supervisor.sitters import Sitters
from dpsup.supervisor.spares import Spares
from dpsup.supervisor.workers import Workers
from dpsup.topology.load import load

TWO = f"{MINIMAL}count = 2\nmax = 4\nspares = 1\n"


class Notes:
    """A journal that keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def add(self, **entry: Any) -> None:
        self.entries.append(entry)

    def since(self, _: int, most: int = 1000) -> list[dict[str, Any]]:
        return self.entries[-most:]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.entries if e["type"] == kind]


class FakeCore:
    """`answers[verb]` is what the primary answers: a value, an exception, or a function of the
    arguments; None where nothing is said."""

    def __init__(self, **answers: Any) -> None:
        self.events: Any = Notes()
        self.log: Any = Notes()
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fired: list[tuple[str, str]] = []
        self.trace: list[str] = []  # both, in order
        self.tasks: list[Coroutine[Any, Any, Any]] = []
        self.timers: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []
        self.faults: list[tuple[str, BaseException]] = []
        self.crashed: BaseException | None = None
        self.failed: list[Exception] = []
        self.recorded = 0
        self.deaf = False  # the primary does not answer, and its io cores stand still
        self.steps = False  # events change the state, and run no action
        self.is_open = False  # the primary is asked

    async def ask(self, verb: str, timeout: float = 5.0, **args: Any) -> Any:
        self.asked.append((verb, args))
        self.trace.append(verb)
        answer = self.answers.get(verb)
        if callable(answer):
            answer = answer(**args)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def insist(self, verb: str, **args: Any) -> Any:
        return await self.ask(verb, **args)

    def fire(self, machine: StateMachine, event: str) -> None:
        self.fired.append((machine.name, event))
        self.trace.append(f"{machine.name} {event}")
        if self.steps:
            machine.state = fsm.step(machine.kind, machine.state, event).state

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        return condition()

    def spawn(self, work: Coroutine[Any, Any, Any], *, feature: str = "") -> None:
        self.tasks.append(work)

    def deadline(self, machine: StateMachine, seconds: float, event: str) -> None:
        self.timers.append((seconds, self.fire, (machine, event)))

    def later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        self.timers.append((seconds, call, args))

    def guard(self, call: Callable[..., object], *args: Any) -> None:
        call(*args)

    def skip(self, name: str, what: str, why: str, sender: Any = None) -> None:
        self.events.add(type="skipped", name=name, message=f"{what}: {why}", sender=sender)

    def wake(self) -> None:
        pass

    def record(self) -> None:
        self.recorded += 1

    def crash(self, error: BaseException) -> None:
        self.crashed = error

    def fail(self, error: Exception) -> None:
        self.failed.append(error)

    def fault(self, feature: str, error: BaseException) -> None:
        self.faults.append((feature, error))

    async def end_if_dead(self, what: str) -> bool:
        return self.deaf

    def open_asks(self) -> None:
        self.is_open = True

    def close_asks(self) -> bool:
        was, self.is_open = self.is_open, False
        return was

    # --- for tests -------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Run what was spawned, and what that spawns."""
        while self.tasks:
            await self.tasks.pop(0)

    def drop(self) -> None:
        """Forget what was spawned."""
        for task in self.tasks:
            task.close()
        self.tasks.clear()

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]


def model(folder: Path, text: str = MINIMAL, generation: int = 3) -> Model:
    """A model of that topology, which runs."""
    topology, problems = load(FILE, machine(text))
    assert topology is not None, problems
    plan = make_plan(topology, machine(text), generation)
    one = Model(plan, Runtime(str(folder), plan.name), lambda _: plan, lambda _: None)
    one.state = "running"
    return one


def sitter(pid: int, berth: int = 0, **more: Any) -> Sitter:
    """A process that is watched by nobody."""
    return Sitter(f"pid {pid}", berth, pid, -1, **more)


class Parts:
    """The parts around a fake core, connected as in the supervisor."""

    def __init__(self, folder: Path, text: str = TWO, **answers: Any) -> None:
        self.core = FakeCore(**answers)
        core: Any = self.core
        self.model = one = model(folder, text)
        one.primary.state = "running"
        self.sitters = Sitters(core, one)
        self.children = Children(core, one, self.sitters.says)
        self.buckets = Buckets(core, one)
        self.spares = Spares(core, one, self.sitters)
        self.workers = Workers(core, one, self.sitters, self.buckets, self.spares)
        self.deaths = Deaths(core, one, self.sitters, self.buckets, self.spares, self.workers)
        self.attach = Attach(core, one, self.children, self.sitters, self.workers)
        self.generation = Generation(core, one, self.children, self.sitters)
        self.scaler = Scaler(core, one, self.buckets)
        self.rollouts = Rollouts(core, one, self.sitters, self.spares, self.workers)
        self.group = one.groups[0]
        self.worker = one.workers()[0]

    def seat(self, member: int, pid: int) -> Sitter:
        """A worker that runs, and has its buckets; its process is nobody's."""
        worker = self.group.workers[member]
        worker.sitter = self.model.sitters[pid] = sitter(pid, member, ready=True)
        worker.state, worker.wanted, worker.fed = "running", True, True
        return worker.sitter


def descriptors() -> set[str]:
    """Of this process, those that are open."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
