# SPDX-License-Identifier: BSD-3-Clause
"""Case `others`: other programs that move packets, in the same run as dpsup's own cases.

testpmd on one core (no hop), DPDK's ring_perf_autotest, and DPDK's example client_server_mp, whose
binaries docs/bench.md says how to build. All with two null ports and 64-byte packets, read by the
same meter as dpsup; under a private file prefix, of which nothing stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from dpsup.bench.meter import Meter, Segment, segments
from dpsup.bench.model import Reading
from dpsup.bench.path import throughput
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import WARM_S
from dpsup.bench.step import Setup, Step
from dpsup.errors import DpsupError, UsageError
from dpsup.host import tied

NULL_PORTS = ["--no-pci", "--vdev", "net_null0", "--vdev", "net_null1"]
RING_TEST_S = 120.0
ONE_CORE = "### Testing empty bulk deq ###"  # the test before
TWO_CORES = "### Testing using two physical cores ###"
RING_LINE = re.compile(r"(SP/SC|MP/MC): bulk \(size: (\d+)\): ([\d.]+)")
RING_LINES = 4  # SP/SC and MP/MC, 8 and 32 at a time
SERVER_READY_S = 20.0


def find(program: str, asked: str) -> str:
    """The path of a program, as asked or ("auto") as Debian installs it; "" if it is missing.
    Raises: UsageError if the path that was asked for is missing."""
    if asked == "auto":
        return shutil.which(program) or ""
    if not os.access(asked, os.X_OK) or Path(asked).is_dir():
        raise UsageError(f"no program {asked}", help=f"the path of {program}, or auto")
    return asked


def find_example(directory: str) -> str:
    """The directory, if client_server_mp's two programs are in it. Raises: UsageError if not."""
    for program in ("mp_server", "mp_client"):
        if not os.access(Path(directory) / program, os.X_OK):
            raise UsageError(
                f"no program {program} in {directory}", help="docs/bench.md says how to build it"
            )
    return directory


def _prefix(stem: str) -> str:
    return f"{tied.PREFIX}{os.getpid()}-{stem}"


