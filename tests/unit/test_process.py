# SPDX-License-Identifier: BSD-3-Clause
"""Processes: known by pid and start, watched by pidfd, and nothing left open."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.fakecore import descriptors

from dpsup.host import process
from dpsup.host.process import Identity

NAMED = """
import sys, time
open("/proc/self/comm", "w").write("rte-worker-1")
print("ready", flush=True)
{then}
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as one:
        yield one
        one.kill()


def io_thread(then: str) -> subprocess.Popen[str]:
    """A process whose main thread has the name of an io core's, once this returns."""
    one = subprocess.Popen(
        [sys.executable, "-c", NAMED.format(then=then)], stdout=subprocess.PIPE, text=True
    )
    assert one.stdout is not None
    assert one.stdout.readline() == "ready\n"
    return one


def test_a_pulse_is_that_of_the_io_threads_alone(child: subprocess.Popen[bytes]) -> None:
    assert process.pulse(child.pid) == {}
    assert process.pulse(2**22 + 1) == {}
    with io_thread("time.sleep(60)") as one:
        assert list(process.pulse(one.pid)) == [one.pid]
        one.kill()


def test_a_pulse_stands_still_with_its_thread() -> None:
    with io_thread("while True: pass") as one:
        before = process.pulse(one.pid)
        deadline = time.monotonic() + 60
        while process.pulse(one.pid) == before:
            assert time.monotonic() < deadline
        one.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, one.pid, os.WSTOPPED)
        before = process.pulse(one.pid)
        assert before and process.pulse(one.pid) == before
        one.kill()


def test_a_process_is_known_by_its_start(child: subprocess.Popen[bytes]) -> None:
    one = process.identify(child.pid)
    assert one.alive and not Identity(one.pid, one.start - 1).alive
    process.kill(Identity(one.pid, one.start - 1))
    assert one.alive, "another one of that pid is not ended"
    process.kill(one)
    assert child.wait() == -signal.SIGKILL
    assert not one.alive
    process.kill(one)


def test_a_zombie_is_gone_to_those_who_wait(child: subprocess.Popen[bytes]) -> None:
    one = process.identify(child.pid)
    before = descriptors()
    assert not process.wait_gone([one], 0.0)
    child.kill()
    assert process.wait_gone([one, Identity(2**22 + 1, 7)], 60)
    assert not one.alive
    assert process.wait_gone([one], 0.0) and process.wait_gone([], 0.0)
    assert not descriptors() - before


def test_wait_gone_waits_for_the_last(child: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen(["true"]) as other:
        both = [process.identify(child.pid), process.identify(other.pid)]
        assert not process.wait_gone(both, 0.3)


def test_what_is_spawned_says_when_it_is_ready() -> None:
    spawned = process.spawn(
        ["python3", "-c", "import os, sys; print('hi'); os.write(int(sys.argv[2]), b'READY\\n')"]
    )
    os.waitpid(spawned.pid, 0)
    os.set_blocking(spawned.notify, True)
    assert os.read(spawned.output, 99) == b"hi\n"
    assert os.read(spawned.notify, 99) == b"READY\n"
    for fd in (spawned.output, spawned.notify, spawned.pidfd):
        os.close(fd)


def test_a_spawn_that_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with pytest.raises(OSError):
        process.spawn(["/no/such/program"])
    assert not descriptors() - before
    pids: list[int] = []

    def exhausted(pid: int) -> int:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(process.os, "pidfd_open", exhausted)
    with pytest.raises(OSError):
        process.spawn(["sleep", "60"])
    assert not descriptors() - before
    assert process.start_ticks(pids[0]) == 0, "what cannot be watched does not run"


def test_a_pipe_that_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> int:
        raise OSError(24, "Too many open files")

    before = descriptors()
    monkeypatch.setattr(process.os, "open", exhausted)
    with pytest.raises(OSError):
        process.lasting_pipe()
    monkeypatch.undo()
    assert not descriptors() - before


def test_a_writer_outlives_its_reader_and_never_waits() -> None:
    read, write = process.lasting_pipe()
    os.close(read)
    os.write(write, b"nobody hears\n")
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    again = process.reopen(os.getpid(), write)
    assert os.read(again, 13) == b"nobody hears\n"
    for fd in (again, write):
        os.close(fd)


def test_only_a_pipe_is_reopened(tmp_path: Path) -> None:
    before = descriptors()
    with (tmp_path / "file").open("w") as file:
        for pid, fd in ((os.getpid(), file.fileno()), (2**22 + 1, 1), (os.getpid(), 999)):
            with pytest.raises(OSError):
                process.reopen(pid, fd)
    assert not descriptors() - before


def test_a_pipe_knows_whether_it_is_read() -> None:
    read, write = os.pipe()
    assert process.is_read(write)
    os.close(read)
    assert not process.is_read(write)
    os.close(write)


def test_processes_are_found_by_their_words(child: subprocess.Popen[bytes]) -> None:
    word = f"x-{os.getpid()}"
    program = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, "--socket", word]) as one:
        deadline = time.monotonic() + 60
        while not process.has_words(one.pid, word):  # until it has become that program
            assert time.monotonic() < deadline
        assert [p.pid for p in process.with_words("--socket", word)] == [one.pid]
        assert process.with_words(word, "--socket") == []
        assert not process.has_words(child.pid, word)
        one.kill()
    assert not process.has_words(2**22 + 1, word)


@pytest.mark.parametrize(
    ("status", "how"), [(0, "exit 0"), (106 << 8, "exit 106"), (9, "SIGKILL"), (50, "signal 50")]
)
def test_how_a_process_ended(status: int, how: str) -> None:
    assert process.describe_status(status) == how


def test_the_usage_of_none_is_nothing() -> None:
    assert process.usage(2**22 + 1) == {"cpu_seconds": 0.0, "rss_bytes": 0}
    assert process.usage(os.getpid())["rss_bytes"] > 0


def test_only_proc_proves_that_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    me = process.own()
    assert not process.is_surely_gone(me.pid, me.start)
    assert not process.is_surely_gone(me.pid, 0)
    assert process.is_surely_gone(me.pid, me.start + 1)
    assert process.is_surely_gone(2**22 + 1, 0)

    def full(path: Path) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", full)
    assert not process.is_surely_gone(me.pid, me.start + 1)


def test_a_wait_has_one_deadline_whatever_ends_meanwhile() -> None:
    """Each end of one of many began the time anew."""
    naps = [subprocess.Popen(["sleep", f"{n / 4}"]) for n in range(1, 61)]
    with subprocess.Popen(["sleep", "60"]) as lasting:
        pids = [process.identify(p.pid) for p in (lasting, *naps)]
        assert not process.wait_gone(pids, 0.3)
        # The time began anew with each of them: none of those would be left.
        assert any([p.poll() is None for p in naps])
        lasting.kill()
    for one in naps:
        one.kill()
        one.wait()


def test_a_process_whose_first_thread_is_gone_has_not_ended() -> None:
    """Its leader is a zombie: its files and locks are given back by the last thread."""
    code = (
        "import ctypes, threading, time;"
        "threading.Thread(target=time.sleep, args=(60,)).start(); print(flush=True);"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        one.stdout.readline()
        identity = Identity(one.pid, process._state_and_start(one.pid)[1])
        deadline = time.monotonic() + 60
        while identity.alive:
            assert time.monotonic() < deadline
        assert not process.wait_gone([identity], 0)
        one.kill()
        assert process.wait_gone([identity], 60)
