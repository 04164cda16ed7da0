# SPDX-License-Identifier: BSD-3-Clause
"""The state machine: total, and its promises about workers hold over every sequence of events to
depth 6."""

from __future__ import annotations

import itertools

import pytest

from dpsup.supervisor import fsm

DEPTH = 6

# Only these can follow what a machine has asked for; anything may come at any time otherwise.
INITIAL = {"primary": "absent", "seed": "absent", "worker": "stopped", "topology": "stopped"}
VERDICTS = {"retry", "again", "give_up", "rest"}


def reachable(kind: str) -> set[str]:
    seen = {INITIAL[kind]}
    while True:
        more = {fsm.step(kind, s, e).state for s in seen for e in fsm.EVENTS[kind]} - seen
        if not more:
            return seen
        seen |= more


@pytest.mark.parametrize("kind", fsm.TABLE)
def test_every_pair_is_answered_and_every_state_reachable(kind: str) -> None:
    states, events = fsm.STATES[kind], fsm.EVENTS[kind]
    assert set(fsm.TABLE[kind]) == set(itertools.product(states, events))
    assert reachable(kind) == set(states)
    assert {s.state for s in fsm.TABLE[kind].values()} <= set(states)


def sequences(states: set[tuple[str, ...]], depth: int) -> set[tuple[str, ...]]:
    """Distinct (state, actions...) histories to a depth, equal prefixes merged. That nobody was
    forked after all stands among the actions."""
    for _ in range(depth):
        states = {
            (step.state, *history[1:], *(["unborn"] if event == "unborn" else []), *step.actions)
            for history in states
            for event in fsm.EVENTS["worker"]
            for step in [fsm.step("worker", history[0], event)]
        }
    return states


def test_no_worker_is_forked_before_its_lanes_are_repaired() -> None:
    for state, *actions in sequences({("stopped",)}, DEPTH):
        sits = False
        for action in actions:
            if action == "fork":
                assert not sits, (state, actions)
                sits = True
            if action in ("repair", "forget", "unborn"):
                sits = False


def test_only_a_ready_worker_is_fed() -> None:
    for (state, event), step in fsm.TABLE["worker"].items():
        if "feed" in step.actions:
            assert (state, event) == ("starting", "ready")


def test_lanes_are_repaired_on_a_death_and_on_nothing_else() -> None:
    # An unborn worker's slot is looked at too: its lanes may hold what an earlier one left.
    for (_, event), step in fsm.TABLE["worker"].items():
        assert ("repair" in step.actions) <= (event in ("died", "unborn"))
    for state in ("starting", "running", "draining"):
        assert fsm.step("worker", state, "died").actions == ("repair",)


def test_a_lost_primary_stops_every_worker() -> None:
    for state in fsm.STATES["worker"]:
        assert fsm.step("worker", state, "lost").state == "stopped"


def test_stop_leads_every_machine_to_rest() -> None:
    ends = {
        "worker": (["stop", "drained", "died", "rest"], "stopped"),
        "seed": (["stop", "died"], "absent"),
        "primary": (["stop", "died", "swept"], "absent"),
        "topology": (["stop", "gone"], "stopped"),
    }
    for kind, (events, end) in ends.items():
        for start in fsm.STATES[kind]:
            if start == "recovering":
                continue  # waits for its verdict first, which is then `rest`
            state = start
            for event in events:
                state = fsm.step(kind, state, event).state
            assert state == end, (kind, start)


def test_a_deadline_always_ends_in_a_kill_where_something_is_awaited() -> None:
    for kind, states in {
        "primary": ("starting", "stopping"),
        "seed": ("attaching", "stopping"),
        "worker": ("starting", "draining"),
    }.items():
        for state in states:
            assert fsm.step(kind, state, "late").actions == ("kill",)


def test_recovery_waits_for_its_verdict() -> None:
    for event in fsm.EVENTS["worker"]:
        step = fsm.step("worker", "recovering", event)
        if event not in VERDICTS | {"lost"}:
            assert step == fsm.Step("recovering")


def test_a_spare_that_took_over_from_one_that_was_starting_runs() -> None:
    """It says READY no more: nothing else would ever end the waiting."""
    step = fsm.step("worker", "starting", "succeeded")
    assert (step.state, step.actions) == ("running", ("succeed",))
