# SPDX-License-Identifier: BSD-3-Clause
"""The function `switch` between four namespaces: ARP, ping and TCP between all of a VLAN while
workers and the builder die, an address that moves, entries that age, and a host in another VLAN."""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest
from harness import Run, builder, dies, wait_for
from netns import Transfer, cable, some_hosts

from dpsup import connect

pytestmark = [pytest.mark.system, pytest.mark.beside]

PORT = """
[[ports]]
name = "{name}"
vdev = "net_af_packet{n},iface={device}"
"""
SWITCH = """
[[io]]
cores = "1"
[[workers]]
name = "switch"
plugin = "switch"
input = ["a", "b", "c", "d", "x", "y"]
args = { access = { a = 10, b = 10, c = 10, d = 20, x = 20, y = 20 }, storm = 1000 }
state = "auto"
on_full = "hold"
count = 2
max = 3
restart = { intensity = 1000, backoff = { initial = "10ms", factor = 1 } }
[workers.tables.macs]
kind = "exact"
key = "be16+mac"
value = "port"
entries = "1k"
learn = true
age = "4s"
"""


def test_a_switch(instance: Run) -> None:
    with some_hosts(4) as hosts, cable() as ends, contextlib.ExitStack() as stack:
        a, b, c, d = hosts
        devices = [*(host.port for host in hosts), *ends]
        ports = "".join(
            PORT.format(name=name, n=n, device=device)
            for n, (name, device) in enumerate(zip("abcdxy", devices, strict=True))
        )
        instance.start(ports + SWITCH)
        live = stack.enter_context(connect(instance.name))

        def at(mac: str, vlan: int = 10) -> str:
            rows = [row.split() for row in "".join(live.table_lines("macs")).splitlines()]
            return next((row[1] for row in rows if row[0] == f"{vlan},{mac}"), "")

        for one, other in itertools.permutations((a, b, c), 2):
            assert one.ping(other.ipv4) == 5
        wait_for(lambda: [at(h.mac) for h in (a, b, c)] == ["a", "b", "c"])
        assert a.ping(d.ipv4, "-W", "1", count=1) == 0
        assert d.ping(a.ipv4, "-W", "1", count=1) == 0  # and its question goes round by x and y
        wait_for(lambda: at(d.mac, 20) == "d")

        def counted(name: str) -> int:
            workers = live.status()["groups"][0]["workers"]
            return sum(w["counters"][name] for w in workers)

        # The two ports that are cabled together: addresses flap, are held, and that is its end.
        assert counted("loops") >= 1
        wait_for(
            lambda: (was := counted("flooded"), time.sleep(0.3), counted("flooded") == was)[-1]
        )

        pairs = ((a, b), (b, c), (c, a))
        transfers = [Transfer.start(one, other, other.ipv4, 1 << 20) for one, other in pairs]
        for deaths in (1, 2, 3):
            live.kill(f"switch/{deaths % 2}")
            if deaths == 2:
                dies(builder(instance))
            wait_for(
                lambda n=deaths: (
                    (now := live.status())["recovery"]["deaths"] >= n and now["state"] == "running"
                )
            )
        for transfer in transfers:
            sent, received = transfer.finish()
            assert sent["sha256"] == received["sha256"]
        assert live.status()["recovery"]["lost"] == 0

        # The address of c moves to b's port: what a sends to it arrives there.
        mac = c.mac
        c.run("ip", "link", "set", c.device, "down")
        b.run("ip", "link", "set", b.device, "down")
        b.run("ip", "link", "set", b.device, "address", mac)
        b.run("ip", "link", "set", b.device, "up")
        assert b.ping(a.ipv4) == 5
        wait_for(lambda: at(mac) == "b")
        assert a.ping(b.ipv4) == 5
        assert counted("moved") >= 1
        assert counted("flooded") >= 6
        # a, b and d still speak now and then; what nobody says any more ages.
        wait_for(lambda: live.tables()["tables"][0]["learned"]["aged"] > 0)
