# SPDX-License-Identifier: BSD-3-Clause
"""Charts as SVG: lines over time, curves, bars, histograms. Pure.

Inline in the pages of `dpsup report`, and as files of their own for `dpsup bench --plot` and
`dpsup chaos --plot`. Own code instead of matplotlib: that is 60 MB with what it needs and 0.6 s of
import, for four kinds of chart of which none needs more than lines, rectangles and text; and a
report's text stays text, which a browser can find and a screen reader reads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsup.report.html import Html, tag
from dpsup.view.columns import si

if TYPE_CHECKING:
    from dpsup.documents.status import Histogram

Points = Sequence[tuple[float, float]]
Mark = tuple[float, str]  # when, what kind

COLOURS = ("#2b6cb0", "#2f855a", "#c01c28", "#805ad5", "#b7791f", "#319795")
_W, _H = 720, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 30
_GRID, _TEXT = "#ddd", "#4a5568"
_LETTER = 6.7  # pixels that a letter of 12 takes, at most on average


def _text(x: float, y: float, words: object, **more: object) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", **more)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, **more: object) -> Html:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", **{k: f"{v:.1f}" for k, v in ends.items()}, stroke=colour, **more)


def _rect(x: float, y: float, width: float, height: float, colour: str, said: str = "") -> Html:
    size = {"x": x, "y": y, "width": width, "height": height}
    about = [tag("title", said)] if said else []
    return tag("rect", *about, **{k: f"{v:.1f}" for k, v in size.items()}, fill=colour)


def _nice(least: float) -> float:
    """A round number at least as large."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= least * (1 - 1e-9))


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`, four to six of them."""
    step = _nice(most / 5)
    return [i * step for i in range(max(1, math.ceil(most / step - 1e-9)) + 1)]


def _frame(parts: Sequence[Html], title: str, height: int = _H) -> Html:
    return tag(
        "svg", tag("title", title), *parts, viewBox=f"0 0 {_W} {height}", class_="chart",
        role="img", xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


def _file(parts: Sequence[Html], title: str, width: float, height: float) -> str:
    """A picture that stands alone: with its title, and letters on white."""
    heading = _text(width / 2, 26, title, text_anchor="middle", font_size="14", font_weight="600")
    svg = tag(
        "svg", tag("title", title), _rect(0, 0, width, height, "#fff"), heading, *parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}", width=f"{width:.0f}", height=f"{height:.0f}",
        role="img", xmlns="http://www.w3.org/2000/svg", font_family="system-ui, sans-serif",
        font_size="12", fill=_TEXT,
    )  # fmt: skip
    return f"{svg}\n"


def _keys(x: float, y: float, entries: Mapping[str, str], *, dashed: str = "") -> Iterator[Html]:
    """A legend, an entry a line: {name: colour}."""
    for i, (name, colour) in enumerate(entries.items()):
        at = y + 18 * i
        dash = "5 3" if name == dashed else None
        yield _line(x, at, x + 14, at, colour, stroke_width="4", stroke_dasharray=dash)
        yield _text(x + 20, at + 4, name)


@dataclass(frozen=True, slots=True)
class _Area:
    """What lies between the axes: from pixels `left` to `right` the values `begin` to `end`, from
    `bottom` up to `top` the values 0 to the last step."""

    left: float
    right: float
    top: float
    bottom: float
    begin: float
    end: float
    steps: Sequence[float]

    def x(self, value: float) -> float:
        span = (self.end - self.begin) or 1.0
        return self.left + (self.right - self.left) * (value - self.begin) / span

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.steps[-1]

    def grid(self, unit: str) -> Iterator[Html]:
        for step in self.steps:
            y = self.y(step)
            yield _line(self.left, y, self.right, y, _GRID)
            label = re.sub(r"\.0+(?=\D|$)", "", si(step))
            yield _text(self.left - 6, y + 4, label, text_anchor="end")
        yield _text(self.left, self.top - 6, unit)

    def seconds(self, below: float = 18) -> Iterator[Html]:
        for i in range(5):
            t = self.begin + (self.end - self.begin) * i / 4
            anchor = "start" if i == 0 else "end" if i == 4 else "middle"
            yield _text(self.x(t), self.bottom + below, f"{t:.1f} s", text_anchor=anchor)

    def mark(self, mark: Mark, colour: str, opacity: str) -> Html:
        t, kind = mark
        at, about = self.x(t), tag("title", f"{kind} at {t:.2f} s")
        return tag(
            "line", about, x1=f"{at:.1f}", x2=f"{at:.1f}", y1=self.top, y2=self.bottom,
            stroke=colour, stroke_opacity=opacity,
        )  # fmt: skip

    def curve(self, points: Points, colour: str, **more: object) -> Html:
        ends = " ".join(f"{self.x(t):.1f},{self.y(v):.1f}" for t, v in points)
        return tag("polyline", points=ends, fill="none", stroke=colour,
                   stroke_width="1.8", stroke_linejoin="round", **more)  # fmt: skip


# --- inline ---------------------------------------------------------------------------------------


def _legend(entries: Sequence[tuple[str, str]]) -> Html:
    keys = [
        tag("span", tag("i", style=f"background:{colour}"), name, class_="key")
        for name, colour in entries
    ]
    return tag("p", *keys, class_="legend")


def lines(series: dict[str, Points], unit: str, marks: Sequence[Mark] = ()) -> Html | None:
    """Values over seconds, each series in a colour of its own; `marks` are moments of some kind.
    None where no series has two points."""
    shown = {name: points for name, points in series.items() if len(points) > 1}
    if not shown:
        return None
    begin = min(t for points in shown.values() for t, _ in points)
    end = max(t for points in shown.values() for t, _ in points)
    most = max(v for points in shown.values() for _, v in points)
    area = _Area(_LEFT, _W - _RIGHT, _TOP + 6, _H - _BOTTOM, begin, end, _steps(most))
    kinds = sorted({kind for _, kind in marks})
    colours = {kind: COLOURS[(2 + i) % len(COLOURS)] for i, kind in enumerate(kinds)}
    legend = [(name, COLOURS[n % len(COLOURS)]) for n, name in enumerate(shown)]
    made = [
        *area.grid(unit),
        *(area.mark(m, colours[m[1]], "0.45") for m in marks if begin <= m[0] <= end),
        *(area.curve(shown[name], colour) for name, colour in legend),
        *area.seconds(),
    ]
    title = f"{', '.join(shown)} over time, {unit}"
    return tag("div", _frame(made, title), _legend([*legend, *colours.items()]))


def _seconds(value: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (math.inf, 1.0, "s")):
        if value < limit:
            return f"{value * factor:g} {unit}"
    return f"{value:g} s"


def histogram(name: str, doc: Histogram) -> Html | None:
    """A chart of bounds in seconds and counts up to each; None where the document is empty."""
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
        made.append(_rect(112, y, width, high - 6, COLOURS[0], f"{n} {said}"))
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
            made.append(_rect(x, y, width, 22, COLOURS[n % len(COLOURS)], said))
            x += width
        made.append(_text(x + 6, y + 16, f"{sum(parts.values()):.0f}"))
    frame = _frame(made, f"{unit} by stage", 12 + 30 * len(rows))
    return tag("div", frame, _legend([(n, COLOURS[i % len(COLOURS)]) for i, n in enumerate(names)]))


# --- files ----------------------------------------------------------------------------------------


def timeline_file(
    title: str, points: Points, end: float, unit: str, marks: Sequence[Mark],
    colours: Mapping[str, str],
) -> str:  # fmt: skip
    """A value over seconds, with moments of the kinds that `colours` has."""
    counts = {kind: sum(k == kind for _, k in marks) for kind in colours}
    entries = {f"{k} ({n})": colours[k] for k, n in counts.items() if n}
    area = _Area(60, 820, 64, 320, 0.0, end, _steps(max(v for _, v in points)))
    made = [
        *area.grid(unit),
        *(area.mark(m, colours[m[1]], "0.3") for m in marks if m[1] in colours),
        *(
            _line(area.x(t), 313, area.x(t), 327, colours[k], stroke_width="1.5")
            for t, k in marks
            if k in colours
        ),
        area.curve(points, COLOURS[0]),
        *area.seconds(26),
        *_keys(840, 70, entries),
    ]
    return _file(made, title, 960, 360)


def curves_file(
    title: str, series: Mapping[str, Points], unit: str, below: str, *, dashed: str = ""
) -> str:
    """Values over numbers on a logarithmic axis, which `below` names."""
    numbers = sorted({x for points in series.values() for x, _ in points})
    most = max(y for points in series.values() for _, y in points)
    area = _Area(60, 780, 64, 340, math.log2(numbers[0]), math.log2(numbers[-1]), _steps(most))
    entries = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(series)}
    made = list(area.grid(unit))
    for number in numbers:
        made.append(_text(area.x(math.log2(number)), 360, f"{number:g}", text_anchor="middle"))
    made.append(_text(420, 384, below, text_anchor="middle"))
    for name, colour in entries.items():
        placed = [(math.log2(x), y) for x, y in series[name]]
        made.append(area.curve(placed, colour, stroke_dasharray="6 4" if name == dashed else None))
        for x, y in placed:
            made.append(tag("circle", tag("title", f"{name}: {y:g}"), cx=f"{area.x(x):.1f}",
                            cy=f"{area.y(y):.1f}", r="3.5", fill=colour))  # fmt: skip
    made += _keys(76, 76, entries, dashed=dashed)
    return _file(made, title, 800, 400)


Bar = tuple[float, float, float]  # a value, and the least and the most that was measured


def bars_file(
    title: str, rows: Sequence[tuple[str, Mapping[str, Bar]]], below: str,
    colours: Mapping[str, str],
) -> str:  # fmt: skip
    """Rows of bars side by side, one for each of `colours` that a row has."""
    left = 16 + _LETTER * max(len(name) for name, _ in rows)
    right, top, width = left + 620, 64.0, left + 660
    steps = _steps(max(high for _, bars in rows for _, _, high in bars.values()))
    scale = (right - left) / steps[-1]
    made: list[Html] = []
    y = top
    for name, bars in rows:
        shown = [(kind, bars[kind]) for kind in colours if kind in bars]
        made.append(_text(left - 8, y + 7 * len(shown) + 4, name, text_anchor="end"))
        for kind, (value, low, high) in shown:
            said = f"{name}, {kind}: {value:.2f} ({low:.2f} to {high:.2f})"
            made.append(_rect(left, y, value * scale, 12, colours[kind], said))
            ends = (left + low * scale, left + high * scale)
            made.append(_line(ends[0], y + 6, ends[1], y + 6, "#1a202c"))
            made += (_line(x, y + 3, x, y + 9, "#1a202c") for x in ends)
            made.append(_text(ends[1] + 5, y + 10, f"{value:.2f}", font_size="10"))
            y += 14
        y += 10
    grid: list[Html] = []
    for step in steps:
        x = left + step * scale
        grid.append(_line(x, top - 6, x, y, _GRID))
        grid.append(_text(x, y + 16, f"{step:g}", text_anchor="middle"))
    made.append(_text((left + right) / 2, y + 40, below, text_anchor="middle"))
    used = {k: c for k, c in colours.items() if any(k in bars for _, bars in rows)}
    x = left
    for kind, colour in used.items():
        made += _keys(x, 48, {kind: colour})
        x += 44 + _LETTER * len(kind)
    return _file([*grid, *made], title, width, y + 56)
