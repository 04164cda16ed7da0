# SPDX-License-Identifier: BSD-3-Clause
"""Deadlines that depend on each other, whatever file they are in."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from dpsup.bus.sockets import AsyncClient
from dpsup.host import process
from dpsup.supervisor import adopt, launch, primary, silence
from dpsup.supervisor.core import HALT_S, QUIT_S, WORKER_READY_S
from dpsup.supervisor.life import EVIDENCE_S, SPARE_ENDS_S

ROOT = Path(__file__).resolve().parents[2]
ASK_S = inspect.signature(AsyncClient.ask).parameters["timeout"].default
DRAIN_S = 5.0
UNIT = (ROOT / "deploy" / "systemd" / "dpsup@.service").read_text()
END = (ROOT / "deploy" / "systemd" / "dpsup-end@.service").read_text()


def of_c(name: str, file: str) -> float:
    found = re.search(rf"\b{name} = (\d+)", (ROOT / file).read_text())
    assert found
    return int(found[1]) / 1000


def test_a_disk_has_as_long_for_the_supervisor_as_for_the_watchdog() -> None:
    """The watchdog of the primary decides; the supervisor's verdict comes no sooner."""
    assert of_c("DISK_MS", "shim/io/watchdog.c") == silence.DISK_S


def test_silence_is_judged_after_the_watchdog() -> None:
    stuck = of_c("STUCK_MS", "shim/io/watchdog.c")
    assert stuck < silence.SILENCES * silence.ANSWER_S + silence.PULSE_S
    assert of_c("ROUND_MS", "shim/io/watchdog.c") < silence.PULSE_S


def test_a_stop_is_waited_for_longer_than_it_can_take() -> None:
    """life.py's `_wind_down`, step by step, each at its deadline."""
    worst = (
        ASK_S  # input off
        + ASK_S  # the last look of the drain
        + HALT_S * 2 + WORKER_READY_S
        + SPARE_ENDS_S
        + EVIDENCE_S + 2 * ASK_S  # the account
        + 2 * QUIT_S  # seed and primary
        + 2 * QUIT_S  # each killed, and gone
    )  # fmt: skip
    assert worst <= launch.STOP_S


def of_unit(key: str, text: str = UNIT) -> int:
    found = re.search(rf"^{key}=(\d+)s$", text, re.MULTILINE)
    assert found
    return int(found[1])


def test_systemd_waits_longer_still() -> None:
    assert of_unit("TimeoutStopSec") >= DRAIN_S + launch.STOP_S
    # EAL, the seed, the workers, and each of them once more.
    assert of_unit("TimeoutStartSec") >= 2 * (primary.READY_S + WORKER_READY_S)


def test_the_watchdog_outlasts_what_may_hold_the_supervisor_up() -> None:
    """A disk that hangs, a supervisor that starts anew in its own process and adopts."""
    assert of_unit("WatchdogSec") >= silence.DISK_S + adopt.HELLO_S + launch._Again.POLICY.most + 10
    assert "SERVICE_RESULT" in UNIT and "watchdog)" not in UNIT  # its data plane is not ended


def test_an_order_to_stop_finds_the_data_plane_without_a_supervisor() -> None:
    """The other unit has the order, and has carried it out before this one's is; the directory is
    still there."""
    assert "\nWants=dpsup-end@%i.service\n" in UNIT
    assert "\nRuntimeDirectoryPreserve=yes\n" in UNIT
    assert "\nPartOf=dpsup@%i.service\nAfter=dpsup@%i.service\n" in END
    assert re.search(r"^ExecStop=-.*(\n .*)*/dpsup -n %i stop;", END, re.MULTILINE)
    # Not in the restart with which systemd follows a death: that would end what is to be adopted.
    assert 'list-jobs --plain --no-legend dpsup@%i.service | grep -q " stop " || exit 0;' in END
    assert of_unit("TimeoutStopSec", END) >= 2 * (DRAIN_S + launch.STOP_S)


def test_the_unit_leaves_the_wardens_their_priority() -> None:
    assert not re.search(r"^RestrictRealtime=(yes|true|on|1)", UNIT, re.MULTILINE)
    assert "CAP_SYS_NICE" in UNIT
    assert re.search(r"^ExecReload=\S+/dpsup -n %i reload$", UNIT, re.MULTILINE)


class Threads:
    """The io threads of a primary: what the kernel counted, and whether they wait for a disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, disk: bool, until: float) -> None:
        self.now, self.disk, self.until = 0.0, disk, until
        monkeypatch.setattr(process, "pulse", lambda _: {1: str(int(self.now > until))})
        monkeypatch.setattr(process, "waits_for_disk", lambda _: self.disk)
        monkeypatch.setattr(silence.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(silence.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("disk", "until", "forwards", "after"),
    [
        (False, 0.0, True, silence.PULSE_S),
        (False, 99.0, False, silence.PULSE_S),
        (True, silence.DISK_S - 2, True, silence.DISK_S - 1),
        (True, 99.0, False, silence.DISK_S),
    ],
)
def test_a_disk_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, disk: bool, until: float, forwards: bool, after: float
) -> None:
    threads = Threads(monkeypatch, disk=disk, until=until)
    assert silence.forwards_now(1) is forwards
    assert threads.now == after

    async def sleep(seconds: float) -> None:
        threads.sleep(seconds)

    threads.now = 0.0
    monkeypatch.setattr(asyncio, "sleep", sleep)
    work: Any = silence.forwards(1)
    with pytest.raises(StopIteration) as done:
        work.send(None)
    assert done.value.value is forwards and threads.now == after


def test_no_io_thread_forwards_nothing() -> None:
    assert not silence.forwards_now(2**22 + 1)
