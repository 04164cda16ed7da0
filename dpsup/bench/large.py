# SPDX-License-Identifier: BSD-3-Clause
"""Case `large`: up to 64 slots, 8 io cores, 16 ports, a pool of a million mbufs; each grows by
itself from an eighth, then all together, on ports that receive nothing. A time that grows faster
than its cause shows as an exponent above 1. On small machines processes share CPUs: figures then
say how times grow, not how fast dpsup is."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace

from dpsup.bench import rigs
from dpsup.bench.host import Cores
from dpsup.bench.model import Reading
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import Rig
from dpsup.bench.stats import growth, median
from dpsup.bench.step import Setup, Step
from dpsup.instance.runtime_dir import PLAN

TRIES = 6  # of what an instance can do repeatedly
DATA_ROOM = 256  # a million of the usual 2176 bytes would need more memory than most machines have


@dataclass(frozen=True, slots=True)
class Size:
    slots: int  # seats that are laid out
    workers: int  # that sit in them
    io: int
    ports: int
    mbufs: int


SMALL = Size(8, 4, 1, 2, (1 << 17) - 1)
TOP = Size(64, 64, 8, 16, (1 << 20) - 1)
SERIES: dict[str, list[Size]] = {
    "slots": [replace(SMALL, slots=8 << i) for i in range(4)],
    "workers": [replace(SMALL, slots=64, workers=8 << i) for i in range(4)],
    "io": [replace(SMALL, io=1 << i) for i in range(4)],
    "ports": [replace(SMALL, ports=2 << i) for i in range(4)],
    "mbufs": [replace(SMALL, mbufs=(1 << (17 + i)) - 1) for i in range(4)],
}
UNITS = {"start": "ms", "hugepages": "MiB", "rss": "MiB", "steer": "ms", "stats": "ms"}


def topology(size: Size, cores: Cores) -> str:
    """io cores and workers share the cores in use in turn; all ports feed one group."""
    names = [f"p{i}" for i in range(size.ports)]
    ports = "".join(
        f'[[ports]]\nname = "{name}"\nvdev = "net_ring{i}"\n' for i, name in enumerate(names)
    )
    io = f'[[io]]\ncores = "{cores.io}"\n' * size.io
    return f"""[mempools.default]
mbufs = {size.mbufs}
data_room = {DATA_ROOM}
{ports}{io}[[workers]]
name = "fw"
plugin = "forward"
input = {json.dumps(names)}
count = {size.workers}
max = {size.slots}
cores = "{cores.worker}"
"""


def _measure(rig: Rig, size: Size) -> dict[str, float]:
    steer, stats = [], []
    for n in range(TRIES):
        begin = time.monotonic_ns()
        # One worker less, one more: only the io cores' maps change.
        rig.instance.scale("fw", size.workers - (n + 1) % 2)
        steer.append(time.monotonic_ns() - begin)
        begin = time.monotonic_ns()
        rig.instance.stats()
        stats.append(time.monotonic_ns() - begin)
    processes = rig.instance.stats()["processes"]
    plan = json.loads((rig.instance.runtime.path / PLAN).read_text())
    return {
        "start": (rig.ready_ns - rig.launched_ns) / 1e6,
        "hugepages": plan["memory"]["total"] / (1 << 20),
        "rss": sum(p["rss_bytes"] for p in processes.values()) / (1 << 20),
        "steer": median(steer) / 1e6,
        "stats": median(stats) / 1e6,
    }


def _readings(name: str, found: dict[str, float], size: Size) -> list[Reading]:
    detail = asdict(size)
    return [
        Reading(f"large/{name}/{what}", value, UNITS[what], "lower", detail=detail)
        for what, value in found.items()
    ]


def steps(setup: Setup) -> list[Step]:
    def one(name: str, size: Size) -> tuple[list[Reading], dict[str, float]]:
        with rigs.instance(topology(size, setup.cores), setup.cores) as rig:
            found = _measure(rig, size)
        return _readings(name, found, size), found

    def step(what: str) -> Step:
        def run(_: Watch) -> list[Reading]:
            readings, points = [], []
            for size in SERIES[what]:
                more, found = one(f"{what}{getattr(size, what)}", size)
                readings += more
                points.append(found)
            sizes = [getattr(size, what) for size in SERIES[what]]
            for key in UNITS:
                exponent = growth(sizes, [found[key] for found in points])
                if exponent is not None:
                    readings.append(Reading(f"large/{what}/{key}/exponent", exponent, "", "lower"))
            return readings

        return Step(f"large/{what}", run, rounds=1)

    def top(_: Watch) -> list[Reading]:
        return one("all", TOP)[0]

    return [*(step(what) for what in SERIES), Step("large/all", top, rounds=1)]
