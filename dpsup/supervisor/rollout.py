# SPDX-License-Identifier: BSD-3-Clause
"""A new version of a group's plugin, slot by slot, while packets flow; and back, if it is worse.

A group has room for two versions at a time (struct dps_version): the one that it runs, and the one
that it is to run, or ran before. A slot changes over at a burst's end: its worker is told to leave,
and the warden seats a spare of the other version in the same place, in C, in well under a
millisecond. What is in the lane waits as long as that takes.

Until a rollout is complete the old version is the heir of every slot: a worker that dies, of
the new version or the old, is followed by a spare of the old one at once. So a new version that
crashes is undone by its warden; this module hears of it afterwards, and takes the other slots back.

A version is to blame for faults and aborts of its own, for being stuck, and for leaving unasked. A
kill that another process sends is no evidence; the slot is then changed over once more.

What is under way is kept in `rollout.json` in the runtime directory, written before each step
(rollouts.py). The next supervisor goes on from it: back, unless every slot had been changed over
and judged already.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import cast

from dpsup import _abi
from dpsup.documents.counters import Counters
from dpsup.documents.state import Options as OptionsRecord
from dpsup.documents.state import Rollout as RolloutRecord
from dpsup.errors import DpsupError, UsageError
from dpsup.host import process
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Group, Model, Sitter, Worker
from dpsup.supervisor.policy import History
from dpsup.supervisor.revisions import Ledger, Revision
from dpsup.supervisor.rollout_judge import Margins, Sample, hard_sign, judge, sample
from dpsup.supervisor.sitters import Sitters
from dpsup.supervisor.spares import Spares
from dpsup.supervisor.workers import Workers
from dpsup.text import plural

BLANKS = _abi.DPS_NEED_BLANKS * ((1 << _abi.DPS_EMITS) - 1)
NEEDS = _abi.DPS_NEED_VLAN | _abi.DPS_NEED_TSC | _abi.DPS_NEED_HASH | BLANKS
MOVE_S = 2.0  # for a worker to reach its burst's end; then it is killed
SEATED_S = 15.0
FREE_S = 10.0  # for the last process of a version before to be gone
DRAIN_S = 10.0  # for packets to pass that were described for the old version alone
SPARES_S = 20.0
SETTLE_S = 30.0  # for workers on their way up, or in backoff
TRIES = 5  # of one slot
AGAIN_S = 0.3  # before the next one
ROUND_S = 0.02
HARD_S = 0.05  # between two looks for what ends a rollout at once
MEASURE_MOST_S = 3600.0


class Failed(Exception):
    """Why a rollout goes back."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a rollout goes about it."""

    canary: int = 1  # slots that go first
    max_unavailable: int = 1  # slots that change over at a time
    judge: float = 2.0  # seconds; 0: only crashes and stalls count
    margins: Margins = field(default_factory=Margins)
    forget_state: bool = False  # it may begin without what the old version keeps

    def check(self) -> None:
        if self.canary < 0 or self.max_unavailable < 1:
            raise UsageError("canary is 0 or more, max-unavailable 1 or more", code="E0719")
        if not 0 <= self.judge <= MEASURE_MOST_S:
            raise UsageError(
                f"judge takes 0 to {MEASURE_MOST_S:g} s, not {self.judge:g} s", code="E0719"
            )
        if min(self.margins.drops, self.margins.lane_full, self.margins.cycles) < 0:
            raise UsageError("a margin is 0 or more", code="E0719")


@dataclass(frozen=True, slots=True)
class Hands:
    """What a rollout works with. `write` writes down rollout.json and plan.json."""

    core: Core
    model: Model
    sitters: Sitters
    spares: Spares
    workers: Workers
    write: Callable[[], None]


def plan_revision(model: Model, group: Group, revision: Revision) -> None:
    """The group's plan, and the instance's, say what runs."""
    group.plan = replace(
        group.plan,
        plugin=revision.plugin,
        plugin_path=revision.plugin_path,
        args=revision.args,
        plugin_copy=revision.plugin_copy,
    )
    groups = list(model.plan.groups)
    groups[group.index] = group.plan
    model.plan = replace(model.plan, groups=tuple(groups))


