# SPDX-License-Identifier: BSD-3-Clause
"""What only the supervisor knows, in a form that outlives it: it lies in `state.json`, and the next
supervisor of the same data plane continues from there.

It is written whole at every event. A reader tolerates what is missing: what an older dpsup did not
write, or what names a group that no longer exists, is not known. Times are those of
CLOCK_MONOTONIC, which counts on for as long as the data plane can live.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from dpsup.bus.sockets import Publisher
from dpsup.documents.state import Memory
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import State
from dpsup.supervisor.model import Model
from dpsup.supervisor.policy import History

SEQ_BLOCK = 1000  # numbers of publications that are reserved with each writing


@dataclass
class Past:
    """What is remembered of processes that may be dead by now."""

    asked: set[int] = field(default_factory=set)  # pids that were told to end
    states: dict[str, str] = field(default_factory=dict)  # of workers
    seq: dict[str, int] = field(default_factory=dict)  # numbers of publications, by topic


class Numbers:
    """Numbers of publications that the next supervisor begins behind: no two are alike."""

    def __init__(self, publisher: Publisher) -> None:
        self._seq = publisher.seq
        self._reserved: dict[str, int] = {}

    def reserve(self) -> dict[str, int]:
        self._reserved = {t: n + SEQ_BLOCK for t, n in self._seq.items()}
        return self._reserved

    def resume(self, seq: dict[str, int]) -> None:
        for topic in self._seq.keys() & seq.keys():
            self._seq[topic] = max(self._seq[topic], seq[topic])

    @property
    def run_short(self) -> bool:
        reserved = self._reserved
        return any(n + SEQ_BLOCK // 2 > reserved.get(t, 0) for t, n in self._seq.items())


def state_of(model: Model, seq: dict[str, int]) -> State:
    """What `state.json` says."""
    return State(
        name=model.name,
        generation=model.plan.generation,
        file_prefix=model.plan.file_prefix,
        hugepage_dir=model.plan.hugepage_dir,
        topology_file=model.plan.topology_file,
        supervisor=process.own(),
        primary=model.primary.identity,
        seed=model.seed.identity,
        workers={f"{s.name} {s.pid}": Identity(s.pid, s.start) for s in model.living()},
        memory=note(model, seq),
    )


def note(model: Model, seq: dict[str, int]) -> Memory:
    """What the next supervisor needs."""
    return {
        "deaths": model.deaths + model.unreported,
        "refused_calls": model.refused_calls,
        "lost": model.lost,
        "primary_deaths": model.primary_deaths,
        "last_failover_us": model.last_failover_us,
        "failovers": model.failovers.document(),
        "told": model.told,
        "seq": seq,
        "primary": _pair(model.primary.history),
        "seed": _pair(model.seed.history),
        "groups": {
            g.plan.name: {
                "desired": g.desired,
                "spare_history": _pair(g.spare_history),
                "spare_due_at": g.spare_due_at,
                "home": bytes(g.home).hex(),
            }
            for g in model.groups
        },
        "workers": {
            w.name: {
                "state": w.state,
                "restarts": w.restarts,
                "last_exit": w.last_exit,
                "history": _pair(w.history),
                "due_at": w.due_at,
                "retry_at": w.retry_at,
                "held_for": w.held_for,
                "failed_ns": w.failed_ns,
            }
            for w in model.workers()
        },
        "asked": [s.pid for s in model.sitters.values() if s.asked],
        "loaded": model.loaded,
    }


def recall(model: Model, doc: Memory) -> Past:
    """Go on from what was noted."""
    past = Past()
    # Half of it is better than nothing; what follows is checked against what lives.
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
        past.seq = {str(k): int(v) for k, v in doc.get("seq", {}).items()}
        model.deaths = int(doc.get("deaths", 0))
        model.refused_calls = int(doc.get("refused_calls", 0))
        model.lost = int(doc.get("lost", 0))
        model.primary_deaths = int(doc.get("primary_deaths", 0))
        model.last_failover_us = doc.get("last_failover_us")
        model.told = int(doc.get("told", 0))
        model.primary.history = _history(doc.get("primary"))
        model.seed.history = _history(doc.get("seed"))
        model.loaded = {str(k): str(v) for k, v in doc.get("loaded", {}).items()}
        past.asked = {int(pid) for pid in doc.get("asked", [])}
        for group in model.groups:
            known = doc.get("groups", {}).get(group.plan.name, {})
            group.desired = min(group.plan.max, int(known.get("desired", group.desired)))
            group.spare_history = _history(known.get("spare_history"))
            group.spare_due_at = float(known.get("spare_due_at", 0.0))
            home = tuple(bytes.fromhex(known.get("home", "")))
            group.home = home if len(home) == len(group.home) else group.home
        for worker in model.workers():
            noted = doc.get("workers", {}).get(worker.name, {})
            past.states[worker.name] = str(noted.get("state", ""))
            worker.restarts = int(noted.get("restarts", worker.restarts))
            worker.last_exit = noted.get("last_exit")
            worker.held_for = str(noted.get("held_for", ""))
            worker.history = _history(noted.get("history"))
            worker.due_at = float(noted.get("due_at", 0.0))
            worker.retry_at = float(noted.get("retry_at", 0.0))
            worker.failed_ns = int(noted.get("failed_ns", 0))
        model.failovers.resume(doc.get("failovers", {}))
    return past


def _pair(history: History) -> list[float]:
    return [history.level, history.at]


def _history(pair: Any) -> History:
    return History(float(pair[0]), float(pair[1])) if pair else History()
