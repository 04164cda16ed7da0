# SPDX-License-Identifier: BSD-3-Clause
"""A report as text for a terminal, and as markdown for docs/. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from dpsup.bench.compare import Change
from dpsup.bench.model import Regime, Report
from dpsup.bench.rows import Row, rows
from dpsup.bench.stats import summaries
from dpsup.text import plural

Table = tuple[list[str], list[list[str]]]
LANE = re.compile(r"lane/(\w+)/burst(\d+)/ring(\d+)/(cycles|mpps)")


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits, never a power of ten."""
    if value is None:
        return "-"
    if value == 0:
        text = "0"
    elif abs(value) >= 100:
        text = f"{value:.0f}"
    else:
        digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
        text = f"{value:.{digits}f}"
        if abs(value) < 0.01:
            text = f"{value:.5f}"
    return f"{text} {unit}".rstrip()


def head(report: Report) -> list[str]:
    """The machine and the conditions, line by line."""
    host = report.host
    cores = host.get("cores", {})
    steal = host.get("steal", 0.0)
    return [
        f"{host.get('date')}  dpsup {host.get('dpsup')}, DPDK {host.get('dpdk')}, "
        f"Linux {host.get('kernel')}",
        f"{host.get('cpus')} × {host.get('cpu_model')}; io core {cores.get('io')}, "
        f"worker {cores.get('worker')}, Python {cores.get('supervisor')}; "
        f"{host.get('hugepages')} hugepages of 2 MiB, {host.get('hugepages_free')} free",
        f"steal {steal:.1%}, load {host.get('load_before', 0):.1f} before, "
        f"{host.get('load_after', 0):.1f} after; {report.asked.get('runs')} runs of "
        f"{report.asked.get('seconds')} s, interleaved",
        f"command: {host.get('command')}",
    ]


def figure_table(report: Report) -> Table:
    titles = ["figure", "regime", "median", "min", "max", "spread", "p99", "runs"]
    lines = []
    for figure in report.figures.values():
        if LANE.fullmatch(figure.name):
            continue  # a table of their own
        for s in summaries(figure):
            mark = f"{s.runs}"
            if s.tainted:
                mark += " noisy"
            elif s.noisy:
                mark += f" (+{s.noisy} noisy)"
            lines.append(
                [
                    figure.name,
                    str(s.regime),
                    number(s.median, figure.unit),
                    number(s.low),
                    number(s.high),
                    # A share's spread against a share near 0 would say nothing.
                    f"{s.spread:.1%}" if figure.unit else number(s.spread * abs(s.median)),
                    number(s.p99),
                    mark,
                ]
            )
    return titles, lines


def lane_table(report: Report) -> Table:
    """The lanes: a line for what is touched and how many packets are lent at a time, a column for
    each size. Cycles and Mpps; a star if all runs were noisy."""
    cells: dict[tuple[str, Regime], dict[int, dict[str, str]]] = {}
    for figure in report.figures.values():
        found = LANE.fullmatch(figure.name)
        if not found:
            continue
        touch, burst, ring, what = found.groups()
        for s in summaries(figure):
            line = cells.setdefault((f"{touch}, burst {burst}", s.regime), {})
            line.setdefault(int(ring), {})[what] = number(s.median) + "*" * s.tainted
    rings = sorted({ring for line in cells.values() for ring in line})
    titles = ["lane: cycles (Mpps)", "regime", *(f"{ring} words" for ring in rings)]
    lines = [
        [
            name,
            str(regime),
            *(
                f"{line[ring].get('cycles', '-')} ({line[ring].get('mpps', '-')})"
                if ring in line
                else "-"
                for ring in rings
            ),
        ]
        for (name, regime), line in cells.items()
    ]
    return titles, lines


def _measured(report: Report, form: Callable[[Table], str]) -> list[str]:
    tables = (figure_table(report), lane_table(report))
    return [form(table) for table in tables if table[1]]


def row_table(found: Sequence[Row]) -> Table:
    titles = ["what", "regime", "value", "at least", "aim", "reached", "spread"]
    lines = []
    for row in found:
        sign = "≥" if row.better == "higher" else "≤"
        measured = row.value is not None
        lines.append(
            [
                row.name,
                str(row.regime) if measured else "-",
                number(row.value, row.unit),
                f"{sign} {number(row.least)}",
                f"{sign} {number(row.aim)}",
                row.reached + (" (noisy)" if row.tainted else ""),
                _spread(row),
            ]
        )
    return titles, lines


def _spread(row: Row) -> str:
    if row.value is None:
        return "-"
    return f"{row.spread:.1%}" if row.unit else number(row.spread * abs(row.value))


def change_table(changes: Sequence[Change]) -> Table:
    titles = ["figure", "regime", "old", "new", "ratio", "spread", "verdict"]
    return titles, [
        [
            c.name,
            str(c.regime),
            number(c.old, c.unit),
            number(c.new, c.unit),
            f"{c.ratio:.3f}",
            f"{c.spread:.1%}",
            c.verdict,
        ]
        for c in changes
    ]


def as_text(table: Table) -> str:
    titles, lines = table
    widths = [max(len(line[i]) for line in [titles, *lines]) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [titles, *lines]
    )


def as_markdown(table: Table) -> str:
    titles, lines = table
    rule = ["---", *["---:" for _ in titles[1:]]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [titles, rule, *lines])


def _reached(report: Report, form: Callable[[Table], str]) -> list[str]:
    """The rows that were measured, and how many were not."""
    found = rows(report.figures)
    measured = [row for row in found if row.value is not None]
    parts = [form(row_table(measured))] if measured else []
    missing = len(found) - len(measured)
    if missing:
        parts.append(f"Not measured: {plural(missing, 'other row')} of the figures to reach.")
    return parts


def text(report: Report, changes: Sequence[Change] | None) -> str:
    parts = ["\n".join(head(report)), *_measured(report, as_text)]
    parts += _reached(report, as_text)
    if changes is not None:
        parts.append(as_text(change_table(changes)))
    if report.notes:
        parts.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join(parts)


def markdown(report: Report, changes: Sequence[Change] | None, **where: Any) -> str:
    """A page for docs/: the machine, the command, the targets, everything measured."""
    plot = where.get("plot")
    parts = ["\n".join(f"- {line}" for line in head(report))]
    if plot:
        parts.append(f"![Throughput, side by side]({plot})")
    parts += ["## Figures to reach", *_reached(report, as_markdown)]
    parts += ["## Everything measured", *_measured(report, as_markdown)]
    if changes is not None:
        parts += ["## Compared", as_markdown(change_table(changes))]
    if report.notes:
        parts.append("\n".join(f"- {note}" for note in report.notes))
    return "\n\n".join(parts) + "\n"
