# SPDX-License-Identifier: BSD-3-Clause
"""All rollouts of an instance: begin, undo, what is written down, what a next supervisor does."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from dpsup import _abi
from dpsup.documents.printed import Revision as RevisionDocument
from dpsup.documents.printed import Revisions, Rolled
from dpsup.documents.state import Rollouts as Records
from dpsup.documents.story import Story
from dpsup.errors import DpsupError, TimedOut, UsageError
from dpsup.host import process
from dpsup.instance import plugins
from dpsup.instance.runtime_dir import PLAN, ROLLOUT
from dpsup.limits import ARGS, BUILT_IN, FUNCTIONS, PLUGIN_PATH, args_size, plugin_path
from dpsup.supervisor import disk, view
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Group, Model, Sitter, Worker
from dpsup.supervisor.revisions import Ledger, Revision, UnderWay
from dpsup.supervisor.rollout import Hands, Options, Rollout, plan_revision
from dpsup.supervisor.rollout_judge import Margins
from dpsup.supervisor.scale import must_run
from dpsup.supervisor.sitters import Sitters
from dpsup.supervisor.spares import Spares
from dpsup.supervisor.workers import Workers


class Rollouts:
    def __init__(
        self, core: Core, model: Model, sitters: Sitters, spares: Spares, workers: Workers
    ) -> None:
        self._core, self._model = core, model
        self._hands = Hands(core, model, sitters, spares, workers, self.write)
        self._taking = asyncio.Lock()
        spares.on_refusal = self.note_refusal

    # --- what is written down --------------------------------------------------------------------

    def record(self) -> Records:
        """What a later supervisor has to know. `version`: the one that is started and takes
        over; `rollout`: what is under way, with the version that it leads to."""
        model = self._model
        return {
            "generation": model.plan.generation,
            "groups": {
                group.plan.name: {
                    "version": group.version,
                    "slots": ledger.slots,
                    "revisions": [_revision(r) for r in ledger.revisions],
                    "rollout": ledger.running.describe() if ledger.running else None,
                }
                for group, ledger in zip(model.groups, model.ledgers, strict=True)
            },
        }

    def write(self) -> None:
        """A full disk must not stop the supervisor. One that has crashed writes nothing: what it
        had under way is the next one's to close or to undo."""
        if self._core.crashed:
            return
        runtime = self._model.runtime
        try:
            runtime.write(ROLLOUT, json.dumps(self.record()))
            runtime.write(PLAN, json.dumps(asdict(self._model.plan)))
        except OSError as e:
            self._core.events.add(type="error", message=f"cannot write {runtime.path}: {e}")

    async def resume(self) -> None:
        """After a supervisor's death, once its successor knows which process sits where."""
        sitters = list(self._model.sitters.values())
        versions = await self._core.insist("versions", berths=[s.berth for s in sitters])
        for sitter, version in zip(sitters, versions, strict=True):
            sitter.version = version
        try:
            found = json.loads(self._model.runtime.read(ROLLOUT))
            left = self._restore(found)
        except FileNotFoundError:
            return
        except Exception as e:  # whatever is wrong with it: the next supervisor meets it too
            self._core.events.add(
                type="fault",
                name="rollout",
                message=f"{ROLLOUT} cannot be read, and is not followed: {e!r}",
            )
            return
        for one in left:
            if one.phase != "closing" and not one.failed:
                one.failed = "the supervisor died in the middle of it"
            one.start()

    def _restore(self, found: Records) -> list[Rollout]:
        """Take up the record of a dead supervisor; the rollouts that it left half done."""
        left, model = [], self._model
        for group, ledger in zip(model.groups, model.ledgers, strict=True):
            kept = found["groups"].get(group.plan.name)
            if kept is None or found["generation"] != model.plan.generation:
                continue
            ledger.revisions = [_restored(r) for r in kept["revisions"]]
            ledger.slots = list(kept["slots"])
            group.version = int(kept["version"])
            plan_revision(model, group, ledger.current)
            half = kept["rollout"]
            if half is None:
                continue
            target = next(r for r in ledger.revisions if r.number == half["to"])
            margins = Margins(**half["options"]["margins"])
            noted: dict[str, Any] = {**half["options"], "margins": margins}
            options = Options(**noted)
            one = Rollout(self._hands, group, ledger, target, options, half["old"], half["new"])
            one.phase = half["phase"]
            one.failed = half["why"]
            left.append(one)
        return left

    # --- what it hears ---------------------------------------------------------------------------

    def note_death(self, worker: Worker, sitter: Sitter, story: Story, code: int | None) -> None:
        """A worker ended unasked: is the version under way to blame?"""
        one = self._model.ledgers[worker.group].running
        if one is None or sitter.version != one.new:
            return
        if story.get("hung"):
            one.blame(f"{worker.name} was stuck with it")
        elif story.get("signal") and story.get("sender", 0) in (0, sitter.pid):
            one.blame(f"{worker.name} died of it: {process.signal_name(story['signal'])}")
        elif code is not None and code >= 0 and code != _abi.DPS_EXIT_TEMPORARY:
            one.blame(f"{worker.name} left with exit code {code}")

    def note_refusal(self, group: Group, sitter: Sitter, why: str) -> bool:
        """A spare refused to start: is that due to a rollout?"""
        one = self._model.ledgers[group.index].running
        if one is None or sitter.version != one.new:
            return False
        one.blame(f"a spare of it refuses to start: {why}")
        return True

    # --- what is asked ---------------------------------------------------------------------------

    async def begin(
        self,
        group: Group,
        plugin: str | None,
        args: dict[str, str] | None,
        options: Options,
        *,
        exact: bool = False,
        again: Revision | None = None,
    ) -> UnderWay | None:
        """Start it; the one under way if it leads to the same; None: the group runs that already.
        With `exact`, `args` are all arguments, else those that change. `again`: the revision that
        ran before, whose copy of the plugin is loaded, whatever its file is by now."""
        options.check()
        ledger = self._model.ledgers[group.index]
        # One after the other: what is copied for one is not pruned by the next.
        async with self._taking:
            while True:
                must_run(self._model)
                current, directory = ledger.current, self._model.runtime.path
                plugins.prune(directory, [c for one in self._model.ledgers for c in one.copies()])
                take = partial(_target, directory, current, plugin, args, again, exact=exact)
                target = await disk.read(take, f"to copy the plugin of group {group.plan.name}")
                if current is ledger.current:  # what was under way may have ended meanwhile
                    return self._start(group, ledger, target, options)

    def _start(
        self, group: Group, ledger: Ledger, target: Revision, options: Options
    ) -> UnderWay | None:
        must_run(self._model)
        target.number = max(r.number for r in ledger.revisions) + 1
        now = ledger.running
        if now is not None:
            if now.target.is_same(target) and not now.failed:
                return now
            raise DpsupError(
                f"group {group.plan.name} is being changed to revision {now.target.number} "
                f"({now.phase})",
                code="E0716",
                why="one rollout at a time",
                help=f"`dpsup rollout status {group.plan.name}` shows it, `rollout undo` ends it",
            )
        if target.is_same(ledger.current):
            return None
        ledger.add(target)
        old = group.version
        one = Rollout(
            self._hands, group, ledger, target, options, old, (old + 1) % _abi.DPS_VERSIONS
        )
        one.start()
        return one

    def outcome(self, one: UnderWay | None, group: Group) -> Rolled:
        doc: Rolled = {**view.rollout(self._model, group), "changed": one is not None}
        if one is not None:
            doc["to"], doc["phase"] = one.target.number, one.phase
            doc["to_plugin"], doc["why"] = one.target.plugin, one.failed
        return doc

    async def undo(self, group: Group, *, wait: bool, forget_state: bool = False) -> Rolled:
        """End what is under way and go back; with nothing under way, to what ran before."""
        ledger = self._model.ledgers[group.index]
        one = ledger.running
        if one is not None:
            one.blame("it was asked to")
        else:
            before = ledger.previous()
            if before is None:
                raise DpsupError(
                    f"group {group.plan.name} ran nothing else before",
                    code="E0717",
                    help=f"`dpsup rollout history {group.plan.name}` shows what it ran",
                )
            path, copy = before.plugin_path, before.plugin_copy
            digest = partial(plugins.digest_of, path, copy)
            if (
                path
                and path == copy
                and await disk.read(digest, f"to read {path}") != before.digest
            ):
                raise DpsupError(
                    f"{path}, which group {group.plan.name} ran before, has changed since",
                    code="E0717",
                    why="a plugin with $ORIGIN in it is loaded in place, and has no private copy",
                    help=f"`dpsup rollout {group.plan.name} --plugin FILE` starts another one",
                )
            # What is known to work needs no judge.
            options = Options(canary=0, judge=0.0, forget_state=forget_state)
            args = dict(before.args)
            one = await self.begin(group, before.plugin, args, options, exact=True, again=before)
        if one is not None and wait:
            await ended(one)
        return self.outcome(one, group)

    def history(self, group: Group) -> Revisions:
        ledger = self._model.ledgers[group.index]
        return {"group": group.plan.name, "revisions": [_revision(r) for r in ledger.revisions]}


