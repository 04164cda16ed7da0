# SPDX-License-Identifier: BSD-3-Clause
"""The size of groups and the spread of their load: scale, autoscale, rebalance.

steering.py and autoscale.py decide; this module measures and carries out.
"""

from __future__ import annotations

import asyncio

from dpsup import limits
from dpsup.documents.counters import Counters
from dpsup.documents.printed import Changes, Rebalance, Scale
from dpsup.errors import DpsupError, TimedOut, UsageError
from dpsup.supervisor import autoscale, steering
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Group, Model
from dpsup.text import plural

SCALE_S = 30.0
MEASURE_MOST_S = 60.0


def must_run(model: Model) -> None:
    if not model.is_open:
        raise DpsupError(
            f"the instance is {model.state}",
            code="E0705",
            help="try again when `dpsup status` says running",
        )


# --- size -----------------------------------------------------------------------------------------


def size_of(group: Group, spec: str, file: str) -> int:
    """ "4", "+1" or "-1" as a number of workers."""
    try:
        n = int(spec) + (group.desired if spec[:1] in "+-" else 0)
    except ValueError:
        raise UsageError(
            f'"{spec}" is no number of workers',
            code="E0709",
            help="write 4, or +1 or -1 to add to what is there",
        ) from None
    if not 0 <= n <= group.plan.max:
        raise UsageError(
            f"group {group.plan.name} can have 0 to {group.plan.max} workers, not {n}",
            code="E0704",
            why="rings, slots and memory are reserved for `max` at the start"
            if n > 0
            else f"it has {plural(group.desired, 'worker')}",
            help=_help_for(group, n, file),
        )
    return n


def _help_for(group: Group, n: int, file: str) -> str:
    if n < 0:
        return f"`dpsup scale {group.plan.name} 0` ends all of them"
    if n > limits.SLOTS:
        return f"all groups together can have {limits.SLOTS} workers"
    return f"set max = {n} in [[workers]] of {file}, then restart"


def changes(group: Group, n: int) -> Changes:
    """What a scale to n would do. Pure."""
    members = {w.member for w in group.workers if w.member < n}
    new = steering.spread(group.map, members, group.loads, group.home)
    return {
        "group": group.plan.name,
        "old": group.desired,
        "desired": n,
        "ready": group.ready,
        "add": [
            {"worker": w.name, "core": w.core}
            for w in group.workers
            if w.member < n and not w.wanted
        ],
        "remove": [
            {"worker": w.name, "core": w.core} for w in group.workers if w.member >= n and w.wanted
        ],
        "buckets_moved": steering.moved(group.map, new) if n != group.desired else 0,
        "at_zero": group.plan.at_zero if n == 0 else None,
    }


