#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What an idle instance costs, and how long the first packet after an idle time takes.

    python tests/bench/idle.py [--packets 200] [--pause 0.02] [--realtime]

As root, with dpsup installed beside this Python. dpsup forwards between two veths; a frame is sent
on the far end of one and awaited on the far end of the other. Each figure is for a pause before
each frame, when all have gone to sleep, and for frames that follow each other at once. For scale:
the same over one veth, without dpsup. Prints figures and judges none. On a machine that has other
work to do, --realtime shows what dpsup does by itself: primary, worker and this program run with
SCHED_FIFO; not with `idle = "poll"`, which would take the CPUs from everybody.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from socket import socket

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import Run, run
from netns import Host, raw_socket, sh, two_hosts

TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_af_packet0,iface={wan}"
[[ports]]
name = "lan"
vdev = "net_af_packet1,iface={lan}"
[[io]]
cores = "1"
idle = "{idle}"
[[workers]]
name = "fw"
plugin = "forward"
args = {{ map = {{ wan = "lan", lan = "wan" }} }}
input = ["wan", "lan"]
count = 1
"""

FRAME = bytes.fromhex("02000000000202000000000188b5") + bytes(50)


def microseconds(out: socket, back: socket, packets: int, pause: float) -> list[float]:
    """The time of each packet from one socket to the other."""
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


def show(what: str, times: list[float]) -> None:
    ordered = sorted(times)
    print(
        f"{what:34} min {ordered[0]:6.0f}  median {statistics.median(ordered):6.0f}  "
        f"p90 {ordered[len(ordered) * 9 // 10]:6.0f}  max {ordered[-1]:6.0f} µs"
    )


def cpu_shares(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """The share of a CPU that each process uses."""

    def used() -> dict[str, float]:
        # Nanoseconds on a CPU of each thread: ticks are too coarse for sleepers.
        return {
            name: sum(
                int((task / "schedstat").read_text().split()[0])
                for task in Path(f"/proc/{pid}/task").iterdir()
            )
            for name, pid in pids.items()
        }

    before, start = used(), time.monotonic_ns()
    time.sleep(seconds)
    after, length = used(), time.monotonic_ns() - start
    return {name: (after[name] - before[name]) / length for name in pids}


def prefer(pid: int) -> None:
    """All threads of a process before all ordinary ones; not what it starts: EAL's start does not
    end where all of its threads spin with the same real-time priority on one CPU."""
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), policy, os.sched_param(10))


def measure(idle: str, hosts: tuple[Host, Host], args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        instance = Run(f"idle{os.getpid()}", Path(folder))
        instance.start(TOPOLOGY.format(wan=hosts[0].port, lan=hosts[1].port, idle=idle))
        try:
            doc = instance.status()
            pids = {"primary": doc["primary"]["pid"], "supervisor": doc["supervisor"]["pid"]}
            pids["seed"] = doc["seed"]["pid"]
            pids["worker"] = doc["groups"][0]["workers"][0]["pid"]
            if args.realtime:
                for pid in (pids["primary"], pids["worker"]):
                    prefer(pid)
            shares = cpu_shares(pids, 3)
            print(f"{idle}: CPU when idle  ", end="")
            print("  ".join(f"{name} {share:.1%}" for name, share in shares.items()))
            with raw_socket(hosts[0]) as a, raw_socket(hosts[1]) as b:
                b.settimeout(10)
                microseconds(a, b, 20, 0)
                first = microseconds(a, b, args.packets, args.pause)
                show(f"{idle}: first after {args.pause * 1000:.0f} ms", first)
                show(f"{idle}: one after the other", microseconds(a, b, args.packets, 0))
        finally:
            run("stop", "-n", instance.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds of idling before each")
    parser.add_argument("--realtime", action="store_true")
    args = parser.parse_args()
    if args.realtime:
        prefer(os.getpid())
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    with two_hosts() as hosts:
        sh("ip", "link", "set", hosts[0].port, "promisc", "on")
        with raw_socket(hosts[0]) as far, raw_socket(None, hosts[0].port) as near:
            near.settimeout(10)
            show(f"a veth alone: after {args.pause * 1000:.0f} ms",
                 microseconds(far, near, args.packets, args.pause))  # fmt: skip
            show("a veth alone: one after the other", microseconds(far, near, args.packets, 0))
        measure("adaptive", hosts, args)
        if not args.realtime:
            measure("poll", hosts, args)


if __name__ == "__main__":
    main()
