# SPDX-License-Identifier: BSD-3-Clause
"""Is a new version of a plugin as good as the old one? Pure: two measurements, a verdict.

A version is measured by what became of the packets that it was given, and by the cycles that it
took for each. What is compared is a share, or a mean, so the two need not have had the same number
of packets; what a mere kill costs counts against no version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dpsup.documents.counters import Counters, SlotCounters

Key = Literal["collected", "requeued", "bad_verdict", "quarantined", "lane_full", "busy"]

FEW = 20  # packets, below which nothing is said of a version
ALL = 100  # packets, of which not one was forwarded: chance is no excuse
NEARLY_ALL = 0.9  # where the old version drops so many, a run without one forwarded is chance


@dataclass(frozen=True, slots=True)
class Margins:
    """By how much a new version may be worse."""

    drops: float = 0.01  # of the packets
    lane_full: float = 0.01  # of the packets: never given to a worker, as its lane was full
    cycles: float = 1.0  # of the old version's cycles per packet


@dataclass(frozen=True, slots=True)
class Sample:
    """What some slots did over some time."""

    packets: int = 0  # handed back
    dropped: int = 0  # by the plugin but not as policy, by verdicts that cannot be, into quarantine
    lane_full: int = 0
    cycles: int = 0  # TSC, in bursts
    bad: int = 0  # of the dropped: by verdicts that cannot be
    ticks: int = 0  # taken

    @property
    def drops(self) -> float:
        return self.dropped / max(1, self.packets)

    @property
    def refused(self) -> float:
        return self.lane_full / max(1, self.packets + self.lane_full)

    @property
    def cost(self) -> float:
        # A version that begins to tick is not slower for it.
        return self.cycles / max(1, self.packets + self.ticks)

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.packets + other.packets,
            self.dropped + other.dropped,
            self.lane_full + other.lane_full,
            self.cycles + other.cycles,
            self.bad + other.bad,
            self.ticks + other.ticks,
        )


def sample(before: Counters, after: Counters, slots: list[int]) -> Sample:
    """What these slots did between two readings of the counters."""
    total = Sample()
    for i in slots:
        old, new = before["slots"][i], after["slots"][i]

        def grown(key: Key, old: SlotCounters = old, new: SlotCounters = new) -> int:
            return max(0, int(new[key]) - int(old[key]))

        # What a rule drops is no fault of the version that has the rule.
        dropped = sum(new["dropped"].values()) - sum(old["dropped"].values())
        dropped -= new.get("dropped_policy", 0) - old.get("dropped_policy", 0)
        total += Sample(
            grown("collected") - grown("requeued"),
            max(0, dropped) + grown("bad_verdict") + grown("quarantined"),
            grown("lane_full"),
            grown("busy"),
            grown("bad_verdict"),
            max(0, new.get("ticks", 0) - old.get("ticks", 0)),
        )
    return total


def hard_sign(old: Sample | None, new: Sample, margins: Margins) -> str:
    """What ends a rollout at once, before the judging time is over; "" if nothing does. `old` is
    None where the old version was not measured."""
    bad_before = old.bad / max(1, old.packets) if old else 0.0
    if new.bad >= FEW and new.bad / max(1, new.packets) > 2 * bad_before:
        return f"{new.bad} of its {new.packets} verdicts have no meaning"
    if (
        old is not None
        and new.packets >= ALL
        and new.dropped >= new.packets
        and new.drops > old.drops + margins.drops
        and old.drops < NEARLY_ALL
    ):
        return (
            f"it drops all of its {new.packets} packets, the old version {old.drops:.1%}: more "
            f"than {margins.drops:.1%} more"
        )
    return ""


def judge(old: Sample, new: Sample, margins: Margins) -> str:
    """What speaks against the new version, "" if nothing does."""
    if new.packets < FEW:
        # One that hands nothing back is found stuck; one that gets nothing has done nothing.
        if new.lane_full > old.lane_full + FEW:
            return f"it handed {new.packets} packets back, and {new.lane_full} found its lane full"
        return ""
    if new.drops > old.drops + margins.drops:
        return (
            f"it drops {new.drops:.1%} of its packets, the old version {old.drops:.1%}: "
            f"more than {margins.drops:.1%} more"
        )
    if new.refused > old.refused + margins.lane_full:
        return (
            f"{new.refused:.1%} of its packets find its lane full, {old.refused:.1%} of the old "
            f"version's: more than {margins.lane_full:.1%} more"
        )
    # A version that had next to nothing to do before tells no cost.
    if old.packets >= FEW and old.cycles and new.cost > old.cost * (1 + margins.cycles):
        return (
            f"it takes {new.cost:.0f} cycles a packet, the old version {old.cost:.0f}: "
            f"more than {margins.cycles:.0%} more"
        )
    return ""
