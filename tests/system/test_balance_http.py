# SPDX-License-Identifier: BSD-3-Clause
"""Connections to four HTTP servers in IPIP, which a process of dpsup's probes: one server is
drained, one is killed, workers and that process are killed. Only the dead server's break."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import balancing
import pytest
from harness import Run, dies, pids_of, wait_for
from netns import Host, bridge, cable, sh, some_hosts

from dpsup import Instance, connect

pytestmark = [pytest.mark.system, pytest.mark.beside]

VIP = "10.99.0.200"
TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_af_packet0,iface={wan}"
[[ports]]
name = "lan"
vdev = "net_af_packet1,iface={lan}"
[[io]]
cores = "1"
[[workers]]
name = "balance"
plugin = "balance_tunnel"
args = {{ vips = "{vip}:80/tcp", port = "lan", source = "10.99.0.250", tunnel = "{tunnel}" }}
state = "auto"
bucket_state = "auto"
on_full = "hold"
count = 2
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
[workers.probe]
kind = "http"
path = "/health"
interval = "200ms"
timeout = "10s"
rise = 1
fall = 2
netns = "{near}"
[workers.tables.backends]
kind = "own"
key = "text8"
value = "mac+u16+ipv4"
entries = 100
bytes = "256KiB"
file = "backends.txt"
[workers.tables]
down = {{ kind = "exact", key = "text8", value = "text8", entries = 100 }}
[[chains]]
name = "line"
path = ["wan", "balance", "lan"]
"""


class Farm:
    """A client, four servers and their prober; the balancer between the client and the others."""

    def __init__(self, client: Host, servers: list[Host], tunnel: str) -> None:
        self.servers, self.tunnel = servers, tunnel
        self.processes = [self.serve(n) for n in range(len(servers))]
        # Any address: the balancer takes what comes.
        sh("ip", "-n", client.name, "neigh", "add", VIP, "lladdr", "02:00:00:00:00:aa", "dev",
           client.device)  # fmt: skip
        self._asking = client.popen(sys.executable, balancing.__file__, "ask", VIP)

    def serve(self, n: int) -> subprocess.Popen[str]:
        host = self.servers[n]
        for word in ("arp_ignore=1", "arp_announce=2"):
            host.run("sysctl", "-q", "-w", f"net.ipv4.conf.all.{word}")
        sh("ip", "-n", host.name, "addr", "replace", f"{VIP}/32", "dev", "lo")
        child = host.popen(sys.executable, balancing.__file__, "serve", f"web{n}", self.tunnel)
        assert child.stdout is not None
        assert child.stdout.readline() == "listening\n", child.communicate()[1]
        return child

    def names(self, new: int) -> tuple[list[str], list[str]]:
        """Who answers on the connections that there are, and on so many new ones."""
        asking = self._asking
        assert asking.stdin is not None and asking.stdout is not None
        asking.stdin.write(f"{new}\n")
        asking.stdin.flush()
        line = asking.stdout.readline()
        assert line, asking.communicate()[1]
        old, fresh = json.loads(line)
        return old, fresh


@contextlib.contextmanager
def farm(instance: Run, tunnel: str) -> Iterator[tuple[Farm, Instance]]:
    with (
        some_hosts(6) as (client, *servers, near),
        cable() as (lan, far),
        bridge(far, near.port, *(server.port for server in servers)),
    ):
        one = Farm(client, servers, tunnel)
        (instance.folder / "backends.txt").write_text(
            "".join(f"web{n} {s.mac},10,{s.ipv4}\n" for n, s in enumerate(servers))
        )
        names = {"wan": client.port, "lan": lan, "near": near.name, "tunnel": tunnel}
        instance.start(TOPOLOGY.format(vip=VIP, **names))
        with connect(instance.name) as live:
            yield one, live


@contextlib.contextmanager
def workers_die(live: Instance, every: float) -> Iterator[list[str]]:
    """One after the other, all the time; those that were killed."""
    ended, killed = threading.Event(), list[str]()

    def kill() -> None:
        with connect(live.name) as own:
            for n in itertools.cycle((0, 1)):
                if ended.wait(every):
                    return
                with contextlib.suppress(Exception):  # it is not back yet
                    own.kill(f"balance/{n}")
                    killed.append(f"balance/{n}")

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def counters(live: Instance) -> dict[str, tuple[int, ...]]:
    """Packets, bytes, new connections of each backend, of all workers; docs/functions/balance.md
    has these lines."""
    total: dict[str, tuple[int, ...]] = {}
    for worker in live.state("balance")["workers"]:
        for name, *numbers in struct.iter_unpack("<8s3Q", bytes.fromhex(worker["hex"])):
            if name[0]:
                key = name.rstrip(b"\0").decode()
                total[key] = tuple(map(sum, zip(total.get(key, (0, 0, 0)), numbers, strict=True)))
    return total


def only_the_dead_break(instance: Run, tunnel: str, connections: int, every: float) -> None:
    with farm(instance, tunnel) as (web, live):

        def marks() -> str:
            return "".join(live.table_lines("down"))

        def said(backend: str, new: str) -> bool:
            return any(
                (e["type"], e.get("backend"), e.get("new")) == ("backend", backend, new)
                for e in live.events()
            )

        with workers_die(live, every) as killed:
            _, first = web.names(connections)
            assert set(Counter(first)) == {"web0", "web1", "web2", "web3"}
            # Drained by hand.
            live.table_change("down", "add web0 drain")
            old, second = web.names(connections // 4)
            assert old == first and "web0" not in second
            # Killed, and found out.
            web.processes[3].send_signal(signal.SIGKILL)
            wait_for(lambda: said("web3", "down"))
            assert sorted(marks().split()) == ["down", "drain", "web0", "web3"]
            old, third = web.names(connections // 4)
            assert old == ["" if was == "web3" else was for was in first + second]
            assert not {"web0", "web3"} & set(third)
            # Whoever probes may die as well; what is marked stays so until it answers.
            (prober,) = pids_of("dpsup.probe", instance.name)
            dies(prober)
            wait_for(lambda: {prober} != set(pids_of("dpsup.probe", instance.name)) != set())
            assert "web3" in marks()
            web.processes[3] = web.serve(3)
            wait_for(lambda: said("web3", "up"))
            assert marks().split() == ["web0", "drain"]
            live.table_change("down", "del web0")
            old, fourth = web.names(connections // 2)
            assert old == ["" if was == "web3" else was for was in first + second] + third
            assert {"web0", "web3"} <= set(fourth)
            for _ in range(connections // 250):
                assert web.names(0)[0] == old + fourth
        wait_for(lambda: live.status()["state"] == "running")
        assert len(killed) > connections // 50 + 1
        # Each packet and each connection counts once, whoever was killed with it in hand.
        (group,) = live.status()["groups"]
        whole = counters(live)
        assert set(whole) == {"web0", "web1", "web2", "web3"}
        packets, _, flows = map(sum, zip(*whole.values(), strict=True))
        named = group["totals"]["counters"]
        assert flows == named["new_flows"] + named["moved"]
        assert packets == named["packets"] and named["too_big_told"] > 0
        assert live.status()["recovery"]["lost"] == 0


def test_only_the_dead_break(instance: Run) -> None:
    only_the_dead_break(instance, "ipip", 40, 0.2)


@pytest.mark.long
@pytest.mark.parametrize("tunnel", ["ipip", "gue"])
def test_only_the_dead_of_a_thousand_break(instance: Run, tunnel: str) -> None:
    only_the_dead_break(instance, tunnel, 1000, 0.1)
