# SPDX-License-Identifier: BSD-3-Clause
"""What the primary makes of an io core that ends no turn: stuck, starved of its CPU, or fine."""

from __future__ import annotations

from typing import Any

from dpsup._shim import ffi, lib

MS = 1_000_000
STUCK, STARVED, FED = lib.DPS_STORY_IO_STUCK, lib.DPS_STORY_IO_STARVED, lib.DPS_STORY_IO_FED


class Pulse:
    """An io core as it looks every 100 ms."""

    def __init__(self) -> None:
        self.state = ffi.new("struct dps_watchdog *")
        self.now = 1000 * MS
        self.cpu = self.turns = 0
        self.look(turns=1)

    def look(self, *, ms: int = 100, turns: int = 0, cpu_ms: float = 0, run: str = "R") -> int:
        self.now += ms * MS
        self.turns += turns
        self.cpu += int(cpu_ms * MS)
        return int(lib.dps_watchdog_look(self.state, self.now, self.turns, self.cpu, ord(run)))

    def after(self, seconds: float, **look: Any) -> list[int]:
        """What is said in so long a time."""
        said = (self.look(**look) for _ in range(round(seconds * 10)))
        return [s for s in said if s]


def test_turns_are_a_pulse_whatever_else() -> None:
    for run in "RSDt":
        assert Pulse().after(60, turns=1, cpu_ms=100, run=run) == []


def test_cpu_without_a_turn_is_stuck() -> None:
    pulse = Pulse()
    assert pulse.after(1.9, cpu_ms=100) == []
    assert pulse.look(cpu_ms=100) == STUCK


def test_blocked_is_stuck_sooner_than_waiting_for_a_disk() -> None:
    for run in "St":
        pulse = Pulse()
        assert pulse.after(1.9, run=run) == []
        assert pulse.look(run=run) == STUCK
    pulse = Pulse()
    assert pulse.after(9.9, run="D") == []
    assert pulse.look(run="D") == STUCK


def test_waiting_for_the_cpu_is_an_event_and_never_more() -> None:
    pulse = Pulse()
    assert pulse.after(1000, cpu_ms=0.1) == [STARVED]
    assert pulse.look(turns=1) == FED
    assert pulse.after(10, turns=1) == []


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The whole process was stopped, or the machine was."""
    pulse = Pulse()
    for _ in range(100):
        assert pulse.look(ms=60_000, run="S") == 0
        assert pulse.look(turns=1) == 0
