# SPDX-License-Identifier: BSD-3-Clause
"""A new version of a group's plugin, slot by slot, while packets flow; and back, if it is worse.

A group has room for two versions at a time (struct dps_version): the one that it runs, and the one
that it is to run, or ran before. A slot changes over at a burst's end: its worker is told to leave,
and the warden seats a spare of the other version in the same place, in C, in well under a
millisecond. What is in the lane waits as long as that takes.

Until a rollout is complete the old version is the heir of every slot: whoever dies meanwhile, of
the new version or the old, is followed by a spare of the old one at once. So a new version that
crashes is undone by its warden; this module hears of it afterwards, and takes the other slots back.

A version is to blame for faults and aborts of its own, for being stuck, and for leaving unasked. A
kill that somebody sends is no evidence; the slot is then changed over once more.

What is under way is kept in `rollout.json` in the runtime folder, written before each step. Whoever
supervises after a supervisor's death goes on from it (`resume`): back, unless every slot had been
changed over and judged already.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsup import _abi
from dpsup.errors import DpsupError, TimedOut, UsageError
from dpsup.host import process
from dpsup.instance.runtime_dir import PLAN, ROLLOUT
from dpsup.limits import ARGS, PLUGIN_PATH
from dpsup.supervisor.judge import Margins, Sample, judge, sample
from dpsup.supervisor.policy import History

if TYPE_CHECKING:
    from dpsup.plan.model import GroupPlan
    from dpsup.supervisor.core import Group, Sitter, Supervisor, Worker

NEEDS = _abi.DPS_NEED_VLAN | _abi.DPS_NEED_TSC | _abi.DPS_NEED_HASH
MOVE_S = 2.0  # for a worker to reach its burst's end; then it is killed
SEATED_S = 15.0
FREE_S = 10.0  # for the last process of a version before to be gone
DRAIN_S = 10.0  # for packets to pass that were described for the old version alone
SPARES_S = 20.0
SETTLE_S = 30.0  # for workers on their way up, or in backoff
TRIES = 5  # of one slot
AGAIN_S = 0.3  # before the next one
ROUND_S = 0.02
MEASURE_MOST_S = 3600.0
KEPT = 20  # revisions


class Failed(Exception):
    """Why a rollout goes back."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a rollout goes about it."""

    canary: int = 1  # slots that go first
    max_unavailable: int = 1  # slots that change over at a time
    judge: float = 2.0  # seconds; 0: only crashes and stalls count
    margins: Margins = field(default_factory=Margins)

    def check(self) -> None:
        if self.canary < 0 or self.max_unavailable < 1:
            raise UsageError("canary is 0 or more, max-unavailable 1 or more", code="E0719")
        if not 0 <= self.judge <= MEASURE_MOST_S:
            raise UsageError(
                f"judge takes 0 to {MEASURE_MOST_S:g} s, not {self.judge:g} s", code="E0719"
            )
        if min(self.margins.drops, self.margins.lane_full, self.margins.cycles) < 0:
            raise UsageError("a margin is 0 or more", code="E0719")


@dataclass(slots=True)
class Revision:
    """What a group ran, runs, or was to run."""

    number: int
    plugin: str
    plugin_path: str  # "" for a built-in one
    args: tuple[tuple[str, str], ...]
    digest: str  # of the file
    at: float  # time, seconds
    state: str  # "current" | "replaced" | "rolling" | "undone"
    why: str = ""

    def is_same(self, other: Revision) -> bool:
        return (self.plugin, self.plugin_path, self.args, self.digest) == (
            other.plugin,
            other.plugin_path,
            other.args,
            other.digest,
        )


def digest_of(path: str) -> str:
    if not path:
        return ""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as e:
        raise DpsupError(
            f"cannot read plugin {path}: {e.strerror or e}",
            code="E0501",
            why="the workers load it",
            help="build it, or correct the path",
        ) from None


def _quiet_digest(path: str) -> str:
    with contextlib.suppress(DpsupError):
        return digest_of(path)
    return ""


