# SPDX-License-Identifier: BSD-3-Clause
"""An instance's seeds and EAL's shared state under test: processes that attach, killed or stopped
where it hurts, and the locks that they leave."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import time
from pathlib import Path

from dpsup import supervisor

WORDS = 64  # at the start of EAL's shared configuration, the locks among them


def eal_folder(name: str, generation: int = 1) -> Path:
    return Path("/var/run/dpdk", f"dpsup-{name}-g{generation}")


class Config:
    """The head of EAL's shared configuration, whatever its layout is."""

    def __init__(self, name: str) -> None:
        fd = os.open(eal_folder(name) / "config", os.O_RDWR)
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        os.close(fd)
        self.free = self.words()

    def words(self) -> tuple[int, ...]:
        return tuple(memoryview(self._map)[: WORDS * 4].cast("I"))

    def held(self) -> dict[int, int]:
        """What differs from when nobody held a lock, by index."""
        now = zip(self.words(), self.free, strict=True)
        return {i: word for i, (word, free) in enumerate(now) if word != free}


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(c) for c in (task / "children").read_text().split()]
    return found


def is_seed(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[0] == str(supervisor.WORKER_PROGRAM).encode() and b"--socket" in words
    return False


def next_seed(parent: int, old: int, seconds: float = 30.0) -> int:
    """The pid of the supervisor's next seed, as early as can be."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in children(parent):
            if pid != old and is_seed(pid):
                return pid
        time.sleep(0.0005)
    raise AssertionError("no seed came")


def kill_seeds(
    parent: int, seed: int, kills: int, spread: float, config: Config
) -> list[dict[int, int]]:
    """Kill a supervisor's seeds one after the other, each within `spread` seconds of its start;
    what each one left held."""
    found = []
    chance = random.Random(kills)
    for _ in range(kills):
        with contextlib.suppress(ProcessLookupError):
            os.kill(seed, signal.SIGKILL)
        found.append(config.held())
        seed = next_seed(parent, seed)
        time.sleep(chance.random() * spread)
    return found
