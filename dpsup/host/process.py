# SPDX-License-Identifier: BSD-3-Clause
"""Processes: start, watch, signal, reap. The one module that imports psutil.

A process is known by its pid and its start time, so that a reused pid is never taken for it; its
end is read from a pidfd.

Own code reads /proc where psutil does not suffice: its `create_time` is a rounded float, and
adoption compares start times; its `process_iter` creates an object for each process of the machine,
where reading one file each is enough. Its import takes 8 to 25 ms, which most commands need not
spend.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup._libraries import ffi

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.status import Usage

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: `start` is field 22 of /proc/PID/stat, clock ticks since boot."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """A zombie is not alive: its parent may be slow to reap it."""
        return start_ticks(self.pid) == self.start


def start_ticks(pid: int) -> int:
    """Start time of a live process in clock ticks since boot; 0 where there is none."""
    state, start = _state_and_start(pid)
    return 0 if state in ("Z", "X") else start


def _state_and_start(pid: int) -> tuple[str, int]:
    try:
        return _read_stat(pid)
    except OSError:
        return "X", 0


def _read_stat(pid: int) -> tuple[str, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19])


def is_stopped(pid: int) -> bool:
    """By a signal or a debugger; it neither ends nor answers then."""
    return _state_and_start(pid)[0] in ("T", "t")


def is_surely_gone(pid: int, start: int) -> bool:
    """Gone, or a zombie; False where that cannot be read, as without a free descriptor. `start` 0:
    whichever process has the pid."""
    try:
        state, found = _read_stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    return state in ("Z", "X") or start not in (0, found)


def identify(pid: int) -> Identity:
    return Identity(pid, start_ticks(pid))


def age(one: Identity) -> float:
    """Seconds since it was started."""
    ticks = os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - one.start / ticks)


def own() -> Identity:
    return identify(os.getpid())


_IO_THREAD = re.compile(r"(?:rte|dpdk|lcore|eal)-?worker-?(\d*)")  # as DPDK's releases name them


def io_threads(pid: int) -> dict[int, int]:
    """A primary's io threads, by EAL's number of the lcore."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            named = _IO_THREAD.match((task / "comm").read_text())
            if named and named[1]:
                found[int(named[1])] = int(task.name)
    return found


def waits_for_disk(pid: int) -> bool:
    """Does one of a primary's io threads wait for a disk (state D)?"""
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _IO_THREAD.match((task / "comm").read_text()):
                after = (task / "stat").read_text().rpartition(")")[2]
                if after.split()[0] == "D":
                    return True
    return False


def pulse(pid: int) -> dict[int, str]:
    """What the kernel counted of the running time of a primary's io threads, by thread. If two
    readings are equal, no thread has run in between. Empty if none exists or is readable."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _IO_THREAD.match((task / "comm").read_text()):
                # CPU nanoseconds, and time slices: an io core that naps is counted too.
                ran, _, slices = (task / "schedstat").read_text().split()
                found[int(task.name)] = f"{ran} {slices}"
    return found


def _prctl(option: int, value: int) -> None:
    """Raises: OSError."""
    if ffi.dlopen(None).prctl(option, value, 0, 0, 0):
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def become_subreaper() -> None:
    """Orphans of this process (workers whose seed died) become its children, not init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


_before_pin: list[frozenset[int]] = []