@dataclass(slots=True, eq=False)
class Ledger:
    """The versions of one group: what it runs, what it ran, what is under way."""

    revisions: list[Revision]
    slots: list[int] = field(default_factory=lambda: [1, 0])  # of each version, its revision
    running: Rollout | None = None

    @classmethod
    def begin(cls, plan: GroupPlan) -> Ledger:
        return cls(
            [
                Revision(
                    1, plan.plugin, plan.plugin_path, plan.args,
                    _quiet_digest(plan.plugin_path), time.time(), "current",
                )
            ]
        )  # fmt: skip

    @property
    def current(self) -> Revision:
        return next(r for r in reversed(self.revisions) if r.state == "current")

    def add(self, revision: Revision) -> None:
        self.revisions.append(revision)
        while len(self.revisions) > KEPT:
            self.revisions.remove(next(r for r in self.revisions if r.state != "current"))

    def previous(self) -> Revision | None:
        """What ran before the current one."""
        before = [r for r in self.revisions if r.state == "replaced"]
        return before[-1] if before else None

    def view(self, group: Group) -> dict[str, Any]:
        now = self.running
        return {
            "group": group.plan.name,
            "revision": self.current.number,
            "plugin": self.current.plugin,
            "args": [list(pair) for pair in self.current.args],
            "phase": now.phase if now else "idle",
            "to": now.target.number if now else None,
            "to_plugin": now.target.plugin if now else None,
            "why": now.failed if now else "",
            "workers": {
                w.name: self.slots[w.sitter.version] for w in group.workers if w.sitter is not None
            },
        }


# --- what is written down -------------------------------------------------------------------------


def record(sup: Supervisor) -> dict[str, Any]:
    """All that a later supervisor has to know. `version`: who is started and takes over; `rollout`:
    what is under way, with the version that it leads to."""
    return {
        "generation": sup.plan.generation,
        "groups": {
            group.plan.name: {
                "version": group.version,
                "slots": ledger.slots,
                "revisions": [asdict(r) for r in ledger.revisions],
                "rollout": {
                    "to": ledger.running.target.number,
                    "old": ledger.running.old,
                    "new": ledger.running.new,
                    "phase": ledger.running.phase,
                    "why": ledger.running.failed,
                    "options": asdict(ledger.running.options),
                }
                if ledger.running
                else None,
            }
            for group, ledger in zip(sup.groups, sup.rollouts, strict=True)
        },
    }


def write(sup: Supervisor) -> None:
    """A full disk must not stop the supervisor."""
    try:
        for name, text in (
            (ROLLOUT, json.dumps(record(sup))),
            (PLAN, json.dumps(asdict(sup.plan))),
        ):
            new = sup.runtime.path / f"{ROLLOUT}.new"
            new.write_text(text)
            new.replace(sup.runtime.path / name)
    except OSError as e:
        sup.events.add(type="error", message=f"cannot write {sup.runtime.path}: {e}")


def restore(sup: Supervisor, found: dict[str, Any]) -> list[Rollout]:
    """Take up the record of a dead supervisor; the rollouts that it left half done."""
    left = []
    for group, ledger in zip(sup.groups, sup.rollouts, strict=True):
        kept = found["groups"].get(group.plan.name)
        if kept is None or found["generation"] != sup.plan.generation:
            continue
        ledger.revisions = [
            Revision(**{**r, "args": tuple((k, v) for k, v in r["args"])})
            for r in kept["revisions"]
        ]
        ledger.slots = list(kept["slots"])
        group.version = int(kept["version"])
        adopt_plan(sup, group, ledger.current)
        half = kept["rollout"]
        if half is None:
            continue
        target = next(r for r in ledger.revisions if r.number == half["to"])
        options = Options(**{**half["options"], "margins": Margins(**half["options"]["margins"])})
        one = Rollout(sup, group, ledger, target, options, half["old"], half["new"])
        one.phase = half["phase"]
        one.failed = half["why"]
        left.append(one)
    return left


