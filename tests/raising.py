# SPDX-License-Identifier: BSD-3-Clause
"""dpsup, with faults at named points of its supervisor: python -P raising.py FOLDER COMMAND...

A point is a function of the supervisor as it is called, or one of its waits. FOLDER/armed says
what happens at which point, FOLDER/fired what has happened, FOLDER/reached what was called. The
product has no hook for this: its classes are wrapped before an instance of them exists. A
supervisor that crashes executes its own command again, so the next one is wrapped as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import importlib
import inspect
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dpsup.supervisor

# No parts: of the engine each verb is a point of its own, journals tell what happens and have their
# listeners as points, and of the whole `wrap_assembly` takes what it needs.
NO_PARTS = {"Engine", "Journal", "Throttle", "Lines", "Supervisor"}
# They only give the functions that are points of their own.
PLAIN = {"actions"}


class Injected(Exception):
    """A bug that the product does not have."""


class Points:
    """What is armed: a list of {"id", "point", "how", "times"}."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: set[tuple[str, str]] = set()
        self._fired: dict[str, int] = {}
        for line in self._lines("fired"):
            self._fired[json.loads(line)["id"]] = self._fired.get(json.loads(line)["id"], 0) + 1

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    def add(self, name: str, **entry: Any) -> None:
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def reach(self, point: str) -> str:
        """Called at each point: "" if nothing is to happen. Raises: Injected."""
        try:
            armed = json.loads((self.folder / "armed").read_text())
        except FileNotFoundError:
            return ""
        phase = armed["phase"]
        if (phase, point) not in self._seen:
            self._seen.add((phase, point))
            self.add("reached", phase=phase, point=point)
        for one in armed["faults"]:
            done = self._fired.get(one["id"], 0)
            if one["point"] != point or done >= one.get("times", 1):
                continue
            self._fired[one["id"]] = done + 1
            self.add("fired", id=one["id"], point=point, pid=os.getpid(), at=time.monotonic())
            if one["how"] == "raise":
                raise Injected(point)
            return str(one["how"])
        return ""


def wrap(points: Points, owner: Any, name: str, point: str) -> None:
    """Reach `point` at each call. A coroutine raises when it is awaited, as a bug in it would."""
    plain = inspect.getattr_static(owner, name)
    inner = plain.__func__ if isinstance(plain, staticmethod) else plain

    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def later(*args: Any, **kwargs: Any) -> Any:
            points.reach(point)
            return await inner(*args, **kwargs)

        wrapped: Any = later
    else:

        @functools.wraps(inner)
        def now(*args: Any, **kwargs: Any) -> Any:
            points.reach(point)
            return inner(*args, **kwargs)

        wrapped = now
    setattr(owner, name, staticmethod(wrapped) if isinstance(plain, staticmethod) else wrapped)


def caller() -> str:
    """The function of the supervisor that waits: the one that called the wrapper."""
    code = sys._getframe(2).f_code
    return code.co_qualname if hasattr(code, "co_qualname") else code.co_name


def wrap_actions(points: Points) -> None:
    from dpsup.supervisor.engine import Engine

    connect = Engine.connect

    def action(point: str, call: Callable[[Any], None]) -> Callable[[Any], None]:
        def wrapped(who: Any) -> None:
            how = points.reach(point)
            call(who)
            if how == "stop" and who.identity is not None:
                os.kill(who.identity.pid, signal.SIGSTOP)

        return wrapped

    def connected(self: Any, kind: str, actions: Any) -> None:
        connect(
            self,
            kind,
            {name: action(f"action {kind}.{name}", call) for name, call in actions.items()},
        )

    Engine.connect = connected


def wrap_waits(points: Points) -> None:
    from dpsup.supervisor import disk
    from dpsup.supervisor.engine import Engine

    for name in ("ask", "insist"):
        inner = getattr(Engine, name)

        async def asked(self: Any, verb: str, *args: Any, inner: Any = inner, **kwargs: Any) -> Any:
            how = points.reach(f"{inner.__name__} {verb}")
            if how == "refuse":
                verb = "unheard_of"  # which the primary refuses
            return await inner(self, verb, *args, **kwargs)

        setattr(Engine, name, asked)

    until = Engine.until

    def waited(self: Any, *args: Any, **kwargs: Any) -> Any:
        points.reach(f"until {caller()}")
        return until(self, *args, **kwargs)

    Engine.until = waited
    for name in ("sleep", "wait_for"):
        wait = getattr(asyncio, name)

        def beside(*args: Any, name: str = name, wait: Any = wait, **kwargs: Any) -> Any:
            if sys._getframe(1).f_globals.get("__name__", "").startswith("dpsup.supervisor"):
                points.reach(f"{name} {caller()}")
            return wait(*args, **kwargs)

        setattr(asyncio, name, beside)
    wrap(points, disk, "read", "wait disk.read")
    aside = disk.aside

    async def beside_it(work: Any) -> Any:
        points.reach(f"aside {caller()}")
        return await aside(work)

    disk.aside = beside_it


