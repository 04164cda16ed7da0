# SPDX-License-Identifier: BSD-3-Clause
"""Case `shared`: four workers on one core, against one worker on it."""

from __future__ import annotations

import time
from pathlib import Path

from dpsup.bench import rigs
from dpsup.bench.host import Cores
from dpsup.bench.meter import segments
from dpsup.bench.model import Reading
from dpsup.bench.path import throughput
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, Rig
from dpsup.bench.step import Setup, Step
from dpsup.packets.pcap import write_pcap
from dpsup.packets.traffic import Traffic

PORTS = 4
FLOWS = Traffic(flows=256, numbers=1)  # what each port sends repeatedly


def _io(cores: Cores) -> str:
    return f'[[io]]\ncores = "{cores.io}"\n'


def _ports(vdev: str) -> str:
    return "".join(f'[[ports]]\nname = "p{i}"\nvdev = "{vdev.format(i)}"\n' for i in range(PORTS))


def _group(name: str, cores: Cores, ports: list[int], count: int = 1) -> str:
    """Each port to its neighbour: 0 to 1, 1 to 0, 2 to 3."""
    way = ", ".join(f'p{i} = "p{i ^ 1}"' for i in ports)
    names = ", ".join(f'"p{i}"' for i in ports)
    return f"""[[workers]]
name = "{name}"
plugin = "forward"
args = {{ map = {{ {way} }} }}
input = [{names}]
count = {count}
max = {count}
cores = "{cores.worker}"
"""


def _one_group(cores: Cores, count: int) -> str:
    return _io(cores) + _group("fw", cores, list(range(PORTS)), count)


def _four_groups(cores: Cores) -> str:
    return _io(cores) + "".join(_group(f"fw{i}", cores, [i]) for i in range(PORTS))


def _least(rig: Rig, seconds: float) -> float:
    """The throughput of the slowest worker, against a fair share."""
    first = _received(rig)
    time.sleep(seconds)
    got = [last - before for before, last in zip(first, _received(rig), strict=True)]
    return min(got) * len(got) / sum(got) if sum(got) else 0.0


def _received(rig: Rig) -> list[int]:
    return [w["rx_packets"] for g in rig.instance.status()["groups"] for w in g["workers"]]


def steps(setup: Setup) -> list[Step]:
    """Groups of their own from null ports; one group from captures that are sent forever, as a
    null port's packets are of no flow, and one worker would get them all."""
    cores = setup.cores
    null = POOL + _ports("net_null{0}")
    flows = POOL + _ports("net_pcap{0},rx_pcap=flows.pcap,infinite_rx=1")

    def step(name: str, body: str, prepare: rigs.Prepare = rigs.nothing) -> Step:
        def run(watch: Watch) -> list[Reading]:
            with rigs.instance(body, cores, prepare=prepare) as rig, rig.meter(PORTS) as meter:
                found = segments(meter.sent, setup.seconds, watch.polled)
                least = _least(rig, setup.seconds / 2)
            return [
                *throughput(f"shared/{name}", found),
                Reading(f"shared/{name}/least", least, "×"),
            ]

        return Step(f"shared/{name}", run)

    def save(directory: Path) -> None:
        write_pcap(directory / "flows.pcap", FLOWS.frames())

    return [
        step("null/one", null + _one_group(cores, 1)),
        step("null/four groups", null + _four_groups(cores)),
        step("flows/one", flows + _one_group(cores, 1), save),
        step("flows/four of a group", flows + _one_group(cores, 4), save),
    ]
