# SPDX-License-Identifier: BSD-3-Clause
"""All instances that this user's commands look at, in whatever state: from their runtime
directories, and from those that answer."""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup.errors import DpsupError, NotPermitted, TimedOut
from dpsup.host import private, process
from dpsup.host.private import Unsafe
from dpsup.instance import runtime_dir
from dpsup.instance.client import Instance
from dpsup.instance.runtime_dir import OURS, Runtime
from dpsup.instance.status import API

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.instances import Instances, Listed, Skipped

ANSWER_S = 1.0  # a supervisor that takes longer is called silent


def look(name: str | None = None) -> Instances:
    """The Instances document, or the part of it about those of that name."""
    listed: list[Listed] = []
    skipped: list[Skipped] = []
    seen: set[Path] = set()
    names: set[str] = set()
    for root in runtime_dir.roots():  # the one that -n NAME means comes first
        why = _why_skipped(root)
        if why:
            skipped.append({"directory": str(root), "why": why})
        for one in () if why else sorted(runtime_dir.children_of(root)):
            if name not in (None, one.name) or not one.is_dir() or one.resolve() in seen:
                continue
            seen.add(one.resolve())
            found = _listed(Runtime(str(one.resolve()), one.name), named=one.name not in names)
            if found is not None:
                names.add(one.name)
                listed.append(found)
    listed.sort(key=lambda one: (one["name"], not one["named"]))
    return {"apiVersion": API, "kind": "Instances", "instances": listed, "skipped": skipped}


def _why_skipped(root: Path) -> str:
    try:
        why = private.why_replaceable(root, root.lstat())
        if not why:
            os.scandir(root).close()
    except OSError as e:
        return "" if e.errno in (errno.ENOENT, errno.ENOTDIR) else str(e.strerror)
    return why


def _listed(where: Runtime, *, named: bool) -> Listed | None:
    """None: no instance was ever there."""
    made: Listed = {
        "name": where.name,
        "state": "unknown",
        "why": "",
        "generation": None,
        "supervisor": None,
        "primary": None,
        "up_s": None,
        "ports": None,
        "ports_up": None,
        "workers": None,
        "workers_ready": None,
        "user": _owner(where.path),
        "directory": str(where.path),
        "named": named,
        "topology_file": "",
    }
    try:
        with where.at() as directory:
            if not any(name in OURS for name in os.listdir(directory)):  # noqa: PTH208
                return None
    except Unsafe as e:
        return {**made, "why": e.reason}
    except OSError as e:
        return {**made, "why": str(e.strerror)}
    _recorded(where, made)
    if made["state"] != "dead":
        _asked(where, made)
    return made


def _owner(directory: Path) -> str:
    try:
        uid = directory.lstat().st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _recorded(where: Runtime, made: Listed) -> None:
    """What the directory says, and which of its processes live."""
    state, primary = where.read_state(), where.primary()
    is_supervised = where.is_supervised()
    if state is not None:
        made["generation"], made["topology_file"] = state.generation, state.topology_file
        if is_supervised and state.supervisor is not None and state.supervisor.alive:
            made["supervisor"] = state.supervisor.pid
    if primary is not None:
        made["primary"] = primary.pid
    if is_supervised:
        made["state"] = "silent"
    elif primary is not None:
        made["state"], made["up_s"] = "headless", process.age(primary)
        made["why"] = "it forwards, and no supervisor restarts what dies"
    elif where.is_held():
        made["state"], made["why"] = "headless", "its primary is in another PID namespace"
    else:
        made["state"], made["why"] = "dead", f"`dpsup -n {where.name} events` shows its record"


def _asked(where: Runtime, made: Listed) -> None:
    """What an instance says of itself."""
    try:
        with Instance(where) as instance:
            doc = instance.status(timeout=ANSWER_S)
    except NotPermitted as e:
        made["state"], made["why"] = "unknown", e.message
        return
    except (DpsupError, OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        if made["state"] == "silent":
            is_early = not where.has(runtime_dir.CONTROL)
            made["state"] = "starting" if is_early else "silent"
            made["why"] = "" if is_early else f"its supervisor does not answer{_how(e)}"
        return
    pid = doc["supervisor"]["pid"]
    made["supervisor"], made["primary"] = pid, doc["primary"]["pid"]
    made["generation"], made["topology_file"] = doc["generation"], doc["topology_file"]
    if pid is not None:
        made["state"] = doc["state"]
        if doc["started_ns"] and doc["at_ns"]:
            made["up_s"] = max(0.0, (doc["at_ns"] - doc["started_ns"]) / 1e9)
    made["ports"] = len(doc["ports"])
    made["ports_up"] = sum(p["link_up"] and not p["absent"] for p in doc["ports"])
    made["workers"] = sum(g["desired"] for g in doc["groups"])
    made["workers_ready"] = sum(g["ready"] for g in doc["groups"])


def _how(error: Exception) -> str:
    if isinstance(error, TimedOut):
        return f" within {ANSWER_S:g} s"
    return f": {error.message if isinstance(error, DpsupError) else error}"
