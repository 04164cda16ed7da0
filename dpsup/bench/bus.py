# SPDX-License-Identifier: BSD-3-Clause
"""Case `bus`: what it costs the data plane that three subscribers read statistics ten times a
second. One instance, subscribers stopped and continued in turn, so that nothing else differs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from dpsup.bench import child, rigs
from dpsup.bench.idle import used_ns
from dpsup.bench.meter import Meter
from dpsup.bench.model import Reading
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, Rig, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step
from dpsup.errors import DpsupError

SUBSCRIBERS = 3
SLICE_S = 0.5
SETTLE_S = 0.1
# An instance that waits for idle input looks at its counters ten times a second, and publishes.
TEN_HZ = ("--exit-when-idle", "1h")


@contextlib.contextmanager
def _subscribers(rig: Rig) -> Iterator[list[subprocess.Popen[bytes]]]:
    readers: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(SUBSCRIBERS):
            argv = [sys.executable, "-P", "-m", "dpsup.bench.reader", rig.name]
            readers.append(child.spawn(argv, output=subprocess.PIPE))
        for reader in readers:
            assert reader.stdout is not None
            if reader.stdout.readline() != b"following\n":
                raise DpsupError("a subscriber did not start")
        yield readers
    finally:
        with child.quiet():
            for reader in readers:
                child.end(reader, signal.SIGKILL)
                if reader.stdout is not None:
                    reader.stdout.close()


def _tell(readers: list[subprocess.Popen[bytes]], sig: signal.Signals) -> None:
    for reader in readers:
        reader.send_signal(sig)


def _slice(meter: Meter, pids: dict[str, int]) -> tuple[float, dict[str, float]]:
    """Packets a second, and the share of a CPU that each process used."""
    time.sleep(SETTLE_S)
    used, (at, packets) = used_ns(pids), meter.sent()
    time.sleep(SLICE_S)
    later, (now, total) = used_ns(pids), meter.sent()
    shares = {name: (later[name] - used[name]) / 1e9 / (now - at) for name in pids}
    return (total - packets) / (now - at), shares


def steps(setup: Setup) -> list[Step]:
    body = POOL + TWO_NULL + group("forward", setup.cores)
    turns = max(2, round(setup.seconds / SLICE_S))

    def run(watch: Watch) -> list[Reading]:
        losses, beyond, reading, supervising = [], [], [], []
        with (
            rigs.instance(body, setup.cores, *TEN_HZ) as rig,
            rig.meter() as meter,
            _subscribers(rig) as readers,
        ):
            pids = {
                "supervisor": rig.pids()["supervisor"],
                **{f"reader{i}": r.pid for i, r in enumerate(readers)},
            }
            for _ in range(turns):
                _tell(readers, signal.SIGSTOP)
                alone, _shares = _slice(meter, pids)
                _tell(readers, signal.SIGCONT)
                followed, shares = _slice(meter, pids)
                apart = watch.polled()
                if apart is not None:
                    watch.during(apart)
                mine = sum(share for name, share in shares.items() if name != "supervisor")
                loss = 1 - followed / alone
                losses.append(loss)
                beyond.append(loss - mine)
                reading.append(mine)
                supervising.append(shares["supervisor"])
        return [
            Reading("bus/loss", median(losses), "", "lower", tuple(losses)),
            Reading("bus/loss_beyond", median(beyond), "", "lower", tuple(beyond)),
            Reading("bus/readers_cpu", median(reading), "", "lower", tuple(reading)),
            Reading("bus/supervisor_cpu", median(supervising), "", "lower", tuple(supervising)),
        ]

    return [Step("bus", run)]
