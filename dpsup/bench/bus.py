# SPDX-License-Identifier: BSD-3-Clause
"""Case `bus`: what three subscribers that read statistics ten times a second cost the data plane.
It runs one instance, and stops and continues the subscribers in turn, so that nothing else
differs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from dpsup.bench import rigs
from dpsup.bench.idle import used_ns
from dpsup.bench.meter import Meter
from dpsup.bench.model import Reading, Regime, regime_of
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, Rig, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step
from dpsup.errors import DpsupError
from dpsup.host import tied

SUBSCRIBERS = 3
SLICE_S = 0.2
TURNS = 10  # for each of --seconds; half a second each: a small loss wants many
SETTLE_S = 0.05
# An instance that waits for idle input looks at its counters ten times a second, and publishes.
TEN_HZ = ("--exit-when-idle", "1h")


@contextlib.contextmanager
def _subscribers(rig: Rig) -> Iterator[list[subprocess.Popen[bytes]]]:
    readers: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(SUBSCRIBERS):
            argv = [sys.executable, "-P", "-m", "dpsup.bench.reader", rig.name]
            readers.append(tied.spawn(argv, output=subprocess.PIPE))
        for reader in readers:
            assert reader.stdout is not None
            if reader.stdout.readline() != b"following\n":
                raise DpsupError("a subscriber did not start")
        yield readers
    finally:
        with tied.quiet():
            for reader in readers:
                tied.end(reader, signal.SIGKILL)
                if reader.stdout is not None:
                    reader.stdout.close()


def _tell(readers: list[subprocess.Popen[bytes]], sig: signal.Signals) -> None:
    for reader in readers:
        reader.send_signal(sig)


@dataclass(slots=True)
class _Turn:
    """Throughput without and with subscribers, one right after the other."""

    loss: float  # share of the packets
    readers: float  # share of a CPU that they used
    supervisor: float  # the same of the supervisor, while it had subscribers
    apart: tuple[float, ...] = ()


def _turn(
    meter: Meter, readers: list[subprocess.Popen[bytes]], pids: dict[str, int], *, first: bool
) -> _Turn:
    """`first`: measure with subscribers first, so that a drift affects both orders."""
    rates: dict[bool, float] = {}
    shares: dict[str, float] = {}
    for on in (first, not first):
        _tell(readers, signal.SIGCONT if on else signal.SIGSTOP)
        rates[on], used = _slice(meter, pids)
        if on:
            shares = used
    mine = sum(share for name, share in shares.items() if name != "supervisor")
    return _Turn(1 - rates[True] / rates[False], mine, shares["supervisor"])


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
    turns = max(2, round(setup.seconds * TURNS))

    def run(watch: Watch) -> list[Reading]:
        found: dict[Regime, list[_Turn]] = {}
        with (
            rigs.instance(body, setup.cores, *TEN_HZ) as rig,
            rig.meter() as meter,
            _subscribers(rig) as readers,
        ):
            pids = {
                "supervisor": rig.pids()["supervisor"],
                **{f"reader{i}": r.pid for i, r in enumerate(readers)},
            }
            before = watch.polled()
            for i in range(turns):
                turn = _turn(meter, readers, pids, first=bool(i % 2))
                after = watch.polled()
                turn.apart = tuple(d for d in (before, after) if d is not None)
                found.setdefault(regime_of(turn.apart), []).append(turn)
                before = after
            _tell(readers, signal.SIGCONT)
        return [one for those in found.values() for one in _readings(those)]

    return [Step("bus", run)]


def _readings(turns: list[_Turn]) -> list[Reading]:
    apart = tuple(ns for t in turns for ns in t.apart)

    def reading(name: str, samples: list[float]) -> Reading:
        return Reading(f"bus/{name}", median(samples), "", "lower", tuple(samples), apart=apart)

    return [
        reading("loss", [t.loss for t in turns]),
        reading("loss_beyond", [t.loss - t.readers for t in turns]),
        reading("readers_cpu", [t.readers for t in turns]),
        reading("supervisor_cpu", [t.supervisor for t in turns]),
    ]
