# SPDX-License-Identifier: BSD-3-Clause
"""An instance's seeds and EAL's shared state under test: processes that attach, killed or stopped
where it hurts, and the locks that they leave."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import PATIENCE, Run
from ptrace import Gone, Traced

import dpsup
from dpsup._shim import lib
from dpsup.host.process import start_ticks
from dpsup.supervisor import seed

WORDS = 64  # at the start of EAL's shared configuration, the locks among them


def eal_folder(name: str, generation: int = 1) -> Path:
    return Path("/var/run/dpdk", f"dpsup-{name}-g{generation}")


class Config:
    """The head of EAL's shared configuration, whatever its layout is."""

    def __init__(self, name: str) -> None:
        # Not mapped: whoever has it mapped may hold a lock.
        self._file = (eal_folder(name) / "config").open("rb", buffering=0)
        self.free = self.words()

    def words(self) -> tuple[int, ...]:
        return struct.unpack(f"{WORDS}I", os.pread(self._file.fileno(), WORDS * 4, 0))

    def held(self) -> dict[int, int]:
        """What differs from when nobody held a lock, by index."""
        now = zip(self.words(), self.free, strict=True)
        return {i: word for i, (word, free) in enumerate(now) if word != free}


def attach_arguments(
    instance: Run, folder: Path, changed: dict[str, str] | None = None
) -> list[str]:
    """The command of a seed that nobody ordered, with some of its arguments changed."""
    primary = instance.status()["primary"]["pid"]
    arguments = {
        "socket": str(folder / "seed.sock"),
        "file-prefix": f"dpsup-{instance.name}-g1",
        "lcores": "126@0",
        "name": instance.name,
        "dpdk": dpsup._build.DPDK_VERSION,
        "generation": "1",
        "primary": str(primary),
        "primary-start": str(start_ticks(primary)),
        "abi": str(int(lib.DPS_ABI_VERSION)),
        **(changed or {}),
    }
    return [
        str(seed.WORKER_PROGRAM),
        *(w for k, v in arguments.items() for w in (f"--{k}", v)),
    ]


def run_to(traced: Traced, condition: Callable[[], Any], syscalls: int = 20000) -> bool:
    """Run an attaching process until a condition holds at one of its system calls; False if it is
    through before."""
    for _ in range(syscalls):
        if condition():
            return True
        try:
            traced.to_syscall()
        except Gone:
            return False
    return False


def own_processes(name: str) -> list[int]:
    """Seeds, workers and spares of an instance that have not ended."""
    program = seed.WORKER_PROGRAM.stat()
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            file = (one / "exe").stat()
            if (file.st_dev, file.st_ino) == (program.st_dev, program.st_ino):
                words = (one / "cmdline").read_bytes().decode(errors="replace")
                if f"dpsup-{name}-g" in words or f"dpsup-worker: {name} " in words:
                    found.append(int(one.name))
    return found


def zombies(parent: int) -> list[int]:
    found = []
    for pid in children(parent):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                found.append(pid)
    return found


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
        return words[0] == str(seed.WORKER_PROGRAM).encode() and b"--socket" in words
    return False


def next_seed(parent: int, old: int, seconds: float = 3 * PATIENCE) -> int:
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
