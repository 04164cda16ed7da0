# SPDX-License-Identifier: BSD-3-Clause
"""Pages whose commands a test runs: blocks of `sh`, each followed by the `text` that it prints."""

from __future__ import annotations

import re


def blocks(text: str) -> list[tuple[str, str]]:
    """(kind, content) of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shows(line: str) -> re.Pattern[str]:
    """What a line of the page may look like: other numbers, and anything for an ellipsis."""
    words = flat(line)
    parts = re.split(r"(…|\d+(?:\.\d+)?)", words)
    made = [
        ".*" if p == "…" else r"[\d.]+[kMG]?" if re.match(r"\d", p) else re.escape(p) for p in parts
    ]
    return re.compile("".join(made))


def flat(line: str) -> str:
    return re.sub(r"\s+", " ", line.strip())


def check(said: str, wanted: list[str]) -> None:
    """Each wanted line is among those that a block's commands printed."""
    lines = [flat(line) for line in said.splitlines()]
    for line in wanted:
        assert any(shows(line).search(one) for one in lines), f"{line!r} in {said}"
