# SPDX-License-Identifier: BSD-3-Clause
"""Reports as `dpsup bench` would make them, from a few numbers."""

from __future__ import annotations

from dpsup.bench.model import Conditions, Reading, Report

NEAR = (90.0, 95.0, 92.0)
FAR = (340.0, 350.0)
MOVED = (90.0, 345.0)
HOST = {
    "cpu_model": "Nonesuch 3000",
    "cpus": 2,
    "dpdk": "22.11.7",
    "cores": {"io": 1, "worker": 0, "supervisor": 0},
    "date": "2026-01-01 00:00 UTC",
}


def report(**host: object) -> Report:
    return Report({**HOST, **host}, {"runs": 5, "seconds": 1.0})


def add(
    to: Report,
    name: str,
    *values: float,
    apart: tuple[float, ...] = NEAR,
    unit: str = "Mpps",
    better: str = "higher",
    steal: float = 0.0,
    one_core: bool = False,
    samples: tuple[float, ...] = (),
) -> Report:
    """A run for each value."""
    for value in values:
        reading = Reading(name, value, unit, better, samples, one_core=one_core)
        to.add(reading, Conditions(apart, steal=steal))
    return to
