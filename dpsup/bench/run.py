# SPDX-License-Identifier: BSD-3-Clause
"""Runs the requested cases, round by round, and reports progress."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from dpsup.bench import host, idle, rigs, stats
from dpsup.bench.host import Cores, Steal
from dpsup.bench.model import Report, regime_of
from dpsup.bench.probe import Watch
from dpsup.bench.step import Setup, Step
from dpsup.errors import DpsupError, NotPermitted, UsageError
from dpsup.host import tied


class Case(NamedTuple):
    what: str
    where: str  # module of dpsup.bench and its function, which creates the steps
    usual: bool = True  # part of a bench that names no case


CASES = {
    "distance": Case("a cache line's round trip between the two cores", "path:distance_steps"),
    "path": Case("null port → io core → worker → null port: forward, macswap", "path:steps"),
    "lane": Case("a lane alone: what is touched, burst, size", "lane:steps"),
    "cost": Case("the worker's loop against one that no kill may meet", "lane:cost_steps"),
    "latency": Case("through a lane and back, at 10 to 90 % of the load", "lane:latency_steps"),
    "io": Case("the io core's cycles a packet, by stage", "lane:io_steps"),
    "others": Case("testpmd, ring_perf_autotest, client_server_mp, side by side", "others:steps"),
    "start": Case("start to first packet, attach, fork, failover, scale, commands", "start:steps"),
    "bus": Case("what three subscribers to 10 Hz statistics cost", "bus:steps"),
    "idle": Case("CPU of an idle instance, and its wake-up (over veth)", "idle:steps"),
    "shared": Case("four workers on one core against one", "shared:steps"),
    "capacity": Case(
        "1 to 4 workers on one core, and a model of more cores", "capacity:steps", False
    ),
    "sdk": Case("lookahead, emissions, copies, ticks, live tables, Python", "sdk:steps", False),
    "python": Case("plugins in Python, and the same in C", "python:steps", False),
    "large": Case("64 slots, 8 io cores, 16 ports, 1 M packets: growth", "large:steps", False),
}


def choose(names: Sequence[str]) -> list[str]:
    """Cases in the order of the list. Raises: UsageError."""
    strange = [n for n in names if n not in CASES]
    if strange:
        import difflib

        close = difflib.get_close_matches(strange[0], CASES, 1)
        raise UsageError(
            f'no case "{strange[0]}"',
            help=f'did you mean "{close[0]}"?' if close else "`dpsup bench --list` shows them",
        )
    return [n for n, case in CASES.items() if n in names or (not names and case.usual)]


def _steps(names: Sequence[str], setup: Setup) -> list[Step]:
    found = []
    for name in names:
        module, _, function = CASES[name].where.partition(":")
        found += getattr(importlib.import_module(f"dpsup.bench.{module}"), function)(setup)
    return found


def bench(names: Sequence[str], setup: Setup, asked: list[str]) -> Report:
    """Measure. A step that fails is reported and left out from then on; if it worked before, it
    keeps its runs. Raises: the first failure, if nothing could be measured."""
    if os.geteuid() != 0:
        raise NotPermitted(
            "a bench starts DPDK primaries, and pins and preempts threads",
            help="run it as root",
        )
    for sweep in (rigs.sweep_dead, tied.sweep_dead, idle.sweep_dead):
        sweep()
    cores = setup.cores
    report = Report(
        host=host.describe(cores, asked),
        asked={"cases": list(names), "runs": setup.runs, "seconds": setup.seconds},
        notes=setup.notes,
    )
    if cores.supervisor == cores.worker:
        report.notes.append("two CPUs only: Python shares the worker's core")
    steps = _steps(names, setup)
    steal = Steal((cores.io, cores.worker))
    broken: dict[str, DpsupError] = {}
    order = list(stats.interleave([(s, s.rounds) for s in steps], setup.runs))
    for i, step in enumerate(order, 1):
        if step.name in broken:
            continue
        try:
            setup.say(f"{i}/{len(order)} {_once(step, cores, report)}")
        except DpsupError as e:
            broken[step.name] = e
            report.notes.append(f"{step.name} failed: {e}")
            setup.say(f"{i}/{len(order)} {step.name} failed: {e.message.splitlines()[0]}")
    report.host["steal"] = steal.share
    report.host["seconds"] = steal.seconds
    report.host["load_after"] = os.getloadavg()[0]
    if not report.figures:
        raise next(iter(broken.values()), DpsupError("nothing was measured"))
    return report


def _once(step: Step, cores: Cores, report: Report) -> str:
    """One run of a step; what to say of it."""
    watch = Watch(cores)
    readings = step.run(watch)
    conditions = watch.done()
    for reading in readings:
        report.add(reading, conditions)
    first = readings[0]
    shown = [
        f"{r.value:.4g} {r.unit} ({regime_of(r.apart) if r.apart else conditions.regime})"
        for r in readings
        if r.name == first.name
    ]
    return f"{first.name} {', '.join(shown)}"
