# SPDX-License-Identifier: BSD-3-Clause
"""What only the supervisor knows, in a form that outlives it: it lies in `state.json`, and the next
supervisor of the same data plane goes on from there.

Written whole at every event, and read with indulgence: what an older dpsup did not write, or what
names a group that is gone, is simply not known. Times are those of CLOCK_MONOTONIC, which counts
on for as long as the data plane can live.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpsup.supervisor.policy import History

if TYPE_CHECKING:
    from dpsup.supervisor.core import Supervisor

SEQ_BLOCK = 1000  # numbers of publications that are reserved with each writing

Doc = dict[str, Any]


@dataclass
class Past:
    """What is remembered of processes that may be dead by now."""

    asked: set[int] = field(default_factory=set)  # pids that were told to end
    states: dict[str, str] = field(default_factory=dict)  # of workers


def note(sup: Supervisor) -> Doc:
    """Everything worth remembering."""
    return {
        "deaths": sup.deaths + sup.unreported,
        "lost": sup.lost,
        "primary_deaths": sup.primary_deaths,
        "last_failover_us": sup.last_failover_us,
        "told": sup.told,
        "seq": sup.reserve(),
        "primary": _pair(sup.primary.history),
        "seed": _pair(sup.seed.history),
        "groups": {
            g.plan.name: {
                "desired": g.desired,
                "spare_history": _pair(g.spare_history),
                "spare_due_at": g.spare_due_at,
                "home": bytes(g.home).hex(),
            }
            for g in sup.groups
        },
        "workers": {
            w.name: {
                "state": w.state,
                "restarts": w.restarts,
                "last_exit": w.last_exit,
                "history": _pair(w.history),
                "due_at": w.due_at,
                "held_for": w.held_for,
                "failed_ns": w.failed_ns,
            }
            for w in sup.workers()
        },
        "asked": sup.asked(),
    }


def recall(sup: Supervisor, doc: Doc) -> Past:
    """Go on from what was noted."""
    past = Past()
    # Half of it is better than nothing; what follows is checked against what lives.
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
        sup.resume_seq({str(k): int(v) for k, v in doc.get("seq", {}).items()})
        sup.deaths = int(doc.get("deaths", 0))
        sup.lost = int(doc.get("lost", 0))
        sup.primary_deaths = int(doc.get("primary_deaths", 0))
        sup.last_failover_us = doc.get("last_failover_us")
        sup.told = int(doc.get("told", 0))
        sup.primary.history = _history(doc.get("primary"))
        sup.seed.history = _history(doc.get("seed"))
        past.asked = {int(pid) for pid in doc.get("asked", [])}
        for group in sup.groups:
            known = doc.get("groups", {}).get(group.plan.name, {})
            group.desired = min(group.plan.max, int(known.get("desired", group.desired)))
            group.spare_history = _history(known.get("spare_history"))
            group.spare_due_at = float(known.get("spare_due_at", 0.0))
            home = tuple(bytes.fromhex(known.get("home", "")))
            group.home = home if len(home) == len(group.home) else group.home
        for worker in sup.workers():
            known = doc.get("workers", {}).get(worker.name, {})
            past.states[worker.name] = str(known.get("state", ""))
            worker.restarts = int(known.get("restarts", worker.restarts))
            worker.last_exit = known.get("last_exit")
            worker.held_for = str(known.get("held_for", ""))
            worker.history = _history(known.get("history"))
            worker.due_at = float(known.get("due_at", 0.0))
            worker.failed_ns = int(known.get("failed_ns", 0))
    return past


def _pair(history: History) -> list[float]:
    return [history.level, history.at]


def _history(pair: Any) -> History:
    return History(float(pair[0]), float(pair[1])) if pair else History()
