# SPDX-License-Identifier: BSD-3-Clause
"""Medians and spreads of figures, separately for each regime; and the order of runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dpsup.bench.model import Figure, Regime, Run

T = TypeVar("T")


def percentile(values: Sequence[float], p: float) -> float:
    """The p-th percentile (0 to 100), between neighbours in proportion. `values` is not empty."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * p / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def relative_iqr(values: Sequence[float]) -> float:
    """The middle half's width against the median; 0 if the median is 0."""
    middle = median(values)
    width = percentile(values, 75) - percentile(values, 25)
    return width / abs(middle) if middle else 0.0


def notch(values: Sequence[float]) -> float:
    """How far off a median may be, at about 95 %: 1.57 IQR / sqrt(n) (McGill et al., 1978)."""
    width = percentile(values, 75) - percentile(values, 25)
    return 1.57 * width / math.sqrt(len(values))


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure in one regime."""

    regime: Regime
    runs: int  # used
    noisy: int  # not used; if `tainted`: all runs are noisy, and used as there are no others
    tainted: bool
    median: float
    low: float
    high: float
    spread: float  # relative IQR
    error: float  # of the median, in the figure's unit: half of McGill's notch
    p99: float | None = None  # over the samples of all runs, where there are samples
    most: float | None = None


def summarise(regime: Regime, runs: Sequence[Run]) -> Summary:
    """The summary of the runs in one regime, at least one. Noisy runs count only if all are."""
    clean = [r for r in runs if not r.conditions.noise]
    used = clean or list(runs)
    values = [r.value for r in used]
    samples = [s for r in used for s in r.samples]
    # A run with samples is no single value: the spread is that of the samples.
    basis = samples or values
    return Summary(
        regime=regime,
        runs=len(used),
        noisy=len(runs) - len(clean),
        tainted=not clean,
        median=median(basis),
        low=min(basis),
        high=max(basis),
        spread=relative_iqr(basis),
        error=notch(basis),
        p99=percentile(samples, 99) if samples else None,
        most=max(samples) if samples else None,
    )


def summaries(figure: Figure) -> list[Summary]:
    """One for each regime that the figure was taken in, in the order near, far, mixed, unknown."""
    found = []
    for regime in Regime:
        runs = [r for r in figure.runs if r.conditions.regime is regime]
        if runs:
            found.append(summarise(regime, runs))
    return found


def in_regime(figure: Figure | None, regime: Regime) -> Summary | None:
    """The figure in that regime. If it does not depend on the distance and has no run in that
    regime, all of its runs count."""
    if figure is None:
        return None
    runs = [r for r in figure.runs if r.conditions.regime is regime]
    if not runs and figure.one_core:
        runs = figure.runs
    return summarise(regime, runs) if runs else None


def interleave(steps: Sequence[tuple[T, int]], rounds: int) -> Iterator[T]:
    """A B C A B C ...: every step once a round, so that changes over time affect all alike. The
    number beside a step is the most rounds that it takes part in, 0: all."""
    for i in range(rounds):
        for step, most in steps:
            if not most or i < most:
                yield step


def growth(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The exponent with which values grow with sizes: the slope of the line through the points on
    two logarithmic scales. 1 is linear. None for less than two different sizes."""
    points = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=True) if v > 0]
    if len({x for x, _ in points}) < 2:
        return None
    mx = sum(x for x, _ in points) / len(points)
    my = sum(y for _, y in points) / len(points)
    return sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)


def slowest_tenth(rates: Sequence[float]) -> float:
    """The mean of the slowest tenth of the windows (one at least) against the median window."""
    ordered = sorted(rates)
    worst = ordered[: max(1, len(ordered) // 10)]
    middle = median(ordered)
    return sum(worst) / len(worst) / middle if middle else 0.0
