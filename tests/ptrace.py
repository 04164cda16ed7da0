# SPDX-License-Identifier: BSD-3-Clause
"""Stop another process at an instruction: the little of ptrace(2) that the kill sweep needs, for
x86-64."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long

_PEEKTEXT, _POKETEXT, _CONT, _SINGLESTEP, _GETREGS, _SETREGS = 1, 4, 7, 9, 12, 13
_DETACH, _SYSCALL = 17, 24
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_TRACE_FORK, _GET_EVENT, _EVENT_FORK = 0x2, 0x4201, 1
_WALL = 0x40000000
_RIP = 16  # index in struct user_regs_struct
_INT3 = 0xCC
_JMP_SELF = 0xFEEB


class Gone(Exception):
    """The process has ended."""


class Traced:
    """A thread, the main one of a process if that is given, under our control from now on."""

    def __init__(self, pid: int, *, forks: bool = False) -> None:
        self.pid = pid
        self._call(_SEIZE, 0, ctypes.c_void_p(_TRACE_FORK if forks else 0))
        self._call(_INTERRUPT)
        self._wait()
        self._stepped = False

    def _call(self, request: int, address: int = 0, data: object = None) -> int:
        ctypes.set_errno(0)
        value = _libc.ptrace(request, self.pid, address, data)
        if ctypes.get_errno():
            raise Gone(os.strerror(ctypes.get_errno()))
        return int(value)

    def _wait(self) -> int:
        _, status = os.waitpid(self.pid, _WALL)
        if not os.WIFSTOPPED(status):
            raise Gone(f"status {status}")
        return os.WSTOPSIG(status)

    def _registers(self) -> ctypes.Array[ctypes.c_ulong]:
        registers = (ctypes.c_ulong * 27)()
        self._call(_GETREGS, 0, ctypes.byref(registers))
        return registers

    def where(self) -> int:
        """Address of the next instruction."""
        return self._registers()[_RIP]

    def step(self) -> int:
        """Run one instruction; the address of the next."""
        self._call(_SINGLESTEP)
        self._wait()
        self._stepped = True
        return self.where()

    def run_to(self, address: int, times: int, seconds: float) -> bool:
        """Run until the instruction at `address` is about to run for the n-th time; False if that
        takes more of the thread's CPU time. The process stays stopped."""
        word = self._call(_PEEKTEXT, address)
        trap = (word & ~0xFF) | _INT3
        self._call(_POKETEXT, address, ctypes.c_void_p(trap & (1 << 64) - 1))
        for left in range(times, 0, -1):
            self._call(_CONT)
            if not self._stopped_within(seconds):
                return False
            registers = self._registers()
            if registers[_RIP] != address + 1:
                return False
            registers[_RIP] = address
            self._call(_SETREGS, 0, ctypes.byref(registers))
            if left > 1:
                self._call(_POKETEXT, address, ctypes.c_void_p(word & (1 << 64) - 1))
                self.step()
                self._call(_POKETEXT, address, ctypes.c_void_p(trap & (1 << 64) - 1))
        return True

    def _stopped_within(self, seconds: float) -> bool:
        used = self._used_ns() + seconds * 1e9
        soon = time.monotonic() + seconds
        late = soon + 60 * seconds  # asleep it uses none
        while True:
            pid, status = os.waitpid(self.pid, _WALL | os.WNOHANG)
            if pid:
                if not os.WIFSTOPPED(status):
                    raise Gone(f"status {status}")
                return True
            now = time.monotonic()
            if now > soon and (now > late or self._used_ns() > used):
                self._call(_INTERRUPT)
                self._wait()
                return False
            time.sleep(0.0001)

    def _used_ns(self) -> int:
        with contextlib.suppress(OSError):
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0])
        return 0

    def spin(self) -> None:
        """Let it go, to do nothing but that for ever."""
        here = self.where()
        word = self._call(_PEEKTEXT, here) & (1 << 64) - 1
        self._call(_POKETEXT, here, ctypes.c_void_p((word & ~0xFFFF) | _JMP_SELF))
        self._call(_DETACH)

    def let_go(self, number: int = 0) -> None:
        """It goes on, with this signal if it is not 0: which is lost before the first step, as a
        stop that we asked for is no delivery of a signal (ptrace(2), PTRACE_EVENT_STOP)."""
        assert self._stepped or not number
        with contextlib.suppress(Gone):
            self._call(_DETACH, 0, ctypes.c_void_p(number))

    def to_syscall(self) -> Traced | None:
        """Run to where the next system call begins or ends. A child, if it was forked on the way
        and forks are traced: stopped before its first instruction."""
        signo = 0
        while True:
            self._call(_SYSCALL, 0, ctypes.c_void_p(signo))
            _, status = os.waitpid(self.pid, _WALL)
            if not os.WIFSTOPPED(status):
                raise Gone(f"status {status}")
            if status >> 16 == _EVENT_FORK:
                message = ctypes.c_ulong()
                self._call(_GET_EVENT, 0, ctypes.byref(message))
                child = Traced.__new__(Traced)
                child.pid, child._stepped = message.value, False
                child._wait()
                return child
            signo = 0 if os.WSTOPSIG(status) == signal.SIGTRAP else os.WSTOPSIG(status)
            if not signo:
                return None

    def kill(self) -> None:
        """SIGKILL, and let its parent hear of it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, _WALL)


def executed(pid: int, steps: int) -> list[int]:
    """Addresses of the instructions that a busy worker executes, in the order first seen. The
    worker dies of it."""
    traced = Traced(pid)
    seen = dict.fromkeys([traced.where()])
    for _ in range(steps):
        seen[traced.step()] = None
    traced.kill()
    return list(seen)
