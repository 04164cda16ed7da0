# SPDX-License-Identifier: BSD-3-Clause
"""dpsup-bench, the program in C; and the conditions of a run, with their distances."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpsup.bench.host import Cores, Steal, read_waits
from dpsup.bench.model import Conditions
from dpsup.errors import DpsupError
from dpsup.host.tied import spawn

PROGRAM = Path(__file__).parents[1] / "dpsup-bench"
BEFORE_MS = 15
DURING_MS = 2  # with real-time priority: the time that it takes is not part of the measurement


def ask(command: str, cores: Cores, *options: object, timeout: float = 120.0) -> dict[str, Any]:
    """A command of dpsup-bench on the cores of io core and worker; its document."""
    argv = [str(PROGRAM), command, "--cores", f"{cores.io},{cores.worker}", *map(str, options)]
    child = spawn(argv, output=subprocess.PIPE)
    try:
        out, _ = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise DpsupError(f"dpsup-bench {command} does not end") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode:
        raise DpsupError(f"dpsup-bench {command} failed: {out.decode(errors='replace').strip()}")
    doc: dict[str, Any] = json.loads(out)
    return doc


def distance(cores: Cores, ms: int = BEFORE_MS, *, fifo: bool = False) -> float:
    """Nanoseconds of a cache line's round trip between the two cores."""
    options = ("--ms", ms, "--fifo") if fifo else ("--ms", ms)
    return float(ask("distance", cores, *options)["ns"][0])


class Watch:
    """The conditions of one run, from the object's creation to `done`."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._distances = [distance(cores)]
        self._steal = Steal((cores.io, cores.worker))
        self._begin = 0.0
        self._waits: dict[int, tuple[int, int]] = {}
        self._pids: tuple[int, ...] = ()
        self._waited = 0.0

    def during(self, *distances: float) -> None:
        """Distances that were measured in the middle of the run."""
        self._distances += distances

    def polled(self) -> float | None:
        """The distance now, on cores that poll: the threads that poll there wait meanwhile.
        None if it could not be measured."""
        with contextlib.suppress(DpsupError):
            return distance(self._cores, DURING_MS, fifo=True)
        return None

    def threads(self, pids: Sequence[int]) -> None:
        """From now on, a wait of these processes' polling threads for a core is noise."""
        self._pids = tuple(pids)
        self._waits = self._read_waits()
        self._begin = time.monotonic()

    def threads_done(self) -> None:
        """The largest share of time that a thread which used most of a core waited for one."""
        for tid, (ran, waited) in self._read_waits().items():
            before = self._waits.get(tid, (0, 0))
            ran, waited = ran - before[0], waited - before[1]
            if ran + waited > (time.monotonic() - self._begin) * 0.3e9:
                self._waited = max(self._waited, waited / (ran + waited))
        self._pids = ()

    def _read_waits(self) -> dict[int, tuple[int, int]]:
        return {t: w for pid in self._pids for t, w in read_waits(pid).items()}

    def done(self) -> Conditions:
        steal, ticks, seconds = self._steal.share, self._steal.ticks, self._steal.seconds
        self._distances.append(distance(self._cores))
        return Conditions(
            distance_ns=tuple(self._distances),
            steal=steal,
            steal_ticks=ticks,
            waited=self._waited,
            load=os.getloadavg()[0],
            seconds=seconds,
        )
