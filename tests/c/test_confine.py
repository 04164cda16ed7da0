# SPDX-License-Identifier: BSD-3-Clause
"""What a worker may ask of the kernel once its plugin is initialised, call by call."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dpsup.host.calls import call_name
from dpsup.host.landlock import version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("confine") / "confine"
    command = [
        "cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", str(out),
        str(ROOT / "tests" / "c" / "confine.c"), "-lseccomp",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return str(out)


def tried(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr, done
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("act", "call"),
    [
        ("socket", "socket"),
        ("open", "openat"),
        ("stat", "newfstatat"),
        ("exec", "execve"),
        ("fork", "clone"),
        ("ptrace", "ptrace"),
        ("mmap", "mmap"),
        ("mprotect", "mprotect"),
        ("kill", "kill"),
        ("tgkill", "tgkill"),
        ("memfd", "memfd_create"),
        ("setrlimit", "prlimit64"),
        ("affinity", "sched_setaffinity"),
        ("setuid", "setuid"),
        ("dumpable", "prctl"),
    ],
)
def test_a_call_that_a_worker_may_not_make(program: str, act: str, call: str) -> None:
    code, said = tried(program, act)
    assert code == 0 and said.startswith(f"{act}: refused "), said
    assert call_name(int(said.split()[-1])) == call


@pytest.mark.parametrize("act", ["handler", "blocked", "thread"])
def test_its_signal_cannot_be_evaded(program: str, act: str) -> None:
    """pthread_create() blocks all signals itself: that call has no name."""
    code, said = tried(program, act)
    assert (code, said) == (-signal.SIGSYS, "")


@pytest.mark.parametrize("act", ["memory", "hoard", "print", "sleep", "core", "limit", "here"])
def test_a_call_that_a_worker_may_make(program: str, act: str) -> None:
    """Memory, to its bound; and that a plugin aborts."""
    code, said = tried(program, act)
    assert code == 0 and said.splitlines()[-1] == f"{act}: done", said


def test_an_abort_is_one(program: str) -> None:
    assert tried(program, "none of these") == (-signal.SIGABRT, "")


@pytest.mark.parametrize("act", ["open", "stat"])
def test_python_is_told_instead(program: str, act: str) -> None:
    """What it looks up on its own it goes on without."""
    assert tried(program, act, "python") == (0, f"{act}: errno {errno.EACCES}\n")
    assert tried(program, "socket", "python")[1].startswith("socket: refused")


@pytest.mark.skipif(version() == 0, reason="this kernel has no Landlock")
def test_landlock_alone_keeps_files_closed(program: str) -> None:
    assert tried(program, "files") == (0, f"files: {os.strerror(errno.EACCES)}\n")


def test_nothing_is_left_to_it(program: str) -> None:
    one = subprocess.Popen(
        [program, "status"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert one.stdout is not None
    assert one.stdout.readline() == "status: confined\n"
    text = Path(f"/proc/{one.pid}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert int(status[f"Cap{kind}"], 16) == 0, kind
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    limits = Path(f"/proc/{one.pid}/limits").read_text()
    assert "Max open files            1                    1" in limits
    one.communicate("\n")


def test_a_call_without_a_name() -> None:
    assert call_name(99_999) == "syscall 99999"
