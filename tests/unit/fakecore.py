# SPDX-License-Identifier: BSD-3-Clause
"""A fake of the supervisor's engine, for its parts: it notes what they ask and fire, answers as it
was told to, and runs nothing by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from unit.fakehost import FILE, MINIMAL, machine

from dpsup.instance.runtime_dir import Runtime
from dpsup.plan.place import make_plan
from dpsup.supervisor.model import Machine, Model, Sitter
from dpsup.topology.load import load


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
        self.tasks: list[Coroutine[Any, Any, Any]] = []
        self.timers: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []
        self.faults: list[tuple[str, BaseException]] = []
        self.crashed: BaseException | None = None
        self.failed: list[Exception] = []
        self.recorded = 0
        self.deaf = False  # the primary does not answer, and its io cores stand still

    async def ask(self, verb: str, timeout: float = 5.0, **args: Any) -> Any:
        self.asked.append((verb, args))
        answer = self.answers.get(verb)
        if callable(answer):
            answer = answer(**args)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def insist(self, verb: str, **args: Any) -> Any:
        return await self.ask(verb, **args)

    def fire(self, who: Machine, event: str) -> None:
        self.fired.append((who.name, event))

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        return condition()

    def spawn(self, work: Coroutine[Any, Any, Any], *, feature: str = "") -> None:
        self.tasks.append(work)

    def deadline(self, who: Machine, seconds: float, event: str) -> None:
        self.timers.append((seconds, self.fire, (who, event)))

    def later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        self.timers.append((seconds, call, args))

    def guard(self, call: Callable[..., object], *args: Any) -> None:
        call(*args)

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

    async def end_if_dead(self, _: str) -> bool:
        return self.deaf

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


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
