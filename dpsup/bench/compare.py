# SPDX-License-Identifier: BSD-3-Clause
"""Two reports side by side, where they can be compared at all. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dpsup.bench.model import Regime, Report
from dpsup.bench.stats import Summary, in_regime
from dpsup.errors import DpsupError

ENOUGH_RUNS = 3  # to tell a difference from noise
SAME = (
    ("cpu_model", "CPU model"),
    ("cpus", "number of CPUs"),
    ("dpdk", "DPDK version"),
    ("cores", "cores used"),
)
LEAST_DIFFERENCE = 0.01


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in one regime, old and new."""

    name: str
    unit: str
    better: str
    regime: Regime
    old: float
    new: float
    ratio: float  # new / old; 0 where old is 0
    spread: float  # of the ratio, relative
    verdict: str  # better | worse | differs | same | too few runs


def why_not(old: Report, new: Report) -> list[str]:
    """Why the reports cannot be compared; empty if they can."""
    reasons = [
        f"{words}: {old.host.get(key)} then, {new.host.get(key)} now"
        for key, words in SAME
        if old.host.get(key) != new.host.get(key)
    ]
    regimes = [
        {r.conditions.regime for f in report.figures.values() for r in f.runs}
        for report in (old, new)
    ]
    if not regimes[0] & regimes[1] - {Regime.MIXED, Regime.UNKNOWN} and not _one_core(old, new):
        named = [", ".join(sorted(one)) or "none" for one in regimes]
        reasons.append(f"distance between the cores: {named[0]} then, {named[1]} now")
    if not old.figures.keys() & new.figures.keys():
        reasons.append("no figure is in both")
    return reasons


def _one_core(old: Report, new: Report) -> bool:
    """Do all figures to compare stay on one core?"""
    common = old.figures.keys() & new.figures.keys()
    return bool(common) and all(new.figures[name].one_core for name in common)


def _verdict(old: Summary, new: Summary, better: str) -> str:
    if min(old.runs, new.runs) < ENOUGH_RUNS:
        return "too few runs"
    difference = abs(new.median - old.median)
    noise = old.spread * abs(old.median) + new.spread * abs(new.median)
    if difference <= max(noise, LEAST_DIFFERENCE * abs(old.median)):
        return "same"
    if not better:
        return "differs"
    return "better" if (new.median > old.median) == (better == "higher") else "worse"


def compare(old: Report, new: Report) -> list[Change]:
    """Every figure that both have, per regime that both were in. Raises: DpsupError with every
    reason why these two cannot be compared."""
    reasons = why_not(old, new)
    if reasons:
        raise DpsupError(
            "these two runs cannot be compared:\n" + "\n".join(f"  {r}" for r in reasons),
            why="a ratio would tell of the machines, not of dpsup",
            help="run both on the same machine, same cores, until the distances match",
        )
    changes = []
    for name, figure in new.figures.items():
        before = old.figures.get(name)
        if before is None or before.unit != figure.unit:
            continue
        for regime in (Regime.NEAR, Regime.FAR):
            a, b = in_regime(before, regime), in_regime(figure, regime)
            if a is None or b is None:
                continue
            ratio = b.median / a.median if a.median else 0.0
            changes.append(
                Change(
                    name, figure.unit, figure.better, regime, a.median, b.median, ratio,
                    (a.spread**2 + b.spread**2) ** 0.5, _verdict(a, b, figure.better),
                )
            )  # fmt: skip
            if figure.one_core:
                break
    return changes
