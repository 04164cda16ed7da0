# SPDX-License-Identifier: BSD-3-Clause
"""Text in columns that fits a terminal: numbers for people, and tables that omit the least
important columns. Pure; a line is a list of (text, style), and view.terminal defines the styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[str, str]  # text, style: "", "good", "warn", "bad", "dim", "head", "bold"
Line = list[Span]
Cell = str | Span

GAP = 2
_PREFIXES = ("", "k", "M", "G", "T", "P")
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.:-=+*#"


# --- values ---------------------------------------------------------------------------------------


def si(value: float | None, unit: str = "") -> str:
    """2373211 -> "2.37M", three digits; None: "-"."""
    if value is None:
        return "-"
    power, scaled = 0, abs(float(value))
    # A value that would round to four digits takes the next prefix.
    while scaled >= 999.5 and power < len(_PREFIXES) - 1:
        scaled /= 1000
        power += 1
    if not power:
        text = f"{scaled:.0f}" if scaled >= 10 or scaled == int(scaled) else f"{scaled:.1f}"
    else:
        text = f"{scaled:.{0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2}f}"
    return f"{'-' if value < 0 else ''}{text}{_PREFIXES[power]}{unit}"


def percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def ago(seconds: float | None) -> str:
    """41 -> "41s", 93784 -> "1d2h"; None: "-"."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def counts(table: dict[str, int]) -> str:
    """{"lane_full": 12000} -> "lane_full 12000", the largest first."""
    some = sorted(((n, k) for k, n in table.items() if n), reverse=True)
    return ", ".join(f"{k} {n}" for n, k in some) or "-"


def spark(values: Sequence[float | None], width: int, *, ascii_only: bool = False) -> str:
    """The last `width` values as bars, the highest full; " " for a missing value."""
    bars = _ASCII_BARS if ascii_only else _BARS
    shown = list(values)[-width:]
    most = max((v for v in shown if v is not None), default=0) or 1
    text = "".join(
        " "
        if v is None
        else bars[min(len(bars) - 1, int(max(v, 0) / most * (len(bars) - 1) + 0.5))]
        for v in shown
    )
    return text.rjust(width)


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `rank` 0 is always shown; of the others, the highest rank is omitted first if the
    width is short. A `flexible` column is shortened before others are omitted."""

    title: str
    rank: int = 0
    left: bool = False
    flexible: bool = False


_FLEXIBLE_LEAST = 8


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    width: int | None,
    *,
    ascii_only: bool = False,
) -> list[Line]:
    """The rows in columns, in at most `width` characters a line (None: no limit)."""
    kept = list(range(len(columns)))
    need = [
        max([len(column.title), *(len(_text(row[i])) for row in rows)])
        for i, column in enumerate(columns)
    ]

    def total(least: bool) -> int:
        sizes = (
            min(need[i], _FLEXIBLE_LEAST) if least and columns[i].flexible else need[i]
            for i in kept
        )
        return sum(sizes) + GAP * (len(kept) - 1)

    while width is not None and total(True) > width:
        highest = max(kept, key=lambda i: (columns[i].rank, i))
        if not columns[highest].rank:
            break
        kept.remove(highest)
    over = 0 if width is None else max(0, total(False) - width)
    for i in reversed(kept):
        if columns[i].flexible and over:
            cut = min(over, max(0, need[i] - _FLEXIBLE_LEAST))
            need[i] -= cut
            over -= cut
    dots = "~" if ascii_only else "…"
    made = [_row([(columns[i].title, "head") for i in kept], kept, columns, need, dots)]
    for row in rows:
        made.append(_row([row[i] for i in kept], kept, columns, need, dots))
    return made


def _row(
    cells: Sequence[Cell], kept: list[int], columns: Sequence[Column], need: list[int], dots: str
) -> Line:
    line: Line = []
    for at, (cell, i) in enumerate(zip(cells, kept, strict=True)):
        text, style = (cell, "") if isinstance(cell, str) else cell
        if len(text) > need[i]:
            text = text[: need[i] - 1] + dots
        last = at == len(kept) - 1
        padded = (
            text.rjust(need[i]) if not columns[i].left else text if last else text.ljust(need[i])
        )
        line.append((padded, style))
        if not last:
            line.append((" " * GAP, ""))
    return line


def wrap(line: Line, width: int | None, indent: int = 2) -> list[Line]:
    """A line broken at blanks, with further lines indented; long words are not broken."""
    if width is None or sum(len(text) for text, _ in line) <= width:
        return [line]
    made: list[Line] = [[]]
    used = 0
    for text, style in line:
        for n, word in enumerate(text.split(" ")):
            space = n > 0
            if used + space + len(word) > width and used > indent and word:
                made.append([(" " * indent, "")])
                used, space = indent, False
            made[-1].append(((" " if space else "") + word, style))
            used += space + len(word)
    return made


def plain(lines: Sequence[Line]) -> str:
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
