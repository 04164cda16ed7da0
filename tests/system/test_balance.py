# SPDX-License-Identifier: BSD-3-Clause
"""Real TCP through `balance` to three servers of the kernel that answer the client themselves:
connections stay with their server while another one is drained and workers die."""

from __future__ import annotations

import contextlib
import json
from collections import Counter

import pytest
from harness import Run, wait_for
from netns import Host, bridge, cable, sh, some_hosts

from dpsup import connect

pytestmark = [pytest.mark.system, pytest.mark.beside]

VIP = "10.99.0.200"
CONNECTIONS = 120
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
plugin = "balance"
args = {{ vips = "{vip}:80/tcp", port = "lan" }}
state = "auto"
bucket_state = "auto"
on_full = "hold"
count = 1
max = 3
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
[workers.tables.backends]
kind = "own"
key = "text8"
value = "mac+u16"
entries = 100
bytes = "256KiB"
file = "backends.txt"
[[chains]]
name = "line"
path = ["wan", "balance", "lan"]
"""

# Says its name for each line that comes.
SERVER = """
import asyncio, sys
async def one(r, w):
    try:
        while await r.readline():
            w.write(sys.argv[2].encode() + b"\\n")
            await w.drain()
    except ConnectionError:
        pass
    w.close()
async def main():
    server = await asyncio.start_server(one, sys.argv[1], 80, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
# For each line on stdin: as many new connections as it says are opened; then all that there are are
# asked who answers. Says the names of the old ones and of the new ones; "": that one is broken.
CLIENT = """
import asyncio, json, sys
async def ask(c):
    try:
        c[1].write(b"who\\n")
        return (await asyncio.wait_for(c[0].readline(), 20)).decode().strip()
    except (OSError, asyncio.TimeoutError):
        return ""
async def main():
    loop, all = asyncio.get_running_loop(), []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        new = await asyncio.gather(
            *(asyncio.open_connection(sys.argv[1], 80) for _ in range(int(line))))
        names = [await asyncio.gather(*map(ask, some)) for some in (all, new)]
        all += new
        print(json.dumps(names), flush=True)
asyncio.run(main())
"""


def serve(host: Host, name: str) -> None:
    """The address is on its loopback, and it answers no ARP for it."""
    host.run("sysctl", "-q", "-w", "net.ipv4.conf.all.arp_ignore=1")
    host.run("sysctl", "-q", "-w", "net.ipv4.conf.all.arp_announce=2")
    sh("ip", "-n", host.name, "addr", "add", f"{VIP}/32", "dev", "lo")
    server = host.popen("python3", "-c", SERVER, VIP, name)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"


def test_connections_stay_with_their_server(instance: Run) -> None:
    with (
        some_hosts(4) as (client, *servers),
        cable() as (lan, far),
        bridge(far, *(server.port for server in servers)),
        contextlib.ExitStack() as stack,
    ):
        for n, server in enumerate(servers):
            serve(server, f"web{n}")
        # Any address: the balancer takes what comes.
        sh("ip", "-n", client.name, "neigh", "add", VIP, "lladdr", "02:00:00:00:00:aa", "dev",
           client.device)  # fmt: skip
        (instance.folder / "backends.txt").write_text(
            "".join(f"web{n} {server.mac},10\n" for n, server in enumerate(servers))
        )
        instance.start(TOPOLOGY.format(wan=client.port, lan=lan, vip=VIP))
        live = stack.enter_context(connect(instance.name))
        asking = client.popen("python3", "-c", CLIENT, VIP)

        def names(new: int) -> tuple[list[str], list[str]]:
            assert asking.stdin is not None and asking.stdout is not None
            asking.stdin.write(f"{new}\n")
            asking.stdin.flush()
            line = asking.stdout.readline()
            assert line, asking.communicate()[1]
            old, fresh = json.loads(line)
            return old, fresh

        def dies(member: int, deaths: int) -> None:
            live.kill(f"balance/{member}")
            wait_for(
                lambda: (
                    (s := live.status())["recovery"]["deaths"] >= deaths and s["state"] == "running"
                )
            )

        _, first = names(CONNECTIONS)
        assert set(Counter(first)) == {"web0", "web1", "web2"}
        # Drained: none of its connections breaks, and it gets no other.
        live.table_change("backends", f"set web0 {servers[0].mac},0")
        dies(0, 1)
        old, fresh = names(CONNECTIONS)
        assert old == first and set(fresh) == {"web1", "web2"}
        live.scale("balance", 3)
        dies(1, 2)
        # Gone: only its own connections are moved, to servers that do not know them.
        live.table_change("backends", "del web2")
        live.scale("balance", 1)
        after, fresh = names(10)
        assert set(fresh) == {"web1"}
        for was, now in zip(first, after, strict=False):
            assert now == ("" if was == "web2" else was)
        assert live.status()["recovery"]["lost"] == 0
