# SPDX-License-Identifier: BSD-3-Clause
"""`route` beside the Linux kernel's forwarding: the same packets, the same routes, the same bytes.

What differs is in docs/functions/route.md, and is here left out (`Sent.is_punted`,
`routing.kernel_alone`) or made equal (`routing.comparable`).
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Host, raw_socket, sh
from routing import (
    MAC,
    PORTS,
    Network,
    Packets,
    Sent,
    by_dpsup,
    comparable,
    kernel_alone,
    mac,
    sum_of,
    told,
)

pytestmark = pytest.mark.beside

SEED = 20261130
ROUTES, PACKETS, TOO_BIG = 1000, 9500, 500
BATCH = 64  # packets that are under way at a time: the kernel's queues hold more
SYSCTL = {
    "net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1,
    "net.ipv4.icmp_errors_use_inbound_ifaddr": 1,
    # Of what the kernel sends by its own, or leaves out for there is too much of it.
    "net.ipv4.icmp_ratelimit": 0, "net.ipv4.icmp_ratemask": 0, "net.ipv6.icmp.ratelimit": 0,
    "net.ipv6.auto_flowlabels": 0,
    "net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.default.router_solicitations": 0,
}  # fmt: skip


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[Host, Host]]:
    stem = f"dps{os.getpid()}n99"  # `remove_dead_hosts` knows it
    names = [f"{stem}{side}" for side in "ab"]
    try:
        for name in names:
            sh("ip", "netns", "add", name)
        yield Host(names[0], "", "", "", ""), Host(names[1], "", "", "", "")
    finally:
        for name in names:
            sh("ip", "netns", "del", name, check=False)


def build(router: Host, world: Host, network: Network, folder: Path) -> None:
    for key, value in SYSCTL.items():
        router.run("sysctl", "-qw", f"{key}={value}")
    # Of kernels in which these belong to a namespace; others follow the masks.
    for key in ("net.ipv4.icmp_msgs_per_sec", "net.ipv4.icmp_msgs_burst"):
        router.run("sysctl", "-qw", f"{key}=1000000", check=False)
    router.run("sysctl", "-qw", "net.ipv6.icmp.ratemask=", check=False)
    for port in PORTS:
        sh("ip", "link", "add", port, "netns", router.name, "type", "veth", "peer", "name", port,
           "netns", world.name)  # fmt: skip
        for side in (router, world):
            mtu = "9000" if port == "wan" else "1500"
            sh("ip", "-n", side.name, "link", "set", port, "mtu", mtu, "addrgenmode", "none")
            side.run("ethtool", "-K", port, "tx", "off", "rx", "off", "gro", "off", "gso", "off")
        world.run("sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1")
        sh("ip", "-n", router.name, "link", "set", port, "address", MAC[port].hex(":"))
        for side in (router, world):
            sh("ip", "-n", side.name, "link", "set", port, "up")
    batch = folder / "batch"
    batch.write_text("\n".join(network.commands({port: port for port in PORTS})) + "\n")
    sh("ip", "-n", router.name, "-batch", str(batch))


def marker(port: str, number: int) -> bytes:
    """It leaves by `port`, after all that was sent before it."""
    target = bytes((10, PORTS.index(port) + 1, 0, 2))
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 28, number, 0, 64, 253, 0, b"\x0a\x01\0\x03", target
    )
    head = head[:10] + sum_of(head).to_bytes(2, "big") + head[12:]
    return MAC["wan"] + mac("wan", 3) + b"\x08\0" + head + struct.pack(">Q", number)


def is_marker(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\0" and frame[23] == 253 and len(frame) == 42


def drained(s: socket.socket, sentry: bytes) -> Iterator[bytes]:
    """What leaves by a port, until the marker with this end does."""
    while True:
        frame, address = s.recvfrom(65536)
        if address[2] == socket.PACKET_OUTGOING or frame[0] & 1:
            continue  # ours, or neighbour discovery
        if not is_marker(frame):
            yield frame
        elif frame.endswith(sentry):
            return


def by_kernel(world: Host, packets: list[Sent]) -> Counter[tuple[str, bytes]]:
    found: Counter[tuple[str, bytes]] = Counter()
    with contextlib.ExitStack() as stack:
        sockets = {port: stack.enter_context(raw_socket(world, port)) for port in PORTS}
        for s in sockets.values():
            s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            s.settimeout(30)
        # One CPU: what one thread sends on one is handled there, and in order.
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        stack.callback(os.sched_setaffinity, 0, before)
        for at in range(0, len(packets), BATCH):
            for packet in packets[at : at + BATCH]:
                sockets[packet.port].send(packet.frame)
            for port in PORTS:
                sockets["wan"].send(marker(port, at))
            for port in PORTS:
                for frame in drained(sockets[port], struct.pack(">Q", at)):
                    found[port, comparable(frame)] += 1
    return found


def test_the_same_bytes_as_the_kernel(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    network = Network.draw(rng, ROUTES)
    drawn = Packets(network, rng)
    packets = [drawn.one() for _ in range(PACKETS)] + [drawn.too_big() for _ in range(TOO_BIG)]
    packets = [p for p in packets if len(p.frame) >= 20]
    rng.shuffle(packets)
    ours, doc = by_dpsup(tmp_path, network, packets)
    assert doc["punted"] == sum(p.is_punted for p in packets)
    with namespaces() as (router, world):
        build(router, world, network, tmp_path)
        theirs = by_kernel(world, [p for p in packets if not p.is_punted])
    alone = Counter({k: n for k, n in (theirs - ours).items() if not kernel_alone(k[1])})
    assert ours <= theirs and not alone, (
        f"dpsup alone:\n{told(ours - theirs)}\nkernel alone:\n{told(alone)}"
    )
    # Enough of each kind was compared.
    assert doc["out"].keys() == set(PORTS)
    assert min(port["packets"] for port in doc["out"].values()) > 1000
    assert (
        doc["counters"]["icmp_errors_sent"] > 2000 and doc["counters"]["icmp_errors_limited"] == 0
    )
    none = {reason for reason, number in doc["dropped"].items() if number <= 20}
    assert none == {"no_hop", "unresolved", "urpf"}
