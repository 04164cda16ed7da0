# SPDX-License-Identifier: BSD-3-Clause
"""The state machine: total, and its promises about workers hold over every sequence of events to
depth 6."""

from __future__ import annotations

import itertools

import pytest

from dpsup import machine
from dpsup.supervisor import Supervisor

DEPTH = 6

# Only these can follow what a machine has asked for; anything may come at any time otherwise.
INITIAL = {"primary": "absent", "seed": "absent", "worker": "stopped", "topology": "stopped"}
VERDICTS = {"retry", "again", "give_up", "rest"}


def reachable(kind: str) -> set[str]:
    seen = {INITIAL[kind]}
    while True:
        more = {machine.step(kind, s, e).state for s in seen for e in machine.EVENTS[kind]} - seen
        if not more:
            return seen
        seen |= more


@pytest.mark.parametrize("kind", machine.TABLE)
def test_every_pair_is_answered_and_every_state_reachable(kind: str) -> None:
    states, events = machine.STATES[kind], machine.EVENTS[kind]
    assert set(machine.TABLE[kind]) == set(itertools.product(states, events))
    assert reachable(kind) == set(states)
    assert {s.state for s in machine.TABLE[kind].values()} <= set(states)


@pytest.mark.parametrize("kind", machine.TABLE)
def test_supervisor_has_a_method_for_every_action_and_no_other(kind: str) -> None:
    wanted = {f"_{kind}_{action}" for action in machine.ACTIONS[kind]}
    there = {name for name in vars(Supervisor) if name.startswith(f"_{kind}_")}
    # One method is the body of two actions' methods or a helper with a longer name.
    assert wanted <= there
    assert {n for n in there if n.removeprefix(f"_{kind}_") in machine.ACTIONS[kind]} == wanted


def sequences(states: set[tuple[str, ...]], depth: int) -> set[tuple[str, ...]]:
    """Distinct (state, actions...) histories to a depth, equal prefixes merged. That nobody was
    forked after all stands among the actions."""
    for _ in range(depth):
        states = {
            (step.state, *history[1:], *(["unborn"] if event == "unborn" else []), *step.actions)
            for history in states
            for event in machine.EVENTS["worker"]
            for step in [machine.step("worker", history[0], event)]
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
    for (state, event), step in machine.TABLE["worker"].items():
        if "feed" in step.actions:
            assert (state, event) == ("starting", "ready")


def test_lanes_are_repaired_on_a_death_and_on_nothing_else() -> None:
    # An unborn worker's slot is looked at too: its lanes may hold what an earlier one left.
    for (_, event), step in machine.TABLE["worker"].items():
        assert ("repair" in step.actions) <= (event in ("died", "unborn"))
    for state in ("starting", "running", "draining"):
        assert machine.step("worker", state, "died").actions == ("repair",)


def test_a_lost_primary_stops_every_worker() -> None:
    for state in machine.STATES["worker"]:
        assert machine.step("worker", state, "lost").state == "stopped"


def test_stop_leads_every_machine_to_rest() -> None:
    ends = {
        "worker": (["stop", "drained", "died", "rest"], "stopped"),
        "seed": (["stop", "died"], "absent"),
        "primary": (["stop", "died", "swept"], "absent"),
        "topology": (["stop", "gone"], "stopped"),
    }
    for kind, (events, end) in ends.items():
        for start in machine.STATES[kind]:
            if start == "recovering":
                continue  # waits for its verdict first, which is then `rest`
            state = start
            for event in events:
                state = machine.step(kind, state, event).state
            assert state == end, (kind, start)


def test_a_deadline_always_ends_in_a_kill_where_something_is_awaited() -> None:
    for kind, states in {
        "primary": ("starting", "stopping"),
        "seed": ("attaching", "stopping"),
        "worker": ("starting", "draining"),
    }.items():
        for state in states:
            assert machine.step(kind, state, "late").actions == ("kill",)


def test_recovery_waits_for_its_verdict() -> None:
    for event in machine.EVENTS["worker"]:
        step = machine.step("worker", "recovering", event)
        if event not in VERDICTS | {"lost"}:
            assert step == machine.Step("recovering")


def test_a_spare_that_took_over_from_one_that_was_starting_runs() -> None:
    """It says READY no more: nothing else would ever end the waiting."""
    step = machine.step("worker", "starting", "succeeded")
    assert (step.state, step.actions) == ("running", ("adopt",))
