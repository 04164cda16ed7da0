# SPDX-License-Identifier: BSD-3-Clause
"""What a measurement is: runs under conditions, collected in figures, in one document. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

NEAR_BELOW_NS = 200.0  # between the two that such VMs have: about 90 and 345
STEAL_MOST = 0.02
WAITED_MOST = 0.05


class Regime(enum.StrEnum):
    """How far apart the two cores were: a figure that hops between them depends on it."""

    NEAR = "near"
    FAR = "far"
    MIXED = "mixed"
    UNKNOWN = "unknown"


def regime_of(distance_ns: tuple[float, ...]) -> Regime:
    """The regime of the distances measured before, during and after a run."""
    if not distance_ns:
        return Regime.UNKNOWN
    near = [ns < NEAR_BELOW_NS for ns in distance_ns]
    return Regime.NEAR if all(near) else Regime.MIXED if any(near) else Regime.FAR


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine was like during a run."""

    distance_ns: tuple[float, ...] = ()  # before, during, after
    steal: float = 0.0  # share of the cores in use that the host gave to others
    steal_ticks: int = 0  # the same in clock ticks
    waited: float = 0.0  # most of a run that one of its polling threads waited for its core
    load: float = 0.0  # load average over a minute, our own threads included
    seconds: float = 0.0

    @property
    def regime(self) -> Regime:
        return regime_of(self.distance_ns)

    @property
    def noise(self) -> str:
        """Why a run under these conditions is not used; "" if it is used."""
        why = []
        if self.regime is Regime.MIXED:
            low, high = min(self.distance_ns), max(self.distance_ns)
            why.append(f"the cores moved: {low:.0f} to {high:.0f} ns apart")
        if self.steal > STEAL_MOST:
            why.append(f"{self.steal:.0%} stolen by the host")
        if self.waited > WAITED_MOST:
            why.append(f"other work had a core for {self.waited:.0%}")
        return ", ".join(why)


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one run of a step, for one figure.

    `better` is "higher", "lower" or "" where it is no matter of better; `samples` are the single
    values where a run takes several, `value` then is their median.
    """

    name: str  # case/what: "path/forward"
    value: float
    unit: str
    better: str = "higher"
    samples: tuple[float, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    one_core: bool = False  # nothing of it hops between the cores: near and far are the same
    # Of this very part of the run, where they were taken there:
    apart: tuple[float, ...] = ()  # distances
    waited: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    value: float
    conditions: Conditions
    samples: tuple[float, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Figure:
    name: str
    unit: str
    better: str
    one_core: bool = False
    runs: list[Run] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """One `dpsup bench`: the machine, what was asked, every run."""

    host: dict[str, Any]
    asked: dict[str, Any]
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was left out, and why

    def add(self, reading: Reading, conditions: Conditions) -> None:
        figure = self.figures.setdefault(
            reading.name,
            Figure(reading.name, reading.unit, reading.better, reading.one_core),
        )
        if reading.apart:
            conditions = replace(conditions, distance_ns=reading.apart)
        if reading.waited is not None:
            conditions = replace(conditions, waited=reading.waited)
        figure.runs.append(Run(reading.value, conditions, reading.samples, reading.detail))
