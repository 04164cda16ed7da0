# SPDX-License-Identifier: BSD-3-Clause
"""The machine that a bench runs on: what it is, and how quiet it is.

/proc is read here, not by psutil: psutil has times in ticks of 10 ms, and no time that a thread
waited for a CPU.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from dpsup import _build
from dpsup.errors import HostError, UsageError
from dpsup.host.machine import parse_cpulist

HUGEPAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
TICKS = os.sysconf("SC_CLK_TCK")  # a second
STEAL = 8  # field of a cpu line in /proc/stat, proc(5)


class Cores(NamedTuple):
    """CPUs: of the io core, of the worker, and of everything in Python."""

    io: int
    worker: int
    supervisor: int


def choose_cores(asked: str | None, allowed: frozenset[int]) -> Cores:
    """The CPUs to measure on: as asked ("1,2": io core, worker), else the last two; Python's is
    another one, where there is one. Raises: UsageError, HostError."""
    if asked:
        try:
            io, worker = (int(c) for c in asked.split(","))
        except ValueError:
            raise UsageError(
                f'--cores "{asked}": two CPUs are wanted', help="--cores 1,2: io core, worker"
            ) from None
        strange = {io, worker} - allowed
        if strange or io == worker:
            raise UsageError(
                f"--cores {asked}: not two different CPUs that this process may use",
                help=f"it may use {', '.join(str(c) for c in sorted(allowed))}",
            )
    else:
        if len(allowed) < 2:
            raise HostError(
                "one CPU only: nothing that hops between cores can be measured",
                help="run it on a machine with two CPUs or more",
            )
        worker, io = sorted(allowed)[-2:]
    others = sorted(allowed - {io, worker})
    return Cores(io, worker, others[0] if others else worker)


def read_steal(cores: tuple[int, ...]) -> int:
    """Clock ticks that the host took from these CPUs since boot."""
    wanted = {f"cpu{c}" for c in cores}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    return sum(int(words[STEAL]) for words in lines if words and words[0] in wanted)


class Steal:
    """The share of these CPUs that the host gave to other machines, from now on."""

    def __init__(self, cores: tuple[int, ...]) -> None:
        self._cores = cores
        self._ticks = read_steal(cores)
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    @property
    def ticks(self) -> int:
        return read_steal(self._cores) - self._ticks

    @property
    def share(self) -> float:
        return self.ticks / max(self.seconds * TICKS * len(self._cores), 1.0)


def read_waits(pid: int) -> dict[int, tuple[int, int]]:
    """By thread: nanoseconds on a CPU, nanoseconds ready to run without one."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            ran, waited = (task / "schedstat").read_text().split()[:2]
        except OSError:
            continue
        found[int(task.name)] = (int(ran), int(waited))
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _pages(name: str) -> int:
    try:
        return int((HUGEPAGES / name).read_text())
    except (OSError, ValueError):
        return 0


def hypervisor() -> str:
    """The name that a hypervisor gives itself, "" on bare metal or where it is not told."""
    try:
        return Path("/sys/class/dmi/id/sys_vendor").read_text().strip()
    except OSError:
        found = re.search(r"^flags.*\bhypervisor\b", Path("/proc/cpuinfo").read_text(), re.M)
        return "a hypervisor" if found else ""


def describe(cores: Cores, asked: list[str]) -> dict[str, Any]:
    """What a report says about its machine. `cores` decide whether two reports compare."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["dpsup", "bench", *asked]),
        "cpu_model": _cpu_model(),
        "cpus": os.cpu_count(),
        "allowed": sorted(os.sched_getaffinity(0)),
        "isolated": sorted(_isolated()),
        "hypervisor": hypervisor(),
        "cores": cores._asdict(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "dpsup": _build.VERSION,
        "dpdk": _build.DPDK_VERSION,
        "hugepages": _pages("nr_hugepages"),
        "hugepages_free": _pages("free_hugepages"),
        "load_before": os.getloadavg()[0],
    }


def _isolated() -> frozenset[int]:
    try:
        return parse_cpulist(Path("/sys/devices/system/cpu/isolated").read_text())
    except OSError:
        return frozenset()
