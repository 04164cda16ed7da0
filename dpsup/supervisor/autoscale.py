# SPDX-License-Identifier: BSD-3-Clause
"""How many workers a group should have for its load. Pure: samples in, decisions out.

Load is counted in workers: the share of its time that a worker spends in bursts, summed over the
group. Up goes fast, on the mean of a second; down goes slowly, on the highest second of a whole
cooldown, so a load that swings faster than that is served at its peak and changes nothing. Between
the two thresholds lies a band in which nothing happens: without it a load right at the target would
let workers come and go endlessly. Compare RSS++ (CoNEXT 2019), which also decides on measured CPU
load with an upper and a lower bound, and OVS's PMD auto load balance, from which the dry run is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

LOOK_S = 1.0  # the time over which load is averaged
UP = 1.1  # times the target: more than this is too busy
DOWN = 0.85  # times the target: what one worker less may have
FULL = 0.95  # busy beyond this says nothing about how much more there is
BOOST = 1.5  # so the group grows by this then
OVERLOAD_S = 2 * LOOK_S  # the longest that a step of up to BOOST times the capacity overloads


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds."""

    min: int
    max: int
    target_busy: float
    cooldown: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A group between two looks: `at` its end, `busy` the mean share over its `workers`, `lost`
    packets that found no room."""

    at: float
    workers: int
    busy: float
    lost: int = 0

    @property
    def load(self) -> float:
        return self.busy * self.workers


@dataclass(frozen=True, slots=True)
class Memory:
    """Samples of the last cooldown, and when the size changed last."""

    samples: tuple[Sample, ...] = ()
    changed_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Decision:
    workers: int
    reason: str = ""  # "": stay


def decide(settings: Settings, memory: Memory, sample: Sample) -> tuple[Memory, Decision]:
    """What to do after one more sample."""
    keep_from = sample.at - max(settings.cooldown, 2 * LOOK_S)
    samples = (*(s for s in memory.samples if s.at > keep_from), sample)
    memory = replace(memory, samples=samples)
    n = sample.workers
    # What was measured of another size, or while it changed, says little about this one.
    fresh = [s for s in samples if s.workers == n and s.at > memory.changed_at]
    recent = [s for s in fresh if s.at > sample.at - LOOK_S]
    if len(recent) < 2 or n == 0:
        return memory, Decision(n)
    busy = sum(s.busy for s in recent) / len(recent)
    lost = sum(s.lost for s in recent)
    want, why = n, ""
    if lost or busy > FULL:
        want = max(n + 1, math.ceil(n * BOOST))
        why = f"{lost} packets found no room" if lost else f"{busy:.0%} busy: all that it has"
    elif busy > settings.target_busy * UP:
        want = max(n + 1, math.ceil(n * busy / settings.target_busy))
        why = f"{busy:.0%} busy, the target is {settings.target_busy:.0%}"
    elif sample.at - max(memory.changed_at, samples[0].at) >= settings.cooldown - LOOK_S:
        peak = _peak(samples)
        fits = max(1, math.ceil(peak / (settings.target_busy * DOWN)))
        if fits < n:
            want = fits
            why = (
                f"at most {peak:.2f} workers' worth of load in {settings.cooldown:g} s, "
                f"{n} are {busy:.0%} busy"
            )
    want = min(max(want, settings.min), settings.max)
    if want == n or not why:
        return memory, Decision(n)
    return replace(memory, changed_at=sample.at), Decision(want, why)


def _peak(samples: tuple[Sample, ...]) -> float:
    """The highest mean load of a second, of all samples."""
    highest, start = 0.0, 0
    for end in range(len(samples)):
        while samples[end].at - samples[start].at >= LOOK_S:
            start += 1
        window = samples[start : end + 1]
        highest = max(highest, sum(s.load for s in window) / len(window))
    return highest
