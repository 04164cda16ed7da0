# SPDX-License-Identifier: BSD-3-Clause
"""Throughputs side by side, or the curve of case `capacity`, as SVG."""

from __future__ import annotations

import re

from dpsup.bench.model import Regime, Report
from dpsup.bench.stats import Summary, in_regime, median
from dpsup.errors import DpsupError
from dpsup.report import charts

UNIT = "Mpps"
SIDE_BY_SIDE = ("path/", "others/")  # the same work
CAPACITY = "capacity"
COLOURS = {Regime.NEAR: "#2b6cb0", Regime.FAR: "#c05621", Regime.MIXED: "#718096"}
MODEL = "model: each on a core of its own"


def _bars(report: Report) -> list[tuple[str, dict[Regime, Summary]]]:
    found = []
    for figure in report.figures.values():
        if figure.unit != UNIT or not figure.name.startswith(SIDE_BY_SIDE):
            continue
        regimes = {}
        for regime in COLOURS:
            if any(r.conditions.regime is regime for r in figure.runs):
                summary = in_regime(figure, regime)
                if summary is not None:
                    regimes[regime] = summary
        if regimes:
            found.append((figure.name, regimes))
    return found


def _curve(report: Report, prefix: str) -> list[tuple[float, float]]:
    """Throughput by number of workers, as case `capacity` names it."""
    found = {}
    for figure in report.figures.values():
        number = re.fullmatch(re.escape(prefix) + r"/(\d+) .*", figure.name)
        if number:
            found[float(number[1])] = median([run.value for run in figure.runs])
    return sorted(found.items())


def svg(report: Report) -> str:
    """Raises: DpsupError if there is nothing to plot."""
    title = f"{report.host['cpus']} × {report.host['cpu_model']}, {report.host['date']}"
    if bars := _bars(report):
        return charts.bars_file(
            title,
            [
                (name, {str(r): (s.median, s.low, s.high) for r, s in regimes.items()})
                for name, regimes in bars
            ],
            "million packets a second: median, and slowest to fastest run",
            {str(regime): colour for regime, colour in COLOURS.items()},
        )
    measured = _curve(report, CAPACITY)
    if not measured:
        raise DpsupError("no throughput was measured: nothing to plot", help="add the case `path`")
    return charts.curves_file(
        title,
        {"measured: all on one core": measured, MODEL: _curve(report, f"{CAPACITY}/model")},
        "million packets a second",
        "workers, with 1000 TSC cycles of work a packet; one io core",
        dashed=MODEL,
    )
