# SPDX-License-Identifier: BSD-3-Clause
"""Cases `lane`, `cost` and `latency`: a lane alone, both of its ends in one C program without EAL;
and case `io`: where an io core's cycles go, in a whole instance."""

from __future__ import annotations

import time
from typing import Any, TypedDict

from dpsup.bench import probe, rigs
from dpsup.bench.model import WAITED_MOST, Reading
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step


class _At(TypedDict):
    apart: tuple[float, ...]
    waited: float


LANE_SHARE = 100  # of --seconds, one of the 45 combinations takes a hundredth
COST_SHARE = 10  # one of 60 runs takes a tenth
COST_PAIRS = 10
GAPS_SHARE = 4
LATENCY_SHARE = 20  # one load takes a twentieth
LEAST_MS = 5
PERCENTILES = ("p50", "p99", "p999", "max")


def _ms(setup: Setup, share: int) -> int:
    return max(LEAST_MS, round(setup.seconds * 1000 / share))


def _conditions(found: dict[str, Any]) -> _At:
    return {"apart": tuple(found["distance_ns"]), "waited": found["waited"]}


def steps(setup: Setup) -> list[Step]:
    """Cycles that pass while one packet goes to the worker and comes back. Both cores work all the
    time and the packet crosses twice, so this is also the sum of both cores' cycles for one
    crossing, which is what ring_perf_autotest reports."""

    def run(_: Watch) -> list[Reading]:
        readings = []
        for one in probe.ask("lane", setup.cores, "--ms", _ms(setup, LANE_SHARE))["results"]:
            name = f"lane/{one['touch']}/burst{one['burst']}/ring{one['ring']}"
            at = _conditions(one)
            readings += [
                Reading(f"{name}/cycles", one["cycles"], "cycles", "lower", **at),
                Reading(f"{name}/mpps", one["mpps"], "Mpps", **at),
            ]
        return readings

    return [Step("lane", run)]


def cost_steps(setup: Setup) -> list[Step]:
    """Cycles a packet of the worker's loop, against those of the same source without undo record
    and order of stores, one right after the other: the cost of losing nothing at a kill."""

    def run(_: Watch) -> list[Reading]:
        options = ("--count", COST_PAIRS, "--ms", _ms(setup, COST_SHARE))
        found = probe.ask("cost", setup.cores, *options, timeout=120 + 10 * setup.seconds)
        readings = []
        for touch in dict.fromkeys(one["touch"] for one in found["results"]):
            pairs = [one for one in found["results"] if one["touch"] == touch]
            # A reading that waited for a core counts only if there is no other.
            used = [one for one in pairs if one["waited"] <= WAITED_MOST] or pairs
            ratios = [one["safe"] / one["unsafe"] for one in used]
            readings.append(
                Reading(
                    f"cost/{touch}", median(ratios), "×", "lower", tuple(ratios),
                    waited=min(one["waited"] for one in used),
                )
            )  # fmt: skip
        return readings

    return [Step("cost", run)]


def latency_steps(setup: Setup) -> list[Step]:
    """The time from when a packet was due at the io core to when the io core had it back; and
    `away`: the share of time for which each CPU left an idle loop for 5 us or more."""

    def run(_: Watch) -> list[Reading]:
        away = probe.ask("gaps", setup.cores, "--ms", _ms(setup, GAPS_SHARE))["results"]
        (found,) = probe.ask("latency", setup.cores, "--ms", _ms(setup, LATENCY_SHARE))["results"]
        at = _conditions(found)
        readings = [
            Reading("latency/empty", found["empty"]["p50"], "ns", "lower", **at),
            Reading("latency/largest_load", found["most_mpps"], "Mpps", **at),
            *(
                Reading(f"latency/away/{side}", one["share"], "", "lower", detail=one, **at)
                for side, one in zip(("io", "worker"), away, strict=True)
            ),
        ]
        for load in found["loads"]:
            readings += [
                Reading(f"latency/load{load['load']}/{p}", load[p], "ns", "lower", **at)
                for p in PERCENTILES
            ]
        return readings

    return [Step("latency", run)]


def io_steps(setup: Setup) -> list[Step]:
    """The io core's cycles a packet, by stage, with a macswap worker."""

    def run(watch: Watch) -> list[Reading]:
        body = POOL + TWO_NULL + group("macswap", setup.cores)
        with rigs.instance(body, setup.cores) as rig, rig.meter():
            before = watch.polled()
            (first,) = rig.instance.stats()["io"]
            time.sleep(setup.seconds)
            (last,) = rig.instance.stats()["io"]
            apart = tuple(d for d in (before, watch.polled()) if d is not None)
        # Counted when received and when handed back.
        packets = (last["stage_packets"] - first["stage_packets"]) / 2
        if not packets:
            return []
        return [
            Reading(
                f"io/{name}",
                (cycles - first["stage_cycles"][name]) / packets,
                "cycles",
                "lower",
                apart=apart,
            )
            for name, cycles in last["stage_cycles"].items()
        ]

    return [Step("io", run)]
