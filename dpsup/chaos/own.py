# SPDX-License-Identifier: BSD-3-Clause
"""Chaos's own topology, traffic and directory, so that every packet can be checked.

It checks what net_pcap wrote once that is complete: at the end, when the primary dies, and when
the file has become large; then the next leg begins.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsup.chaos.report import Found
from dpsup.errors import DpsupError, TimedOut
from dpsup.host import process
from dpsup.host.tied import sweep_dead, tied
from dpsup.instance.client import connect
from dpsup.packets.pcap import read_pcap, write_pcap
from dpsup.packets.traffic import Traffic, check

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.status import Summary

PREFIX = "dpsup-chaos-"  # of temporary directories; the pid follows
LEG_BYTES = 1 << 30
START_S = 120.0
STOP_S = 90.0
DRAIN_S = 20.0  # a worker that is stopped or hangs delays the end
SPARES = 2
CYCLES = 20_000  # TSC cycles a packet: some 8 µs, so that bursts are in hand

TOPOLOGY = """
version = 1
name = "{name}"
[host]
shared_cores = true
[mempools.default]
mbufs = 16383
[[ports]]
name = "wan"
vdev = "net_pcap_chaos0,rx_pcap=in.pcap,infinite_rx=1,tx_pcap=out.pcap"
[[io]]
cores = "{core}"
[[workers]]
name = "fw"
plugin = "delay"
args = {{ cycles = {cycles}, rewrite = true, hang = true }}
input = ["wan"]
count = 2
spares = {spares}
on_full = "hold"
restart = {{ intensity = 1000000, backoff = {{ initial = "1ms", factor = 1 }} }}
health = {{ stall_after = "200ms" }}
"""


@dataclass(slots=True)
class _Run:
    """A supervisor in the foreground."""

    child: subprocess.Popen[bytes]
    output: Path
    errors: Path


class Own:
    """The instance of one run; use it in a `with`."""

    def __init__(self, found: Found, say: Callable[[str], None]) -> None:
        self.found = found
        self.say = say
        self.name = found.name
        self.traffic = Traffic()
        sweep_dead(PREFIX)
        self._temporary = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")
        self.directory = Path(self._temporary.name)
        self.file = self.directory / "chaos.toml"
        self._out = self.directory / "out.pcap"
        self._run: _Run | None = None
        self._runs = 0
        self._torn: Path | None = None  # the output of a primary that may be killed

    def __enter__(self) -> Own:
        self.file.write_text(
            TOPOLOGY.format(
                name=self.name,
                core=max(os.sched_getaffinity(0)),
                cycles=CYCLES,
                spares=SPARES,
            )
        )
        write_pcap(self.directory / "in.pcap", self.traffic.frames())
        return self

    def __exit__(self, *_: object) -> None:
        from dpsup.supervisor import launch

        try:
            if self._run is not None and self._run.child.poll() is None:
                self._run.child.kill()
                self._run.child.wait()
            launch.clean(self.name)
        finally:
            self._temporary.cleanup()

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a supervisor, and wait until all is ready. Raises: DpsupError with its message."""
        self._runs += 1
        output = self.directory / f"{self._runs}.json"
        errors = self.directory / f"{self._runs}.log"
        argv = [sys.executable, "-P", "-m", "dpsup", "start", str(self.file), "-o", "json"]
        argv = tied(argv, signal.SIGTERM)
        with output.open("wb") as out, errors.open("wb") as err:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self._run = _Run(child, output, errors)
        deadline = time.monotonic() + START_S
        while not self._is_running():
            if child.poll() is not None:
                raise DpsupError(f"chaos's own instance did not start:\n{self._words()}")
            if time.monotonic() > deadline:
                raise TimedOut(f"chaos's own instance is not ready:\n{self._words()}")
            time.sleep(0.05)

    def _words(self) -> str:
        return self._run.errors.read_text(errors="replace")[-2000:] if self._run else ""

    def _is_running(self) -> bool:
        try:
            with connect(self.name) as instance:
                doc = instance.status()
        except DpsupError:
            return False
        return bool(doc["state"] == "running" and doc["groups"][0]["spares_ready"])

    def restart(self) -> None:
        """Start a supervisor after the last one's death. No other code has to know whether it
        adopts the primary or ends it."""
        if self._run is not None:
            self._run.child.wait()
        before = self._primary()
        self.start()
        if self._torn is not None and self._primary() == before:
            # No new file was created: this one continues.
            self._torn.rename(self._out)
            self._torn = None
        else:
            self.check_torn()

    def _primary(self) -> Any:
        with connect(self.name) as instance:
            state = instance.runtime.read_state()
        return state.primary if state else None

    # --- output ----------------------------------------------------------------------------------

    def before_primary(self) -> None:
        """Keep the output file, which the next primary would empty."""
        self._torn = self.directory / "torn.pcap"
        self._out.rename(self._torn)

    def check_torn(self) -> None:
        if self._torn is not None:
            self.found.count.add(check(self.traffic, read_pcap(self._torn, torn=True), None))
            self._torn.unlink()
            self._torn = None

    def is_full(self) -> bool:
        return self._out.exists() and self._out.stat().st_size > LEG_BYTES

    def finish(self) -> None:
        """Stop, and compare what went in with what came out."""
        self.check_torn()
        summary = self._stop()
        self.say(f"checking {summary['received']} packets")
        count = check(self.traffic, read_pcap(self._out), summary["received"])
        self.found.count.add(count)
        self.found.dropped.update(summary["dropped"])
        self.found.note_audit(summary["audit"])
        if summary["in_flight"] or summary["lost"]:
            self.found.problems.append(
                f"by the counters: {summary['in_flight']} packets in flight after the end, "
                f"{summary['lost']} lost"
            )
        self._out.unlink()

    def _stop(self) -> Summary:
        run = self._run
        assert run is not None
        with connect(self.name) as instance:
            instance.stop(DRAIN_S)
        try:
            code = run.child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            state = process.identify(run.child.pid)
            process.kill(state)
            raise TimedOut(f"chaos's own instance does not end:\n{self._words()}") from None
        if code != 0:
            raise DpsupError(f"chaos's own instance ended with {code}:\n{self._words()}")
        summary: Summary = json.loads(run.output.read_text())
        return summary
