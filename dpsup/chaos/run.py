# SPDX-License-Identifier: BSD-3-Clause
"""One chaos run: inflicts faults when they are due, looks at the instance in between, and accounts
for the packets."""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from dpsup.chaos.inject import Injector
from dpsup.chaos.own import Own
from dpsup.chaos.report import Found
from dpsup.chaos.schedule import Fault
from dpsup.chaos.target import Target
from dpsup.errors import DpsupError, TimedOut
from dpsup.host import process
from dpsup.instance import status

if TYPE_CHECKING:
    from dpsup.documents.chaos import Host
    from dpsup.documents.status import Account

SAMPLE_S = 0.1
AUDIT_S = 1.0
SAY_S = 5.0
VICTIM_S = 2.0
VICTIM_STEP_S = 0.005
HANG_S = 2.0  # in which hanging workers are found and ended


class Conductor:
    """Calls functions at their times, in one thread."""

    def __init__(self, found: Found, own: Own | None, say: Callable[[str], None]) -> None:
        self.found = found
        self.own = own
        self.say = say
        self._base = time.monotonic()  # moves on between legs: no traffic flows there
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._shift = 0.0  # how far the schedule is behind, as no process existed to be hurt
        self.target = Target(found.name, found, self.clock)
        self.injector = Injector(self.target, self.later, self._before_primary, self._restart)

    def clock(self) -> float:
        return time.monotonic() - self._base

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.clock() + seconds, next(self._number), what))

    def _every(self, seconds: float, what: Callable[[], None]) -> None:
        def again() -> None:
            what()
            self.later(seconds, again)

        self.later(0, again)

    def _before_primary(self) -> None:
        self.found.in_flight_lost += self.target.in_flight()
        if self.own is not None:
            self.own.before_primary()

    def _restart(self) -> None:
        if self.own is None:
            raise DpsupError("only chaos's own supervisor is killed")
        before = self.target.primary()
        self.own.restart()
        if before is not None and self.target.primary() == before:
            # The primary was adopted: nothing was lost.
            self.found.in_flight_lost -= self.target.in_flight()

    def _serve(self, until: float) -> None:
        """The faults that are due by then, in order."""
        while True:
            now = self.clock()
            if self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            elif now >= until:
                return
            else:
                first = self._due[0][0] if self._due else until
                time.sleep(max(0.0, min(first, until) - now))

    def go(self, faults: Sequence[Fault], duration: float) -> None:
        if self.own is not None:
            self.own.start()
        self._base = time.monotonic()
        before = self._drops()
        self._every(SAMPLE_S, self.target.sample)
        self._every(AUDIT_S, self.target.audit)
        self._every(SAY_S, self._progress)
        for fault in faults:
            self._serve(fault.at + self._shift)
            begun = self.clock()
            while not self.injector.inject(fault):
                # All processes that could be hurt are dead already: wait for the next one.
                if self.clock() - begun > VICTIM_S:
                    self.found.no_victim[fault.kind] += 1
                    break
                self._serve(self.clock() + VICTIM_STEP_S)
            if self.own is not None and fault.kind == "primary":
                self.own.check_torn()
            if self.own is not None and self.own.is_full():
                self._next_leg(self.own)
            self._shift += self.clock() - begun
        self._serve(duration + self._shift)
        self.found.seconds = self.clock()
        self._end(before)

    def _progress(self) -> None:
        self.say(f"{self.clock():.0f} s, {len(self.found.injected)} faults")

    def _quiet(self) -> None:
        """Completes what was begun: stopped processes continue, dead processes are replaced."""
        self._due = [d for d in self._due if d[2].__name__ != "again"]
        heapq.heapify(self._due)
        if self._due:
            self._serve(max(d[0] for d in self._due))
        # A worker that has received no packet since does not hang yet.
        process.wait_gone(self.injector.hung, HANG_S)
        self.injector.hung.clear()
        try:
            self.target.until_whole()
        except TimedOut as e:
            # Report it, and still check the packets.
            self.found.problems.append(str(e))
        self.target.sample()

    def _next_leg(self, own: Own) -> None:
        at = self.clock()
        repeated = [d for d in self._due if d[2].__name__ == "again"]
        self._quiet()
        own.finish()
        self.target.forget()
        own.start()
        self._base = time.monotonic() - at
        self._due += repeated
        heapq.heapify(self._due)

    def _drops(self) -> Account:
        self.target.sample()
        counters = self.target.counters
        return status.account(counters) if counters else cast("Account", {})

    def _end(self, before: Account) -> None:
        self._quiet()
        self.target.audit()
        if self.own is not None:
            self.own.finish()
        else:
            after = self._drops()
            self.found.count.sent = after["received"] - before["received"]
            self.found.dropped.update(
                {
                    k: n - before["dropped"].get(k, 0)
                    for k, n in after["dropped"].items()
                    if n > before["dropped"].get(k, 0)
                }
            )
            given_up = self.found.dropped["corrupt"] + self.found.dropped["bad_verdict"]
            if given_up:
                self.found.problems.append(f"{given_up} packets given up (corrupt, bad_verdict)")
        self.target.forget()


def host() -> Host:
    """The conditions that the figures depend on."""
    return {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
