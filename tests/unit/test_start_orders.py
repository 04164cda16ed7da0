# SPDX-License-Identifier: BSD-3-Clause
"""An order to end, at every line of a start: nothing is left, whenever it comes."""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from unit.fakehost import FILE, MINIMAL, machine

from dpsup.check.topology import prepare
from dpsup.host import process
from dpsup.instance import runtime_dir
from dpsup.supervisor import assembly, launch

FILES = ("supervisor/launch.py", "instance/runtime_dir.py")
FUNCTIONS = ("foreground", "_run", "life", "acquire", "release")


class FakeSupervisor:
    """Ends at once, as its own part of the orders is tested where it is real."""

    leaves_alone = False

    def __init__(self, model: Any, *_: Any) -> None:
        self.model = model
        model.summary = None
        self.core = type("Core", (), {"log": type("Log", (), {"listeners": []}), "crashed": None})
        self.life = type("Life", (), {})()

    async def run(self) -> int:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, process.ORDERS)
        await asyncio.sleep(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, process.ORDERS)
        return 0


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {sig: signal.getsignal(sig) for sig in process.ORDERS}
    yield
    for sig, handler in before.items():
        signal.signal(sig, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, process.ORDERS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    where = tmp_path / "run"
    text = MINIMAL.replace("[mempools", f'[host]\nruntime_dir = "{where}"\n[mempools')
    host = machine(text)
    (tmp_path / "usual").mkdir(mode=0o700)
    monkeypatch.setattr(runtime_dir, "roots", lambda: [tmp_path / "usual"])
    monkeypatch.setattr(launch, "read_host", lambda: host)
    monkeypatch.setattr(launch, "prepare", prepare)
    monkeypatch.setattr(launch.plugins, "copied", lambda _, plan: plan)
    monkeypatch.setattr(launch.plugins, "digests_of", lambda *_: {})
    monkeypatch.setattr(launch.process, "pin", lambda _: None)
    # Other tests share this process.
    monkeypatch.setattr(launch.process, "ignore_accidents", lambda: None)
    monkeypatch.setattr(launch, "allow_files", lambda: None)
    monkeypatch.setattr(assembly, "Supervisor", FakeSupervisor)
    return where


def start(at: int, order: signal.Signals) -> int:
    """A start that gets the order before its line of that number; the lines that it had."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        code = frame.f_code
        if code.co_name not in FUNCTIONS or not code.co_filename.endswith(FILES):
            return None
        text = linecache.getline(code.co_filename, frame.f_lineno).strip()
        if event == "line" and text != "try:":  # Python takes signals at calls, and not there
            lines += 1
            if lines == at:
                signal.pthread_kill(threading.get_ident(), order)
        return trace

    launch._ordered.clear()
    for sig in process.ORDERS:
        signal.signal(sig, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, process.ORDERS)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        # pytest's own process: an order that comes too late must not reach it.
        with contextlib.suppress(KeyboardInterrupt):
            launch.foreground(FILE, None, None, verbose=False, ready_fd=None)
    finally:
        sys.settrace(before)
        for sig in process.ORDERS:
            signal.signal(sig, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, process.ORDERS)
    return lines


@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_start_that_is_ended_anywhere(
    place: Path, order: signal.Signals
) -> None:
    most = start(0, order)
    assert most > 50
    for at in range(1 + int(order) % 2, most + 1, 8):
        start(at, order)
        assert not place.exists(), f"before line {at} of {most}"
