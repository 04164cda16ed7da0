# SPDX-License-Identifier: BSD-3-Clause
"""Whether and when a worker that ended is started again. Pure: the time is an argument.

OTP's words: at most `intensity` restarts within `period`, as a leaky bucket (so a worker that
crashed five times last night has its credit back in the morning); the delay grows by `factor`
with the bucket's level.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import ClassVar

_UNASKED_MOST = 1000


class Verdict(enum.Enum):
    AGAIN = "again"  # at once
    RETRY = "retry"  # after the delay
    GIVE_UP = "give_up"
    REST = "rest"  # it is to stay down


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds."""

    policy: str = "always"  # always | on-failure | never
    intensity: float = 5
    period: float = 60.0
    initial: float = 0.05
    factor: float = 2.0
    most: float = 10.0


@dataclass(frozen=True, slots=True)
class History:
    """The leaky bucket of one worker: its level at a time."""

    level: float = 0.0
    at: float = 0.0

    def leaked(self, policy: Policy, now: float) -> float:
        return max(0.0, self.level - (now - self.at) * policy.intensity / policy.period)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended. `asked`: dpsup told it to; `permanent`: trying again is of no use."""

    asked: bool = False
    permanent: bool = False
    failed: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: Verdict
    history: History
    delay: float = 0.0
    reason: str = ""


def decide(policy: Policy, history: History, ending: Ending, wanted: bool, now: float) -> Decision:
    """What to do about a worker that ended at `now` (seconds, monotonic)."""
    if not wanted:
        return Decision(Verdict.REST, history, reason="not wanted")
    if ending.asked:
        return Decision(Verdict.AGAIN, history, reason="asked")
    if ending.permanent:
        return Decision(Verdict.GIVE_UP, history, reason="it would end the same way again")
    if policy.policy == "never" or (policy.policy == "on-failure" and not ending.failed):
        return Decision(Verdict.GIVE_UP, history, reason=f"restart policy is {policy.policy}")
    level = history.leaked(policy, now)
    if level + 1 > policy.intensity:
        return Decision(
            Verdict.GIVE_UP,
            replace(history, level=level, at=now),
            reason=f"more than {policy.intensity:g} restarts in {policy.period:g} s",
        )
    delay = policy.most
    # A large level would overflow the power long after the cap is reached.
    if policy.factor == 1 or level < 64:
        delay = min(policy.most, policy.initial * policy.factor ** int(level))
    verdict = Verdict.RETRY if delay > 0 else Verdict.AGAIN
    return Decision(verdict, History(level + 1, now), delay)


def allowance(policy: Policy, history: History, now: float) -> int:
    """How many deaths from `now` on are followed by a restart for certain, without a word about
    how they end: so often a spare may take over before anybody has judged."""
    if policy.policy != "always":
        return 0
    return int(min(_UNASKED_MOST, max(0.0, policy.intensity - history.leaked(policy, now))))


@dataclass(frozen=True, slots=True)
class Pace:
    """How long attaches take, in seconds, and so how long the next one may: far more than those
    before it did, but little where they were fast, as one that is stuck is never done."""

    slowest: float = 0.0  # of the last ones; 0: none yet
    late: int = 0  # deadlines met in a row

    LEAST: ClassVar[float] = 2.0  # 20-60 ms are measured
    MOST: ClassVar[float] = 15.0  # thousands of hugepages to map
    MARGIN: ClassVar[float] = 20.0

    def deadline(self) -> float:
        if self.slowest == 0:
            return self.MOST
        return float(min(self.MOST, max(self.LEAST, self.slowest * self.MARGIN) * 2**self.late))

    def ready(self, took: float) -> Pace:
        return Pace(max(took, self.slowest * 0.9))

    def missed(self) -> Pace:
        return replace(self, late=self.late + 1)