class Scaler:
    """Sizes and loads of groups, one change of a group at a time."""

    def __init__(self, core: Core, model: Model, buckets: Buckets) -> None:
        self._core, self._model, self._buckets = core, model, buckets

    async def scale(
        self, group: Group, spec: str, *, wait: bool = True, dry_run: bool = False
    ) -> Scale:
        """Bring a group to n workers; one change of a group at a time, in the order of requests."""
        must_run(self._model)
        if dry_run:
            return {
                **changes(group, size_of(group, spec, self._model.plan.topology_file)),
                "held": {},
                "dry_run": True,
            }
        async with group.scaling:
            must_run(self._model)
            # Here, as "+1" counts from what is there when its turn comes.
            n = size_of(group, spec, self._model.plan.topology_file)
            told = changes(group, n)
            self.resize(group, n, "asked")
            if wait:
                await self.settled(group)
            held = {w.name: w.held_for for w in group.workers if w.wanted and w.state == "held"}
            return {**told, "ready": group.ready, "held": held, "dry_run": False}

    def resize(self, group: Group, n: int, why: str) -> None:
        before, group.desired = group.desired, n
        for worker in group.workers:
            worker.wanted = worker.member < n
            worker.growing = worker.wanted and worker.state == "stopped"
        for worker in group.workers:
            if worker.wanted:
                self._core.fire(worker, "start")
            elif worker.state != "stopped":
                self._core.fire(worker, "stop")
        if n != before:
            self._core.events.add(type="scale", name=group.plan.name, old=before, new=n, why=why)
            self._core.record()

    async def settled(self, group: Group) -> None:
        # A worker that was told to stop a moment ago comes back once it has ended.
        states = ("running", "held", "stopped")

        def done() -> bool:
            for worker in group.workers:
                if worker.wanted and worker.state == "stopped":
                    self._core.fire(worker, "start")
            return all(
                w.state in states and (w.state != "stopped") == w.wanted and not w.awaits_buckets
                for w in group.workers
            )

        if not await self._core.until(done, SCALE_S):
            raise TimedOut(
                f"{group.plan.name} has {group.ready} of {group.desired} workers ready",
                code="E0707",
            )
        # Each has its share when the caller hears that it is done.
        await self._buckets.steer(group)

    async def measure(self, group: Group, seconds: float) -> steering.Loads:
        """Packets of each bucket over that many seconds."""
        before = await self._core.ask("loads", group=group.index)
        await asyncio.sleep(seconds)
        after = await self._core.ask("loads", group=group.index)
        most = 1 << 32
        return tuple((b - a) % most for a, b in zip(before, after, strict=True))

    async def rebalance(self, group: Group, seconds: float, *, dry_run: bool) -> Rebalance:
        """Move buckets so that the members have even loads, if that is worth it; what was
        predicted, and what it came to."""
        must_run(self._model)
        if not 0.05 <= seconds <= MEASURE_MOST_S:
            raise UsageError(
                f"a measurement takes 50 ms to {MEASURE_MOST_S:g} s, not {seconds:g} s",
                code="E0711",
            )
        members = {w.member for w in group.workers if w.fed}
        if len(members) < 2:
            raise DpsupError(
                f"group {group.plan.name} has {plural(len(members), 'worker')} with packets",
                code="E0710",
                why="there is no other worker to share the load with",
                help=f"dpsup scale {group.plan.name} 2",
            )
        loads = await self.measure(group, seconds)
        new = steering.spread(group.map, members, loads)
        was = steering.imbalance(group.map, loads, members)
        predicted = steering.imbalance(new, loads, members)
        elephants = steering.elephants(group.map, loads, members)
        total = sum(loads)
        doc: Rebalance = {
            "group": group.plan.name,
            "packets": total,
            "seconds": seconds,
            "before": {
                group.workers[m].name: n for m, n in _part(group.map, loads, members).items()
            },
            "predicted": {group.workers[m].name: n for m, n in _part(new, loads, members).items()},
            "imbalance": round(was, 3),
            "imbalance_predicted": round(predicted, 3),
            "buckets_moved": steering.moved(group.map, new),
            "elephants": [
                {"bucket": b, "worker": group.workers[group.map[b]].name, "share": loads[b] / total}
                for b in elephants
            ],
            "dry_run": dry_run,
            "done": False,
            "why": "",
            "measured": None,
            "imbalance_measured": None,
        }
        if not total:
            doc["why"] = "no packet came: there is nothing to go by"
        elif was - predicted < steering.WORTHWHILE:
            doc["why"] = (
                f"it would take less than {steering.WORTHWHILE:.0%} of a share off the busiest"
                " worker"
            )
            if elephants:
                doc["why"] += "; one bucket alone is more than a share, and a flow is never split"
        if dry_run or doc["why"]:
            return doc
        # From now on scaling and deaths keep the loads even, not the numbers of buckets.
        group.loads, group.home = loads, steering.EMPTY
        await self._buckets.steer(group)
        after = await self.measure(group, seconds)
        doc["done"] = True
        doc["measured"] = {
            group.workers[m].name: n for m, n in _part(group.map, after, members).items()
        }
        doc["imbalance_measured"] = round(steering.imbalance(group.map, after, members), 3)
        self._core.events.add(
            type="rebalance",
            name=group.plan.name,
            buckets_moved=doc["buckets_moved"],
            imbalance=doc["imbalance"],
            predicted=doc["imbalance_predicted"],
            measured=doc["imbalance_measured"],
        )
        return doc


# --- autoscale ------------------------------------------------------------------------------------


class Follower:
    """Has one group follow its load."""

    def __init__(self, core: Core, model: Model, scaler: Scaler, group: Group) -> None:
        self._core, self._model, self._scaler = core, model, scaler
        self.group = group
        self.memory = autoscale.Memory()
        self.before: Counters | None = None
        self.told = 0  # workers, of the last decision of a dry run

    def observe(self, counters: Counters) -> None:
        """After each reading of the counters."""
        conf, before = self.group.plan.scale, self.before
        self.before = counters
        if conf is None or before is None or before["generation"] != counters["generation"]:
            return
        if self.group.scaling.locked() or self.group.ready != self.group.desired:
            return  # between two sizes nothing is measured
        sample = _sample(self.group, before, counters, self._model.hello.get("tsc_hz", 0))
        if sample is None:
            return
        settings = autoscale.Settings(conf.min, conf.max, conf.target_busy, conf.cooldown)
        self.memory, decision = autoscale.decide(settings, self.memory, sample)
        if not decision.reason or decision.workers == self.told:
            return
        self.told = decision.workers if conf.dry_run else 0
        self._core.events.add(
            type="autoscale",
            name=self.group.plan.name,
            old=sample.workers,
            new=decision.workers,
            why=decision.reason,
            dry_run=conf.dry_run,
        )
        if not conf.dry_run:
            self._scaler.resize(self.group, decision.workers, decision.reason)


def _sample(group: Group, before: Counters, now: Counters, tsc_hz: int) -> autoscale.Sample | None:
    elapsed = (now["at_ns"] - before["at_ns"]) / 1e9
    n = group.desired
    if elapsed <= 0 or not tsc_hz or n == 0:
        return None
    slots = range(group.plan.first_slot, group.plan.first_slot + group.plan.max)
    busy = lost = 0
    for i in slots:
        old, new = before["slots"][i], now["slots"][i]
        busy += max(0, new["busy"] - old["busy"])
        lost += max(0, new["lane_full"] - old["lane_full"])
    return autoscale.Sample(now["at_ns"] / 1e9, n, min(1.0, busy / (elapsed * tsc_hz * n)), lost)


def _part(map_: steering.Map, loads: steering.Loads, members: set[int]) -> dict[int, float]:
    total = sum(loads) or 1
    return {m: n / total for m, n in steering.shares(map_, loads, members).items()}
