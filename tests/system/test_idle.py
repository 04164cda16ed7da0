# SPDX-License-Identifier: BSD-3-Clause
"""`idle = "adaptive"` gives the CPU back, `idle = "poll"` does not. How much and how fast it wakes
is measured by `dpsup bench idle`; here the bounds are wide."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from harness import Run, wait_for

from dpsup import connect

# A memif that nobody is connected to: nothing ever comes.
SILENT = """
[[ports]]
name = "wan"
vdev = "net_memif0,role=server,socket={socket},socket-abstract=no"
[[io]]
cores = "1"
idle = "{idle}"
[[workers]]
name = "fw"
plugin = "forward"
input = ["wan"]
count = 1
"""


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(instance: Run, idle: str) -> None:
    instance.start(SILENT.format(socket=instance.folder / "memif", idle=idle))


def watch(instance: Run, pid: int, counter: str, growth: int) -> tuple[float, dict[str, Any]]:
    """Until an io counter has grown by so much and a second has passed: the process's share of a
    CPU in that time, and the io core's counters."""
    with connect(instance.name) as live:

        def io() -> dict[str, Any]:
            return live.stats()["io"][0]

        begin, used, first = time.monotonic(), cpu_seconds(pid), io()[counter]
        wait_for(lambda: io()[counter] > first + growth and time.monotonic() > begin + 1, step=0.1)
        return (cpu_seconds(pid) - used) / (time.monotonic() - begin), io()


def test_adaptive_io_core_and_worker_sleep_when_nothing_comes(instance: Run) -> None:
    start(instance, "adaptive")
    doc = instance.status()
    share, _ = watch(instance, doc["primary"]["pid"], "sleeps", 1000)
    assert share < 0.6
    share, _ = watch(instance, instance.worker("fw/0")["pid"], "sleeps", 1000)
    assert share < 0.6


def test_polling_io_core_never_sleeps(instance: Run) -> None:
    start(instance, "poll")
    share, io = watch(instance, instance.status()["primary"]["pid"], "loops", 100_000)
    assert io["sleeps"] == 0
    print(f"polling: {share:.0%} of a CPU")
