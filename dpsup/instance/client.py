# SPDX-License-Identifier: BSD-3-Clause
"""An instance as a Python object: the same nouns and verbs as the command line, which uses it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from dpsup.bus.client import Client, Subscriber
from dpsup.bus.messages import Publication
from dpsup.errors import DpsupError, NotRunning, UsageError
from dpsup.host import process
from dpsup.instance import runtime_dir, status
from dpsup.instance.runtime_dir import CONTROL, EVENTS, PLAN, PRIMARY, Runtime
from dpsup.text import suggest

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.events import Event
    from dpsup.documents.plan import Running
    from dpsup.documents.printed import (
        Audit,
        LogLine,
        Rebalance,
        Reload,
        Reset,
        Restarted,
        Revisions,
        Rolled,
        Rollouts,
        Scale,
        State,
        Stats,
    )
    from dpsup.documents.rates import Look, Reading
    from dpsup.documents.requests import Killed, StatePart, Stopping
    from dpsup.documents.status import Status


def running() -> dict[str, Runtime]:
    """Instances that have a supervisor, or a data plane without one (headless)."""
    return {
        name: one
        for name, one in sorted(runtime_dir.instances().items())
        if one.is_supervised() or runtime_dir.is_headless(one)
    }


def find(name: str | None) -> Runtime:
    """The instance of that name, or the only one running. Raises: NotRunning, UsageError."""
    found = runtime_dir.instances() if name else running()
    if name:
        if name not in found or name not in running():
            others = ", ".join(running())
            close = suggest(name, tuple(running()))
            meant = f"did you mean `{close}`? " if close else ""
            help = f"{meant}running: {others}" if others else "`dpsup start FILE` starts one"
            if name in found:
                help = (
                    f"it died: `dpsup -n {name} events` shows its record; the next start or "
                    f"`dpsup -n {name} clean` removes its files"
                )
            raise NotRunning(f'no instance "{name}" is running', code="E0003", help=help)
        return found[name]
    if not found:
        raise NotRunning(
            "no instance is running", code="E0003", help="`dpsup start FILE` starts one"
        )
    if len(found) > 1:
        raise UsageError(
            f"several instances are running: {', '.join(found)}",
            code="E0010",
            help="choose one with -n NAME",
        )
    return next(iter(found.values()))


class Instance:
    """A running instance. `dpsup.connect` returns one; close it, or use it in a `with`.

    Every call returns the document of its verb, or raises DpsupError with the instance's own
    message. A headless instance (its supervisor is dead) only answers `status` and `audit`.
    """

    def __init__(self, where: Runtime) -> None:
        self.runtime = where
        self.name = where.name
        where.demand_access()
        self.headless = runtime_dir.is_headless(where)
        if self.headless:
            self._client = Client(where.file(PRIMARY))
        else:
            self._client = Client(where.file(CONTROL), where.is_supervised)

    def __enter__(self) -> Instance:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def _ask(self, verb: str, timeout: float = 10.0, **args: Any) -> Any:
        if self.headless:
            raise DpsupError(
                f'instance "{self.name}" has no supervisor: it forwards, but cannot be changed',
                code="E0607",
                help="`dpsup start FILE` supervises it again, `dpsup stop` ends it",
            )
        return self._client.ask(verb, timeout, **args)

    def status(self) -> Status:
        """The Status document, its counters read after this call began."""
        if self.headless:
            return self._headless_status()
        return cast("Status", self._ask("status"))

    def _headless_status(self) -> Status:
        plan: Running = json.loads(self.runtime.read(PLAN))
        state = self.runtime.read_state()
        plan["primary_pid"] = state.primary.pid if state and state.primary else None
        counters: Reading = self._client.ask("counters")
        for slot in counters["slots"]:
            # Without a supervisor, no process clears the slots of the dead.
            if slot["pid"] and not process.start_ticks(slot["pid"]):
                slot["pid"] = 0
        return status.status(plan, counters, None)

    def look(self) -> Look:
        """The data of tables, graphs and metrics."""
        from dpsup.host import machine

        found: Look = {
            "status": self.status(),
            "counters": None,
            "lanes": [],
            "tsc_hz": 0,
            "port_info": [],
            "plan": cast("Running", {}),
            "processes": {},
            "cpus": machine.cpu_times(),
        }
        with contextlib.suppress(OSError, ValueError):
            found["plan"] = json.loads(self.runtime.read(PLAN))
        if self.headless:
            hello = self._client.ask("hello")
            found["counters"] = self._client.ask("counters")
            found["lanes"] = self._client.ask("lanes")
            found["tsc_hz"], found["port_info"] = hello["tsc_hz"], hello["ports"]
        elif found["status"]["ports"]:  # else no primary runs
            with contextlib.suppress(DpsupError):
                stats = self.stats()
                found["counters"] = cast("Reading", stats)
                found["lanes"], found["tsc_hz"] = stats["lanes"], stats["tsc_hz"]
                found["port_info"], found["processes"] = stats["port_info"], stats["processes"]
        return found

    def audit(self) -> Audit:
        """The Audit document: every mbuf of every pool."""
        if self.headless:
            return status.audit(self.name, self._client.ask("audit"))
        return cast("Audit", self._ask("audit"))

    def stats(self) -> Stats:
        return cast("Stats", self._ask("stats"))

    def state(self, group: str) -> State:
        """The State document: the state of a group's plugin per worker and bucket, read while they
        run. `hex` is the block's bytes, of a worker's block the first 8 KiB."""
        doc: State = {
            "apiVersion": status.API,
            "kind": "State",
            "name": self.name,
            "group": group,
            "workers": [],
            "buckets": [],
        }
        first: int | None = 0
        while first is not None:
            part: StatePart = self._ask("state", group=group, first=first)
            doc["group"] = part["group"]
            doc["workers"] += part["workers"]
            doc["buckets"] += part["buckets"]
            first = part["next"]
        return doc

    def scale(self, group: str, n: int | str, *, wait: bool = True, dry_run: bool = False) -> Scale:
        """Set the number of workers in a group to `n`, or change it by "+1" or "-1"; returns once
        they are ready, if `wait`. `dry_run`: only return what would change."""
        args = {"group": group, "n": str(n), "wait": wait, "dry_run": dry_run}
        return cast("Scale", self._ask("scale", 90.0, **args))

    def rebalance(
        self, group: str = "workers", seconds: float = 1.0, *, dry_run: bool = False
    ) -> Rebalance:
        """Move buckets by their measured load; measures for `seconds` before and after."""
        args = {"group": group, "seconds": float(seconds), "dry_run": dry_run}
        return cast("Rebalance", self._ask("rebalance", 2 * seconds + 30.0, **args))

    def restart(self, target: str = "") -> Restarted:
        """Restart a worker ("fw/0"), a group, or all, one after the other."""
        return cast("Restarted", self._ask("restart", 600.0, target=target))

    def rollout(
        self,
        group: str,
        plugin: str | None = None,
        args: dict[str, str] | None = None,
        *,
        wait: bool = True,
        **options: float,
    ) -> Rolled:
        """Change a group's plugin, or some of its arguments, slot by slot. `options`: canary,
        max_unavailable, judge (seconds), more_drops, slower (shares)."""
        timeout = 4 * float(options.get("judge", 2.0)) + 310.0
        asked = {"group": group, "plugin": plugin, "args": args, "wait": wait, **options}
        return cast("Rolled", self._ask("rollout", timeout, **asked))

    def rollout_undo(self, group: str = "workers", *, wait: bool = True) -> Rolled:
        """End a rollout and return to the old version; without a rollout, to the previous one."""
        return cast("Rolled", self._ask("rollout_undo", 310.0, group=group, wait=wait))

    def rollout_status(self, group: str = "") -> Rollouts:
        return cast("Rollouts", self._ask("rollout_status", group=group))

    def rollout_history(self, group: str = "workers") -> Revisions:
        return cast("Revisions", self._ask("rollout_history", group=group))

    def reload(self, file: str = "", *, dry_run: bool = False, partial: bool = False) -> Reload:
        """Apply the changed file; `file`: by default the one that the instance was started with."""
        args = {"file": file, "dry_run": dry_run, "partial": partial}
        return cast("Reload", self._ask("reload", 1200.0, **args))

    def reset_failed(self, target: str = "") -> Reset:
        """Forget past deaths of a worker, a group, or all, and start the held workers."""
        return cast("Reset", self._ask("reset_failed", 60.0, target=target))

    def kill(self, worker: str, signal: int = 9) -> Killed:
        return cast("Killed", self._ask("kill", worker=worker, signal=int(signal)))

    def stop(self, drain: float | None = None) -> Stopping:
        """Request a stop; packets in flight get `drain` seconds (default 5) to leave."""
        args = {} if drain is None else {"drain": float(drain)}
        return cast("Stopping", self._ask("stop", **args))

    def events(self, since: int = 0, most: int = 1000) -> list[Event]:
        return cast("list[Event]", self._ask("events", since=since, most=most)["events"])

    def logs(self, name: str = "", since: int = 0, most: int = 1000) -> list[LogLine]:
        """Log lines of all processes, or of one ("fw/0", "primary", "seed")."""
        return cast("list[LogLine]", self._ask("logs", name=name, since=since, most=most)["lines"])

    def follow(self, *topics: str) -> Iterator[Publication]:
        """Publications ("event", "log", "stat") until the instance ends.

        Each carries its topic's sequence number: a gap tells how many were missed, and
        `events(since)` or `logs(since)` has them.
        """
        subscriber = Subscriber(self.runtime.file(EVENTS), topics or ("event",))
        try:
            yield from subscriber.follow(self.runtime.is_supervised)
        finally:
            subscriber.close()


def connect(name: str | None = None) -> Instance:
    """The running instance of that name, or the only one.

    Raises: NotRunning; UsageError where several run and none is named; NotPermitted.
    """
    return Instance(find(name))
