# SPDX-License-Identifier: BSD-3-Clause
"""The autoscaler over made-up and recorded load curves, in a simulation of a group."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from dpsup.supervisor.autoscale import OVERLOAD_S, Memory, Sample, Settings, decide

SETTINGS = Settings(min=1, max=8, target_busy=0.7, cooldown=30.0)
STEP = 0.5  # seconds between two looks, as the supervisor does
START_S = 0.5  # for new workers to be ready

Curve = Callable[[float], float]  # load in workers, by seconds


@dataclass
class Run:
    changes: list[tuple[float, int, int, str]] = field(default_factory=list)
    overload: list[float] = field(default_factory=list)  # when the group was too small
    sizes: list[int] = field(default_factory=list)


def simulate(curve: Curve, seconds: float, settings: Settings = SETTINGS, start: int = 1) -> Run:
    run, memory, n, coming = Run(), Memory(), start, (0.0, start)
    for i in range(int(seconds / STEP)):
        at = i * STEP
        if at >= coming[0]:
            n = coming[1]
        load = curve(at)
        lost = int(max(0.0, load - n) * 1000)
        if load > n:
            run.overload.append(at)
        memory, decision = decide(settings, memory, Sample(at, n, min(1.0, load / n), lost))
        if decision.workers != n and coming[1] == n:
            assert decision.reason
            run.changes.append((at, n, decision.workers, decision.reason))
            coming = (at + START_S, decision.workers)
        run.sizes.append(n)
    return run


def longest(times: list[float]) -> float:
    best = here = 0.0
    for a, b in pairwise(times):
        here = here + (b - a) if b - a <= STEP else 0.0
        best = max(best, here)
    return best


@pytest.mark.parametrize("load", [0.1 * k for k in range(1, 56)])
def test_a_steady_load_is_met_and_then_nothing_changes(load: float) -> None:
    run = simulate(lambda _: load, 600)
    n = run.sizes[-1]
    assert load / n <= SETTINGS.target_busy * 1.1 or n == SETTINGS.max
    assert all(at < 60 for at, *_ in run.changes), run.changes


@pytest.mark.parametrize("load", [0.3, 0.69, 0.77, 1.4, 2.1, 3.3, 4.9])
def test_noise_makes_no_worker_come_and_go(load: float) -> None:
    noise = random.Random(7)
    run = simulate(lambda _: max(0.0, load * noise.gauss(1, 0.15)), 1800)
    late = [c for c in run.changes if c[0] > 120]
    ups = [c for c in late if c[2] > c[1]]
    # It may settle one higher once; it never goes up and down and up.
    assert len(late) <= 2 and len(ups) <= 1, run.changes


def test_a_step_is_followed_within_the_stated_time() -> None:
    run = simulate(lambda t: 1.0 if t < 100 else 2.0, 300)
    assert longest(run.overload) <= OVERLOAD_S
    assert run.changes[-1][0] < 110 and run.sizes[-1] == 3


def test_a_flash_crowd_is_met_in_a_few_steps_and_given_back_after_the_cooldown() -> None:
    run = simulate(lambda t: 5.0 if 100 <= t < 160 else 0.5, 400)
    ups = [c for c in run.changes if 100 <= c[0] < 160]
    assert longest(run.overload) <= 5 * OVERLOAD_S and len(ups) <= 5, run.changes
    down = [c for c in run.changes if c[2] < c[1] and c[0] > 160]
    assert down and down[0][0] >= 160 + SETTINGS.cooldown - 2
    assert run.sizes[-1] == 1


def test_a_sawtooth_faster_than_the_cooldown_is_served_at_its_peak() -> None:
    run = simulate(lambda t: 0.5 + 3.0 * (t % 20) / 20, 1200)
    assert not [c for c in run.changes if c[0] > 90], run.changes


def test_a_day_has_two_changes_a_worker_at_most() -> None:
    def day(t: float) -> float:
        return 2.5 - 2.2 * math.cos(2 * math.pi * t / 7200)

    run = simulate(day, 7200, start=1)
    ups = [c for c in run.changes if c[2] > c[1]]
    downs = [c for c in run.changes if c[2] < c[1]]
    assert max(run.sizes) == 7 and len(ups) <= 7 and len(downs) <= 8, run.changes
    assert not run.overload


def test_limits_hold() -> None:
    small = Settings(min=2, max=3, target_busy=0.7, cooldown=5.0)
    assert set(simulate(lambda _: 9.0, 60, small, start=2).sizes) == {2, 3}
    assert simulate(lambda _: 0.0, 60, small, start=3).sizes[-1] == 2


def test_lost_packets_alone_are_reason_enough() -> None:
    memory = Memory()
    for i in range(4):
        memory, decision = decide(SETTINGS, memory, Sample(i * STEP, 2, 0.3, lost=5))
        if decision.reason:
            break
    assert decision.workers == 3 and "found no room" in decision.reason
