# SPDX-License-Identifier: BSD-3-Clause
"""Changes a running instance as its changed file says. plan.diff decides; this carries it out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from dpsup.documents.printed import Reload as Document
from dpsup.errors import DpsupError, Exit, Severity, TopologyError, UsageError
from dpsup.instance import plugins
from dpsup.plan.diff import LIVE_FIELDS, Change, Class, pending
from dpsup.supervisor import disk
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Group, Model, policy_of
from dpsup.supervisor.policy import retry_of
from dpsup.supervisor.rollout import Options
from dpsup.supervisor.rollouts import Rollouts, ended
from dpsup.supervisor.scale import Scaler, must_run
from dpsup.supervisor.spares import Spares
from dpsup.supervisor.tables import Tables
from dpsup.text import listing

if TYPE_CHECKING:
    from dpsup.documents.tables import TableRow
    from dpsup.plan.model import GroupPlan, Plan
    from dpsup.topology.model import Topology


TABLE_FILE = ("E0521", "E0522", "E0523")  # what is wrong with the file of a live table
LIST_S = 10.0  # for the builder to say which files have changed: it reads and hashes them


def _read(path: str) -> tuple[Topology, Plan]:
    """Raises: TopologyError. What the host lacks for a second start does not matter here."""
    from dpsup.check.topology import check
    from dpsup.host.machine import read_host
    from dpsup.plan.place import make_plan
    from dpsup.topology.load import read

    host = read_host()
    reading = read(path, host)
    problems = list(reading.problems)
    if reading.topology is not None and reading.sound:
        # The builder reads the files of live tables, where they have changed: a thread of this
        # process that parses a million lines keeps the supervisor from its work.
        found = check(reading.topology, host, tables=False)
        problems += [p for p in found if p.exit_code is Exit.BAD_TOPOLOGY]
    errors = [p for p in problems if p.severity is Severity.ERROR]
    if reading.topology is None or errors:
        raise TopologyError(errors)
    return reading.topology, make_plan(reading.topology, host)


async def _digests(plan: Plan) -> dict[str, str]:
    """The digests of the files that a topology hands to plugins. Raises: TimedOut."""
    paths = [path for group in plan.groups for path in plugins.files_of(group.args).values()]
    if not paths:
        return {}
    return await disk.read(lambda: plugins.digests(paths), f"to read {listing(paths)}")


def _document(name: str, file: str, changes: list[Change]) -> Document:
    return {
        "apiVersion": "dpsup/v1",
        "kind": "Reload",
        "name": name,
        "file": file,
        "changes": [
            {
                "key": c.key,
                "class": c.kind.value,
                "old": c.old,
                "new": c.new,
                "line": c.line,
                "text": str(c),
                "why": c.why,
                "done": False,
            }
            for c in changes
        ],
        "done": False,
        "restart_needed": any(c.kind is Class.RESTART for c in changes),
        "failed": "",
        "warnings": [],
    }


class Reload:
    """Applies a changed file to the running instance, as far as possible without a restart."""

    def __init__(
        self,
        core: Core,
        model: Model,
        buckets: Buckets,
        spares: Spares,
        scaler: Scaler,
        rollouts: Rollouts,
    ) -> None:
        self._core, self._model, self._buckets = core, model, buckets
        self._spares, self._scaler, self._rollouts = spares, scaler, rollouts
        self.tables: Tables | None = None

    async def reload(
        self, file: str, *, dry_run: bool, partial: bool, options: Options | None = None
    ) -> Document:
        """Raises: TopologyError of the file. With something that needs a restart nothing is done,
        unless `partial`. `options`: how rolling changes go about it."""
        options = options or Options()
        options.check()
        must_run(self._model)
        if self._model.topologies is None:
            raise DpsupError(
                "this supervisor does not know the file that it was started with", code="E0721"
            )
        path = file or self._model.plan.topology_file
        started, loaded = self._model.topologies
        try:
            new, plan = await disk.read(lambda: _read(path), f"to read {path}")
        except TopologyError as e:
            # Over the bus goes one text.
            error = DpsupError(str(e), code=e.code)
            error.exit_code = e.exit_code
            raise error from None
        if new.name != self._model.plan.name:
            raise UsageError(
                f'{path} is of instance "{new.name}", not of "{self._model.plan.name}"',
                code="E0721",
                help=f"`dpsup start {path}` starts it",
            )
        digests = await _digests(plan)
        changes = pending(started, loaded, new)
        changes += self._files(plan, new, changes, digests)
        rows, unread = await self._table_rows()
        tables = await self._table_files(new, rows)
        changes += tables.values()
        doc = _document(self._model.name, path, changes)
        if unread:
            doc["warnings"].append(unread)
            if not dry_run:
                self._core.events.add(type="warning", name=self._model.plan.name, message=unread)
        if dry_run or not changes or (doc["restart_needed"] and not partial):
            doc["done"] = not changes and not unread
            if not changes and not dry_run:
                self._note(started, new, digests)
            return doc
        for group, table in tables:
            assert self.tables is not None
            await self.tables.ask("load", group=group, table=table)
        if any(c.key == "host.watch" for c in changes):
            self._model.watch = new.host.watch
        await self._live(plan, changes)
        for change, told in zip(changes, doc["changes"], strict=True):
            told["done"] = change.kind is Class.LIVE
        doc["failed"] = await self._rolling(plan, changes, doc, options)
        if not doc["failed"]:
            self._note(started, new, digests)
        doc["done"] = not doc["failed"] and not unread
        self._core.events.add(
            type="reload", name=self._model.plan.name, message=doc["failed"], file=path
        )
        return doc

    def _note(self, started: Topology, new: Topology, digests: dict[str, str]) -> None:
        """What the next reload is compared with."""
        self._model.topologies, self._model.loaded = (started, new), digests
        self._core.record()

    def _files(
        self, plan: Plan, new: Topology, known: list[Change], digests: dict[str, str]
    ) -> list[Change]:
        """The files that plugins are handed and that have other contents than when they were last
        loaded. What a rollout has handed over instead is not undone, like its other arguments."""
        keys, found = {c.key for c in known}, []
        lines = {
            one.name: new.source.line(("workers", i, "files")) for i, one in enumerate(new.workers)
        }
        for group, wanted in self._pairs(plan):
            name = group.plan.name
            key = f"workers.{name}.files"
            running = plugins.files_of(self._model.ledgers[group.index].current.args)
            for file, path in plugins.files_of(wanted.args).items() if key not in keys else ():
                copied = plugins.digest_in(running.get(file, ""))
                before = self._model.loaded.get(path, copied)
                if digests[path] not in (before, copied):
                    why = f"the contents of {path} are others than before"
                    was, now = ((file, "as it was"),), ((file, "as it is now"),)
                    found.append(Change(key, Class.ROLLING, was, now, lines[name], name, why))
        return found

    async def _table_rows(self) -> tuple[list[TableRow], str]:
        """The live tables as the builder has them; else why it did not say in time."""
        if self.tables is None or not self.tables.is_wanted:
            return [], ""
        try:
            return await asyncio.wait_for(self.tables.ask("list"), LIST_S), ""
        except TimeoutError:
            return [], (
                f"the files of live tables were left as they are: their builder has not answered"
                f" for {LIST_S:g} s (`dpsup logs builder`)"
            )

    async def _table_files(
        self, new: Topology, rows: list[TableRow]
    ) -> dict[tuple[str, str], Change]:
        """By group and table: the files of tables that have other contents than when they were read
        last. Raises: DpsupError where one cannot be used."""
        found: dict[tuple[str, str], Change] = {}
        for row in rows:
            if self.tables is None or not row["changed_on_disk"]:
                continue
            group, table = row["group"], row["table"]
            try:
                told = await self.tables.ask("load", group=group, table=table, dry_run=True)
            except DpsupError as e:
                if e.code in TABLE_FILE:
                    e.exit_code = Exit.BAD_TOPOLOGY  # as `check` says of the same file
                raise
            at = [i for i, g in enumerate(new.workers) if g.name == group]
            found[group, table] = Change(
                f"workers.{group}.tables.{table}.file",
                Class.LIVE,
                (("entries", str(row["entries"])),),
                (("operations", str(told["operations"])),),
                new.source.line(("workers", *at, "tables", table)),
                group,
                f"{row['file']} has other contents than when it was read",
            )
        return found

    def _pairs(self, plan: Plan) -> list[tuple[Group, GroupPlan]]:
        """The groups that both have, with what the file says of them."""
        by_name = {g.name: g for g in plan.groups}
        return [(g, by_name[g.plan.name]) for g in self._model.groups if g.plan.name in by_name]

    async def _live(self, plan: Plan, changes: list[Change]) -> None:
        keys = {c.key for c in changes if c.kind is Class.LIVE}
        beyond = {c.key for c in changes if c.kind is Class.RESTART}
        for group, new in self._pairs(plan):
            name, old = f"workers.{group.plan.name}", group.plan
            values = {f: getattr(new, f) for f in LIVE_FIELDS}
            # What there is no room for stays as it is.
            values["count"] = old.count if f"{name}.count" in beyond else min(new.count, old.max)
            if f"{name}.scale.max" in beyond or (new.scale and new.scale.max > old.max):
                values["scale"] = old.scale
            group.plan = replace(old, **values)
            group.policy = policy_of(group.plan)
            if old.held_retry != group.plan.held_retry:
                _set_retry(group)
            if (old.stall_after, old.on_stopped) != (new.stall_after, new.on_stopped):
                health = {"stall_after": float(new.stall_after), "on_stopped": new.on_stopped}
                await self._core.insist("health", group=group.index, **health)
            if f"{name}.count" in keys:
                async with group.scaling:
                    self._scaler.resize(group, group.plan.count, "reload")
            surplus = [s for s in group.spares if s.version == group.version][group.plan.spares :]
            self._spares.retire(surplus)
            self._spares.refill(group)
            await self._buckets.steer(group)
        self._model.plan = replace(
            self._model.plan, groups=tuple(g.plan for g in self._model.groups)
        )
        self._rollouts.write()

    async def _rolling(
        self, plan: Plan, changes: list[Change], doc: Document, options: Options
    ) -> str:
        """Change one group after the other. Returns the reason of a failure, or ""."""
        names = {c.group for c in changes if c.kind is Class.ROLLING}
        for group, new in self._pairs(plan):
            if group.plan.name not in names:
                continue
            args = dict(new.args)
            # The same plugin with other arguments is what runs, not what its file is by now.
            plugin = None if new.plugin == group.plan.plugin else new.plugin
            one = await self._rollouts.begin(group, plugin, args, options, exact=True)
            if one is not None:
                await ended(one)
                if one.failed:
                    return f"{group.plan.name}: {one.failed}"
            for change, told in zip(changes, doc["changes"], strict=True):
                told["done"] |= change.kind is Class.ROLLING and change.group == group.plan.name
        return ""


def _set_retry(group: Group) -> None:
    """`retry` has changed: it counts from now for all that is held."""
    now = time.monotonic()
    for worker in group.workers:
        if worker.state == "held":
            retry = retry_of(group.policy, worker.held_for)
            worker.retry_at = now + retry if retry else 0.0
    if group.spares_held:
        group.spares_retry_at = now + group.policy.retry if group.policy.retry else 0.0
