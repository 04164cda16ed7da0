# SPDX-License-Identifier: BSD-3-Clause
"""Case `capacity`: how throughput grows with workers. The measurement uses the two cores that a
bench has, with all workers on one of them; figures for more cores come from a model, and say so."""

from __future__ import annotations

from dpsup.bench import rigs
from dpsup.bench.meter import segments
from dpsup.bench.model import Reading
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step
from dpsup.instance.rates import picture

WORK = 1000  # TSC cycles of a plugin that does something, per packet
WORKERS = (1, 2, 3, 4)
MODELLED = (1, 2, 4, 8, 16, 32)
MODEL = "capacity/model"


def modelled(one_worker: float, io_core: float, workers: int) -> float:
    """Packets a second of that many workers, each on a core of its own: the sum of what they
    do, or what one io core can hand out, whichever is less. The arguments are packets a second."""
    return min(workers * one_worker, io_core)


def steps(setup: Setup) -> list[Step]:
    """One step, so that the model uses figures of the same run."""
    return [Step("capacity", lambda watch: _run(setup, watch))]


def _measured(setup: Setup, watch: Watch, workers: int) -> tuple[Reading, float]:
    """Packets a second with that many workers, and that the io core could hand out."""
    body = group("delay", setup.cores, count=workers, most=workers, more='on_full = "hold"\n')
    body = body.replace('lan = "wan" } }', f'lan = "wan" }}, cycles = {WORK} }}')
    with rigs.instance(POOL + TWO_NULL + body, setup.cores) as rig, rig.meter() as meter:
        before = rig.instance.look()
        found = segments(meter.sent, setup.seconds, watch.polled)
        after = rig.instance.look()
    cost = picture(before, after)["io"][0]["cycles_per_packet"]
    return Reading(
        f"capacity/{workers} on one core",
        median([rate for one in found for rate in one.rates]) / 1e6,
        "Mpps",
        apart=tuple(ns for one in found for ns in one.distance_ns),
    ), after["tsc_hz"] / cost if cost else 0.0


def _run(setup: Setup, watch: Watch) -> list[Reading]:
    found = [_measured(setup, watch, n) for n in WORKERS]
    one_worker = found[0][0].value
    # With two workers, packets are steered by a hash, as with more workers.
    io_core = found[1][1] / 1e6
    return [reading for reading, _ in found] + [
        Reading(f"{MODEL}/{n} on {n} cores", modelled(one_worker, io_core, n), "Mpps")
        for n in MODELLED
    ]
