# SPDX-License-Identifier: BSD-3-Clause
"""What `status` says of an instance whose supervisor is dead."""

from __future__ import annotations

from typing import Any

import pytest
from unit import looks

from dpsup.instance import status
from dpsup.instance.rates import picture
from dpsup.text import microseconds
from dpsup.view import sections
from dpsup.view.columns import plain
from dpsup.view.sections import Screen

PLAN: Any = {**looks.PLAN, "primary_pid": 200}


def headless(**left: Any) -> Any:
    """fw was scaled from two workers to one, then fw/0 died three times, and stays down."""
    counters = looks._counters(3.0)
    counters["slots"][0]["pid"] = counters["slots"][1]["pid"] = 0
    memory = {
        "deaths": 40,
        "primary_deaths": 4,
        "last_failover_us": 1_820_000.0,
        "groups": {"fw": {"desired": 1}},
        "workers": {"fw/0": {"state": "running", "restarts": 2, "last_exit": None}},
    }
    known: Any = {"memory": memory, "deaths": {0: 3}, "takeovers": {0: 2}, "spares": {1: 1}, **left}
    return status.status(PLAN, counters, None, known)


def test_deaths_spares_and_scaled_away_slots_are_told_truly() -> None:
    doc = headless()
    assert doc["recovery"]["deaths"] == 43 and doc["recovery"]["primary_deaths"] == 4
    fw, nat = doc["groups"]
    assert (fw["desired"], fw["spares_ready"], nat["spares_ready"]) == (1, 0, 1)
    one, two = fw["workers"]
    assert (one["state"], one["restarts"]) == ("held", 4)
    assert one["held_for"] == "no supervisor starts it again"
    assert two["state"] == "stopped", "it was scaled away, and is shown for its counters alone"


def test_a_worker_that_was_held_before_says_why() -> None:
    memory = {"workers": {"fw/0": {"state": "held", "held_for": "more than 5 restarts in 60 s"}}}
    (one, _), _ = (g["workers"] for g in headless(memory=memory, deaths={})["groups"])
    assert one["held_for"] == "more than 5 restarts in 60 s"


def test_no_hint_needs_the_supervisor_that_is_not_there() -> None:
    look = looks.headless(4.0)
    look["status"] = headless()
    hints = sections.hints(picture(looks.headless(3.0), look))
    assert any("fw/0 is held, no supervisor starts it again" in hint for hint in hints)
    assert not any("fw/1" in hint for hint in hints)
    for word in ("reset-failed", "scale", "restart", "rebalance"):
        assert not any(word in hint for hint in hints), hints


def test_the_line_counts_the_deaths_of_the_primary_and_has_a_unit_that_suits() -> None:
    look = looks.headless(4.0)
    look["status"] = headless()
    said = plain([sections.recovery(picture(None, look))])
    assert "recovery: 43 deaths of workers, 4 of the primary, " in said
    assert "last failover 1.82 s" in said
    made = picture(looks.edge(3.0), looks.edge(4.0))
    assert "recovery: 6 deaths, 0 packets lost" in plain(sections.status(made, Screen(None)))


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 us"), (200, "200 us"), (999.4, "999 us"), (1820, "1.82 ms"), (1.82e6, "1.82 s"),
     (61e6, "61 s"), (2e10, "20000 s")],
)  # fmt: skip
def test_a_time_has_the_unit_that_suits(n: float, text: str) -> None:
    assert microseconds(n) == text
