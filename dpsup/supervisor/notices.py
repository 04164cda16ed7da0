# SPDX-License-Identifier: BSD-3-Clause
"""What the supervisor notices by itself: packets are lost for a lack that `dpsup advise` can
correct. Pure; it measures no window and judges nothing."""

from __future__ import annotations

from typing import Literal

from dpsup.documents.counters import Counters
from dpsup.documents.requests import Notice

QUIET_S = 600.0  # between two events about the same thing
LOOKS = 3  # in a row that lanes were full: one burst is none of a person's business
SHARE = 0.01  # of what came to a group


class Notices:
    def __init__(self, name: str, pools: list[str], groups: list[tuple[str, range]]) -> None:
        """Names of the instance, its pools, and its groups with their slots."""
        self._name, self._pools, self._groups = name, pools, groups
        self._before: Counters | None = None
        self._full: dict[str, int] = {}  # looks in a row
        self._told: dict[str, float] = {}

    def look(self, counters: Counters, now: float) -> list[Notice]:
        """After each reading of the counters, at `now` seconds: events of type "advice"."""
        before, self._before = self._before, counters
        if before is None or before["generation"] != counters["generation"]:
            return []
        found: list[Notice] = []
        for i, pool in enumerate(self._pools):
            if counters["pools"][i]["starved"] > before["pools"][i]["starved"]:
                found += self._tell(pool, f"mempool {pool} ran out of mbufs", now)
        for group, slots in self._groups:
            full = _grown(before, counters, slots, "lane_full")
            came = _grown(before, counters, slots, "sent") + full
            self._full[group] = self._full.get(group, 0) + 1 if full > came * SHARE else 0
            if self._full[group] >= LOOKS:
                share = full / came
                found += self._tell(group, f"{share:.0%} of its packets find the lane full", now)
        return found

    def _tell(self, name: str, message: str, now: float) -> list[Notice]:
        if now - self._told.get(name, -QUIET_S) < QUIET_S:
            return []
        self._told[name] = now
        hint = f"`dpsup -n {self._name} advise` says what helps"
        return [{"name": name, "message": f"{message}: {hint}"}]


def _grown(before: Counters, now: Counters, slots: range, key: Literal["lane_full", "sent"]) -> int:
    return sum(max(0, int(now["slots"][i][key]) - int(before["slots"][i][key])) for i in slots)