def is_part(one: Any, module: str) -> bool:
    """A class of the supervisor's that does something: neither a value nor an exception."""
    return (
        inspect.isclass(one)
        and one.__module__ == module
        and not one.__name__.startswith("_")
        and one.__name__ not in NO_PARTS
        and not dataclasses.is_dataclass(one)
        and not issubclass(one, BaseException | enum.Enum)
        and not getattr(one, "_is_protocol", False)
    )


def parts() -> dict[str, tuple[Any, list[str]]]:
    """The entries of all parts, found in the code: by name of the class, or of the module whose
    functions take the core."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for info in pkgutil.iter_modules(dpsup.supervisor.__path__, "dpsup.supervisor."):
        module = importlib.import_module(info.name)
        for name, one in vars(module).items():
            if is_part(one, info.name):
                entries = [
                    entry
                    for entry, value in vars(one).items()
                    if not entry.startswith("_")
                    and entry not in PLAIN
                    and not isinstance(value, property | classmethod)
                    and callable(getattr(one, entry))
                ]
                found[name] = one, entries
            elif (
                inspect.iscoroutinefunction(one)
                and one.__module__ == info.name
                and not name.startswith("_")
                and "core" in inspect.signature(one).parameters
            ):
                found.setdefault(info.name.rpartition(".")[2], (module, []))[1].append(name)
    return found


def wrap_parts(points: Points) -> None:
    for name, (owner, entries) in parts().items():
        for entry in entries:
            wrap(points, owner, entry, f"entry {name}.{entry}")


def wrap_assembly(points: Points) -> None:
    from dpsup.supervisor import verbs
    from dpsup.supervisor.assembly import Supervisor

    watch = Supervisor._watch

    def watched(self: Any) -> None:
        watch(self)
        for name, watcher in self.monitor.watchers.items():

            def look(counters: Any, name: str = name, watcher: Any = watcher) -> None:
                points.reach(f"watcher {name}")
                watcher(counters)

            self.monitor.watchers[name] = look
        for topic, listeners in (
            ("event", self.core.events.listeners),
            ("log", self.core.log.listeners),
        ):
            for n, listener in enumerate(listeners):

                def hear(entry: Any, topic: str = topic, n: int = n, to: Any = listener) -> None:
                    points.reach(f"listener {topic} {n}")
                    to(entry)

                listeners[n] = hear

    Supervisor._watch = watched
    for name in ("adopt", "stop", "_write_state"):
        wrap(points, Supervisor, name, f"entry Supervisor.{name}")
    for verb, inner in list(verbs.VERBS.items()):

        async def answer(sup: Any, args: Any, verb: str = verb, inner: Any = inner) -> Any:
            points.reach(f"verb {verb}")
            return await inner(sup, args)

        verbs.VERBS[verb] = answer


def wrap_launch(points: Points, policy: str) -> None:
    """A detached supervisor is wrapped too; and it may start anew as often as a sweep needs."""
    from dpsup.supervisor import detach, engine, launch
    from dpsup.supervisor.policy import Policy

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, argv: list[str], **kwargs: Any) -> None:
            if argv[1:4] == ["-P", "-m", "dpsup"]:
                argv = [argv[0], "-P", __file__, str(points.folder), *argv[4:]]
            super().__init__(argv, **kwargs)

    detach.subprocess = SimpleNamespace(Popen=Popen)  # type: ignore[attr-defined]
    if policy == "often":
        engine.FAULT_QUIET_S = 0.0
        launch._Again.POLICY = Policy(
            intensity=1_000_000, period=60, initial=0.001, factor=1, most=1
        )


def main() -> None:
    points = Points(Path(sys.argv[1]))
    sys.argv = ["dpsup", *sys.argv[2:]]
    policy = (points.folder / "policy").read_text()
    if "start" in sys.argv:
        points.add("started", pid=os.getpid(), at=time.monotonic())
        wrap_actions(points)
        wrap_waits(points)
        wrap_parts(points)
        wrap_assembly(points)
        wrap_launch(points, policy)

    from dpsup.__main__ import main as dpsup

    dpsup()


if __name__ == "__main__":
    main()
