# SPDX-License-Identifier: BSD-3-Clause
"""Case `idle`: the CPU that an instance without traffic uses, and how long the first packet after
an idle time takes, from a raw socket over veth, net_af_packet and dpsup to another raw socket. For
scale, the same over one veth without dpsup."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator

from dpsup.bench import rigs
from dpsup.bench.host import read_waits
from dpsup.bench.model import Reading
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step
from dpsup.errors import HostError
from dpsup.host.tied import is_dead, quiet

# IEEE's EtherType for experiments: no stack answers it.
FRAME = bytes.fromhex("02000000000202000000000188b5") + bytes(50)
ETH_P_ALL = 0x0003
PACKETS = 100
PAUSE_S = 0.02  # long enough for everything to have gone to sleep
LONG_PACKETS = 20
LONG_PAUSE_S = 1.0  # and to have found its deepest
QUIET_S = 2.0
SETTLE_S = 0.5
PATIENCE_S = 10.0
STEM = "dpb"  # an interface's name has 15 bytes at most
_serial = itertools.count()


def _ip(*argv: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise HostError(
            f"no veth: ip {' '.join(argv)}: {done.stderr.strip()}",
            help="the case `idle` needs iproute2 and a kernel with veth",
        )


@contextlib.contextmanager
def veth() -> Iterator[tuple[str, str]]:
    """A pair of interfaces on which the kernel sends nothing by itself."""
    stem = f"{STEM}{os.getpid()}"
    number = next(_serial)
    pair = (f"{stem}a{number}", f"{stem}b{number}")
    try:
        _ip("link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
        for name in pair:
            _ip("link", "set", name, "addrgenmode", "none")
            _ip("link", "set", name, "up", "promisc", "on")
        yield pair
    finally:
        with quiet():
            _ip("link", "del", pair[0], check=False)


def sweep_dead() -> None:
    """Interfaces of a bench that was killed."""
    for _, name in socket.if_nameindex():
        if is_dead(name, rf"{STEM}(\d+)a\d$"):
            _ip("link", "del", name, check=False)


@contextlib.contextmanager
def _raw(device: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as s:
        s.bind((device, ETH_P_ALL))
        s.settimeout(PATIENCE_S)
        yield s


def microseconds(
    out: socket.socket, back: socket.socket, packets: int, pause: float
) -> list[float]:
    """The time of each packet from one socket to the other, with a pause before each."""
    times = []
    for _ in range(packets):
        if pause:
            time.sleep(pause)
        start = time.perf_counter_ns()
        out.send(FRAME)
        while back.recv(2048)[:14] != FRAME[:14]:
            pass
        times.append((time.perf_counter_ns() - start) / 1000)
    return times


def used_ns(pids: dict[str, int]) -> dict[str, int]:
    """Nanoseconds on a CPU that each process has used: ticks are too coarse for sleepers."""
    return {name: sum(ran for ran, _ in read_waits(pid).values()) for name, pid in pids.items()}


def cpu_shares(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """The share of a CPU that each process uses from now on."""
    before, start = used_ns(pids), time.monotonic_ns()
    time.sleep(seconds)
    after, length = used_ns(pids), time.monotonic_ns() - start
    return {name: (after[name] - before[name]) / length for name in pids}


def _topology(setup: Setup, wan: str, lan: str) -> str:
    ports = "".join(
        f'[[ports]]\nname = "{name}"\nvdev = "net_af_packet{i},iface={device}"\n'
        for i, (name, device) in enumerate((("wan", wan), ("lan", lan)))
    )
    return POOL + ports + group("forward", setup.cores)


def _wake(name: str, times: list[float]) -> Reading:
    return Reading(f"idle/{name}", median(times), "us", "lower", tuple(times))


def steps(setup: Setup) -> list[Step]:
    # Each takes a second: fewer, if measurements are to be shorter than that.
    long_packets = max(3, round(LONG_PACKETS * min(1.0, setup.seconds)))

    def run(_: Watch) -> list[Reading]:
        with veth() as wan, veth() as lan:
            body = _topology(setup, wan[0], lan[0])
            with rigs.instance(body, setup.cores) as rig:
                time.sleep(SETTLE_S)
                shares = cpu_shares(rig.pids(), QUIET_S)
                with _raw(wan[1]) as out, _raw(lan[1]) as back:
                    microseconds(out, back, 20, 0)
                    first = microseconds(out, back, PACKETS, PAUSE_S)
                    late = microseconds(out, back, long_packets, LONG_PAUSE_S)
                    flow = microseconds(out, back, PACKETS, 0)
            with _raw(wan[0]) as out, _raw(wan[1]) as back:
                bare = microseconds(out, back, PACKETS, PAUSE_S)
        return [
            Reading("idle/cpu", sum(shares.values()), "", "lower", detail=shares),
            _wake("wake", first),
            _wake("wake_1s", late),
            _wake("awake", flow),
            _wake("veth_alone", bare),
        ]

    return [Step("idle", run)]
