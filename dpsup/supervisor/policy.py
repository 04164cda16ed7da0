# SPDX-License-Identifier: BSD-3-Clause
"""Whether, when and with which others a worker that ended is started again. Pure: the time is an
argument, and so is chance.

OTP's words: at most `intensity` restarts within `period`, as a leaky bucket (so a worker that
crashed five times last night has its credit back in the morning); the delay grows by `factor`
with the bucket's level up to a cap, less a random part, so that workers which died together do not
come back together.

A strategy says which are restarted with it: none (`one-for-one`), the other workers of its group
(`all`), or those of the groups that the file lists after its own (`rest-for-chain`, OTP's
rest_for_one: packets go on to later groups). They end in the reverse of the order in which they
were started, handing back what they have first, and each starts again as soon as it has ended.
They were asked to, so it costs them no credit; the one that died waits for its own backoff.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from dpsup import _abi

_RULE = "restart policy is"
_UNASKED_MOST = 1000

# Exit codes of the worker program that trying again does not change. A dead primary is none of
# them: its generation ends, or it lives after all.
PERMANENT = frozenset(range(_abi.DPS_EXIT_USAGE, _abi.DPS_EXIT_CORE + 1)) - {
    _abi.DPS_EXIT_PRIMARY_GONE
}


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
    jitter: float = 0.0  # of a delay, at most so much is left out
    strategy: str = "one-for-one"  # one-for-one | rest-for-chain | all
    retry: float = 0.0  # of a worker that was given up: one try every so often, 0: none


@dataclass(frozen=True, slots=True)
class History:
    """The leaky bucket of one worker: its level at a time."""

    level: float = 0.0
    at: float = 0.0

    def leaked(self, policy: Policy, now: float) -> float:
        return max(0.0, self.level - (now - self.at) * policy.intensity / policy.period)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended. `asked`: dpsup told it to; `permanent`: trying again would not help."""

    asked: bool = False
    permanent: bool = False
    failed: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: Verdict
    history: History
    delay: float = 0.0
    reason: str = ""
    retry: float = 0.0  # given up: seconds until one more try, 0: none


def decide(
    policy: Policy,
    history: History,
    ending: Ending,
    wanted: bool,
    now: float,
    chance: float = 0.0,
) -> Decision:
    """What to do about a worker that ended at `now` (seconds, monotonic). `chance`: a random number
    from 0 to 1, that shortens the delay."""
    if not wanted:
        return Decision(Verdict.REST, history, reason="not wanted")
    if ending.asked:
        return Decision(Verdict.AGAIN, history, reason="asked")
    if ending.permanent:
        why = "it would end the same way again"
        return Decision(Verdict.GIVE_UP, history, reason=why, retry=retry_of(policy))
    if policy.policy == "never" or (policy.policy == "on-failure" and not ending.failed):
        return Decision(Verdict.GIVE_UP, history, reason=f"{_RULE} {policy.policy}")
    level = history.leaked(policy, now)
    if level + 1 > policy.intensity:
        return Decision(
            Verdict.GIVE_UP,
            replace(history, level=level, at=now),
            reason=f"more than {policy.intensity:g} restarts in {policy.period:g} s",
            retry=retry_of(policy),
        )
    delay = policy.most
    # A large level would overflow the power long after the cap is reached.
    if policy.factor == 1 or level < 64:
        delay = min(policy.most, policy.initial * policy.factor ** int(level))
    delay *= 1 - policy.jitter * chance
    verdict = Verdict.RETRY if delay > 0 else Verdict.AGAIN
    return Decision(verdict, History(level + 1, now), delay)


def retry_of(policy: Policy, reason: str = "") -> float:
    """Seconds until one more try of a worker that was given up for that reason, 0: none."""
    return 0.0 if policy.policy == "never" or reason.startswith(_RULE) else policy.retry


def last_credit(policy: Policy, now: float) -> History:
    """The history of a worker that is tried once more: the next failure gives it up again."""
    return History(policy.intensity, now)


def allowance(policy: Policy, history: History, now: float) -> int:
    """How many failures from `now` on are followed by a restart for certain: so often a spare may
    take over before it has been judged. With `on-failure` the warden has to leave out a worker that
    says of itself that it left in order."""
    if policy.policy == "never":
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


def others(strategy: str, died: int, groups: Sequence[int]) -> list[int]:
    """Which others are restarted when worker `died` (an index) was: indices, in the order in which
    they end. `groups[i]` is worker i's group; workers and groups have the order of their start."""
    own = groups[died]
    if strategy == "all":
        found = [i for i, group in enumerate(groups) if group == own and i != died]
    elif strategy == "rest-for-chain":
        found = [i for i, group in enumerate(groups) if group > own]
    else:
        found = []
    return found[::-1]
