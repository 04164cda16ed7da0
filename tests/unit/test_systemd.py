# SPDX-License-Identifier: BSD-3-Clause
"""What systemd is told: where it listens, that all is ready, that the event loop turns."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpsup.supervisor import systemd


@pytest.fixture
def listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "n"))
        bound.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield bound


def test_systemd_is_told_where_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (str(tmp_path / "n"), f"\0dpsup-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listens:
            listens.bind(address)
            monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
            systemd.notify("READY=1")
            assert listens.recv(99) == b"READY=1"
        systemd.notify("READY=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")


def test_a_systemd_that_does_not_read_stops_nothing(listens: socket.socket) -> None:
    for _ in range(5000):  # many more than its socket holds
        systemd.notify("WATCHDOG=1")
    assert listens.recv(99) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("30000000", os.getpid(), 30.0),
        ("30000000", 1, None),  # it is for another process, whose environment this one has
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
    ids=["any", "own", "other", "none", "no number", "no variable"],
)
def test_the_watchdog_is_this_process_own(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: int | None, seconds: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(value))
    assert systemd.watchdog_s() == seconds


def test_it_beats_while_the_loop_turns(
    listens: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    async def turns() -> None:
        beat = asyncio.create_task(systemd.beat())
        for _ in range(3):
            assert await asyncio.to_thread(listens.recv, 99) == b"WATCHDOG=1"
        # A loop that hangs is silent, whatever else of the process runs.
        listens.setblocking(False)
        time.sleep(0.1)
        with pytest.raises(BlockingIOError):
            for _ in range(1000):
                listens.recv(99)
        time.sleep(0.1)
        with pytest.raises(BlockingIOError):
            listens.recv(99)
        beat.cancel()

    asyncio.run(turns())


def test_without_a_watchdog_it_is_silent(
    listens: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    asyncio.run(systemd.beat())
    listens.setblocking(False)
    with pytest.raises(BlockingIOError):
        listens.recv(99)