def pin(cores: tuple[int, ...]) -> None:
    if not _before_pin:
        _before_pin.append(frozenset(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, cores)


def allowed() -> frozenset[int]:
    """The CPUs that this process may use, also those that it gave up when it was pinned: workers
    of its next generation are placed on them."""
    return _before_pin[0] if _before_pin else frozenset(os.sched_getaffinity(0))


def with_words(*words: str) -> list[Identity]:
    """Processes with these words in a row in their command line; without children that they have
    just forked, which still have the same command line."""
    needle = b"\0" + b"\0".join(w.encode() for w in words) + b"\0"
    found: dict[int, int] = {}  # pid: parent's pid
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if needle in (entry / "cmdline").read_bytes():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(fields[1])
    return [identify(pid) for pid, parent in found.items() if parent not in found]


def has_command_line(pid: int) -> bool:
    """A process that is ending has none: its memory is gone before its files are closed."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def has_words(pid: int, *words: str) -> bool:
    """Is one of these in the command line of that process?"""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(word.encode() in line for word in words)


# What a person or systemd sends on purpose: SIGHUP reloads, the others end in order.
ORDERS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
# Their default ends or stops a process, and none is meant for one of dpsup's.
_ACCIDENTS = (
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
    signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT, signal.SIGXCPU, signal.SIGXFSZ,
    signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip


def ignore_accidents() -> None:
    """For this process and what it starts: no signal that was sent by mistake ends it. Those that
    are left are orders, faults (SIGSEGV, SIGABRT …), and job control (SIGTSTP, SIGCONT)."""
    real_time = range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
    for number in (*_ACCIDENTS, *real_time):
        signal.signal(number, signal.SIG_IGN)


def ignore_terminal() -> None:
    """What a terminal sends to all that was started from it is for the supervisor."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def has_terminal() -> bool:
    """Is there a controlling terminal that still works?"""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def user_of(pid: int) -> int:
    """The effective user of a process; -1 where there is none. Not the owner of /proc/PID: that is
    root where a process gave its core file up."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])
    return -1


def die_with_parent(*, yes: bool) -> None:
    """Have the kernel end this process when the thread that started it ends, or no longer."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if yes else 0)


def is_read(fd: int) -> bool:
    """Is the read end of this pipe still open in a process?"""
    poller = select.poll()
    poller.register(fd, 0)
    return not poller.poll(0)


def lasting_pipe() -> tuple[int, int]:
    """A pipe for what a process prints, whose writer outlives the reader: it holds a read end
    too, so it never gets EPIPE, and it never waits. `reopen` finds the pipe again."""
    read, write = os.pipe()
    try:
        both = os.open(f"/proc/self/fd/{write}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    os.set_blocking(read, False)
    return read, both


def reopen(pid: int, fd: int = 1) -> int:
    """A read end of the pipe that a process has as that descriptor. Raises: OSError."""
    path = f"/proc/{pid}/fd/{fd}"
    if not Path(path).is_fifo():
        raise OSError(f"{path} is no pipe")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def reader_of(pipe: int) -> int:
    """A read end of a pipe of which this process has any end. Raises: OSError."""
    return os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


@dataclass(slots=True)
class Spawned:
    pid: int
    pidfd: int
    output: int  # read end: stdout and stderr
    notify: int  # read end: READY or REFUSED, then the end


def spawn(argv: list[str], *, notify_option: str = "--notify") -> Spawned:
    """Start a program with pipes for its output and its readiness, in a session of its own.

    It inherits nothing else. Its end of the readiness pipe is passed as `notify_option FD`.
    Raises: OSError; then no process runs and no descriptor stays open.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
        out_r, out_w = lasting_pipe()
        ours.callback(os.close, out_r)
        its.callback(os.close, out_w)
        note_r, note_w = os.pipe()
        ours.callback(os.close, note_r)
        its.callback(os.close, note_w)
        child = subprocess.Popen(
            [*argv, notify_option, str(note_w)],
            stdin=subprocess.DEVNULL,
            stdout=out_w,
            stderr=out_w,
            pass_fds=(note_w,),
            start_new_session=True,
        )
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError:
            child.kill()
            child.wait()
            raise
        # We reap by pid; Popen must not reap it too.
        child.returncode = 0
        os.set_blocking(note_r, False)
        ours.pop_all()
    return Spawned(child.pid, pidfd, out_r, note_r)


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


def end_group(leader: int) -> None:
    """End what is left of a process's group once that process has ended: no other process gets its
    number while one of the group lives."""
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


def wait_gone(identities: list[Identity], timeout: float) -> bool:
    """Wait until all have ended, children or not; False if some have not in time. A
    process has ended when all of its threads have, and their files and locks are given back."""
    deadline = time.monotonic() + timeout
    fds: list[int] = []
    try:
        for one in identities:
            with contextlib.suppress(ProcessLookupError):
                fds.append(os.pidfd_open(one.pid))
                # Also of a zombie: it may have threads that are about to end.
                if _state_and_start(one.pid)[1] != one.start:
                    os.close(fds.pop())
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        left = set(fds)
        while left:
            # At each end the time that is left, and one look more where none is.
            ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
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


def is_ending(status: int) -> bool:
    """Is this a waitpid status of a process that has ended?"""
    return 0 <= status < 1 << 16 and (
        os.WIFEXITED(status) or (os.WIFSIGNALED(status) and status < 1 << 8)
    )


def parent_of(pid: int) -> int:
    """0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[1])
    return 0


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_status(status: int) -> str:
    """ "exit 106" or "SIGKILL", from a waitpid status."""
    if os.WIFSIGNALED(status):
        return signal_name(os.WTERMSIG(status))
    return f"exit {os.waitstatus_to_exitcode(status)}"


def usage(pid: int) -> Usage:
    """CPU seconds and resident bytes of a process; zeros where it is gone."""
    import psutil  # 8 ms that most commands need not spend

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
