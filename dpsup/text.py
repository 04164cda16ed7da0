# SPDX-License-Identifier: BSD-3-Clause
"""How values, lists and near misses are written in messages, and durations are read."""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Collection, Sequence


def show(value: object) -> str:
    """A value as a topology file writes it, short enough for a message."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list | tuple):
        text = "an array"
    elif isinstance(value, int) and abs(value) >= 10**18:
        text = "a number of that size"  # Python refuses to print the largest ones
    else:
        text = str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 48 else f"{text[:45]}..."


_YEAR = 366 * 24 * 3600.0
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(us|ms|s|m|h)")


def duration(value: object) -> float:
    """ "250ms" -> 0.25 seconds. Raises: ValueError."""
    if not isinstance(value, str) or (m := DURATION.fullmatch(value)) is None:
        raise ValueError(f"{show(value)} is not a duration")
    seconds = float(m[1]) * _SECONDS[m[2]]
    if seconds > _YEAR:
        raise ValueError(f"{show(value)} is longer than a year")
    return seconds


def suggest(word: str, known: Collection[str]) -> str:
    """The known word that was probably meant, or ""."""
    close = difflib.get_close_matches(word.lower(), known, 1, 0.6)
    return close[0] if close else ""


def ranges(numbers: Sequence[int]) -> str:
    """(3, 4, 5, 8) -> "3-5,8", in the order given."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def cpus(cores: Collection[int]) -> str:
    return f"CPU{'s' * (len(cores) != 1)} {ranges(sorted(cores))}"


def plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def listing(words: Sequence[str]) -> str:
    """ "a, b and c", shortened if it is long."""
    words = words if len(words) <= 4 else [*words[:3], f"{len(words) - 3} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_LABEL = re.compile(r" *(?:why:  |help: |error\[\w+\]: |warning\[\w+\]: )?")


def fold(text: str, width: int, indent: int | None = None) -> str:
    """Prose no wider than a terminal: further lines are indented by `indent` columns, or to where
    the first line's words begin. A line that quotes a file is left as it is."""

    def one(line: str) -> str:
        label = _LABEL.match(line)
        at = label.end() if label else 0
        if len(line) <= width or " | " in line[:12]:
            return line
        below = indent if indent is not None else at if at < 10 else 2
        return textwrap.fill(
            line,
            width,
            subsequent_indent=" " * below,
            break_long_words=False,
            break_on_hyphens=False,
        )

    return "\n".join(one(line) for line in text.split("\n"))


def microseconds(n: float) -> str:
    """ "200 us", "1.8 ms", "1.8 s": with the unit that suits."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n < 1000 * size else f"{n / size:.0f} {unit}"
    return f"{n:.3g} us"
