# SPDX-License-Identifier: BSD-3-Clause
"""HTML that text cannot break out of: all that is not `Html` already is escaped. Pure.

Own code instead of markupsafe: that escapes, but has no tags; the escape here is one line, and also
removes control characters and marks of writing direction, which markupsafe keeps.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup. Only `tag` and `join` create it from other strings, and `trusted`, by name."""

    __slots__ = ()


def _clean(text: str) -> str:
    """Control characters have no place in HTML, and directions of writing could hide words."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def escape(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(_clean(str(value)), quote=True))


def join(parts: Iterable[object]) -> Html:
    return Html("".join(escape(part) for part in parts))


_VOID = {"meta", "br", "hr"}


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """`class_` is class, `stroke_width` stroke-width. An attribute that is None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def trusted(markup: str) -> Html:
    """Markup from a source that is trusted: graphviz, our own style sheet."""
    return Html(markup)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], left: str = "") -> Html:
    """`left`: the letters "l" and "r", one a column; numbers belong right."""
    sides = [c == "l" for c in left.ljust(len(heads), "r")]

    def row(cells: Sequence[object], kind: str) -> Html:
        made = [
            cell
            if isinstance(cell, Html) and cell.startswith("<td")
            else tag(kind, cell, class_=None if is_left else "n")
            for cell, is_left in zip(cells, sides, strict=True)
        ]
        return tag("tr", *made)

    body = tag("tbody", *(row(r, "td") for r in rows))
    return tag("div", tag("table", tag("thead", row(heads, "th")), body), class_="scroll")


def cell(value: object, style: str, *, is_left: bool = True) -> Html:
    """A cell with a colour for what to think of it: "good", "warn", "bad"."""
    return tag("td", value, class_=style if is_left else f"n {style}".strip())
