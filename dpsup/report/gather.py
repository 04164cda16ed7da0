# SPDX-License-Identifier: BSD-3-Clause
"""Collects what a report shows, of an instance that runs, is headless, or left a record."""

from __future__ import annotations

import json
import socket
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dpsup import _build
from dpsup.advise import command
from dpsup.advise import report as advice
from dpsup.advise.window import Window
from dpsup.errors import DpsupError, NotRunning, UsageError
from dpsup.host.input_file import read_input
from dpsup.instance import history, runtime_dir
from dpsup.instance.client import find
from dpsup.instance.history import Wanted
from dpsup.instance.runtime_dir import PLAN
from dpsup.report.page import Gathered, Told, page
from dpsup.view import dot, graph, sections
from dpsup.view.columns import plain

if TYPE_CHECKING:
    from dpsup.documents.plan import Plan
    from dpsup.documents.printed import Doctor
    from dpsup.documents.rates import Picture


EVENTS = 200  # the last ones


def _document(path: str | None, kind: str) -> Any:
    """What `dpsup chaos -o json` or `dpsup bench -o json` wrote. Raises: UsageError."""
    if path is None:
        return None
    try:
        doc = json.loads(read_input(path))
    except (OSError, ValueError) as e:
        reason = (isinstance(e, OSError) and e.strerror) or "it is not JSON"
        raise UsageError(f"cannot read {path}: {reason}", code="E0746") from None
    if not isinstance(doc, dict) or doc.get("kind") != kind:
        raise UsageError(
            f"{path} is no document of `dpsup {kind.lower()}`",
            code="E0746",
            help=f"dpsup {kind.lower()} -o json > {kind.lower()}.json",
        )
    return doc


def _doctor(file: str) -> Doctor | None:
    from dpsup.doctor import report
    from dpsup.host.tree import Machine

    machine = Machine("/")
    try:
        return report.document(report.examine(file or None, machine), file, "/")
    except (DpsupError, OSError):
        pass
    try:  # the file is gone, or no longer sound: what every topology needs
        return report.document(report.examine(None, machine), None, "/")
    except (DpsupError, OSError):
        return None


def _events(name: str) -> list[Told]:
    from dpsup.view.terminal import event_line

    try:
        entries, _ = history.past(name, "event", Wanted())
    except DpsupError:
        return []
    made: list[Told] = []
    for entry in entries[-EVENTS:]:
        line = event_line(entry)
        clock = datetime.fromtimestamp(entry["at"]).strftime("%d %b %H:%M:%S")
        made.append(cast("Told", {**entry, "clock": clock, "text": line.partition(" ")[2]}))
    return made


def _series(window: Window) -> dict[str, list[tuple[float, float]]]:
    """Rates over the window, each at the end of its step."""
    found: dict[str, list[tuple[float, float]]] = {"received": [], "sent": [], "lost": []}
    at = 0.0
    for step in window.steps:
        at += step["window_s"] or 0.0
        ports, workers = step["ports"], step["workers"]
        lost = sum((p["drop_pps"] or 0.0) + (p["missed_pps"] or 0.0) for p in ports)
        lost += sum(w["drop_pps"] or 0.0 for w in workers)
        found["received"].append((at, sum(p["rx_pps"] or 0.0 for p in ports)))
        found["sent"].append((at, sum(p["tx_pps"] or 0.0 for p in ports)))
        found["lost"].append((at, lost))
    return found


def _plan(name: str) -> Plan | None:
    where = runtime_dir.instances().get(name)
    try:
        return cast("Plan", json.loads(where.read(PLAN))) if where else None
    except (OSError, ValueError):
        return None


def _draw(made: Gathered, picture: Picture) -> None:
    made["drawing"] = plain(graph.draw(picture, sections.Screen(110)))
    try:
        made["svg"] = dot.svg(picture)
    except DpsupError as e:
        made["no_svg"] = f"In letters: {e.message}."


def gather(name: str | None, seconds: float, chaos: str | None, bench: str | None) -> Gathered:
    """Raises: NotRunning where there is not even a record; UsageError."""
    made: Gathered = {
        "name": "",
        "state": "stopped",
        "version": _build.VERSION,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        "host": socket.gethostname(),
        "why": "",
        "picture": None,
        "advice": None,
        "series": {},
        "plan": None,
        "svg": "",
        "drawing": "",
        "no_svg": "",
        "events": [],
        "doctor": None,
        "chaos": _document(chaos, "Chaos"),
        "bench": _document(bench, "Bench"),
    }
    try:
        known = find(name).name
    except NotRunning as e:
        dead = history.recorded(name)
        if dead is None:
            raise
        dead.demand_access()
        made["name"], made["why"] = dead.name, f"{e.message}: this is its record."
    else:
        window = command.watch(known, seconds)
        picture = window.picture
        headless = picture["supervisor"]["pid"] is None
        made["name"] = known
        made["state"] = "headless" if headless else picture["state"]
        made["picture"] = picture
        made["advice"] = advice.document(window)
        made["series"] = _series(window)
        if picture["io"]:
            _draw(made, picture)
    made["plan"] = _plan(made["name"])
    made["events"] = _events(made["name"])
    made["doctor"] = _doctor(made["plan"].get("topology_file", "") if made["plan"] else "")
    return made


def write(name: str | None, file: str, seconds: float, chaos: str | None, bench: str | None) -> str:
    """The page's text, written to `file` unless that is "-". Raises: DpsupError."""
    target = Path(file)
    if file != "-" and (target.is_dir() or not target.absolute().parent.is_dir()):
        raise UsageError(f"cannot write {file}: no such directory, or it is one", code="E0747")
    text = page(gather(name, seconds, chaos, bench))
    if file != "-":
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as e:
            raise DpsupError(f"cannot write {file}: {e.strerror}", code="E0747") from None
    return text
