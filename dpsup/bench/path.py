# SPDX-License-Identifier: BSD-3-Clause
"""Cases `distance` and `path`: the two cores, and the whole way of packets between null ports."""

from __future__ import annotations

from dpsup.bench import probe, rigs
from dpsup.bench.meter import Segment, segments
from dpsup.bench.model import Reading, Regime, regime_of
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, group
from dpsup.bench.stats import median, slowest_tenth
from dpsup.bench.step import Setup, Step

PLUGINS = ("forward", "macswap")
DISTANCES = 10


def distance_steps(setup: Setup) -> list[Step]:
    def run(watch: Watch) -> list[Reading]:
        ns = probe.ask("distance", setup.cores, "--count", DISTANCES, "--ms", 10)["ns"]
        watch.during(*ns)
        return [Reading("distance", median(ns), "ns", "", tuple(ns))]

    return [Step("distance", run)]


def throughput(name: str, found: list[Segment], *, one_core: bool = False) -> list[Reading]:
    """Throughput and steadiness of a run, for each regime that the cores were in."""
    by_regime: dict[Regime, list[Segment]] = {}
    for segment in found:
        by_regime.setdefault(regime_of(segment.distance_ns), []).append(segment)
    readings = []
    for those in by_regime.values():
        apart = tuple(ns for s in those for ns in s.distance_ns)
        rates = [rate / 1e6 for s in those for rate in s.rates]
        windows = {"windows": [round(rate, 3) for rate in rates]}
        readings += [
            Reading(name, median(rates), "Mpps", detail=windows, one_core=one_core, apart=apart),
            Reading(
                f"{name}/slowest_tenth", slowest_tenth(rates), "×", one_core=one_core, apart=apart
            ),
        ]
    return readings


def steps(setup: Setup) -> list[Step]:
    """net_null → io core → worker → net_null, both ways, crash-safe as always."""

    def step(plugin: str) -> Step:
        def run(watch: Watch) -> list[Reading]:
            body = POOL + TWO_NULL + group(plugin, setup.cores)
            with rigs.instance(body, setup.cores) as rig, rig.meter() as meter:
                pids = rig.pids()
                watch.threads([pids["primary"], pids["fw/0"]])
                found = segments(meter.sent, setup.seconds, watch.polled)
                watch.threads_done()
            return throughput(f"path/{plugin}", found)

        return Step(f"path/{plugin}", run)

    return [step(plugin) for plugin in PLUGINS]
