# SPDX-License-Identifier: BSD-3-Clause
"""EAL's shared locks before an attach: which the dead still hold, and giving those back.

A process that is killed while it attaches to the primary leaves EAL's shared locks as they were,
and the next process that attaches spins on them forever. This module runs in the primary, which
outlives every secondary.

Why it is sound to set a lock's word to 0:

1. No living process holds it. The word is read first; then the living processes are looked up.
   - A secondary that may hold one has EAL's configuration mapped, or (another pid namespace) has a
     socket in EAL's runtime directory that takes connections. The kernel gives up a process's
     mappings and sockets only when none of its threads runs its code any more. There must be none.
   - dpsup's workers have it mapped too, as forks of the seed, and make no EAL call (law 5): they
     are told by their program and by having no socket of their own. The seed makes none once it
     is ready.
   - The primary's own threads: io cores and wardens take none of these locks. EAL's and
     telemetry's do for microseconds, without sleeping: all of them must have slept from one look
     to the next. The thread that runs this is in no EAL call.
2. No process takes it meanwhile: the word is only replaced if it is still what was read. A process
   that took and gave it back in between left it as it was.
3. What it guards is whole. Readers change nothing. The seed writes under none: it allocates
   nothing (workers/services.c), and takes the memzones' lock as a writer only to map them. What an
   outsider may have died with as a writer is whole if its sum is the one that it had when no
   process wrote. It mostly is: a process that attaches holds "memzone" to map it, and one that ends
   holds "memory" for the milliseconds of unmapping it all. (In between it changes a heap, under
   that heap's own lock, and has the primary change the lists of memory.) Otherwise the lock is
   left, and reported.
   If a seed could not attach past it, the generation has to end.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from dpsup import _abi
from dpsup.documents.story import Locks

FIRST = tuple(_abi.DPS_LOCK_NAMES.values())[: _abi.DPS_LOCK_SEGMENTS]
# What keeps a seed's attach waiting: it writes under "memzone" and reads under the others.
WAIT, WRITE = _abi.DPS_LOCK_WAIT, _abi.DPS_LOCK_WRITE
SUMMED = ("memory", "memzone")  # dps_lock_guards
IN_THE_WAY = {"memory": WAIT | WRITE, "memzone": ~0, "tailq": 0, "mempool": 0, "timer": 0}


def lock_names(n: int) -> tuple[str, ...]:
    """A primary's first n locks: after those that each has, one for each list of memory."""
    return *FIRST[:n], *(f"segments {i}" for i in range(n - len(FIRST)))


LOOKS = 20
LOOK_S = 0.01  # for a thread to have slept through
_SOCKET = re.compile(r"mp_socket_(\d+)_[0-9a-f]+")
# Threads of the primary that take no lock of EAL's: io cores (22.11, 24.11), those of
# shim/recovery/warden.c, ZeroMQ's.
_INNOCENT = ("rte-worker-", "dpdk-worker", "dpsup", "ZMQbg/")


def takes_connections(path: Path) -> bool:
    """Has any process this datagram socket open?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def mappers(file: Path) -> set[int]:
    """Processes, but this one, that have `file` mapped."""
    found = set()
    real = str(file.resolve()).encode()
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(one.name) != os.getpid() and real in (one / "maps").read_bytes():
                found.add(int(one.name))
    return found


def _switches() -> dict[str, str] | None:
    """How often each of the threads that may take EAL's locks has gone to sleep; None if one of
    them is awake."""
    seen = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = (task / "comm").read_text()
            if task.name == str(os.getpid()) or name.startswith(_INNOCENT):
                continue
            status = (task / "status").read_text()
            if "\nState:\tS" not in status:
                return None
            seen[task.name] = status[status.index("voluntary_ctxt_switches") :]
    return seen


def at_rest() -> bool:
    """Has every thread of this process that may take EAL's locks slept for a while?"""
    before = _switches()
    time.sleep(LOOK_S)
    return before is not None and before == _switches()


