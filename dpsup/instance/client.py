# SPDX-License-Identifier: BSD-3-Clause
"""An instance as a Python object: the same nouns and verbs as the command line, which uses it."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from dpsup import _abi
from dpsup.bus.client import Client, Subscriber
from dpsup.bus.messages import Publication
from dpsup.errors import DpsupError, NotRunning, TimedOut, Unsupervised, UsageError
from dpsup.host import process
from dpsup.instance import far, runtime_dir, status
from dpsup.instance.far import Far
from dpsup.instance.runtime_dir import CONTROL, EVENTS, PLAN, PRIMARY, Runtime
from dpsup.instance.runtime_dir import State as Noted
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
    from dpsup.documents.state import Left, Memory
    from dpsup.documents.status import Status
    from dpsup.documents.story import Sitter, Story
    from dpsup.documents.tables import Changed, TableLines, Tables, Told


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
    if name and "," in name:
        raise UsageError(
            "this is for one instance",
            code="E0476",
            why="only status, top, events, logs, scale, rollout and table take several",
            help=f"name one of {name}",
        )
    if name:
        if name not in found:
            from dpsup.instance import hosts

            if (elsewhere := hosts.find(name)) is not None:
                return elsewhere
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
        return far.local(found[name]) or found[name]
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
    only = next(iter(found.values()))
    return far.local(only) or only


DEFAULT_S = 10.0  # for an answer
AUDIT_S = 60.0
RELOAD_S = 1200.0
TABLE_S = 600.0  # a file of a million lines is read in seconds
TABLE_BYTES = 48 << 10  # of operations in a request
SUCCESSOR_S = 10.0  # for a supervisor that follows a dead one
FOLLOW_S = 0.5  # between two looks at whether the instance is there


class Instance:
    """A running instance. `dpsup.connect` returns one; close it, or use it in a `with`.

    Every call returns the document of its verb (dpsup.documents), or raises DpsupError with the
    instance's own message. `timeout` is in seconds; each call has one of its own.

    A headless instance forwards without its supervisor, which died: it only answers `status` and
    `audit`, other calls raise DpsupError E0607. Once another supervisor has adopted it, all calls
    answer again, of this same object. NotRunning E0906 says that the instance has ended.

    Threads may share an Instance. Its calls take turns, so a thread that waits in `reload` delays
    the others: `connect` once more for each thread that must not wait. `follow` is independent.
    After a fork the child connects anew.
    """

    def __init__(self, where: Runtime) -> None:
        self.runtime = where
        self.name = where.name
        self._far = where if isinstance(where, Far) else None
        where.demand_access()
        if self._far is not None:
            self._control = self._primary = self._far.control(self._ended)
        else:
            self._control = Client(where.file(CONTROL), where.is_supervised, self._ended)
            self._primary = Client(where.file(PRIMARY), self._has_primary, self._ended)

    @property
    def headless(self) -> bool:
        """Is there a data plane without a supervisor?"""
        return runtime_dir.is_headless(self.runtime)

    def _has_primary(self) -> bool:
        return runtime_dir.has_primary(self.runtime)

    def _ended(self) -> DpsupError:
        """Why no answer comes."""
        if self._has_primary():
            return Unsupervised(
                f'instance "{self.name}" has no supervisor, which this needs: it forwards as it is',
                help=f"`dpsup start FILE` supervises it again, `dpsup -n {self.name} stop` ends it",
            )
        return NotRunning(f'instance "{self.name}" has ended', code="E0906")

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
        """Later calls raise UsageError E0907, as does one that another thread waits in."""
        self._control.close()
        self._primary.close()

    def only(self, generation: int | None) -> None:
        """Have what is asked from now on refused (E0477) where the instance is of another
        generation than `status` told: what was decided by one state is not done to another. None:
        no more."""
        self._control.generation = generation

    def _ask(self, verb: str, timeout: float = DEFAULT_S, **args: Any) -> Any:
        if self.headless:
            self._control.demand_open()
            raise self._ended()
        return self._control.ask(verb, timeout, **args)

    def status(self, *, timeout: float = DEFAULT_S) -> Status:
        """The Status document, its counters read after this call began."""
        # The supervisor may die while it is asked.
        with contextlib.suppress(Unsupervised):
            return cast("Status", self._ask("status", timeout))
        return self._headless_status(timeout)

    def _headless_status(self, timeout: float) -> Status:
        plan: Running = read_plan(self.runtime)
        state = self.runtime.read_state()
        plan["primary_pid"] = state.primary.pid if state and state.primary else None
        counters: Reading = self._primary.ask("counters", timeout)
        for slot in counters["slots"]:
            # Without a supervisor, no process clears the slots of the dead.
            if slot["pid"] and not process.start_ticks(slot["pid"]):
                slot["pid"] = 0
        from dpsup.instance import plugins

        doc = status.status(plan, counters, None, self._left(plan, state))
        for group, known in zip(doc["groups"], plan.get("groups", []), strict=True):
            copy = known.get("plugin_copy", "")  # an older dpsup notes none
            group["plugin_on_disk"] = plugins.on_disk(known["plugin_path"], copy)
        return doc

    def _left(self, plan: Running, state: Noted | None) -> Left:
        """What the dead supervisor noted, and what the primary says that happened since."""
        memory: Memory = state.memory if state else {}
        left: Left = {"memory": memory, "deaths": {}, "takeovers": {}, "spares": {}}
        asked = set(memory.get("asked", []))
        stories: list[Story] = self._primary.ask("stories", since=int(memory.get("told", 0)))
        mine = range(plan["n_slots"])
        for story in stories:
            if story["kind"] != _abi.DPS_STORY_DEATH or story["pid"] in asked or story["handover"]:
                continue
            slot = story["slot"]
            if slot in mine:
                left["deaths"][slot] = left["deaths"].get(slot, 0) + 1
                left["takeovers"][slot] = left["takeovers"].get(slot, 0) + bool(story["successor"])
        sitters: list[Sitter] = self._primary.ask("sitters")["sitters"]
        for one in sitters:
            if one["hand"] == _abi.DPS_HAND_PARKED and process.start_ticks(one["pid"]):
                left["spares"][one["group"]] = left["spares"].get(one["group"], 0) + 1
        return left

    def look(self, *, xstats: bool = False) -> Look:
        """The data of tables, graphs and metrics; `xstats`: and all that the drivers count."""
        from dpsup.host import machine

        found: Look = {
            "status": self.status(),
            "counters": None,
            "lanes": [],
            "tsc_hz": 0,
            "port_info": [],
            "plan": cast("Running", {}),
            "processes": {},
            "cpus": {} if self._far else machine.cpu_times(),
        }
        with contextlib.suppress(DpsupError):
            found["plan"] = self.plan()
        if self.headless:
            hello = self._primary.ask("hello")
            found["counters"] = self._primary.ask("counters")
            found["lanes"] = self._primary.ask("lanes")
            found["tsc_hz"], found["port_info"] = hello["tsc_hz"], hello["ports"]
        elif found["status"]["ports"]:  # else no primary runs
            with contextlib.suppress(DpsupError):
                stats = self.stats()
                found["counters"] = cast("Reading", stats)
                found["lanes"], found["tsc_hz"] = stats["lanes"], stats["tsc_hz"]
                found["port_info"], found["processes"] = stats["port_info"], stats["processes"]
        if xstats and found["status"]["ports"]:
            with contextlib.suppress(DpsupError):
                found["xstats"] = self.xstats()
        return found

    def plan(self, *, timeout: float = DEFAULT_S) -> Running:
        """The Plan document: what the instance runs, as its supervisor decided it."""
        if self._far is None:
            return read_plan(self.runtime)
        return cast("Running", self._ask("plan", timeout))

    def xstats(self, *, timeout: float = DEFAULT_S) -> dict[str, dict[str, int] | None]:
        """By port: all that its driver counts, by the driver's own names, since it opened the
        device; None where the port has none. While no primary runs, no port is told."""
        plan = self.plan()
        ask = self._primary.ask if self.headless else self._ask
        return {p["name"]: ask("xstats", timeout, port=p["name"]) for p in plan["ports"]}

    def audit(self, *, timeout: float = AUDIT_S) -> Audit:
        """The Audit document: every mbuf of every pool."""
        with contextlib.suppress(Unsupervised):
            return cast("Audit", self._ask("audit", timeout))
        return status.audit(self.name, self._primary.ask("audit", timeout))

    def stats(self, *, timeout: float = DEFAULT_S) -> Stats:
        """The Stats document: all counters, by slot, port, io core and pool."""
        return cast("Stats", self._ask("stats", timeout))

    def state(self, group: str, *, timeout: float = DEFAULT_S) -> State:
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
            part: StatePart = self._ask("state", timeout, group=group, first=first)
            doc["group"] = part["group"]
            doc["workers"] += part["workers"]
            doc["buckets"] += part["buckets"]
            first = part["next"]
        return doc

    def scale(
        self,
        group: str,
        n: int | str,
        *,
        wait: bool = True,
        dry_run: bool = False,
        timeout: float = 90.0,
    ) -> Scale:
        """Set the number of workers in a group to `n`, or change it by "+1" or "-1"; returns once
        they are ready, if `wait`. `dry_run`: only return what would change."""
        args = {"group": group, "n": str(n), "wait": wait, "dry_run": dry_run}
        return cast("Scale", self._ask("scale", timeout, **args))

    def rebalance(
        self,
        group: str = "workers",
        seconds: float = 1.0,
        *,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Rebalance:
        """Move buckets by their measured load; measures for `seconds` before and after. `timeout`:
        by default 30 s more than that."""
        args = {"group": group, "seconds": float(seconds), "dry_run": dry_run}
        return cast("Rebalance", self._ask("rebalance", _or(timeout, 2 * seconds + 30.0), **args))

    def restart(self, target: str = "", *, timeout: float = 600.0) -> Restarted:
        """Restart a worker ("fw/0"), a group, or all, one after the other."""
        return cast("Restarted", self._ask("restart", timeout, target=target))

    def rollout(
        self,
        group: str,
        plugin: str | None = None,
        args: dict[str, str] | None = None,
        *,
        wait: bool = True,
        timeout: float | None = None,
        forget_state: bool = False,
        **options: float,
    ) -> Rolled:
        """Change a group's plugin, or some of its arguments, slot by slot. `forget_state`: also
        where the new version would begin without what the old one keeps. `options`: canary,
        max_unavailable, judge (seconds), more_drops, slower (shares)."""
        most = _or(timeout, _rollout_s(options.get("judge", 2.0)))
        asked = {"group": group, "plugin": plugin, "args": args, "wait": wait, **options}
        asked["forget_state"] = forget_state
        return cast("Rolled", self._ask("rollout", most, **asked))

    def rollout_undo(
        self,
        group: str = "workers",
        *,
        wait: bool = True,
        timeout: float = 310.0,
        forget_state: bool = False,
    ) -> Rolled:
        """End a rollout and return to the old version; without a rollout, to the previous one,
        with `forget_state` also where that begins without what the one after it keeps."""
        asked = {"group": group, "wait": wait, "forget_state": forget_state}
        return cast("Rolled", self._ask("rollout_undo", timeout, **asked))

    def rollout_status(self, group: str = "", *, timeout: float = DEFAULT_S) -> Rollouts:
        return cast("Rollouts", self._ask("rollout_status", timeout, group=group))

    def rollout_history(self, group: str = "workers", *, timeout: float = DEFAULT_S) -> Revisions:
        return cast("Revisions", self._ask("rollout_history", timeout, group=group))

    def reload(
        self,
        file: str = "",
        *,
        dry_run: bool = False,
        partial: bool = False,
        timeout: float | None = None,
        forget_state: bool = False,
        **options: float,
    ) -> Reload:
        """Apply the changed file; `file`: by default the one that the instance was started with.
        `forget_state`, `options`, as those of `rollout`: of the changes that are made worker by
        worker.
        `timeout`: by default 20 minutes, and with `judge` what all groups may take."""
        args = {"file": file, "dry_run": dry_run, "partial": partial, **options}
        args["forget_state"] = forget_state
        judge = options.get("judge")
        # Of as many groups as there may be, one after the other.
        usual = RELOAD_S if judge is None else RELOAD_S + _abi.DPS_MAX_GROUPS * _rollout_s(judge)
        return cast("Reload", self._ask("reload", _or(timeout, usual), **args))

    def reset_failed(self, target: str = "", *, timeout: float = 60.0) -> Reset:
        """Forget past deaths of a worker, a group, or all, and start the held workers."""
        return cast("Reset", self._ask("reset_failed", timeout, target=target))

    # --- live tables -----------------------------------------------------------------------------

    def tables(self, *, timeout: float = DEFAULT_S) -> Tables:
        """The Tables document: every live table, how full it is, and its version."""
        return cast("Tables", self._ask("tables", timeout))

    def table_lines(self, table: str, *, timeout: float = TABLE_S) -> Iterator[str]:
        """The lines of a table ("routes", or "fw/routes"), as its file has them, in parts. All
        are of one version. Raises: DpsupError E0529 where it has changed too often meanwhile."""
        for page in self.table_pages(table, timeout=timeout):
            yield page["text"]

    def table_pages(
        self, table: str, key: str = "", *, timeout: float = TABLE_S
    ) -> Iterator[TableLines]:
        """The same, or the line of one key, with the table's group, name and version."""
        first: int | None = 0
        args: dict[str, Any] = _table(table)
        if key:
            yield self._ask("table_get", timeout, key=key, **args)
            return
        while first is not None:
            page: TableLines = self._ask("table_show", timeout, **{**args, "first": first})
            yield page
            first = page["next"]
            args["version"] = page["version"]

    def table_get(self, table: str, key: str, *, timeout: float = TABLE_S) -> str:
        """The line of one key. Raises: NoSuchObject."""
        return "".join(page["text"] for page in self.table_pages(table, key, timeout=timeout))

    def table_change(
        self, table: str, operations: str, *, dry_run: bool = False, timeout: float = TABLE_S
    ) -> Changed:
        """Carry out operations, a line each ("add 10.0.0.0/8 7"), whole or not at all. Returns once
        every burst of packets that begins from now on sees them. More than 48 KiB come from a
        file: `table_batch`."""
        if len(operations.encode()) > TABLE_BYTES:
            raise UsageError(
                f"{len(operations)} bytes of operations are too many for one request",
                code="E0527",
                help="write them to a file: table_batch, or `dpsup table TABLE batch FILE`",
            )
        args = {**_table(table), "text": operations, "dry_run": dry_run, **_once()}
        return cast("Changed", self._ask("table_change", timeout, **args))

    def table_batch(
        self, table: str, file: str, *, dry_run: bool = False, timeout: float = TABLE_S
    ) -> Changed:
        """Carry out the operations in a file, which the instance reads, whole or not at all."""
        args = {**_table(table), "path": file, "dry_run": dry_run, **_once()}
        return cast("Changed", self._ask("table_batch", timeout, **args))

    def table_load(
        self, table: str, file: str = "", *, dry_run: bool = False, timeout: float = TABLE_S
    ) -> Changed:
        """Change a table to what a file says, which the instance reads; by default the one that the
        topology names."""
        args = {**_table(table), "path": file, "dry_run": dry_run, **_once()}
        return cast("Changed", self._ask("table_load", timeout, **args))

    def tell(self, group: str, text: str, *, timeout: float = TABLE_S) -> Told:
        """Say something to the plugin of a group: every worker's control() gets it, and that of
        each worker that starts later, in the order of the calls. Returns once every burst of
        packets that begins is handled after it."""
        args = {"group": group, "text": text, **_once()}
        return cast("Told", self._ask("tell", timeout, **args))

    def kill(self, worker: str, signal: int = 9, *, timeout: float = DEFAULT_S) -> Killed:
        """Send a signal to a worker."""
        args = {"worker": worker, "signal": int(signal)}
        return cast("Killed", self._ask("kill", timeout, **args))

    def stop(self, drain: float | None = None, *, timeout: float = DEFAULT_S) -> Stopping:
        """Request a stop; packets in flight get `drain` seconds (default 5) to leave."""
        args = {} if drain is None else {"drain": float(drain)}
        return cast("Stopping", self._ask("stop", timeout, **args))

    def events(
        self, since: int | None = None, most: int = 1000, *, timeout: float = DEFAULT_S
    ) -> list[Event]:
        """The last `most` events. With `since`: the first `most` of those numbered above it, so the
        last one's `seq` is where the next page begins; an empty page is the end."""
        args = {"most": most} if since is None else {"since": since, "most": most}
        return cast("list[Event]", self._ask("events", timeout, **args)["events"])

    def logs(
        self,
        name: str = "",
        since: int | None = None,
        most: int = 1000,
        *,
        timeout: float = DEFAULT_S,
    ) -> list[LogLine]:
        """Log lines of all processes, or of one ("fw/0", "primary", "seed",
        "builder"); pages as `events`."""
        args: dict[str, Any] = {"name": name, "most": most}
        if since is not None:
            args["since"] = since
        return cast("list[LogLine]", self._ask("logs", timeout, **args)["lines"])

    def follow(self, *topics: str, timeout: float | None = None) -> Iterator[Publication]:
        """Publications ("event", "log", "stat") until the instance ends.

        Each carries its topic's sequence number: a gap tells how many were missed, and
        `events(since)` or `logs(since)` has them. Where the supervisor dies and the data plane
        forwards, its successor's publications follow; if none comes within 10 s, DpsupError E0607.
        `timeout`: seconds without any publication, then TimedOut.
        """
        wanted = topics or ("event",)
        subscriber = (
            self._far.subscriber(wanted)
            if self._far
            else Subscriber(self.runtime.file(EVENTS), wanted)
        )
        heard = alive_at = time.monotonic()

        def goes_on() -> bool:
            nonlocal alive_at
            now = time.monotonic()
            if timeout is not None and now - heard > timeout:
                raise TimedOut(f"nothing was published for {timeout:g} s", code="E0904")
            if self.runtime.is_supervised():
                alive_at = now
            elif not self._has_primary():
                return False
            elif now - alive_at > SUCCESSOR_S:
                raise self._ended()
            return True

        step = FOLLOW_S if timeout is None else max(0.01, min(FOLLOW_S, timeout / 4))
        try:
            for publication in subscriber.follow(goes_on, step):
                yield publication
                heard = time.monotonic()
        finally:
            subscriber.close()


