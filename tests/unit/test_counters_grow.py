# SPDX-License-Identifier: BSD-3-Clause
"""Counters only grow: over a supervisor's death, the time without one, and its successor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unit.fakecore import Parts
from unit.looks import PLAN as LOOKED_AT
from unit.looks import edge

from dpsup.instance import openmetrics, status
from dpsup.supervisor import snapshot
from dpsup.supervisor.view import view

PLAN: Any = {**LOOKED_AT, "primary_pid": 200}


def left(memory: Any) -> Any:
    return {"memory": memory, "deaths": {}, "takeovers": {}, "spares": {}}


def recovery(doc: Any) -> dict[str, Any]:
    return {k: v for k, v in doc["recovery"].items() if k not in ("duplicated", "quarantined")}


def test_what_the_supervisor_counted_outlives_it(tmp_path: Path) -> None:
    first = Parts(tmp_path).model
    first.deaths, first.unreported, first.lost, first.last_failover_us = 3, 1, 70, 250.0
    first.workers()[0].restarts = 2
    first.failovers.first_packet(0.0002)
    first.failovers.first_packet(99.0)
    first.failovers.hear(
        {"type": "death", "times": {"noticed_ns": 1, "repaired_ns": 9000, "seated_ns": 20_000}}
    )
    memory = snapshot.note(first, {})
    counters: Any = edge()["counters"]

    noted = view(first)["recovery"]
    noted["deaths"] += first.unreported
    headless = status.status(PLAN, counters, None, left(memory))
    assert recovery(headless) == noted
    assert headless["groups"][0]["workers"][0]["restarts"] == 2

    # An older dpsup wrote no histograms, and a damaged file has anything in it.
    second = Parts(tmp_path).model
    snapshot.recall(second, memory)
    assert view(second)["recovery"] == noted
    assert view(second)["recovery"]["histograms"]["failover"]["count"] == 2
    third = Parts(tmp_path).model
    snapshot.recall(third, {"deaths": 5, "failovers": {"failover": {"bounds": [1.0]}}})  # type: ignore[typeddict-item]
    assert third.deaths == 5


def test_what_nobody_counts_is_no_metric() -> None:
    names = {family.name for family in openmetrics.families(edge())}  # type: ignore[arg-type]
    assert "dpsup_lost_packets" in names
    assert not any("duplicated" in name for name in names)


def test_what_was_given_up_as_corrupt_is_dropped_and_not_lost() -> None:
    counters: Any = edge()["counters"]
    counters["slots"][0]["corrupt"] = 9
    doc = status.status(PLAN, counters, None, left({"lost": 4}))
    assert doc["recovery"]["lost"] == 4
    assert doc["groups"][0]["workers"][0]["dropped"]["corrupt"] == 9
