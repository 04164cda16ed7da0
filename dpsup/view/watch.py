# SPDX-License-Identifier: BSD-3-Clause
"""Look at an instance twice, or repeatedly, and show what happened between two looks."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup.errors import NoSuchObject
from dpsup.instance import rates
from dpsup.instance.client import connect
from dpsup.text import listing, suggest
from dpsup.view import graph, sections
from dpsup.view.columns import Line

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import Picture

EVERY_S = 1.0  # from one picture of a watch to the next


def pictures(
    name: str | None, over: float, every: float, *, xstats: bool = False
) -> Iterator[Picture]:
    """Pictures of an instance, the first of `over` seconds, each later one of the time since the
    previous look. Raises: NotRunning once the instance has ended."""
    with connect(name) as instance:
        name, before = instance.name, instance.look()
    due = time.monotonic() + over
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        with connect(name) as instance:  # again: its supervisor may have ended in between
            after = instance.look(xstats=xstats)
        yield rates.picture(before, after)
        before, due = after, time.monotonic() + every


def since_mark(name: str | None, *, watch: bool, output: str) -> None:
    """Print what was counted since the mark. A mark that is set meanwhile is the next one."""
    from dpsup.instance import mark, since
    from dpsup.view import terminal

    def shown() -> list[Line]:
        with connect(name) as instance:
            marked, now = mark.get(instance.runtime), mark.look(instance)
        doc = since.document(marked, now)
        if output == "json":
            print(json.dumps(doc, indent=None if watch else 2), flush=True)
            return []
        picture = rates.picture(*since.looks(marked, now))
        return sections.since(picture, doc, terminal.screen(wide=output == "wide"))

    if not watch or output == "json":
        while True:
            lines = shown()
            if output != "json":
                terminal.print_lines(lines)
            if not watch:
                return
            time.sleep(EVERY_S)
    with contextlib.suppress(KeyboardInterrupt), terminal.live() as draw:
        while True:
            draw(shown())
            time.sleep(EVERY_S)


def _view(section: str, of: str, *, xstats: bool) -> sections.View:
    if section == "status":
        return sections.status
    if section == "stats":
        return sections.stats
    if section == "graph":
        return graph.draw

    def shown(picture: Picture, screen: sections.Screen) -> list[Line]:
        if section == "workers":
            lines = sections.workers(picture, screen, of)
        else:
            lines = sections.SECTIONS[section][0](picture, screen)
        if xstats:
            lines = [*lines, [], *sections.xstats(picture, screen)]
        return lines + sections.hint_lines(picture, screen)

    return shown


def _demand(picture: Picture, of: str) -> None:
    known = [g["name"] for g in picture["groups"]] + [w["id"] for w in picture["workers"]]
    if of and of not in known:
        close = suggest(of, known)
        raise NoSuchObject(
            f'no group or worker "{of}"',
            code="E0702",
            help=f'did you mean "{close}"?' if close else f"there are: {listing(known)}",
        )


def show(
    name: str | None,
    section: str,
    over: float,
    *,
    watch: bool,
    output: str,
    of: str = "",
    xstats: bool = False,
) -> str:
    """Print a section. Returns the last state of the instance."""
    view = _view(section, of, xstats=xstats)
    state = ""
    shown = pictures(name, over, EVERY_S, xstats=xstats)

    def as_json(picture: Picture) -> str:
        doc = (
            sections.document(picture, section, of) if section in sections.SECTIONS else picture
        )  # fmt: skip
        return json.dumps(doc) if watch else json.dumps(doc, indent=2)

    if output == "json":
        for picture in shown:
            _demand(picture, of)
            state = picture["state"]
            print(as_json(picture), flush=True)
            if not watch:
                break
        return state
    if not watch:
        picture = next(shown)
        from dpsup.view import terminal

        _demand(picture, of)
        terminal.print_lines(view(picture, terminal.screen(wide=output == "wide")))
        return str(picture["state"])
    from dpsup.view import terminal

    try:
        with terminal.live() as draw:
            for picture in shown:
                _demand(picture, of)
                state = picture["state"]
                draw(view(picture, terminal.screen(wide=output == "wide")))
    except KeyboardInterrupt:
        return state
    return state