class Attachments:
    """The processes that attach to this primary, and what they leave behind.

    `read()` gives the locks' words in the order of `lock_names`, `release(lock, word)` whether the
    lock was still `word` and now is free, `guarded(lock)` a sum over what it guards. To be created
    while no other process attaches."""

    def __init__(
        self,
        directory: Path,
        program: Path,
        read: Callable[[], list[int]],
        release: Callable[[int, int], bool],
        guarded: Callable[[int], int],
    ) -> None:
        self.directory = directory
        self.config = directory / "config"
        self.read = read
        self.release = release
        self.guarded = guarded
        file = program.stat()
        self._program = (file.st_dev, file.st_ino)
        self._seeds: set[int] = set()
        self._strangers: set[int] = set()  # which may have left a lock held
        self._last: list[int] = []
        self._sums: dict[str, int] = {}  # while no process wrote
        self._remember()

    def _is_ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            file = Path(f"/proc/{pid}/exe").stat()
            return (file.st_dev, file.st_ino) == self._program
        return False

    def _sockets(self) -> dict[int, list[Path]]:
        """Sockets of secondaries, by pid."""
        found: dict[int, list[Path]] = {}
        for one in self.directory.iterdir():
            if match := _SOCKET.fullmatch(one.name):
                found.setdefault(int(match[1]), []).append(one)
        return found

    def alive(self, seed: int) -> set[int]:
        """Secondaries that may hold a lock rightly; `seed` is ready or dead, so is none of them."""
        sockets = self._sockets()
        holders = mappers(self.config)
        found = {p for p in holders if not self._is_ours(p) or p in sockets}
        # Of a dead seed, a child that was not yet run holds the socket, and no lock.
        elsewhere = sockets.keys() - holders - self._seeds
        found |= {p for p in elsewhere if any(takes_connections(s) for s in sockets[p])}
        return found - {seed}

    def _sweep(self, absolved: bool) -> None:
        """Sockets of the dead: EAL's requests to them fail at once, but each one stays forever."""
        for pid, sockets in self._sockets().items():
            for one in sockets:
                if (absolved or pid in self._seeds) and not takes_connections(one):
                    one.unlink(missing_ok=True)

    def review(self, seed: int) -> Locks | None:
        """Called now and then, while a seed is ready or none attaches: releases what has been held
        since the last call. None: nothing was."""
        words = self.read()
        held = any(words) and words == self._last
        self._last = words
        self._note(seed)
        self._remember()
        if held:
            return self.put_right(seed)
        if not any(words) and self._strangers and not self.alive(seed):
            self._absolve()
        return None

    def _is_written(self, name: str) -> bool:
        """May a process change what this lock guards?"""
        words = self.read()
        locks = ("memzone", "zones") if name == "memzone" else (name,)
        return any(words[FIRST.index(lock)] & WRITE for lock in locks)

    def _remember(self) -> None:
        """What the locks guard, wherever that stands still."""
        for name in SUMMED:
            if not self._is_written(name):
                now = self.guarded(FIRST.index(name))
                if not self._is_written(name):
                    self._sums[name] = now

    def _note(self, seed: int) -> None:
        self._seeds.add(seed)
        self._strangers |= self._sockets().keys() - self._seeds

    def _absolve(self) -> None:
        """No lock is held, and no process is alive that could hold one."""
        self._sweep(absolved=True)
        self._strangers.clear()

    def put_right(self, seed: int) -> Locks:
        """Give back what the dead hold, `seed` being ready or dead. In the answer, locks by name
        and word: `released`; `left`, where it is unknown whether what they guard is whole; `held`,
        by processes that may be `alive` (pids); `blocked`, of both, what a seed would wait for."""
        self._note(seed)
        released: dict[str, int] = {}
        left: dict[str, int] = {}
        alive: set[int] = set()
        for _ in range(LOOKS):
            words = self.read()
            names = lock_names(len(words))
            held = {n: w for n, w in zip(names, words, strict=True) if w}
            alive = self.alive(seed) if held else set()
            if not held or alive:
                break
            left = {n: w for n, w in held.items() if not self._is_whole(n, w)}
            if left == held:
                break
            if not at_rest():
                continue
            for name in held.keys() - left.keys():
                if self.release(names.index(name), held[name]):
                    released[name] = held[name]
        words = self.read()
        if not any(words) and (not self._strangers or not self.alive(seed)):
            self._absolve()
        else:
            self._sweep(absolved=False)
        named = zip(lock_names(len(words)), words, strict=True)
        still = {n: w for n, w in named if w and n not in left}
        return {
            "released": released,
            "left": left,
            "held": still,
            "blocked": [
                n for n, w in (still | left).items() if w & IN_THE_WAY.get(n, WAIT | WRITE)
            ],
            "alive": sorted(alive),
            "strangers": sorted(self._strangers),
        }

    def _is_whole(self, name: str, word: int) -> bool:
        """Is what this lock guards as it should be, given that all its holders are dead?"""
        if name == "timer":
            return False
        if not word & WRITE or (name == "memzone" and not self._strangers):
            return True
        if name not in SUMMED or (name == "memzone" and self._is_written("zones")):
            return False
        return self._sums.get(name) == self.guarded(FIRST.index(name))
