# SPDX-License-Identifier: BSD-3-Clause
"""Each signal that can be caught, to dpsup's processes; a closed terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import socket
import subprocess
import termios
import urllib.request
from pathlib import Path

import pytest
from harness import CALM, DPSUP, NULL, Run, lives, pids_of, supervisor, wait_for

pytestmark = pytest.mark.beside

# Orders, faults and job control have a meaning of their own.
MEANT = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT, signal.SIGHUP, signal.SIGINT,
    signal.SIGTERM, signal.SIGQUIT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE,
    signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip
REST = sorted({int(s) for s in signal.valid_signals()} - {int(s) for s in MEANT})


@pytest.mark.fault(46)
def test_no_signal_makes_an_instance_headless_by_accident(instance: Run) -> None:
    instance.start(CALM)
    before = instance.status()
    pids = [before[name]["pid"] for name in ("supervisor", "primary", "seed")]
    for number in REST:
        for pid in pids:
            os.kill(pid, number)
    for pid in pids[1:]:
        os.kill(pid, signal.SIGHUP)
    # A reload, which is an event, comes after all of them.
    text = instance.file.read_text()
    instance.file.write_text(text.replace("count = 2", "count = 3"))
    os.kill(pids[0], signal.SIGHUP)
    after = instance.until(lambda s: s["groups"][0]["ready"] == 3 and s)
    assert [after[name]["pid"] for name in ("supervisor", "primary", "seed")] == pids
    assert after["generation"] == before["generation"]
    assert after["recovery"]["deaths"] == 0
    # A file that cannot be loaded, and one that needs a restart, are told of and change nothing.
    instance.file.write_text("nonsense")
    os.kill(pids[0], signal.SIGHUP)
    wait_for(lambda: [e for e in instance.events() if "SIGHUP" in e.get("message", "")])
    instance.file.write_text(text.replace("max = 4", "max = 5"))
    os.kill(pids[0], signal.SIGHUP)
    wait_for(lambda: [e for e in instance.events() if "need a restart" in e.get("message", "")])
    assert supervisor(instance) == pids[0]
    os.kill(pids[0], signal.SIGQUIT)
    wait_for(lambda: not any(map(lives, pids)))
    assert not instance.file.parent.joinpath("core").exists()


def metrics_of(instance: Run) -> list[int]:
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = one.read_bytes().split(b"\0")
            if b"dpsup.instance.openmetrics" in words and instance.name.encode() in words:
                found.append(int(one.parent.name))
    return found


def test_builder_and_metrics_outlive_what_a_terminal_sends(instance: Run) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{one.getsockname()[1]}"
    tables = 'tables = { t = { kind = "ipv4", entries = 10 } }'
    text = NULL.replace("count = 2", f"count = 2\n{tables}")
    instance.start(f'{text}\n[metrics]\nlisten = "{where}"\n')

    def serves() -> bool:
        try:
            with urllib.request.urlopen(f"http://{where}/metrics", timeout=20) as answer:
                return b"dpsup_up" in answer.read()
        except OSError:
            return False

    wait_for(serves)
    (builder,), (metrics,) = pids_of("dpsup.builder", instance.name), metrics_of(instance)
    for number in (*REST, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        os.kill(builder, number)
        os.kill(metrics, number)
    instance.do("table", "t", "add", "10.0.0.0/8", "1")
    assert serves()
    assert instance.status()["builder"] == {"pid": builder, "state": "ready", "trouble": ""}
    assert metrics_of(instance) == [metrics]
    # One that is stopped is named, in place of a wait of minutes.
    os.kill(builder, signal.SIGSTOP)
    instance.until(lambda s: s["builder"]["state"] == "stopped")
    done = instance.do("table", "t", "add", "11.0.0.0/8", "1", check=False)
    assert done.returncode == 1 and f"kill -CONT {builder}" in done.stderr, done.stderr
    assert f"kill -CONT {builder}" in instance.do("status").stdout
    os.kill(builder, signal.SIGCONT)
    instance.until(lambda s: s["builder"]["state"] == "ready")
    os.kill(builder, signal.SIGSEGV)
    wait_for(lambda: [e for e in instance.events() if "ended (SIGSEGV)" in e.get("message", "")])
    instance.until(lambda s: s["builder"]["state"] == "ready")


@pytest.mark.fault(46)
def test_a_closed_terminal_ends_nothing(instance: Run) -> None:
    file = instance.write(CALM)
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    child = subprocess.Popen(
        [*DPSUP, "start", str(file)],
        stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal,  # noqa: PLW1509
    )  # fmt: skip
    os.close(theirs)
    instance.process = child
    instance.until_running()
    os.close(ours)  # the terminal hangs up: SIGHUP to its session
    wait_for(lambda: [e for e in instance.events() if "terminal" in e.get("message", "")])
    assert instance.status()["supervisor"]["pid"] == child.pid
    instance.do("stop")
    child.wait(60)  # 1: its account could not be printed, as there is no terminal
