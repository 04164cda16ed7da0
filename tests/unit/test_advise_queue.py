# SPDX-License-Identifier: BSD-3-Clause
"""What longer lanes are said to refuse is what a simulated lane of that length refuses."""

from __future__ import annotations

import pytest

from dpsup.advise.queue import Step, backlog, refused

STEP = 1000  # ticks between two looks
RATE = 10  # packets that the worker takes in a tick
ROOM = 500


def simulate(arrivals: list[int], room: int) -> tuple[list[Step], int]:
    """Tick by tick; the steps as `advise` sees them, and all that was refused."""
    waiting = refused_ = total = idle = 0
    steps: list[Step] = []
    for tick, came in enumerate(arrivals, 1):
        taken = min(room - waiting, came)
        refused_ += came - taken
        waiting += taken
        served = min(waiting, RATE)
        waiting -= served
        idle += RATE - served
        if tick % STEP == 0:
            # A lane that is as good as full at a look has a worker without time.
            steps.append(Step(refused_, 0.0 if waiting >= room / 2 else idle))
            total += refused_
            refused_ = idle = 0
    return steps, total


def bursts(size: int, every: int, looks: int = 20) -> list[int]:
    """`size` packets in 100 ticks, again and again, and a trickle in between."""
    return [size // 100 if t % every < 100 else 3 for t in range(looks * STEP)]


@pytest.mark.parametrize("size", [2000, 3000, 6000])
@pytest.mark.parametrize("every", [1000, 1700, 3000])
@pytest.mark.parametrize("more", [0, 200, 1000, 4000, 8000])
def test_the_model_and_a_simulation_agree(size: int, every: int, more: int) -> None:
    arrivals = bursts(size, every)
    steps, lost = simulate(arrivals, ROOM)
    assert lost and backlog(steps).is_burst
    _, then = simulate(arrivals, ROOM + more)
    assert refused(steps, more) == pytest.approx(then, abs=0.2 * lost)
    assert refused(steps, 0) == pytest.approx(lost)


@pytest.mark.parametrize("came", [11, 15, 30])
def test_of_a_worker_that_does_not_keep_up_no_lane_is_long_enough(came: int) -> None:
    arrivals = [came] * 20 * STEP
    steps, lost = simulate(arrivals, ROOM)
    assert not backlog(steps).is_burst
    _, then = simulate(arrivals, 4 * ROOM)
    assert then > 0.8 * lost


def test_a_lane_as_long_as_the_backlog_refuses_nothing() -> None:
    steps, _ = simulate(bursts(3000, 1700), ROOM)
    assert refused(steps, backlog(steps).most) == 0
