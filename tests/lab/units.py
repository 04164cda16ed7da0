# SPDX-License-Identifier: BSD-3-Clause
"""The shipped systemd unit, in a machine of the lab: one instance of it under test."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
from lab.guest import PATIENCE, sh

from dpsup import DpsupError, connect

SHIPPED = Path("/repo/deploy/systemd")
RUN = Path("/run/dpsup")
ETC = Path("/etc/systemd/system")
PROGRAM = Path("/usr/local/bin/dpsup")
SLICE = Path("/sys/fs/cgroup/system.slice/system-dpsup.slice")

TOPOLOGY = """
version = 1
name = "{name}"
[host]
shared_cores = true
[mempools.default]
mbufs = 8191
[[io]]
cores = "{io}"
idle = "adaptive"
[[workers]]
name = "fw"
plugin = "forward"
args = {{ map = {{ {wan} = "{lan}", {lan} = "{wan}" }} }}
input = ["{wan}", "{lan}"]
count = 2
max = 3
cores = "{cores}"
restart = {{ intensity = 100, backoff = {{ initial = "10ms", factor = 1 }} }}
"""


class Unit:
    """dpsup@NAME, from its topology to `systemctl`."""

    def __init__(self, name: str, topology: str) -> None:
        self.name = name
        self.unit = f"dpsup@{name}.service"
        self.file = Path(f"/etc/dpsup/{name}.toml")
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(topology)

    def ctl(self, verb: str, *options: str, check: bool = True) -> str:
        return sh("systemctl", verb, *options, self.unit, check=check)

    def show(self, what: str) -> str:
        return sh("systemctl", "show", "--value", "-p", what, self.unit).strip()

    def drop_in(self, text: str) -> None:
        """More of the unit, as an administrator adds it; `undo` takes it away again."""
        place = ETC / f"{self.unit}.d"
        place.mkdir(exist_ok=True)
        (place / "test.conf").write_text(text)
        sh("systemctl", "daemon-reload")

    def undo(self) -> None:
        place = ETC / f"{self.unit}.d"
        if place.exists():
            shutil.rmtree(place)
            sh("systemctl", "daemon-reload")

    def remove(self) -> None:
        self.undo()
        self.ctl("reset-failed", check=False)
        self.file.unlink(missing_ok=True)

    @property
    def main(self) -> int:
        return int(self.show("MainPID"))

    def status(self) -> dict[str, Any]:
        with connect(self.name) as live:
            return dict(live.status(timeout=PATIENCE))

    def runs(self, *states: str) -> dict[str, Any]:
        """Its status, once it is in one of these states, by default `running` with all workers."""

        def look() -> dict[str, Any] | None:
            with contextlib.suppress(DpsupError):
                told = self.status()
                workers = [w for g in told["groups"] for w in g["workers"]]
                full = sum(w["state"] == "running" for w in workers) >= sum(
                    g["desired"] for g in told["groups"]
                )
                if told["state"] in (states or ("running",)) and (states or full):
                    return told
            return None

        found: dict[str, Any] = harness.wait_for(look, PATIENCE, 0.5)
        return found

    def pids(self) -> list[int]:
        """What runs in the unit's control group, whatever systemd thinks of it."""
        found = []
        for file in (SLICE / self.unit).glob("**/cgroup.procs"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in file.read_text().split()]
        return found

    def left(self) -> list[str]:
        """What there is of the instance: processes, files, sockets, hugepages."""
        found = [f"{pid}: {command(pid)}" for pid in self.pids()]
        # The unit's directory is systemd's, and stays (RuntimeDirectoryPreserve=yes).
        empty = str(RUN / self.name) if not any((RUN / self.name).glob("*")) else ""
        return found + [one for one in harness.leftovers(self.name) if one != empty]

    def is_gone(self) -> None:
        """After `systemctl stop`: nothing runs, and nothing is left."""
        with contextlib.suppress(AssertionError):
            # The kernel takes a moment to let go of what was killed.
            harness.wait_for(lambda: not self.left(), 60, 0.5)
        left = self.left()
        assert not left, left


def command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return words.decode(errors="replace")
    return ""


def install() -> None:
    """As docs/systemd.md says."""
    for file in SHIPPED.iterdir():
        shutil.copy(file, ETC)
    if not PROGRAM.exists():
        PROGRAM.symlink_to("/dpsup/.venv/bin/dpsup")
    sh("systemctl", "daemon-reload")


def threads(pid: int) -> Iterator[tuple[str, int, int]]:
    """Each thread's name, scheduling policy and real-time priority."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            tid = int(task.name)
            priority = os.sched_getparam(tid).sched_priority
            yield (task / "comm").read_text().strip(), os.sched_getscheduler(tid), priority
