# SPDX-License-Identifier: BSD-3-Clause
"""What `instance.status` needs to know of the supervisor beside the counters."""

from __future__ import annotations

import os
import time

from dpsup.documents.status import GroupView, Process, Rollout, View, WorkerView
from dpsup.supervisor.model import Child, Group, Model, Worker


def view(model: Model) -> View:
    now = time.monotonic()
    return {
        "at_ns": time.monotonic_ns(),
        "started_ns": model.started_ns,
        "pid": os.getpid(),
        "state": model.state,
        "primary": _child(model.primary),
        "seed": _child(model.seed),
        "builder": {
            "pid": model.builder.pid,
            "state": model.builder.state,
            "trouble": model.builder.trouble,
        }
        if any(g.tables for g in model.plan.groups)
        else None,
        "absent": model.absent,
        "groups": [_group(model, g, now) for g in model.groups],
        "recovery": {
            "deaths": model.deaths,
            "refused_calls": model.refused_calls,
            "primary_deaths": model.primary_deaths,
            "lost": model.lost,
            "last_failover_us": model.last_failover_us,
            "histograms": model.failovers.document(),
        },
    }


def _group(model: Model, g: Group, now: float) -> GroupView:
    made: GroupView = {
        "desired": g.desired,
        "spares_ready": sum(s.ready for s in g.spares if s.version == g.version),
        "rollout": rollout(model, g),
        "spares_held": g.spares_held,
        "plugin_on_disk": g.on_disk,
        "workers": [_worker(w, g, now) for w in g.workers],
    }
    if learned := model.learned.get(g.plan.name):
        made["learned"] = learned
    return made


def rollout(model: Model, group: Group) -> Rollout:
    versions = {w.name: w.sitter.version for w in group.workers if w.sitter is not None}
    return model.ledgers[group.index].view(group.plan.name, versions)


def _child(one: Child) -> Process:
    return {"pid": one.identity.pid if one.identity else None, "state": one.state}


def _retry_in(worker: Worker, now: float) -> float | None:
    if worker.state == "backoff":
        return max(0.0, worker.due_at - now)
    return max(0.0, worker.retry_at - now) if worker.state == "held" and worker.retry_at else None


def _worker(worker: Worker, group: Group, now: float) -> WorkerView:
    return {
        "pid": worker.pid,
        "state": worker.state,
        "restarts": max(worker.restarts, 0),
        "last_exit": worker.last_exit,
        "health": worker.health,
        "since_ns": worker.since_ns,
        "held_for": worker.held_for if worker.state == "held" else "",
        "retry_in_s": _retry_in(worker, now),
        "hidden": worker.state == "stopped" and worker.member >= group.desired,
    }
