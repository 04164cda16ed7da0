# SPDX-License-Identifier: BSD-3-Clause
"""Case `start`: how long starting, attaching, forking, taking over and scaling take.

Times are the instance's own: CLOCK_MONOTONIC stamps of its events, and of the workers' slots.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dpsup.bench import rigs
from dpsup.bench.child import wait_for
from dpsup.bench.model import Reading
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, TWO_SILENT, Rig, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step
from dpsup.errors import DpsupError

SCALES = 10  # a run
KILLS = 10
BACK_S = 20.0
# The back-off is the policy's, no cost: as short as it can be set.
RESTARTS = (
    'restart = { intensity = 1000, period = "1s", '
    'backoff = { initial = "1us", factor = 1, max = "1us" } }\n'
)


def reading(name: str, ns: Sequence[float], unit: str = "ms", **detail: Any) -> Reading:
    """Of durations in nanoseconds."""
    scale = {"ms": 1e6, "us": 1e3}[unit]
    samples = tuple(one / scale for one in ns)
    return Reading(f"start/{name}", median(samples), unit, "lower", samples, detail)


def when(events: list[dict[str, Any]], **wanted: Any) -> int:
    """The time of the first such event. Raises: DpsupError if there is none."""
    for event in events:
        if all(event.get(key) == value for key, value in wanted.items()):
            return int(event["at_ns"])
    raise DpsupError(f"no event {wanted} came")


def _first_packet(rig: Rig) -> int:
    """When the first worker had its first packet, in nanoseconds."""
    found: list[int] = []

    def seen() -> bool:
        found[:] = [s["first_ns"] for s in rig.instance.stats()["slots"] if s["first_ns"]]
        return bool(found)

    wait_for(seen, BACK_S, "a first packet", 0.02)
    return min(found)


def _launch(setup: Setup) -> Step:
    body = POOL + TWO_NULL + group("forward", setup.cores, count=2, most=2)

    def run(_: Watch) -> list[Reading]:
        with rigs.instance(body, setup.cores) as rig:
            first = _first_packet(rig)
            events = rig.events()
        begin = rig.launched_ns
        parts = {
            "to_supervisor": when(events, kind="topology", new="starting"),
            "to_primary": when(events, kind="primary", new="running"),
            "to_seed": when(events, kind="seed", new="running"),
            "to_workers": when(events, kind="topology", new="running"),
        }
        attach = parts["to_seed"] - when(events, kind="seed", new="attaching")
        return [
            reading("first_packet", [first - begin]),
            *(reading(f"first_packet/{k}", [at - begin]) for k, at in parts.items()),
            reading("attach", [attach]),
        ]

    return Step("start/launch", run)


def _scale(setup: Setup) -> Step:
    """On an instance without packets: beside a worker that polls, what is measured is how the
    kernel shares a core."""
    body = POOL + TWO_SILENT + group("forward", setup.cores, count=1, most=2)

    def run(_: Watch) -> list[Reading]:
        forks, ups, downs = [], [], []
        with rigs.instance(body, setup.cores) as rig:
            for _i in range(SCALES):
                seen = rig.last_event()
                begin = time.monotonic_ns()
                rig.instance.scale("fw", 2)
                ups.append(time.monotonic_ns() - begin)
                told = when(rig.events(seen), kind="worker", name="fw/1", new="starting")
                forks.append(rig.instance.stats()["slots"][1]["ready_ns"] - told)
                begin = time.monotonic_ns()
                rig.instance.scale("fw", 1)
                downs.append(time.monotonic_ns() - begin)
        return [
            reading("fork_ready", forks),
            reading("scale_up", ups),
            reading("scale_down", downs),
        ]

    return Step("start/scale", run)


def _failover(setup: Setup) -> Step:
    """Workers are killed while null ports send all that they can."""
    body = POOL + TWO_NULL + group("macswap", setup.cores, count=1, most=1, more=RESTARTS)

    def run(_: Watch) -> list[Reading]:
        gaps, notices, repairs, forks = [], [], [], []
        with rigs.instance(body, setup.cores) as rig, rig.meter():
            for _i in range(KILLS):
                seen = rig.last_event()
                begin = time.monotonic_ns()
                pid = rig.instance.kill("fw/0")["pid"]
                gaps.append(_taken_over(rig, pid))
                events = rig.events(seen)
                died = when(events, kind="worker", name="fw/0", new="recovering")
                forked = when(events, kind="worker", name="fw/0", new="starting")
                notices.append(died - begin)
                repairs.append(forked - died)
                forks.append(when(events, kind="worker", name="fw/0", new="running") - forked)
        return [
            reading("failover", gaps, "us"),
            reading("failover/notice", notices, "us"),
            reading("failover/repair", repairs, "us"),
            reading("failover/fork", forks, "us"),
        ]

    return Step("start/failover", run)


def _taken_over(rig: Rig, pid: int) -> int:
    """Nanoseconds from the notice of that process's death to the successor's first packet."""
    gap: list[int] = []

    def back() -> bool:
        worker = rig.instance.status()["groups"][0]["workers"][0]
        if worker["state"] != "running" or worker["pid"] == pid:
            return False
        first = rig.instance.stats()["slots"][0]["first_ns"]
        gap[:] = [first - worker["last_exit"]["at_ns"]]
        return gap[0] > 0

    wait_for(back, BACK_S, "a successor", 0.02)
    return gap[0]


def steps(setup: Setup) -> list[Step]:
    return [_launch(setup), _scale(setup), _failover(setup)]
