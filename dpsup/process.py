# SPDX-License-Identifier: BSD-3-Clause
"""Processes: start, watch, signal, reap. The one module that imports psutil.

A process is known by its pid and its start time, so that a reused pid is never taken for it; its
end is read from a pidfd.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: `start` is field 22 of /proc/PID/stat, clock ticks since boot."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """A zombie is not alive: whoever should reap it may be slow."""
        return start_ticks(self.pid) == self.start


def start_ticks(pid: int) -> int:
    """Start time of a live process in clock ticks since boot; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def identify(pid: int) -> Identity:
    return Identity(pid, start_ticks(pid))


def become_subreaper() -> None:
    """Orphans of ours (workers whose seed died) become our children instead of init's."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pin(cores: tuple[int, ...]) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, cores)


@dataclass(slots=True)
class Spawned:
    pid: int
    pidfd: int
    output: int  # read end: stdout and stderr
    notify: int  # read end: READY or REFUSED, then the end


def spawn(argv: list[str], *, notify_option: str = "--notify") -> Spawned:
    """Start a program with pipes for its output and its readiness, in a session of its own.

    It inherits nothing else. Its end of the readiness pipe is passed as `notify_option FD`.
    """
    out_r, out_w = os.pipe()
    note_r, note_w = os.pipe()
    try:
        child = subprocess.Popen(
            [*argv, notify_option, str(note_w)],
            stdin=subprocess.DEVNULL,
            stdout=out_w,
            stderr=out_w,
            pass_fds=(note_w,),
            start_new_session=True,
        )
    finally:
        os.close(out_w)
        os.close(note_w)
    # We reap by pid; Popen must not do it behind our back.
    child.returncode = 0
    for fd in (out_r, note_r):
        os.set_blocking(fd, False)
    return Spawned(child.pid, os.pidfd_open(child.pid), out_r, note_r)


def signal_pidfd(pidfd: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, sig)


def kill(identity: Identity, sig: int = signal.SIGKILL) -> None:
    """Signal a process if it is still that one."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(identity.pid)
        try:
            if identity.alive:
                signal.pidfd_send_signal(pidfd, sig)
        finally:
            os.close(pidfd)


def wait_gone(identities: list[Identity], timeout: float) -> bool:
    """Wait until all have ended, whoever their parent is; False if some have not in time."""
    fds = []
    for one in identities:
        with contextlib.suppress(ProcessLookupError):
            if one.alive:
                fds.append(os.pidfd_open(one.pid))
    try:
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        left = set(fds)
        while left:
            ready = poller.poll(timeout * 1000)
            if not ready:
                return False
            for fd, _ in ready:
                poller.unregister(fd)
                left.discard(fd)
    finally:
        for fd in fds:
            os.close(fd)
    return True


def reap() -> dict[int, int]:
    """Exit statuses (as waitpid gives them) of all children that have ended."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def describe_status(status: int) -> str:
    """ "exit 106" or "SIGKILL", from a waitpid status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return f"exit {os.waitstatus_to_exitcode(status)}"


def usage(pid: int) -> dict[str, float]:
    """CPU seconds and resident bytes of a process; zeros where it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {
                "cpu_seconds": times.user + times.system,
                "rss_bytes": process.memory_info().rss,
            }
    except psutil.Error:
        return {"cpu_seconds": 0.0, "rss_bytes": 0}
