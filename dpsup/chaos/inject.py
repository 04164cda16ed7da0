# SPDX-License-Identifier: BSD-3-Clause
"""Inflicts one fault on a running instance. It reads the processes from the runtime directory,
and asks none."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

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
        self._stopped: set[int] = set()
        self._spent: set[int] = set()  # pids that are dead, or will be

    def inject(self, fault: Fault) -> bool:
        """False: no process is there that could suffer it."""
        method = getattr(self, "_" + fault.kind.replace("-", "_"))
        t = self.target.clock()
        victim: tuple[int, int] | None = method(fault.pick)
        if victim is not None:
            self.target.found.injected.append(Injected(t, fault.kind, *victim))
        return victim is not None

    def _sitters(self, spares: bool) -> list[Identity]:
        state = self.target.state()
        found = state.workers.items() if state else ()
        return [
            one
            for name, one in sorted(found)
            if name.split()[0].endswith("/spare") == spares and one.pid not in self._spent
        ]

    def _running(self) -> list[Identity]:
        """Workers that take a signal now: all but SIGKILL waits while they are stopped."""
        return [one for one in self._sitters(False) if one.pid not in self._stopped]

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

    def _kill(self, pick: float) -> tuple[int, int] | None:
        return self._signal(self._sitters(False), pick, signal.SIGKILL)

    def _segv(self, pick: float) -> tuple[int, int] | None:
        return self._signal(self._running(), pick, signal.SIGSEGV)

    def _hang(self, pick: float) -> tuple[int, int] | None:
        victims = self._running()
        done = self._signal(victims, pick, HANG)
        if done is not None:
            self.hung += [v for v in victims if v.pid == done[1]]
        return done

    def _spare_kill(self, pick: float) -> tuple[int, int] | None:
        return self._signal(self._sitters(True), pick, signal.SIGKILL)

    def _stop(self, pick: float) -> tuple[int, int] | None:
        victims = self._running()
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

        def look() -> None:
            ready_ns = self.target.seed_ready_ns(since_ns)
            if ready_ns:
                took = (ready_ns - since_ns) / 1000
                self.target.found.outages_us.setdefault(kind, []).append(took)
            elif time.monotonic_ns() - since_ns < NEXT_SEED_S * 1e9:
                self.later(LOOK_S, look)

        self.later(LOOK_S, look)

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
