# SPDX-License-Identifier: BSD-3-Clause
"""Real TCP connections and pings between two namespaces, through `nat`, while its workers die and
their number changes: from inside, by a forward, and from inside by a forward (hairpin)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Run, seed, wait_for
from netns import Host, Transfer, sh, two_hosts
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dpsup import connect

pytestmark = pytest.mark.beside

OURS = "10.99.0.77"
CONNECTIONS = 1000
FORWARDED = 200
HAIRPINNED = 50
TOPOLOGY = """
[[ports]]
name = "lan"
vdev = "net_af_packet0,iface={lan}"
[[ports]]
name = "wan"
vdev = "net_af_packet1,iface={wan}"
[[io]]
cores = "1"
[[workers]]
name = "nat"
plugin = "nat"
args = {{ inside = "lan", outside = "wan", address = "10.99.0.77" }}
input = ["lan", "wan"]
bucket_state = "auto"
on_full = "hold"
count = 1
max = 4
restart = {{ intensity = 100000, backoff = {{ initial = "10ms", factor = 1 }} }}
tables.forwards = {{ kind = "own", key = "ipv4+be16+text3", value = "ipv4+be16", entries = 100, \
bytes = "16KiB", file = "forwards.txt" }}
"""

# The server answers each line with the same, and says who asked.
SERVER = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
async def one(r, w):
    peer = w.get_extra_info("peername")[0].encode()
    while line := await r.readline():
        w.write(peer + b" " + line)
        await w.drain()
    w.close()
async def main():
    server = await asyncio.start_server(one, sys.argv[1], 5001, backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
# The client opens all connections, says so; then each asks and is answered until a line comes.
CLIENT = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
ours = sys.argv[3].encode()
over = asyncio.Event()
async def one(i, opened):
    r, w = await asyncio.open_connection(sys.argv[1], 5001)
    n = 0
    async def ask():
        nonlocal n
        line = b"%d %d\\n" % (i, n)
        n += 1
        w.write(line)
        got = await r.readline()
        assert got == ours + b" " + line, (line, got)
    await ask()
    opened.release()
    while not over.is_set():
        await ask()
        await asyncio.sleep(0.05)
    await ask()
    w.close()
    return n
async def main():
    opened = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(one(i, opened)) for i in range(int(sys.argv[2]))]
    for _ in tasks:
        await opened.acquire()
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    over.set()
    print(sum(await asyncio.gather(*tasks)), flush=True)
asyncio.run(main())
"""


@pytest.fixture
def hosts(instance: Run) -> Iterator[tuple[Host, Host]]:
    """With `nat` between them: nobody answers ARP for its outside address."""
    with two_hosts() as (inside, outside):
        for one, other in ((inside, outside), (outside, inside)):
            one.run("ip", "neigh", "add", OURS, "lladdr", other.mac, "dev", one.device)
        (instance.folder / "forwards.txt").write_text(f"{OURS},5001,tcp {inside.ipv4},5001\n")
        instance.start(TOPOLOGY.format(lan=inside.port, wan=outside.port))
        yield inside, outside


def serve(host: Host) -> None:
    server = host.popen("python3", "-c", SERVER, host.ipv4)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"


def client(host: Host, to: str, number: int, seen: str) -> subprocess.Popen[str]:
    """Whose connections are open; the server sees this address."""
    process = host.popen("python3", "-c", CLIENT, to, str(number), seen)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n", process.communicate()[1]
    return process


@contextlib.contextmanager
def connections(inside: Host, outside: Host) -> Iterator[None]:
    """None of them breaks meanwhile."""
    serve(inside)
    serve(outside)
    all_of_them = [
        (CONNECTIONS, client(inside, outside.ipv4, CONNECTIONS, OURS)),
        (FORWARDED, client(outside, OURS, FORWARDED, outside.ipv4)),
        (HAIRPINNED, client(inside, OURS, HAIRPINNED, OURS)),
    ]
    yield
    for number, process in all_of_them:
        out, err = process.communicate("over\n", timeout=120)
        assert process.returncode == 0, err
        assert int(out) >= 2 * number


def test_no_connection_breaks_while_workers_die_and_scale(
    instance: Run, hosts: tuple[Host, Host]
) -> None:
    inside, outside = hosts
    assert inside.ping(outside.ipv4) == 5
    deaths = 0
    with connect(instance.name) as live, connections(*hosts):
        # Connections stay; there will be no new ones.
        live.table_change("forwards", f"del {OURS},5001,tcp")
        for count in (4, 2):
            live.scale("nat", count)
            for member in range(2):
                deaths += 1
                live.kill(f"nat/{member}")
                wait_for(
                    lambda n=deaths: (
                        (s := live.status())["recovery"]["deaths"] == n and s["state"] == "running"
                    )
                )
    assert inside.ping(outside.ipv4) == 5
    assert instance.status()["recovery"]["lost"] == 0
    connect_once = f"import socket; socket.create_connection(('{OURS}', 5001), 0.5)"
    assert "TimeoutError" in outside.run("python3", "-c", connect_once, check=False).stderr


