# SPDX-License-Identifier: BSD-3-Clause
"""The times of takeovers, as histograms since the supervisor's start. Pure."""

from __future__ import annotations

from bisect import bisect_left

from dpsup.documents import status
from dpsup.documents.events import Event

# Upper bounds in seconds: a spare takes over in a fraction of a millisecond, a fork in some.
BOUNDS = (
    50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5,
    1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
REPAIR = "repair"  # from noticing a death to its lanes' repair
TAKEOVER = "takeover"  # from noticing a death to the spare in its seat
FAILOVER = "failover"  # from noticing a death to the successor's first packet


class Histogram:
    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def document(self) -> status.Histogram:
        """`counts[i]` are those up to `bounds[i]`; `count` is that of all."""
        total, counts = 0, []
        for n in self._counts:
            total += n
            counts.append(total)
        return {"bounds": list(BOUNDS), "counts": counts[:-1], "count": total, "sum": self._sum}


class Failovers:
    """The times of recoveries, taken from the supervisor's events."""

    def __init__(self) -> None:
        self._of = {kind: Histogram() for kind in (REPAIR, TAKEOVER, FAILOVER)}

    def hear(self, event: Event) -> None:
        """An event: of a death, the warden's times are counted."""
        times = event.get("times")
        if event.get("type") != "death" or not times or not times.get("noticed_ns"):
            return
        for kind, end in ((REPAIR, "repaired_ns"), (TAKEOVER, "seated_ns")):
            if times.get(end, 0) >= times["noticed_ns"]:
                self._of[kind].add((times[end] - times["noticed_ns"]) / 1e9)

    def first_packet(self, seconds: float) -> None:
        self._of[FAILOVER].add(seconds)

    def document(self) -> dict[str, status.Histogram]:
        return {kind: histogram.document() for kind, histogram in self._of.items()}
