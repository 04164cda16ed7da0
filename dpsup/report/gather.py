# SPDX-License-Identifier: BSD-3-Clause
"""Collects what a report shows, of an instance that runs, is headless, or left a record."""

from __future__ import annotations

import json
import socket
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsup import _build
from dpsup.advise import command
from dpsup.advise import report as advice
from dpsup.advise.window import Window
from dpsup.errors import DpsupError, NotRunning, UsageError
from dpsup.instance import history, runtime_dir
from dpsup.instance.client import find
from dpsup.instance.history import Wanted
from dpsup.instance.runtime_dir import PLAN
from dpsup.report.page import page
from dpsup.view import dot, graph, sections
from dpsup.view.tables import plain

if TYPE_CHECKING:
    from dpsup.documents.rates import Picture

Doc = dict[str, Any]

EVENTS = 200  # the last ones


def _document(path: str | None, kind: str) -> Doc | None:
    """What `dpsup chaos -o json` or `dpsup bench -o json` wrote. Raises: UsageError."""
    if path is None:
        return None
    try:
        doc = json.loads(Path(path).read_text(encoding="utf-8"))
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


def _doctor(file: str) -> Doc | None:
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


def _events(name: str) -> list[Doc]:
    from dpsup.view.terminal import event_line

    try:
        entries, _ = history.past(name, "event", Wanted())
    except DpsupError:
        return []
    made = []
    for entry in entries[-EVENTS:]:
        line = event_line(entry)
        clock = datetime.fromtimestamp(entry["at"]).strftime("%d %b %H:%M:%S")
        made.append({**entry, "clock": clock, "text": line.partition(" ")[2]})
    return made


def _series(window: Window) -> Doc:
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


def _plan(name: str) -> Doc:
    where = runtime_dir.instances().get(name)
    try:
        return json.loads(where.read(PLAN)) if where else {}
    except (OSError, ValueError):
        return {}


def _draw(picture: Picture | None) -> dict[str, str]:
    if picture is None or not picture["io"]:
        return {"svg": "", "drawing": "", "no_svg": ""}
    letters = plain(graph.draw(picture, sections.Screen(110)))
    try:
        return {"svg": dot.svg(picture), "drawing": letters, "no_svg": ""}
    except DpsupError as e:
        return {"svg": "", "drawing": letters, "no_svg": f"In letters: {e.message}."}


def gather(name: str | None, seconds: float, chaos: str | None, bench: str | None) -> Doc:
    """Raises: NotRunning where there is not even a record; UsageError."""
    made: Doc = {
        "chaos": _document(chaos, "Chaos"),
        "bench": _document(bench, "Bench"),
        "version": _build.VERSION,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        "host": socket.gethostname(),
        "picture": None,
        "advice": None,
        "series": {},
        "why": "",
    }
    try:
        known = find(name).name
    except NotRunning as e:
        dead = history.recorded(name)
        if dead is None:
            raise
        dead.demand_access()
        made |= {"name": dead.name, "state": "stopped", "why": f"{e.message}: this is its record."}
    else:
        window = command.watch(known, seconds)
        picture = window.picture
        headless = picture["supervisor"]["pid"] is None
        made |= {
            "name": known,
            "state": "headless" if headless else picture["state"],
            "picture": picture,
            "advice": advice.document(window),
            "series": _series(window),
        }
    made["plan"] = _plan(made["name"])
    made |= _draw(made["picture"])
    made["events"] = _events(made["name"])
    made["doctor"] = _doctor(made["plan"].get("topology_file", ""))
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