def forgets(lost: Mapping[str, int]) -> str:
    """Why a version would forget what is kept, and how much of it; "": it would not."""
    buckets, places = lost["buckets"], lost["places"]
    if not buckets + places:
        return ""
    whose = [plural(buckets, "bucket")] * bool(buckets) + [plural(places, "worker")] * bool(places)
    if lost["others"]:
        why = "they belong to a plugin of another name"
    elif room := lost["bucket_room"] or lost["place_room"]:
        key = "bucket_state" if lost["bucket_room"] else "state"
        why = (
            f"there is no room to keep version {lost['version']} beside version {lost['to']}"
            f' ({key} = {room}, or "auto", reserves it from the next start on)'
        )
    else:
        why = (
            f"their state_version is {lost['version']}, its own {lost['to']}, and it has no migrate"
        )
    return (
        f"it would forget the state of {' and '.join(whose)}, {plural(lost['bytes'], 'byte')}:"
        f" {why}; --forget-state allows that"
    )


async def judged(core: Core, model: Model) -> None:
    """Every death so far has been judged."""
    await core.until(lambda: not model.unreported, SETTLE_S)


# --- one rollout ----------------------------------------------------------------------------------


class Rollout:
    """From one version of a group to the other."""

    def __init__(
        self,
        hands: Hands,
        group: Group,
        ledger: Ledger,
        target: Revision,
        options: Options,
        old: int,
        new: int,
    ) -> None:
        self._hands, self.group, self.ledger = hands, group, ledger
        self._core, self._model = hands.core, hands.model
        self.target, self.options = target, options
        self.old, self.new = old, new
        self.phase = "preparing"
        self.failed = ""  # why it goes back
        self.done = asyncio.Event()
        self.generation = hands.model.plan.generation
        self.baseline: dict[int, Sample] = {}  # by slot
        self.forgotten: dict[int, int] = {}  # by slot: blocks that a migrate had refused before
        self.tries: dict[str, int] = {}
        self.patience = 4 * options.judge + 300.0

    def start(self) -> None:
        self.ledger.running = self
        self._core.spawn(self._run(), feature="rollout")

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._hands.write()
        self._core.events.add(
            type="rollout",
            name=self.group.plan.name,
            revision=self.target.number,
            phase=phase,
            message=self.failed,
        )
        self._core.wake()

    async def _run(self) -> None:
        try:
            # One that is taken up again waits for the rest of the adoption.
            await self._core.until(self._is_alive, SETTLE_S)
            await self._go()
        finally:
            self.ledger.running = None
            self._hands.write()
            self.done.set()
            self._core.wake()

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
        except Exception as e:
            self._hands.core.fault("rollout", e)
            self.failed = self.failed or f"internal error: {e!r}"
        self.target.state, self.target.why = "undone", self.failed
        if not self._is_alive():
            return  # what comes next starts with the old version anyway
        for _ in range(TRIES):
            try:
                await self._back()
                return
            except (Failed, DpsupError, OSError) as e:
                self._core.events.add(type="error", message=f"undoing a rollout: {e}")
            except Exception as e:
                self._hands.core.fault("rollout", e)
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
        await self._keep()
        await self._widen()
        wanted = [w for w in group.workers if w.wanted]
        if not any(w.state == "running" for w in wanted):
            # There is no worker to take over from: those that are held start with it.
            await self._flip(self.new)
            self._hands.workers.reset_failed([w for w in wanted if w.state == "held"], [])
        self._core.spawn(self._watch(), feature="rollout")
        first = [w for w in wanted if w.state == "running"][: options.canary]
        if first:
            self._enter("canary")
            await self._move_all(self.new, first)
            await self._judge(first)
        self._enter("rolling")
        await self._move_all(self.new)
        await self._judge([w for w in group.workers if w.wanted])
        await self._spares(self.new, max(1, group.plan.spares))
        self._note_forgotten(await self._core.ask("counters"))
        self._check()
        await self._close()

    async def _close(self) -> None:
        """It is as good as the old one: from now on it is the group's version."""
        self.failed = ""
        self._enter("closing")
        await self._flip(self.new)
        # Workers that the old version followed a moment ago.
        await self._move_all(self.new)
        self.target.state = "current"
        for one in self.ledger.revisions:
            if one is not self.target and one.state == "current":
                one.state = "replaced"
        plan_revision(self._model, self.group, self.target)
        await self._narrow()
        self._retire(self.old)
        held = [w for w in self.group.workers if w.state == "held" and w.wanted]
        self._hands.workers.reset_failed(held, [self.group])
        self._enter("done")

    async def _back(self) -> None:
        self._enter("undoing")
        await self._flip(self.old)
        group = self.group
        for worker in group.workers:
            # Those that the new version brought down: the old one starts with a clean slate.
            if worker.state in ("held", "backoff") and worker.wanted:
                worker.history, worker.held_for = History(), ""
                self._core.fire(worker, "restart")
        self.tries.clear()
        await self._move_all(self.old)
        await self._narrow()
        self._retire(self.new)
        self._enter("undone")

    # --- steps ------------------------------------------------------------------------------------

    def _is_alive(self) -> bool:
        return self._model.is_open and self._model.plan.generation == self.generation

    def _check(self) -> None:
        if not self._is_alive():
            raise Failed(f"the instance is {self._model.state}")
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
        before = await self._core.ask("counters")
        await self._pause(self.options.judge)
        after = await self._core.ask("counters")
        for worker in self.group.workers:
            self.baseline[worker.slot] = sample(before, after, [worker.slot])

    async def _write(self) -> None:
        """The new version's place in shared memory, once no process has it any more."""
        self._retire(self.new)
        plugin = {
            "plugin": self.target.plugin,
            "plugin_path": self.target.plugin_path,
            "plugin_copy": self.target.plugin_copy,
            "args": [list(pair) for pair in self.target.args],
        }
        deadline = time.monotonic() + FREE_S
        ask = {"group": self.group.index, "version": self.new, **plugin}
        while not await self._core.insist("version", **ask):
            if time.monotonic() > deadline:
                raise Failed("a process of an earlier version does not end")
            await self._pause(ROUND_S)
        self.ledger.slots[self.new] = self.target.number

    async def _spares(self, version: int, n: int) -> None:
        """So many spares of a version, ready."""
        group = self.group
        deadline = time.monotonic() + SPARES_S
        forks = 0

        def alive() -> list[Sitter]:
            spares = [s for s in group.spares if s.version == version]
            return [s for s in spares if s.pidfd >= 0 and not s.asked]

        while sum(s.ready for s in alive()) < n:
            self._check()
            if time.monotonic() > deadline:
                raise Failed("no spare of it becomes ready")
            if len(alive()) < n and self._hands.sitters.can_fork:
                forks += 1
                if forks > n + TRIES:
                    raise Failed("its processes end before they are ready")
                # The seed may be dead; there will be another one.
                with contextlib.suppress(DpsupError, OSError):
                    await self._hands.spares.fork(group, version)
            await asyncio.sleep(0.001)
            await self._core.until(
                lambda: sum(s.ready for s in alive()) >= n or len(alive()) < n, ROUND_S
            )

    async def _keep(self) -> None:
        """What the group's plugin keeps is not forgotten unasked."""
        counters = await self._core.ask("counters")
        self.forgotten = {w.slot: self._refused(counters, w) for w in self.group.workers}
        if self.options.forget_state:
            return
        lost = await self._core.insist("state_lost", group=self.group.index, version=self.new)
        if lost is None:
            raise Failed("its spare ended")
        if text := forgets(lost):
            raise Failed(text)

    @staticmethod
    def _refused(counters: Counters, worker: Worker) -> int:
        return counters["slots"][worker.slot].get("forgotten", 0)

    def _note_forgotten(self, counters: Counters) -> None:
        n = sum(
            max(0, self._refused(counters, w) - self.forgotten.get(w.slot, 0))
            for w in self.group.workers
        )
        if n and not self.options.forget_state:
            self.blame(
                f"its migrate refuses {plural(n, 'block')} of state, which would be forgotten:"
                " --forget-state allows that"
            )

    async def _widen(self) -> None:
        """Packets get what either version needs, and those that lack it pass first."""
        group = self.group
        facts = await self._core.insist("facts", group=group.index, version=self.new)
        if facts is None:
            raise Failed("its spare ended")
        slots = [w.slot for w in group.workers]
        counters = await self._core.ask("counters")
        needs, changes = facts["needs"] & NEEDS, bool(facts["rewrites"] + facts["prepends"])
        of_old = [counters["slots"][slot] for slot in slots]
        grown = any(needs & ~s["needs"] or changes > s["changes"] for s in of_old if s["sent"])
        for s in of_old:
            needs |= s["needs"] & NEEDS
            changes |= s["changes"]
        for slot in slots:
            await self._core.insist("also", slot=slot, needs=needs, changes=changes)
        if not grown:
            return
        sent = (await self._core.ask("counters"))["slots"]
        deadline = time.monotonic() + DRAIN_S
        while True:
            now = (await self._core.ask("counters"))["slots"]
            behind = [s for s in slots if now[s]["collected"] < sent[s]["sent"]]
            if not behind:
                return
            if time.monotonic() > deadline:
                name = next(w.name for w in group.workers if w.slot == behind[0])
                raise Failed(f"packets that lack what it needs do not leave {name}")
            await self._pause(0.002)

    async def _narrow(self) -> None:
        for worker in self.group.workers:
            await self._core.insist("also", slot=worker.slot, needs=0, changes=False)

    async def _flip(self, version: int) -> None:
        """Processes that are started, or take over unasked, are of this version from now on."""
        self.group.version = version
        self._hands.write()
        await self._core.insist("heir", group=self.group.index, version=version)
        self._hands.spares.refill(self.group)

    async def _move_all(self, version: int, workers: list[Worker] | None = None) -> None:
        """Until all that run are of that version; those on their way are waited for."""
        chosen = self.group.workers if workers is None else workers
        patience = time.monotonic() + SETTLE_S
        while True:
            self._check()
            slots = (await self._core.ask("counters"))["slots"]
            running = [w for w in chosen if w.state == "running"]
            todo = [w for w in running if slots[w.slot]["version"] != version]
            if todo:
                batch = todo[: self.options.max_unavailable]
                if any(self.tries.get(w.name) for w in batch):
                    # Why it came to nothing may not be known yet.
                    await self._pause(AGAIN_S)
                    await judged(self._core, self._model)
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
        sitter = worker.sitter
        self.tries[worker.name] = self.tries.get(worker.name, 0) + 1
        if self.tries[worker.name] > TRIES:
            raise Failed(f"{worker.name} could not be changed over {TRIES} times")
        told = await self._core.insist("handover", slot=worker.slot, version=version)
        if told != "told" or sitter is None:
            await asyncio.sleep(ROUND_S)
            return
        if (
            not await self._core.until(lambda: worker.sitter is not sitter, MOVE_S)
            and sitter.pidfd >= 0
        ):
            sitter.asked = True
            process.signal_pidfd(sitter.pidfd, signal.SIGKILL)
        await self._core.until(
            lambda: worker.sitter is not sitter and worker.state not in ("starting", "recovering"),
            SEATED_S,
        )

    async def _judge(self, workers: list[Worker]) -> None:
        seconds = self.options.judge
        if not seconds or not workers:
            self._check()
            return
        slots = [w.slot for w in workers]
        before = await self._core.ask("counters")
        await self._pause(seconds)
        after = await self._core.ask("counters")
        new = sample(before, after, slots)
        old = sum((self.baseline.get(s, Sample()) for s in slots), Sample())
        against = judge(old, new, self.options.margins)
        self._core.events.add(
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

    async def _watch(self) -> None:
        """While slots change over and are judged: a version that harms every packet is not left
        to do so until the judging time is over."""
        seated: dict[int, Counters] = {}  # by slot, when the new version was first seen there
        before = sum(self.baseline.values(), Sample()) if self.options.judge else None
        while not self.done.is_set() and not self.failed:
            if self.phase in ("closing", "undoing"):
                return
            await asyncio.sleep(HARD_S)
            try:
                now = await self._core.ask("counters")
            except DpsupError:
                continue
            self._note_forgotten(now)
            for worker in self.group.workers:
                if now["slots"][worker.slot]["version"] == self.new:
                    seated.setdefault(worker.slot, now)
                else:
                    seated.pop(worker.slot, None)
            new = sum((sample(was, now, [slot]) for slot, was in seated.items()), Sample())
            if against := hard_sign(before, new, self.options.margins):
                self.blame(against)

    def _retire(self, version: int) -> None:
        """End the spares of a version that is done with, and surplus ones of the other."""
        spares = self.group.spares
        self._hands.spares.retire([s for s in spares if s.version == version])
        others = [s for s in spares if s.version != version and not s.asked]
        self._hands.spares.retire(others[self.group.plan.spares :])

    # --- what the supervisor tells ----------------------------------------------------------------

    def blame(self, why: str) -> None:
        if self.phase not in ("undoing", "undone", "done") and not self.failed:
            self.failed = why
            self._core.wake()

    def describe(self) -> RolloutRecord:
        """What rollout.json says of it."""
        return {
            "to": self.target.number,
            "old": self.old,
            "new": self.new,
            "phase": self.phase,
            "why": self.failed,
            "options": cast(OptionsRecord, asdict(self.options)),
        }
