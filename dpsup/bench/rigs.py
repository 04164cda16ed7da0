# SPDX-License-Identifier: BSD-3-Clause
"""dpsup instances to measure: real ones, under private names, that end with the bench."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup.bench.host import Cores
from dpsup.bench.meter import Meter
from dpsup.bus.messages import as_exception
from dpsup.errors import DpsupError
from dpsup.host import tied
from dpsup.instance import runtime_dir
from dpsup.instance.client import Instance, connect
from dpsup.supervisor import launch

if TYPE_CHECKING:
    from dpsup.documents.events import Event

STEM = "bench"
STOP_S = 30.0
WARM_S = 0.3
_serial = itertools.count()

HEAD = """version = 1
name = "{name}"
[host]
supervisor_cores = "{supervisor}"
shared_cores = true
"""

POOL = """[mempools.default]
mbufs = 16383
"""

TWO_NULL = """[[ports]]
name = "wan"
vdev = "net_null0"
[[ports]]
name = "lan"
vdev = "net_null1"
"""

# Two ports that receive nothing.
TWO_SILENT = """[[ports]]
name = "wan"
vdev = "net_ring0"
[[ports]]
name = "lan"
vdev = "net_ring1"
"""


def group(plugin: str, cores: Cores, *, count: int = 1, most: int = 1, more: str = "") -> str:
    """An io core and a group of workers between `wan` and `lan`, both ways; all workers share the
    one core that is meant for them."""
    return f"""[[io]]
cores = "{cores.io}"
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ map = {{ wan = "lan", lan = "wan" }} }}
input = ["wan", "lan"]
count = {count}
max = {most}
cores = "{cores.worker}"
{more}"""


@dataclass
class Rig:
    """A running instance."""

    name: str
    instance: Instance
    launched_ns: int  # CLOCK_MONOTONIC just before the process was created
    ready_ns: int  # when it said that all is ready
    child: subprocess.Popen[bytes]

    def pids(self) -> dict[str, int]:
        doc = self.instance.status()
        seed = doc["seed"]
        found = {
            "supervisor": doc["supervisor"]["pid"],
            "primary": doc["primary"]["pid"],
            "seed": seed["pid"] if seed else None,
        }
        for one in (w for g in doc["groups"] for w in g["workers"]):
            found[one["id"]] = one["pid"]
        return {name: pid for name, pid in found.items() if pid}

    @contextlib.contextmanager
    def meter(self, ports: int = 2) -> Iterator[Meter]:
        """A meter of what the first `ports` ports send, once packets flow."""
        prefix = f"dpsup-{self.name}-g{self.instance.status()['generation']}"
        meter = Meter(tied.eal_directory(prefix), ports, lambda: self.child.poll() is None)
        try:
            meter.wait_for_traffic()
            time.sleep(WARM_S)
            yield meter
        finally:
            meter.close()

    def events(self, since: int = 0) -> list[Event]:
        return self.instance.events(since=since)

    def last_event(self) -> int:
        found = self.events()
        return int(found[-1]["seq"]) if found else 0


Prepare = Callable[[Path], None]


def nothing(_: Path) -> None:
    pass


@contextlib.contextmanager
def instance(body: str, cores: Cores, *options: str, prepare: Prepare = nothing) -> Iterator[Rig]:
    """Start the topology `body` (all but version, name and host), wait until it is ready, and end
    it. It runs in the foreground of a child that the kernel stops if this process dies. `prepare`
    creates the files that it needs, in the topology's directory."""
    name = f"{STEM}{os.getpid()}-{next(_serial)}"
    with tempfile.TemporaryDirectory(prefix=f"{tied.PREFIX}{os.getpid()}-") as directory:
        file = Path(directory) / "topology.toml"
        file.write_text(HEAD.format(name=name, supervisor=cores.supervisor) + body)
        prepare(file.parent)
        ready_r, ready_w = os.pipe()
        argv = [sys.executable, "-P", "-m", "dpsup", "start", str(file)]
        argv += ["--ready-fd", str(ready_w), *options]
        launched = time.monotonic_ns()
        supervisor = tied.spawn(argv, sig=signal.SIGTERM, pass_fds=(ready_w,))
        os.close(ready_w)
        try:
            with os.fdopen(ready_r) as ready:
                line = ready.readline()
            at = time.monotonic_ns()
            if not line:
                raise DpsupError(f"an instance ended with exit code {supervisor.wait()}")
            word = json.loads(line)
            if not word["ok"]:
                raise as_exception(word["error"])
            with connect(name) as live:
                yield Rig(name, live, launched, at, supervisor)
        finally:
            with tied.quiet():
                _end(name, supervisor)


def _end(name: str, supervisor: subprocess.Popen[bytes]) -> None:
    tied.end(supervisor, patience=STOP_S)
    launch.clean(name)


def sweep_dead() -> None:
    """Instances of a bench that was killed: the kernel has asked them to stop."""
    for name, where in runtime_dir.instances().items():
        if tied.is_dead(name, rf"{STEM}(\d+)-\d+$") and not where.is_supervised():
            launch.clean(name)
