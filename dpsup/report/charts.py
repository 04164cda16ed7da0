# SPDX-License-Identifier: BSD-3-Clause
"""Small pictures as inline SVG: lines over time, bars of a histogram. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dpsup.report.html import Html, tag
from dpsup.view.tables import si

Doc = dict[str, Any]
Points = Sequence[tuple[float, float]]

COLOURS = ("#2b6cb0", "#2f855a", "#c01c28", "#805ad5", "#b7791f", "#319795")
_W, _H = 720, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 30


def _text(x: float, y: float, words: object, **more: object) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", **more)


def _nice(most: float) -> float:
    """A round number at least as large."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= most)


def _frame(parts: list[Html], title: str, height: int = _H) -> Html:
    return tag(
        "svg", tag("title", title), *parts, viewBox=f"0 0 {_W} {height}", class_="chart",
        role="img", xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


def _grid(top: float, unit: str) -> list[Html]:
    made = []
    for i in range(5):
        y = _H - _BOTTOM - (_H - _TOP - _BOTTOM) * i / 4
        made.append(tag("line", x1=_LEFT, x2=_W - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}",
                        stroke="#ddd"))  # fmt: skip
        made.append(_text(_LEFT - 6, y + 4, si(top * i / 4), text_anchor="end"))
    return [*made, _text(_LEFT, _TOP - 3, unit)]


def lines(
    series: dict[str, Points], unit: str, marks: Sequence[tuple[float, str]] = ()
) -> Html | None:
    """Values over seconds, each series in a colour of its own; `marks` are moments of some kind.
    None where no series has two points."""
    shown = {name: points for name, points in series.items() if len(points) > 1}
    if not shown:
        return None
    begin = min(t for points in shown.values() for t, _ in points)
    end = max(t for points in shown.values() for t, _ in points)
    span = (end - begin) or 1.0
    top = _nice(max((v for points in shown.values() for _, v in points), default=1.0))

    def at(t: float) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * (t - begin) / span

    def up(v: float) -> float:
        return _H - _BOTTOM - (_H - _TOP - _BOTTOM) * v / top

    made = _grid(top, unit)
    kinds = sorted({kind for _, kind in marks})
    for t, kind in marks:
        colour = COLOURS[(2 + kinds.index(kind)) % len(COLOURS)]
        if begin <= t <= end:
            made.append(tag("line", tag("title", f"{kind} at {t:.2f} s"), x1=f"{at(t):.1f}",
                            x2=f"{at(t):.1f}", y1=_TOP, y2=_H - _BOTTOM, stroke=colour,
                            stroke_opacity="0.45"))  # fmt: skip
    for n, points in enumerate(shown.values()):
        made.append(
            tag("polyline", points=" ".join(f"{at(t):.1f},{up(v):.1f}" for t, v in points),
                fill="none", stroke=COLOURS[n % len(COLOURS)], stroke_width="1.8")
        )  # fmt: skip
    for i in range(5):
        t = begin + span * i / 4
        anchor = "start" if i == 0 else "end" if i == 4 else "middle"
        made.append(_text(at(t), _H - 12, f"{t:.1f} s", text_anchor=anchor))
    legend = [(name, COLOURS[n % len(COLOURS)]) for n, name in enumerate(shown)]
    legend += [(kind, COLOURS[(2 + i) % len(COLOURS)]) for i, kind in enumerate(kinds)]
    keys = [
        tag("span", tag("i", style=f"background:{colour}"), name, class_="key")
        for name, colour in legend
    ]
    title = f"{', '.join(shown)} over time, {unit}"
    return tag("div", _frame(made, title), tag("p", *keys, class_="legend"))


def _seconds(value: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (math.inf, 1.0, "s")):
        if value < limit:
            return f"{value * factor:g} {unit}"
    return f"{value:g} s"


def histogram(name: str, doc: Doc) -> Html | None:
    """Of a document with bounds in seconds and counts up to each; None where it is empty."""
    if not doc["count"]:
        return None
    each, before = [], 0
    for bound, count in zip(
        [*map(_seconds, doc["bounds"]), "more"], [*doc["counts"], doc["count"]], strict=True
    ):
        each.append((bound, count - before))
        before = count
    first = next(i for i, (_, n) in enumerate(each) if n)
    last = max(i for i, (_, n) in enumerate(each) if n)
    shown = each[max(0, first - 1) : last + 2]
    top = max(n for _, n in shown)
    high, row = 22, 22
    made = []
    for i, (bound, n) in enumerate(shown):
        y = 6 + i * row
        width = (_W - 190) * n / top
        said = bound if bound == "more" else f"up to {bound}"
        made.append(_text(104, y + 14, said, text_anchor="end"))
        made.append(tag("rect", tag("title", f"{n} {said}"), x=112, y=y, width=f"{width:.1f}",
                        height=high - 6, fill=COLOURS[0]))  # fmt: skip
        made.append(_text(118 + width, y + 14, n))
    return _frame(made, f"{name}: {doc['count']}", 12 + row * len(shown))


def stages(rows: Sequence[tuple[str, dict[str, float]]], unit: str) -> Html | None:
    """Each row's parts side by side."""
    rows = [(name, parts) for name, parts in rows if sum(parts.values()) > 0]
    if not rows:
        return None
    top = max(sum(parts.values()) for _, parts in rows)
    made, names = [], list(rows[0][1])
    for i, (name, parts) in enumerate(rows):
        y, x = 6 + i * 30, 80.0
        made.append(_text(72, y + 16, name, text_anchor="end"))
        for n, (part, value) in enumerate(parts.items()):
            width = (_W - 170) * value / top
            said = f"{name} {part}: {value:.1f} {unit}"
            made.append(tag("rect", tag("title", said), x=f"{x:.1f}", y=y, height=22,
                            width=f"{width:.1f}", fill=COLOURS[n % len(COLOURS)]))  # fmt: skip
            x += width
        made.append(_text(x + 6, y + 16, f"{sum(parts.values()):.0f}"))
    keys = [
        tag("span", tag("i", style=f"background:{COLOURS[n % len(COLOURS)]}"), part, class_="key")
        for n, part in enumerate(names)
    ]
    frame = _frame(made, f"{unit} by stage", 12 + 30 * len(rows))
    return tag("div", frame, tag("p", *keys, class_="legend"))
