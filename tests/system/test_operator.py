# SPDX-License-Identifier: BSD-3-Clause
"""What operators ask: which instances there are, where a flow goes, what the kernel dropped, what
came since a mark; with a supervisor and without."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Run, dies, supervisor, wait_for
from netns import sh

from dpsup.packets.flow import frame, parse

pytestmark = pytest.mark.beside

RING = 64  # frames of the packet socket
TOPOLOGY = """
[[ports]]
name = "lan"
vdev = "net_af_packet0,iface={interface},framecnt={ring}"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "sink"
input = ["lan"]
count = 3
max = 3
on_full = "hold"
at_zero = "hold"
"""
FLOWS = (
    "10.0.0.1:1234 > 10.0.0.2:80 tcp",
    "10.0.0.2:80 > 10.0.0.1:1234 tcp",
    "vlan 5 10.0.0.7:5 > 10.9.8.7:53 udp",
    "10.1.2.3 > 10.3.2.1 gre",  # no fragments of IPv4: the driver has the kernel join them
    "10.200.0.9 > 10.0.0.1 icmp",
    "[2001:db8::7]:1 > [2001:db8::8]:443 tcp",
    "2001:db8::1 > 2001:db8::2 icmp6",
    "2001:db8::9 > 2001:db8::2 udp fragment",
    "02:00:00:00:00:01 > 02:00:00:00:00:02 type 0x88b5",
)
EACH = 16


@contextlib.contextmanager
def veth(name: str) -> Iterator[socket.socket]:
    """A veth of that name, on which the kernel is silent; what the socket sends arrives there."""
    sh("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        for end in (name, f"{name}p"):
            sh("ip", "link", "set", end, "addrgenmode", "none", "up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as peer:
            peer.bind((f"{name}p", 0))
            yield peer
    finally:
        sh("ip", "link", "del", name, check=False)


def lan(instance: Run) -> Any:
    return instance.status()["ports"][0]


def json_of(instance: Run, *words: str) -> Any:
    return json.loads(instance.do(*words, "-o", "json").stdout)


def listed(instance: Run) -> Any:
    (one,) = json_of(instance, "list")["instances"]
    return one


def by_worker(instance: Run) -> dict[str, int]:
    return {w["id"]: w["rx_packets"] for w in instance.status()["groups"][0]["workers"]}


def send(instance: Run, peer: socket.socket, flow: str, n: int = EACH) -> dict[str, int]:
    """How many packets each worker got of those."""
    before, came = by_worker(instance), lan(instance)["rx_packets"]
    for _ in range(n):
        peer.send(frame(parse(flow)))
    wait_for(lambda: lan(instance)["rx_packets"] >= came + n)
    wait_for(lambda: instance.status()["in_flight"] == 0)
    return {w: n - before[w] for w, n in by_worker(instance).items()}


def test_an_operator_is_told(instance: Run) -> None:
    interface = f"dpo{os.getpid()}"
    with veth(interface) as peer:
        instance.start(TOPOLOGY.format(interface=interface, ring=RING))
        instance.until(lambda s: s["state"] == "running")
        one = listed(instance)
        assert (one["state"], one["ports_up"], one["workers_ready"]) == ("running", 1, 3)

        seen = set()
        for flow in FLOWS:
            doc = json_of(instance, "where", flow)
            (arrival,) = doc["arrivals"]
            assert (arrival["hashed_by"], arrival["io"]) == ("software", "io/0")
            (stop,) = arrival["path"]
            got = send(instance, peer, flow)
            assert got.pop(stop["worker"]) >= EACH, (flow, doc, got)
            assert sum(got.values()) < EACH, (flow, doc, got)
            seen.add(stop["worker"])
        assert len(seen) > 1
        assert doc["by"] == "MAC addresses and EtherType"

        (group,) = json_of(instance, "groups")["groups"]
        assert group["totals"]["rx_packets"] == lan(instance)["rx_packets"]
        assert group["totals"]["dropped"] == {"sink": group["drops"]} or group["drops"] > 0

        instance.do("mark")
        before = lan(instance)
        send(instance, peer, FLOWS[0])
        since = json_of(instance, "stats", "--since-mark")
        assert since["since"] == "mark"
        assert EACH <= since["ports"][0]["rx_packets"] < before["rx_packets"]
        assert since["account"]["received"] == since["ports"][0]["rx_packets"]
        assert "since the mark" in instance.do("stats", "--since-mark").stdout

        # Nobody takes packets, and none may be dropped: the kernel's ring runs full.
        instance.do("scale", "fw", "0")
        before, n = lan(instance), 20 * RING
        for _ in range(n):
            peer.send(frame(parse(FLOWS[0])))
        wait_for(lambda: lan(instance)["rx_missed"] >= before["rx_missed"] + n - 2 * RING)
        instance.do("scale", "fw", "3")
        wait_for(lambda: lan(instance)["rx_packets"] > before["rx_packets"])
        send(instance, peer, FLOWS[1])
        after = lan(instance)
        found = sum(after[k] - before[k] for k in ("rx_packets", "rx_missed"))
        assert n + EACH <= found < n + EACH + RING, (before, after)

        xstats = json_of(instance, "ports", "--xstats")["ports"][0]["xstats"]
        assert xstats["rx_good_packets"] >= after["rx_packets"]
        assert "rx_good_packets" in instance.do("ports", "--xstats").stdout
        assert json_of(instance, "ports")["ports"][0]["xstats"] is None

        primary = instance.status()["primary"]["pid"]
        dies(supervisor(instance))
        assert (listed(instance)["state"], listed(instance)["primary"]) == ("headless", primary)
        assert json_of(instance, "where", FLOWS[0])["arrivals"][0]["path"][0]["worker"]
        assert json_of(instance, "ports", "--xstats")["ports"][0]["xstats"]
        assert json_of(instance, "stats", "--since-mark")["ports"][0]["rx_missed"] > 0
        os.kill(primary, signal.SIGKILL)
        wait_for(lambda: listed(instance)["state"] == "dead")
