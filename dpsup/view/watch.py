# SPDX-License-Identifier: BSD-3-Clause
"""Looking at an instance twice, or again and again, and showing what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from dpsup.errors import NoSuchObject
from dpsup.instance import rates
from dpsup.instance.client import connect
from dpsup.text import listing, suggest
from dpsup.view import graph, sections
from dpsup.view.tables import Line

EVERY_S = 1.0  # between two pictures of a watch


def pictures(name: str | None, over: float, every: float) -> Iterator[dict[str, Any]]:
    """Pictures of an instance, the first after `over` seconds, then each of the time since the last
    one. Raises: NotRunning once it has ended."""
    with connect(name) as instance:
        before = instance.look()
    name = before["status"]["name"]
    pause = over
    while True:
        time.sleep(pause)
        with connect(name) as instance:  # anew: its supervisor may have gone meanwhile
            after = instance.look()
        yield rates.picture(before, after)
        before, pause = after, every


def _view(section: str, of: str) -> Callable[[dict[str, Any], sections.Screen], list[Line]]:
    if section == "status":
        return sections.status
    if section == "stats":
        return sections.stats
    if section == "graph":
        return graph.draw

    def shown(picture: dict[str, Any], screen: sections.Screen) -> list[Line]:
        if section == "workers":
            lines = sections.workers(picture, screen, of)
        else:
            lines = sections.SECTIONS[section][0](picture, screen)
        return lines + sections.hint_lines(picture, screen)

    return shown


def _demand(picture: dict[str, Any], of: str) -> None:
    known = [g["name"] for g in picture["groups"]] + [w["id"] for w in picture["workers"]]
    if of and of not in known:
        close = suggest(of, known)
        raise NoSuchObject(
            f'no group or worker "{of}"',
            code="E0702",
            help=f'did you mean "{close}"?' if close else f"there are: {listing(known)}",
        )


def show(
    name: str | None, section: str, over: float, *, watch: bool, output: str, of: str = ""
) -> str:
    """Print a section; the state that the instance was in last."""
    view = _view(section, of)
    state = ""

    def as_json(picture: dict[str, Any]) -> str:
        doc = (
            sections.document(picture, section, of) if section in sections.SECTIONS else picture
        )  # fmt: skip
        return json.dumps(doc) if watch else json.dumps(doc, indent=2)

    from dpsup.view import terminal

    if output == "json" or not watch:
        for picture in pictures(name, over, EVERY_S):
            _demand(picture, of)
            state = picture["state"]
            if output == "json":
                print(as_json(picture), flush=True)
            else:
                terminal.print_lines(view(picture, terminal.screen(wide=output == "wide")))
            if not watch:
                break
        return state
    try:
        with terminal.live() as draw:
            for picture in pictures(name, over, EVERY_S):
                _demand(picture, of)
                state = picture["state"]
                draw(view(picture, terminal.screen(wide=output == "wide")))
    except KeyboardInterrupt:
        return state
    return state
