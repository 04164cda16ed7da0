# SPDX-License-Identifier: BSD-3-Clause
"""Throughputs side by side, as SVG. matplotlib is the extra `dpsup[bench]`: nothing but --plot
needs it."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

from dpsup.bench.model import Regime, Report
from dpsup.bench.stats import Summary, in_regime, median
from dpsup.errors import DpsupError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNIT = "Mpps"
SIDE_BY_SIDE = ("path/", "others/")  # the same work
CAPACITY = "capacity"
COLOURS = {Regime.NEAR: "#2b6cb0", Regime.FAR: "#c05621", Regime.MIXED: "#718096"}


def demand() -> None:
    """Raises: DpsupError where matplotlib is missing: known before anything is measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DpsupError(
            "--plot needs matplotlib", help="pip install 'dpsup[bench]', or leave --plot out"
        )


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


def _draw(axes: Axes, bars: list[tuple[str, dict[Regime, Summary]]]) -> None:
    used = [r for r in COLOURS if any(r in regimes for _, regimes in bars)]
    height = 0.8 / max(len(used), 1)
    for i, regime in enumerate(used):
        at: list[float] = []
        widths: list[float] = []
        errors: tuple[list[float], list[float]] = ([], [])
        for row, (_, regimes) in enumerate(bars):
            s = regimes.get(regime)
            if s is not None:
                at.append(row + i * height)
                widths.append(s.median)
                errors[0].append(s.median - s.low)
                errors[1].append(s.high - s.median)
        axes.barh(
            at, widths, height * 0.9, xerr=errors, color=COLOURS[regime], ecolor="#2d3748",
            label=str(regime),
        )  # fmt: skip
    middle = height * (len(used) - 1) / 2
    axes.set_yticks([row + middle for row in range(len(bars))], [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("million packets a second: median, and slowest to fastest run")
    axes.legend(title="cores")


def _curve(report: Report, prefix: str) -> tuple[list[int], list[float]]:
    """Throughput by number of workers, as case `capacity` names it."""
    found = {}
    for figure in report.figures.values():
        number = re.fullmatch(re.escape(prefix) + r"/(\d+) .*", figure.name)
        if number:
            found[int(number[1])] = median([run.value for run in figure.runs])
    return sorted(found), [found[n] for n in sorted(found)]


def _draw_capacity(axes: Axes, measured: tuple[list[int], list[float]], report: Report) -> None:
    axes.plot(*measured, "o-", color="#2b6cb0", label="measured: all on one core")
    model = _curve(report, f"{CAPACITY}/model")
    axes.plot(*model, "s--", color="#718096", label="model: each on a core of its own")
    axes.set_xscale("log", base=2)
    axes.set_xticks(model[0], [str(n) for n in model[0]])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("workers, with 1000 TSC cycles of work a packet; one io core")
    axes.set_ylabel("million packets a second")
    axes.legend()


def write_svg(report: Report, path: str) -> None:
    """Throughputs side by side, or the curve of case `capacity`. Raises: DpsupError where there is
    nothing to plot, or it cannot be written."""
    demand()
    from matplotlib.figure import Figure as Canvas

    bars = _bars(report)
    measured = _curve(report, CAPACITY)
    if not bars and not measured[0]:
        raise DpsupError("no throughput was measured: nothing to plot", help="add the case `path`")
    canvas = Canvas(figsize=(9, 1.5 + 0.5 * len(bars) if bars else 4), layout="constrained")
    axes = canvas.add_subplot()
    if bars:
        _draw(axes, bars)
    else:
        _draw_capacity(axes, measured, report)
    axes.set_title(f"{report.host['cpus']} × {report.host['cpu_model']}, {report.host['date']}")
    try:
        canvas.savefig(path, format="svg", metadata={"Date": None})
    except OSError as e:
        raise DpsupError(f"cannot write {path}: {e.strerror}") from None
