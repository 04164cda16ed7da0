# SPDX-License-Identifier: BSD-3-Clause
"""Inflicts one fault on a running instance. It reads the processes from the runtime directory,
and asks none. A worker that would be held after one more death is left alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from dpsup.chaos.budget import Budget
from dpsup.chaos.report import Injected
from dpsup.chaos.schedule import Fault
from dpsup.chaos.target import Target
from dpsup.host import process
from dpsup.host.process import Identity

STOPPED_S = (0.1, 0.4)  # least, and how much more
ATTACH_S = 0.06  # an attach takes 20 to 60 ms
NEXT_SEED_S = 20.0  # above the supervisor's deadline for an attach
LOOK_S = 0.1
HANG = signal.SIGUSR1  # what the delay plugin hangs on


class _HeldBack(Exception):
    """Each worker that lives would be held."""


class Injector:
    """`later(seconds, what)` calls `what` after that time; `before_primary` is called before the
    primary may end, `restart` starts a new supervisor."""

    def __init__(
        self,
        target: Target,
        later: Callable[[float, Callable[[], None]], None],
        before_primary: Callable[[], None],
        restart: Callable[[], None],
    ) -> None:
        self.target = target
        self.later = later
        self.before_primary = before_primary
        self.restart = restart
        self.hung: list[Identity] = []
        self._budget = Budget()
        self._stopped: set[int] = set()
        self._spent: set[int] = set()  # pids that are dead, or will be

    def inject(self, fault: Fault) -> bool:
        """False: no process is there that could suffer it."""
        method = getattr(self, "_" + fault.kind.replace("-", "_"))
        t = self.target.clock()
        try:
            victim: tuple[int, int] | None = method(fault.pick)
        except _HeldBack:
            self.target.found.held_back[fault.kind] += 1
            return True
        if victim is not None:
            self.target.found.injected.append(Injected(t, fault.kind, *victim))
        return victim is not None

    def _sitters(self, spares: bool) -> dict[str, Identity]:
        """By name."""
        state = self.target.state()
        found = state.workers.items() if state else ()
        return {
            name: one
            for name, one in sorted(found)
            if name.split()[0].endswith("/spare") == spares and one.pid not in self._spent
        }

    def _running(self) -> dict[str, Identity]:
        """Workers that take a signal now: all but SIGKILL waits while they are stopped."""
        workers = self._sitters(False).items()
        return {name: one for name, one in workers if one.pid not in self._stopped}

    def _signal(self, victims: list[Identity], pick: float, number: int) -> tuple[int, int] | None:
        """Signal the first living process from the pick on. Returns the time and its pid."""
        at = int(pick * len(victims))
        for one in victims[at:] + victims[:at]:
            if one.alive:
                now = time.monotonic_ns()
                process.kill(one, number)
                if number not in (signal.SIGSTOP, signal.SIGCONT):
                    self._spent.add(one.pid)
                return now, one.pid
        return None

    def _end(
        self, workers: dict[str, Identity], pick: float, number: int
    ) -> tuple[int, int] | None:
        """Signal a worker that is started again then. Raises: _HeldBack."""
        self._budget.learn(*self.target.policies())
        now = time.monotonic()
        names = {
            one.pid: name.split()[0]
            for name, one in workers.items()
            if self._budget.allows(name.split()[0], now)
        }
        done = self._signal([one for one in workers.values() if one.pid in names], pick, number)
        if done is not None:
            self._budget.spend(names[done[1]], now)
        elif any(one.alive for one in workers.values()):
            raise _HeldBack
        return done

    def _kill(self, pick: float) -> tuple[int, int] | None:
        return self._end(self._sitters(False), pick, signal.SIGKILL)

    def _segv(self, pick: float) -> tuple[int, int] | None:
        return self._end(self._running(), pick, signal.SIGSEGV)

    def _hang(self, pick: float) -> tuple[int, int] | None:
        workers = self._running()
        done = self._end(workers, pick, HANG)
        if done is not None:
            self.hung += [one for one in workers.values() if one.pid == done[1]]
        return done

    def _spare_kill(self, pick: float) -> tuple[int, int] | None:
        return self._signal(list(self._sitters(True).values()), pick, signal.SIGKILL)

    def _stop(self, pick: float) -> tuple[int, int] | None:
        victims = list(self._running().values())
        done = self._signal(victims, pick, signal.SIGSTOP)
        if done is not None:
            one = next(v for v in victims if v.pid == done[1])
            seconds = STOPPED_S[0] + pick * 7 % 1 * STOPPED_S[1]
            self._stopped.add(one.pid)
            self.later(seconds, lambda: self._go_on(one))
        return done

    def _go_on(self, one: Identity) -> None:
        process.kill(one, signal.SIGCONT)
        self._stopped.discard(one.pid)

    def _seed(self, _: float) -> tuple[int, int] | None:
        state = self.target.state()
        done = None
        if state and state.seed:
            done = self._signal([state.seed], 0, signal.SIGKILL)
        if done is not None:
            self._await_seed(done[0], "seed")
        return done

    def _await_seed(self, since_ns: int, kind: str) -> None:
        """Look again until another one is ready; its supervisor says since when."""

        def see_whether_ready() -> None:
            ready_ns = self.target.seed_ready_ns(since_ns)
            if ready_ns:
                took = (ready_ns - since_ns) / 1000
                self.target.found.outages_us.setdefault(kind, []).append(took)
            elif time.monotonic_ns() - since_ns < NEXT_SEED_S * 1e9:
                self.later(LOOK_S, see_whether_ready)

        self.later(LOOK_S, see_whether_ready)

    def _attach_kill(self, pick: float) -> tuple[int, int] | None:
        state = self.target.state()
        if not state or not state.seed or self._signal([state.seed], 0, signal.SIGKILL) is None:
            return None
        old, deadline = state.seed.pid, time.monotonic() + NEXT_SEED_S
        while time.monotonic() < deadline:
            state = self.target.state()
            if state and state.seed and state.seed.pid != old:
                time.sleep(pick * ATTACH_S)
                done = self._signal([state.seed], 0, signal.SIGKILL)
                if done is not None:
                    self._await_seed(done[0], "attach-kill")
                return done
            time.sleep(0.001)
        return None

    def _primary(self, _: float) -> tuple[int, int] | None:
        victim = self.target.primary()
        if victim is None:
            return None
        self.target.sample()
        self.before_primary()
        done = self._signal([victim], 0, signal.SIGKILL)
        return self._outage(done, "primary")

    def _supervisor(self, _: float) -> tuple[int, int] | None:
        state = self.target.state()
        if not state or not state.supervisor:
            return None
        self.before_primary()
        done = self._signal([state.supervisor], 0, signal.SIGKILL)
        if done is None:
            return None
        process.wait_gone([state.supervisor], NEXT_SEED_S)
        self.target.sample()
        self.restart()
        return self._outage(done, "supervisor")

    def _outage(self, done: tuple[int, int] | None, kind: str) -> tuple[int, int] | None:
        if done is not None:
            self.target.until_whole()
            took = (time.monotonic_ns() - done[0]) / 1000
            self.target.found.outages_us.setdefault(kind, []).append(took)
        return done