def _restored(one: RevisionDocument) -> Revision:
    noted: dict[str, Any] = {**one, "args": tuple((k, v) for k, v in one["args"])}
    return Revision(**noted)


def _revision(one: Revision) -> RevisionDocument:
    return cast(RevisionDocument, asdict(one))


def _target(
    directory: Path,
    current: Revision,
    plugin: str | None,
    args: dict[str, str] | None,
    again: Revision | None,
    *,
    exact: bool,
) -> Revision:
    """What a rollout leads to; its number comes later. It reads and copies files: on a thread."""
    path = current.plugin_path
    name = current.plugin
    if plugin is not None:
        name = plugin
        path = plugin_path(plugin)
        if not path and plugin not in BUILT_IN:
            raise UsageError(
                f'there is no built-in plugin "{plugin}"',
                code="E0502",
                help=f"built in are {', '.join(BUILT_IN + FUNCTIONS)}; a file is ./NAME.so"
                " or ./NAME.py",
            )
        if len(path.encode()) > PLUGIN_PATH:
            raise UsageError(f"a plugin's path has at most {PLUGIN_PATH} bytes", code="E0719")
    merged = tuple({**({} if exact else dict(current.args)), **(args or {})}.items())
    merged = plugins.take_files(directory, merged)
    if args_size(merged) > ARGS:
        raise UsageError(
            f"shared memory has room for {ARGS} bytes of arguments in each group", code="E0719"
        )
    # Other arguments alone mean the plugin that runs, whatever its file is by now.
    known = again or (current if plugin is None else None)
    if known is not None:
        path, digest, copy = known.plugin_path, known.digest, known.plugin_copy
    else:
        digest, copy = plugins.take(directory, path)
        if path and path == current.plugin_copy and digest != current.digest:
            raise DpsupError(
                f"{path} is the file that the running version loads, and has changed",
                code="E0718",
                why="a worker that is started again, and an undo, would load the new contents",
                help="give each version a file of its own: fw-2.so",
            )
    return Revision(0, name, path, merged, digest, time.time(), "rolling", plugin_copy=copy)


async def ended(one: UnderWay) -> None:
    """Its end, either way."""
    try:
        await asyncio.wait_for(one.done.wait(), one.patience)
    except TimeoutError:
        raise TimedOut(f"the rollout is still {one.phase}", code="E0720") from None
