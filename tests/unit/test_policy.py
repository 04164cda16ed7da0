# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup.policy import Decision, Ending, History, Policy, Verdict, decide

CRASH = Ending()


def deaths(policy: Policy, times: list[float]) -> list[Decision]:
    history, found = History(), []
    for now in times:
        decision = decide(policy, history, CRASH, wanted=True, now=now)
        history = decision.history
        found.append(decision)
    return found


def test_delays_grow_to_the_cap_and_then_it_gives_up() -> None:
    found = deaths(Policy(intensity=5, period=60, initial=0.05, factor=2, most=0.3), [0.0] * 6)
    assert [d.delay for d in found[:5]] == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.3])
    assert [d.verdict for d in found] == [Verdict.RETRY] * 5 + [Verdict.GIVE_UP]
    assert "5 restarts in 60 s" in found[-1].reason


def test_the_bucket_leaks() -> None:
    found = deaths(Policy(intensity=5, period=60), [12.0 * i for i in range(100)])
    assert {d.verdict for d in found} == {Verdict.RETRY}
    assert {d.delay for d in found} == {0.05}


def test_without_delay_it_is_started_at_once() -> None:
    assert deaths(Policy(initial=0.0), [0.0])[0].verdict is Verdict.AGAIN


def test_intensity_has_no_upper_bound_and_large_levels_no_overflow() -> None:
    found = deaths(Policy(intensity=1e9, factor=10, most=0.001), [0.0] * 5000)
    assert {d.verdict for d in found} == {Verdict.RETRY}
    assert max(d.delay for d in found) == 0.001


@pytest.mark.parametrize(
    ("policy", "ending", "wanted", "verdict"),
    [
        ("always", Ending(failed=False), True, Verdict.RETRY),
        ("always", CRASH, False, Verdict.REST),
        ("on-failure", CRASH, True, Verdict.RETRY),
        ("on-failure", Ending(failed=False), True, Verdict.GIVE_UP),
        ("never", CRASH, True, Verdict.GIVE_UP),
        ("never", Ending(asked=True), True, Verdict.AGAIN),
        ("always", Ending(permanent=True), True, Verdict.GIVE_UP),
        ("always", Ending(asked=True), True, Verdict.AGAIN),
        ("always", Ending(asked=True), False, Verdict.REST),
    ],
)
def test_verdicts(policy: str, ending: Ending, wanted: bool, verdict: Verdict) -> None:
    assert decide(Policy(policy), History(), ending, wanted, 0.0).verdict is verdict


def test_an_asked_end_costs_no_credit() -> None:
    history = History(3.0, 10.0)
    assert decide(Policy(), history, Ending(asked=True), True, 20.0).history == history


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_a_storm_always_ends(gaps: list[float]) -> None:
    policy = Policy(intensity=3, period=60)
    now, history, restarts = 0.0, History(), []
    for gap in gaps:
        now += gap
        decision = decide(policy, history, CRASH, True, now)
        history = decision.history
        if decision.verdict is Verdict.GIVE_UP:
            break
        restarts.append(now)
        # Whatever the pattern: the leaky bucket lets through what it holds and what leaked.
        assert len(restarts) <= policy.intensity + now * policy.intensity / policy.period + 1e-6