async def resume(sup: Supervisor) -> None:
    """After a supervisor's death, once its successor knows who sits where."""
    sitters = list(sup._sitters.values())
    versions = await sup.insist("versions", berths=[s.berth for s in sitters])
    for sitter, version in zip(sitters, versions, strict=True):
        sitter.version = version
    try:
        found = json.loads((sup.runtime.path / ROLLOUT).read_text())
        left = restore(sup, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return
    for one in left:
        if one.phase != "closing" and not one.failed:
            one.failed = "the supervisor died in the middle of it"
        one.start()


def adopt_plan(sup: Supervisor, group: Group, revision: Revision) -> None:
    """The group's plan, and the instance's, say what runs."""
    group.plan = replace(
        group.plan,
        plugin=revision.plugin,
        plugin_path=revision.plugin_path,
        args=revision.args,
    )
    groups = list(sup.plan.groups)
    groups[group.index] = group.plan
    sup.plan = replace(sup.plan, groups=tuple(groups))


async def judged(sup: Supervisor) -> None:
    """Every death so far has been judged."""
    await sup.until(lambda: not sup.unreported, SETTLE_S)


# --- one rollout ----------------------------------------------------------------------------------


class Rollout:
    """From one version of a group to the other."""

    def __init__(
        self,
        sup: Supervisor,
        group: Group,
        ledger: Ledger,
        target: Revision,
        options: Options,
        old: int,
        new: int,
    ) -> None:
        self.sup, self.group, self.ledger = sup, group, ledger
        self.target, self.options = target, options
        self.old, self.new = old, new
        self.phase = "preparing"
        self.failed = ""  # why it goes back
        self.done = asyncio.Event()
        self.generation = sup.plan.generation
        self.baseline: dict[int, Sample] = {}  # by slot
        self.tries: dict[str, int] = {}

    def start(self) -> None:
        self.ledger.running = self
        self.sup._task(self._run())

    def _enter(self, phase: str) -> None:
        self.phase = phase
        write(self.sup)
        self.sup.events.add(
            type="rollout",
            name=self.group.plan.name,
            revision=self.target.number,
            phase=phase,
            message=self.failed,
        )
        self.sup._changed.set()

    async def _run(self) -> None:
        try:
            # One that is taken up again waits for the rest of the adoption.
            await self.sup.until(self._is_alive, SETTLE_S)
            await self._go()
        finally:
            self.ledger.running = None
            write(self.sup)
            self.done.set()
            self.sup._changed.set()

    async def _go(self) -> None:
        try:
            if self.phase == "closing":
                await self._close()
            else:
                self._check()
                await self._forward()
            return
        except (Failed, DpsupError, OSError) as e:
            self.failed = self.failed or str(e)
        self.target.state, self.target.why = "undone", self.failed
        if not self._is_alive():
            return  # what comes next starts with the old version anyway
        for _ in range(TRIES):
            try:
                await self._back()
                return
            except (Failed, DpsupError, OSError) as e:
                self.sup.events.add(type="error", message=f"undoing a rollout: {e}")
                if not self._is_alive():
                    return
                await asyncio.sleep(1.0)
        self._enter("stuck")

    # --- the two ways -----------------------------------------------------------------------------

    async def _forward(self) -> None:
        group, options = self.group, self.options
        self._enter("preparing")
        await self._measure()
        await self._write()
        await self._spares(self.new, options.max_unavailable)
        await self._widen()
        wanted = [w for w in group.workers if w.wanted]
        if not any(w.state == "running" for w in wanted):
            # Nobody whom it could take over from: those who are held start with it.
            await self._flip(self.new)
            self.sup.reset_failed([w for w in wanted if w.state == "held"], [])
        first = [w for w in wanted if w.state == "running"][: options.canary]
        if first:
            self._enter("canary")
            await self._move_all(self.new, first)
            await self._judge(first)
        self._enter("rolling")
        await self._move_all(self.new)
        await self._judge([w for w in group.workers if w.wanted])
        await self._spares(self.new, max(1, group.plan.spares))
        self._check()
        await self._close()

    async def _close(self) -> None:
        """It is as good as the old one: from now on it is the group's version."""
        self.failed = ""
        self._enter("closing")
        await self._flip(self.new)
        # Whoever was followed by the old version a moment ago.
        await self._move_all(self.new)
        self.target.state = "current"
        for one in self.ledger.revisions:
            if one is not self.target and one.state == "current":
                one.state = "replaced"
        adopt_plan(self.sup, self.group, self.target)
        await self._narrow()
        self._retire(self.old)
        held = [w for w in self.group.workers if w.state == "held" and w.wanted]
        self.sup.reset_failed(held, [self.group])
        self._enter("done")

    async def _back(self) -> None:
        self._enter("undoing")
        await self._flip(self.old)
        group = self.group
        for worker in group.workers:
            # Those that the new version brought down: the old one starts with a clean slate.
            if worker.state in ("held", "backoff") and worker.wanted:
                worker.history, worker.held_for = History(), ""
                self.sup.fire("worker", worker, "restart")
        self.tries.clear()
        await self._move_all(self.old)
        await self._narrow()
        self._retire(self.new)
        self._enter("undone")

    # --- steps ------------------------------------------------------------------------------------

    def _is_alive(self) -> bool:
        sup = self.sup
        return sup.state in ("running", "degraded") and sup.plan.generation == self.generation

    def _check(self) -> None:
        if not self._is_alive():
            raise Failed(f"the instance is {self.sup.state}")
        if self.failed and self.phase not in ("undoing", "closing"):
            raise Failed(self.failed)

    async def _pause(self, seconds: float) -> None:
        """Sleep, and wake up for bad news."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            await asyncio.sleep(min(ROUND_S, left))
        self._check()

    async def _measure(self) -> None:
        """What the old version does, for so long as the new one will be judged."""
        if not self.options.judge:
            return
        before = await self.sup.ask("counters")
        await self._pause(self.options.judge)
        after = await self.sup.ask("counters")
        for worker in self.group.workers:
            self.baseline[worker.slot] = sample(before, after, [worker.slot])

    async def _write(self) -> None:
        """The new version's place in shared memory, once nobody has it any more."""
        self._retire(self.new)
        plugin = {
            "plugin": self.target.plugin,
            "plugin_path": self.target.plugin_path,
            "args": [list(pair) for pair in self.target.args],
        }
        deadline = time.monotonic() + FREE_S
        ask = {"group": self.group.index, "version": self.new, **plugin}
        while not await self.sup.insist("version", **ask):
            if time.monotonic() > deadline:
                raise Failed("a process of an earlier version does not end")
            await self._pause(ROUND_S)
        self.ledger.slots[self.new] = self.target.number

    async def _spares(self, version: int, n: int) -> None:
        """So many spares of a version, ready."""
        sup, group = self.sup, self.group
        deadline = time.monotonic() + SPARES_S
        forks = 0

        def alive() -> list[Sitter]:
            spares = [s for s in group.spares if s.version == version]
            return [s for s in spares if s.pidfd >= 0 and not s.asked]

        while sum(s.ready for s in alive()) < n:
            self._check()
            if time.monotonic() > deadline:
                raise Failed("no spare of it becomes ready")
            if len(alive()) < n and sup._orders is not None:
                forks += 1
                if forks > n + TRIES:
                    raise Failed("its processes end before they are ready")
                # The seed may be dead; there will be another one.
                with contextlib.suppress(DpsupError, OSError):
                    await sup._fork_spare(group, version)
            await asyncio.sleep(0.001)
            await sup.until(lambda: sum(s.ready for s in alive()) >= n or len(alive()) < n, ROUND_S)

    async def _widen(self) -> None:
        """Packets get what either version needs, and those that lack it pass first."""
        sup, group = self.sup, self.group
        facts = await sup.insist("facts", group=group.index, version=self.new)
        if facts is None:
            raise Failed("its spare ended")
        slots = [w.slot for w in group.workers]
        counters = await sup.ask("counters")
        needs, changes = facts["needs"] & NEEDS, bool(facts["rewrites"] + facts["prepends"])
        of_old = [counters["slots"][slot] for slot in slots]
        grown = any(needs & ~s["needs"] or changes > s["changes"] for s in of_old if s["sent"])
        for s in of_old:
            needs |= s["needs"] & NEEDS
            changes |= s["changes"]
        for slot in slots:
            await sup.insist("also", slot=slot, needs=needs, changes=changes)
        if not grown:
            return
        sent = (await sup.ask("counters"))["slots"]
        deadline = time.monotonic() + DRAIN_S
        while True:
            now = (await sup.ask("counters"))["slots"]
            behind = [s for s in slots if now[s]["collected"] < sent[s]["sent"]]
            if not behind:
                return
            if time.monotonic() > deadline:
                name = next(w.name for w in group.workers if w.slot == behind[0])
                raise Failed(f"packets that lack what it needs do not leave {name}")
            await self._pause(0.002)

    async def _narrow(self) -> None:
        for worker in self.group.workers:
            await self.sup.insist("also", slot=worker.slot, needs=0, changes=False)

    async def _flip(self, version: int) -> None:
        """Who is started, and takes over unasked, is of this version from now on."""
        self.group.version = version
        write(self.sup)
        await self.sup.insist("heir", group=self.group.index, version=version)
        self.sup._refill(self.group)

    async def _move_all(self, version: int, workers: list[Worker] | None = None) -> None:
        """Until all that run are of that version; those on their way are waited for."""
        chosen = self.group.workers if workers is None else workers
        patience = time.monotonic() + SETTLE_S
        while True:
            self._check()
            slots = (await self.sup.ask("counters"))["slots"]
            running = [w for w in chosen if w.state == "running"]
            todo = [w for w in running if slots[w.slot]["version"] != version]
            if todo:
                batch = todo[: self.options.max_unavailable]
                if any(self.tries.get(w.name) for w in batch):
                    # Why it came to nothing may not be known yet.
                    await self._pause(AGAIN_S)
                    await judged(self.sup)
                    self._check()
                await self._spares(version, len(batch))
                await asyncio.gather(*(self._move(w, version) for w in batch))
                continue
            coming = [w for w in chosen if w.state in ("starting", "recovering", "backoff")]
            if not coming:
                return
            if time.monotonic() > patience:
                raise Failed(f"{coming[0].name} does not come up")
            await self._pause(ROUND_S)

    async def _move(self, worker: Worker, version: int) -> None:
        """Try to change one slot over; whether it came to that, its version tells."""
        sup, sitter = self.sup, worker.sitter
        self.tries[worker.name] = self.tries.get(worker.name, 0) + 1
        if self.tries[worker.name] > TRIES:
            raise Failed(f"{worker.name} could not be changed over {TRIES} times")
        told = await sup.insist("handover", slot=worker.slot, version=version)
        if told != "told" or sitter is None:
            await asyncio.sleep(ROUND_S)
            return
        if not await sup.until(lambda: worker.sitter is not sitter, MOVE_S) and sitter.pidfd >= 0:
            sitter.asked = True
            process.signal_pidfd(sitter.pidfd, signal.SIGKILL)
        await sup.until(
            lambda: worker.sitter is not sitter and worker.state not in ("starting", "recovering"),
            SEATED_S,
        )

    async def _judge(self, workers: list[Worker]) -> None:
        seconds = self.options.judge
        if not seconds or not workers:
            self._check()
            return
        slots = [w.slot for w in workers]
        before = await self.sup.ask("counters")
        await self._pause(seconds)
        after = await self.sup.ask("counters")
        new = sample(before, after, slots)
        old = sum((self.baseline.get(s, Sample()) for s in slots), Sample())
        against = judge(old, new, self.options.margins)
        self.sup.events.add(
            type="judged",
            name=self.group.plan.name,
            revision=self.target.number,
            workers=[w.name for w in workers],
            packets=new.packets,
            drops=[round(old.drops, 4), round(new.drops, 4)],
            lane_full=[round(old.refused, 4), round(new.refused, 4)],
            cycles=[round(old.cost), round(new.cost)],
            message=against,
        )
        if against:
            raise Failed(against)

    def _retire(self, version: int) -> None:
        """Spares of a version that is of no use any more, or too many of one that is."""
        spares = self.group.spares
        self.sup.retire([s for s in spares if s.version == version])
        others = [s for s in spares if s.version != version and not s.asked]
        self.sup.retire(others[self.group.plan.spares :])

    # --- what the supervisor tells ----------------------------------------------------------------

    def blame(self, why: str) -> None:
        if self.phase not in ("undoing", "undone", "done") and not self.failed:
            self.failed = why
            self.sup._changed.set()


def note_death(
    sup: Supervisor, worker: Worker, sitter: Sitter, story: dict[str, Any] | None, code: int | None
) -> None:
    """A worker ended unasked: is the version under way to blame?"""
    one = sup.rollouts[worker.group].running
    if one is None or sitter.version != one.new:
        return
    found = story or {}
    if found.get("hung"):
        one.blame(f"{worker.name} was stuck with it")
    elif found.get("signal") and found.get("sender", 0) in (0, sitter.pid):
        one.blame(f"{worker.name} died of it: {signal.Signals(found['signal']).name}")
    elif code is not None and code >= 0 and code != _abi.DPS_EXIT_TEMPORARY:
        one.blame(f"{worker.name} left with exit code {code}")


def note_refusal(sup: Supervisor, group: Group, sitter: Sitter, why: str) -> bool:
    """A spare refused to start; whether that is a rollout's affair."""
    one = sup.rollouts[group.index].running
    if one is None or sitter.version != one.new:
        return False
    one.blame(f"a spare of it refuses to start: {why}")
    return True


# --- what is asked --------------------------------------------------------------------------------


def _target(
    group: Group, ledger: Ledger, plugin: str | None, args: dict[str, str] | None
) -> Revision:
    current = ledger.current
    path = current.plugin_path
    name = current.plugin
    if plugin is not None:
        from dpsup.check.topology import PLUGINS

        name = plugin
        path = plugin if "/" in plugin or plugin.endswith(".so") else ""
        if not path and plugin not in PLUGINS:
            raise UsageError(
                f'there is no built-in plugin "{plugin}"',
                code="E0502",
                help=f"built in are {', '.join(PLUGINS)}; a file is ./NAME.so",
            )
        if len(path.encode()) > PLUGIN_PATH:
            raise UsageError(f"a plugin's path has at most {PLUGIN_PATH} bytes", code="E0719")
    merged = tuple(current.args) if args is None else tuple({**dict(current.args), **args}.items())
    if sum(len(f"{k}{v}".encode()) + 2 for k, v in merged) > ARGS:
        raise UsageError(
            f"shared memory has room for {ARGS} bytes of arguments in each group", code="E0719"
        )
    digest = digest_of(path)
    if path and path == current.plugin_path and digest != current.digest:
        raise DpsupError(
            f"{path} is the file of the version that runs, and has changed",
            code="E0718",
            why="a worker that is started again, and an undo, would load the new contents",
            help="give each version a file of its own: fw-2.so",
        )
    number = max(r.number for r in ledger.revisions) + 1
    return Revision(number, name, path, merged, digest, time.time(), "rolling")


def begin(
    sup: Supervisor,
    group: Group,
    plugin: str | None,
    args: dict[str, str] | None,
    options: Options,
    *,
    exact: bool = False,
) -> Rollout | None:
    """Start it; the one under way if it leads to the same; None: the group runs that already. With
    `exact`, `args` are all arguments, else those that change."""
    from dpsup.supervisor.scale import must_run

    must_run(sup)
    options.check()
    ledger = sup.rollouts[group.index]
    target = _target(group, ledger, plugin, args)
    if exact:
        target.args = tuple((args or {}).items())
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
    one = Rollout(sup, group, ledger, target, options, old, (old + 1) % _abi.DPS_VERSIONS)
    one.start()
    return one


async def ended(one: Rollout) -> None:
    """Its end, either way."""
    most = 4 * one.options.judge + 300.0
    try:
        await asyncio.wait_for(one.done.wait(), most)
    except TimeoutError:
        raise TimedOut(f"the rollout is still {one.phase}", code="E0720") from None


def outcome(one: Rollout | None, group: Group, ledger: Ledger) -> dict[str, Any]:
    doc = ledger.view(group)
    doc["changed"] = one is not None
    if one is not None:
        doc["to"], doc["phase"] = one.target.number, one.phase
        doc["to_plugin"], doc["why"] = one.target.plugin, one.failed
    return doc


async def undo(sup: Supervisor, group: Group, *, wait: bool) -> dict[str, Any]:
    """End what is under way and go back; with nothing under way, to what ran before."""
    ledger = sup.rollouts[group.index]
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
        if before.plugin_path and digest_of(before.plugin_path) != before.digest:
            raise DpsupError(
                f"{before.plugin_path} has changed since revision {before.number} ran",
                code="E0717",
                help="roll out the file that you want: `dpsup rollout GROUP --plugin FILE`",
            )
        # What is known to work needs no judge.
        options = Options(canary=0, judge=0.0)
        one = begin(sup, group, before.plugin, dict(before.args), options, exact=True)
    if one is not None and wait:
        await ended(one)
    return outcome(one, group, ledger)


def history(sup: Supervisor, group: Group) -> dict[str, Any]:
    ledger = sup.rollouts[group.index]
    return {"group": group.plan.name, "revisions": [asdict(r) for r in ledger.revisions]}