@pytest.mark.long
def test_a_sigkill_every_100_ms(instance: Run, hosts: tuple[Host, Host]) -> None:
    chance = random.Random(seed())
    kills = 0
    with connect(instance.name) as live, connections(*hosts):
        for count in (1, 4, 2):
            live.scale("nat", count)
            end = time.monotonic() + 20
            while time.monotonic() < end:
                (group,) = live.status()["groups"]
                pids = [worker["pid"] for worker in group["workers"] if worker["pid"]]
                if pids:
                    # It may be dead since.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chance.choice(pids), signal.SIGKILL)
                        kills += 1
                time.sleep(0.1)
    status = wait_for(lambda: (s := instance.status())["state"] == "running" and s)
    print(f"{kills} kills, {status['recovery']['deaths']} deaths")
    assert status["recovery"]["deaths"] > kills / 2
    assert status["recovery"]["lost"] == 0


A_MILLION = """
[[ports]]
name = "lan"
vdev = "net_pcap_lan,rx_pcap=lan.in.pcap,tx_pcap=lan.out.pcap"
[[ports]]
name = "wan"
vdev = "net_null0,no-rx=1"
[[io]]
cores = "1"
[[workers]]
name = "nat"
plugin = "nat"
args = { inside = "lan", outside = "wan", address = "192.0.2.1", udp = 1000000 }
input = ["lan"]
bucket_state = "64KiB"
on_full = "hold"
"""


@pytest.mark.long
def test_a_million_bindings(instance: Run) -> None:
    frame = bytearray(bytes(Ether() / IP(src="10.0.0.0", dst="198.51.0.0") / UDP(dport=53)))
    head = struct.pack("<IIII", 0, 0, len(frame), len(frame))
    chance = random.Random(seed())
    with (instance.folder / "lan.in.pcap").open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for i in range(1_000_000):
            frame[28:30] = (i % 50_000).to_bytes(2)
            frame[32:36] = chance.getrandbits(16).to_bytes(2) + (1024 + i // 50_000).to_bytes(2)
            file.write(head + frame)
    instance.start(A_MILLION)
    wait_for(lambda: instance.worker("nat/0")["counters"]["outward"] == 1_000_000)
    assert instance.worker("nat/0")["counters"]["created"] == 1_000_000
    assert instance.status()["recovery"]["lost"] == 0
    stats = instance.stats()
    seconds = sum(slot["busy"] for slot in stats["slots"]) / stats["tsc_hz"]
    print(f"{1_000_000 / seconds:.0f} new bindings a second of the worker's")


BEFORE_A_ROUTER = """
[[ports]]
name = "lan"
vdev = "net_af_packet0,iface={lan}"
[[ports]]
name = "wan"
vdev = "net_af_packet1,iface={wan}"
[[io]]
cores = "1"
[[workers]]
name = "nat"
plugin = "nat"
args = {{ inside = "lan", outside = "wan", address = "203.0.113.77", next = "router" }}
input = ["lan", "wan"]
bucket_state = "auto"
on_full = "hold"
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
[[workers]]
name = "router"
plugin = "route"
state = "auto"
on_full = "hold"
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
tables.routes = {{ kind = "ipv4", value = "hop", entries = "1k", file = "routes.txt" }}
tables.hops = {{ kind = "array", value = "port+mac", entries = "16", file = "hops.txt" }}
"""


def test_before_a_router(instance: Run) -> None:
    """Two networks, of which the outer one does not know the inner: docs/functions/nat.md."""
    with two_hosts() as (inside, outside):
        sh("ip", "-n", inside.name, "addr", "add", "10.8.0.1/24", "dev", inside.device)
        sh("ip", "-n", outside.name, "addr", "add", "203.0.113.1/24", "dev", outside.device)
        sh("ip", "-n", inside.name, "route", "add", "203.0.113.0/24", "via", "10.8.0.254")
        for host, router in ((inside, "10.8.0.254"), (outside, "203.0.113.77")):
            mac = Path(f"/sys/class/net/{host.port}/address").read_text().strip()
            host.run("ip", "neigh", "add", router, "lladdr", mac, "dev", host.device)
        (instance.folder / "routes.txt").write_text("10.8.0.0/24 0\n203.0.113.0/24 1\n")
        (instance.folder / "hops.txt").write_text(f"0 lan,{inside.mac}\n1 wan,{outside.mac}\n")
        instance.start(BEFORE_A_ROUTER.format(lan=inside.port, wan=outside.port))
        assert inside.ping("203.0.113.1") == 5
        transfer = Transfer.start(inside, outside, "203.0.113.1", 1 << 20)
        with connect(instance.name) as live:
            for group, deaths in (("nat", 1), ("router", 2)):
                live.kill(f"{group}/0")
                wait_for(
                    lambda n=deaths: (
                        (s := live.status())["recovery"]["deaths"] == n and s["state"] == "running"
                    )
                )
        sent, received = transfer.finish()
        assert sent["sha256"] == received["sha256"]
        assert instance.status()["recovery"]["lost"] == 0
