# SPDX-License-Identifier: BSD-3-Clause
"""Real TCP connections and pings between two namespaces, through `nat`, while its workers die and
their number changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Run, wait_for
from netns import Host, Transfer, sh, two_hosts

from dpsup import connect

pytestmark = pytest.mark.beside

OURS = "10.99.0.77"
CONNECTIONS = 1000
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
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
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


def test_no_connection_breaks_while_workers_die_and_scale(instance: Run) -> None:
    with two_hosts() as (inside, outside):
        # Nobody answers ARP for the outside address.
        outside.run("ip", "neigh", "add", OURS, "lladdr", inside.mac, "dev", outside.device)
        instance.start(TOPOLOGY.format(lan=inside.port, wan=outside.port))
        assert inside.ping(outside.ipv4) == 5
        transfer(instance, inside, outside)
        assert inside.ping(outside.ipv4) == 5
        assert instance.status()["recovery"]["lost"] == 0


def transfer(instance: Run, inside: Host, outside: Host) -> None:
    server = outside.popen("python3", "-c", SERVER, outside.ipv4)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    client = inside.popen("python3", "-c", CLIENT, outside.ipv4, str(CONNECTIONS), OURS)
    assert client.stdout is not None
    assert client.stdout.readline() == "open\n", client.communicate()[1]
    deaths = 0
    with connect(instance.name) as live:
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
    out, err = client.communicate("over\n", timeout=120)
    assert client.returncode == 0, err
    assert int(out) >= 2 * CONNECTIONS


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
