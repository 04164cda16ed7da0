# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup.supervisor.policy import (
    Decision,
    Ending,
    History,
    Policy,
    Verdict,
    allowance,
    decide,
    last_credit,
    others,
)

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


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 40))
def test_chance_only_shortens_a_delay_and_by_no_more_than_jitter(
    jitter: float, chance: float, level: float
) -> None:
    policy = Policy(intensity=100, initial=0.05, factor=2, most=0.3, jitter=jitter)
    history = History(level, 0.0)
    plain = decide(policy, history, CRASH, True, 0.0).delay
    found = decide(policy, history, CRASH, True, 0.0, chance).delay
    assert plain * (1 - jitter) <= found * (1 + 1e-9) <= plain * (1 + 1e-9)
    assert plain <= 0.3
    assert found == pytest.approx(plain * (1 - jitter * chance))


@pytest.mark.parametrize(
    ("policy", "level", "most"),
    [
        ("always", 0, 5),
        ("on-failure", 0, 5),
        ("on-failure", 2, 3),
        ("always", 9, 0),
        ("never", 0, 0),
    ],
)
def test_takeovers_are_what_the_policy_would_grant(policy: str, level: float, most: int) -> None:
    made, history = Policy(policy), History(level, 0.0)
    assert allowance(made, history, 0.0) == most
    for _ in range(most):
        decision = decide(made, history, CRASH, True, 0.0)
        assert decision.verdict is Verdict.RETRY
        history = decision.history
    assert decide(made, history, CRASH, True, 0.0).verdict is Verdict.GIVE_UP


# Two workers of group 0, three of group 1, one of group 2, as they are started.
CHAIN = [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("strategy", "died", "found"),
    [
        ("one-for-one", 2, []),
        ("all", 3, [4, 2]),
        ("all", 5, []),
        ("rest-for-chain", 0, [5, 4, 3, 2]),
        ("rest-for-chain", 3, [5]),
        ("rest-for-chain", 5, []),
    ],
)
def test_who_is_restarted_with_it_and_in_which_order(
    strategy: str, died: int, found: list[int]
) -> None:
    assert others(strategy, died, CHAIN) == found


@given(
    st.sampled_from(["one-for-one", "all", "rest-for-chain"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.data(),
)
def test_nobody_upstream_is_restarted_nor_the_dead_one_itself(
    strategy: str, sizes: list[int], data: st.DataObject
) -> None:
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    died = data.draw(st.integers(0, len(groups) - 1))
    found = others(strategy, died, groups)
    assert found == sorted(set(found), reverse=True)
    assert died not in found
    assert all(groups[i] >= groups[died] for i in found)


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


def test_a_worker_that_was_given_up_is_tried_once_more_unless_told_not_to() -> None:
    policy = Policy(intensity=5, period=60, retry=300.0)
    found = deaths(policy, [0.0] * 6)[-1]
    assert (found.verdict, found.retry) == (Verdict.GIVE_UP, 300.0)
    permanent = decide(policy, History(), Ending(permanent=True), True, 0.0)
    assert (permanent.verdict, permanent.retry) == (Verdict.GIVE_UP, 300.0)
    # It fails again at once: given up again, not restarted five times more.
    again = decide(policy, last_credit(policy, 300.0), CRASH, True, 301.0)
    assert (again.verdict, again.retry) == (Verdict.GIVE_UP, 300.0)
    # It ran for a while: it has its credit back.
    assert decide(policy, last_credit(policy, 300.0), CRASH, True, 400.0).verdict is Verdict.RETRY
    for told_not_to in (Policy(intensity=5), Policy("never", retry=300.0)):
        decision = decide(told_not_to, History(9.0, 0.0), CRASH, True, 0.0)
        assert (decision.verdict, decision.retry) == (Verdict.GIVE_UP, 0.0)
    ended_well = decide(Policy("on-failure", retry=300.0), History(), Ending(failed=False), True, 0)
    assert (ended_well.verdict, ended_well.retry) == (Verdict.GIVE_UP, 0.0)