@contextlib.contextmanager
def _running(argv: list[str], prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """A DPDK program; if it fails, the error has its output."""
    # A pipe that stays open keeps testpmd from ending at the end of its input.
    process = tied.spawn(argv, stdin=subprocess.PIPE, output=subprocess.DEVNULL)
    try:
        yield process
    finally:
        with tied.quiet():
            tied.end(process)
            tied.sweep(prefix)


def _testpmd(setup: Setup, mode: str) -> Step:
    cores = setup.cores

    def run(watch: Watch) -> list[Reading]:
        prefix = _prefix("testpmd")
        argv = [
            setup.testpmd, "-l", f"{cores.io},{cores.worker}", "--main-lcore", str(cores.worker),
            "--in-memory", f"--file-prefix={prefix}", "-m", "256", *NULL_PORTS, "--",
            f"--forward-mode={mode}", "--nb-cores=1", "--auto-start", "--no-mlockall",
            "--total-num-mbufs=16384",
        ]  # fmt: skip
        with _running(argv, prefix) as process:
            found = _measure(prefix, [process], setup.seconds, watch)
        return throughput(f"others/testpmd_{mode}", found, one_core=True)

    return Step(f"others/testpmd_{mode}", run)


def _measure(
    prefix: str, processes: list[subprocess.Popen[bytes]], seconds: float, watch: Watch
) -> list[Segment]:
    def alive() -> bool:
        return all(p.poll() is None for p in processes)

    meter = Meter(tied.eal_directory(prefix), 2, alive)
    try:
        meter.wait_for_traffic()
        time.sleep(WARM_S)
        watch.threads([p.pid for p in processes])
        found = segments(meter.sent, seconds, watch.polled)
        watch.threads_done()
    finally:
        meter.close()
    return found


def _client_server(setup: Setup) -> Step:
    cores = setup.cores

    def run(watch: Watch) -> list[Reading]:
        prefix = _prefix("csmp")
        directory = Path(setup.client_server_mp)
        common = [f"--file-prefix={prefix}", *NULL_PORTS[:1]]
        server = [
            str(directory / "mp_server"), "-l", str(cores.io), *common, *NULL_PORTS[1:],
            "--proc-type=primary", "-m", "256", "--", "-p", "3", "-n", "1",
        ]  # fmt: skip
        client = [
            str(directory / "mp_client"), "-l", str(cores.worker), *common,
            "--proc-type=secondary", "--", "-n", "0",
        ]  # fmt: skip
        with _running(server, prefix) as first:
            _wait_for_server(prefix, first)
            with _running(client, prefix) as second:
                found = _measure(prefix, [first, second], setup.seconds, watch)
        return throughput("others/client_server_mp", found)

    return Step("others/client_server_mp", run)


def _wait_for_server(prefix: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until its telemetry answers and it has taken packets from its ports: then the ring and
    the pool that the client looks up exist."""
    meter = Meter(tied.eal_directory(prefix), 2, lambda: server.poll() is None)
    try:
        tied.wait_for(
            lambda: bool((meter.ask("/ethdev/stats,0") or {}).get("ipackets")),
            SERVER_READY_S,
            "mp_server to receive packets",
        )
    finally:
        meter.close()


def ring_lines(text: str) -> dict[str, float]:
    """Cycles an element, both cores' together, of ring_perf_autotest between two physical cores:
    the first such section, which is of 8-byte elements. {"spsc_bulk32": …}"""
    _, found, after = text.partition(TWO_CORES)
    if not found:
        return {}
    section = after.partition("###")[0]
    return {
        f"{kind.replace('/', '').lower()}_bulk{size}": float(cycles)
        for kind, size, cycles in RING_LINE.findall(section)
    }


def _ring_perf(setup: Setup) -> Step:
    cores = setup.cores

    def run(watch: Watch) -> list[Reading]:
        prefix = _prefix("ring")
        argv = [
            setup.dpdk_test, "-l", f"{cores.io},{cores.worker}", "--in-memory", "--no-pci",
            f"--file-prefix={prefix}", "-m", "128",
        ]  # fmt: skip
        # Its standard output is a pipe: without stdbuf nothing comes before the very end.
        stdbuf = shutil.which("stdbuf")
        process = tied.spawn(
            [*([stdbuf, "-oL"] if stdbuf else []), *argv],
            output=subprocess.PIPE,
            env={**os.environ, "DPDK_TEST": "ring_perf_autotest"},
        )
        try:
            text, apart = _follow_ring_test(process, watch)
        finally:
            with tied.quiet():
                process.kill()
                process.communicate()
                tied.sweep(prefix)
        found = ring_lines(text)
        if "spsc_bulk32" not in found:
            tail = "\n".join(text.splitlines()[-5:])
            raise DpsupError(f"dpdk-test printed no figures for two cores:\n{tail}")
        return [
            Reading(f"others/ring_perf/{name}", cycles, "cycles", "lower", apart=apart)
            for name, cycles in found.items()
        ]

    return Step("others/ring_perf", run)


def _follow_ring_test(
    process: subprocess.Popen[bytes], watch: Watch
) -> tuple[str, tuple[float, ...]]:
    """Its output up to the figures for two cores, and how far apart the cores were right before
    and after those: the test before and the one after use one core, or do not count here."""
    text = ""
    apart: list[float] = []
    deadline = time.monotonic() + RING_TEST_S
    assert process.stdout is not None
    for raw in process.stdout:
        line = raw.decode(errors="replace")
        text += line
        done = len(ring_lines(text)) == RING_LINES
        if done or ONE_CORE in line:
            distance = watch.polled()
            apart += [] if distance is None else [distance]
        if done or time.monotonic() > deadline:
            break
    return text, tuple(apart)


def steps(setup: Setup) -> list[Step]:
    found = []
    if setup.testpmd:
        found += [_testpmd(setup, "io"), _testpmd(setup, "macswap")]
    else:
        setup.notes.append("no dpdk-testpmd found: left out (--testpmd PATH)")
    if setup.client_server_mp:
        found.append(_client_server(setup))
    else:
        setup.notes.append("client_server_mp left out: --client-server-mp DIR, see docs/bench.md")
    if setup.dpdk_test:
        found.append(_ring_perf(setup))
    else:
        setup.notes.append("no dpdk-test found: left out (--dpdk-test PATH)")
    return found
