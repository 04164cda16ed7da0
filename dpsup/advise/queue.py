# SPDX-License-Identifier: BSD-3-Clause
"""What a longer queue would have refused of what a shorter one did refuse. Pure.

A queue is known by steps of time: how many packets it refused in each (`excess`), and how many
more its consumer could have taken (`spare`). With room for more, what was refused waits instead,
and is taken as soon as the consumer has time; what comes while that room is taken too is refused
as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    excess: float  # packets refused
    spare: float  # packets that the consumer had time for beside those that it took


@dataclass(frozen=True, slots=True)
class Backlog:
    """What would have waited in a queue without end."""

    most: float  # packets
    last: float  # packets, after the last step
    single: float  # packets refused in one step, at the most

    @property
    def is_burst(self) -> bool:
        """Does what waits go away again? If not, no queue is long enough."""
        return self.last <= self.single


def backlog(steps: Iterable[Step]) -> Backlog:
    waiting = most = single = 0.0
    for step in steps:
        waiting += step.excess
        most, single = max(most, waiting), max(single, step.excess)
        waiting = max(0.0, waiting - step.spare)
    return Backlog(most, waiting, single)


def refused(steps: Iterable[Step], more: float) -> float:
    """Packets that a queue with room for `more` would still have refused."""
    waiting = total = 0.0
    for step in steps:
        waiting += step.excess
        total += max(0.0, waiting - more)
        waiting = max(0.0, min(waiting, more) - step.spare)
    return total