def read_plan(where: Runtime) -> Running:
    """What an instance runs, as its supervisor wrote it down. Raises: DpsupError."""
    try:
        plan: Running = json.loads(where.read(PLAN))
        if {"ports", "groups"} <= plan.keys():
            return plan
        what: object = "it is no plan"
    except (OSError, ValueError, AttributeError, RecursionError) as e:
        what = e
    raise DpsupError(
        f"cannot read {where.file(PLAN)}: {what}",
        code="E0616",
        why="it says what the instance runs",
        help=f"`dpsup -n {where.name} stop` works without it",
    )


def _table(name: str) -> dict[str, str]:
    group, _, table = name.rpartition("/")
    return {"group": group, "table": table}


def _once() -> dict[str, str]:
    """What tells a request that is repeated, to whichever process, from a new one."""
    return {"request": uuid.uuid4().hex}


def _rollout_s(judge: float) -> float:
    """How long one rollout may take."""
    return 4 * float(judge) + 310.0


def _or(timeout: float | None, otherwise: float) -> float:
    return otherwise if timeout is None else timeout


def connect(name: str | None = None) -> Instance:
    """The running instance of that name, or the only one.

    Raises: NotRunning; UsageError where several run and none is named; NotPermitted.
    """
    return Instance(find(name))
