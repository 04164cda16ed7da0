# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel says of its routing, read in real network namespaces, without an instance."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator

import pytest
from harness import wait_for
from netns import Host, sh, two_hosts

from dpsup.follow import kernel
from dpsup.follow.process import Kernel
from dpsup.host import routing
from dpsup.host.routing import Routing

pytestmark = [pytest.mark.system, pytest.mark.beside]

MARK = "dpsup edge wan"
PLAN = {"ports": [{"name": "wan", "kernel_tap": "eth0"}, {"name": "lan", "kernel_tap": ""}]}
DELAY, PROBE, REACHABLE = 0x08, 0x10, 0x02


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as (a, b):
        # They are neighbours, by a veth of their own.
        sh("ip", "-n", a.name, "link", "del", a.device)
        sh("ip", "-n", b.name, "link", "del", b.device)
        sh("ip", "-n", a.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
           "netns", b.name)  # fmt: skip
        for host in (a, b):
            sh("ip", "-n", host.name, "addr", "add", f"{host.ipv4}/24", "dev", "eth0")
            sh("ip", "-n", host.name, "addr", "add", f"{host.ipv6}/64", "dev", "eth0", "nodad")
            sh("ip", "-n", host.name, "link", "set", "eth0", "up")
        sh("ip", "-n", a.name, "link", "set", "eth0", "alias", MARK)
        yield a, b


def batch(host: Host, *lines: str) -> None:
    host.popen("ip", "-batch", "-").communicate("\n".join(lines))


def test_it_reads_what_ip_shows(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    batch(
        a,
        *(f"route add 10.{n}.0.0/16 via {b.ipv4} metric {n + 1}" for n in range(200)),
        "route add blackhole 11.0.0.0/8",
        f"route add 12.0.0.0/8 nexthop via {b.ipv4} weight 2 nexthop via 10.99.0.9",
        f"route add 2001:db8::/32 via {b.ipv6}",
        "neigh add 10.99.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
        "neigh add proxy 10.99.0.77 dev eth0",
        "neigh add 2001:db8::9 lladdr 02:00:00:00:00:0a dev eth0 nud permanent",
    )
    index = int(a.run("cat", "/sys/class/net/eth0/ifindex").stdout)
    with Routing(a.name) as asked:
        assert asked.links() == {MARK: index}
        known = kernel.neighbours(asked.neighbours())
        for address, last in (("10.99.0.9", 9), ("2001:db8::9", 10)):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            key = index, socket.inet_pton(family, address)
            assert known[key] == kernel.Neighbour(bytes([2, 0, 0, 0, 0, last]), False)
        assert (index, socket.inet_aton("10.99.0.77")) not in known
        for family, word in ((kernel.V4, "-4"), (kernel.V6, "-6")):
            found = kernel.routes(asked.routes(family), family)
            shown = json.loads(a.run("ip", "-j", word, "route").stdout)
            wanted = {one["dst"] for one in shown if not one["dst"].startswith("fe80")}
            of_main = {(p, n) for (p, n), one in found.items() if one.kind != kernel.LOCAL}
            text = {f"{socket.inet_ntop(family, prefix)}/{n}" for prefix, n in of_main}
            assert wanted <= text, wanted - text
        routes = kernel.routes(asked.routes(kernel.V4), kernel.V4)
        ways = routes[socket.inet_aton("12.0.0.0"), 8].hops
        assert [(hop.gateway, hop.weight) for hop in ways] == [
            (socket.inet_aton(b.ipv4), 2), (socket.inet_aton("10.99.0.9"), 1),
        ]  # fmt: skip


def test_news_that_were_lost_are_read_anew(hosts: tuple[Host, Host]) -> None:
    """ENOBUFS of the kernel itself: the socket for news holds a few of them."""
    a, b = hosts
    with Routing(a.name, news_bytes=1) as asked:
        known = Kernel(asked, "edge", PLAN)
        before = known.read({0})
        assert list(before.ports.values()) == ["wan"]
        batch(a, *(f"route add 13.{n}.0.0/16 via {b.ipv4}" for n in range(250)))
        kinds = asked.drain()
        assert 0 in kinds
        assert len(known.read(kinds).routes) == len(before.routes) + 250
        # And it hears what comes next.
        assert not asked.drain()
        batch(a, "route del 13.1.0.0/16")
        assert select.select([asked.news], [], [], 60)[0]
        kinds = asked.drain()
        assert kinds == {25}
        assert len(known.read(kinds).routes) == len(before.routes) + 249


def test_a_dump_that_was_interrupted_is_read_again(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says so by a flag; here by one that each message has."""
    monkeypatch.setattr(routing, "NLM_F_DUMP_INTR", routing.NLM_F_MULTI)
    with Routing(hosts[0].name) as asked:
        for read in (asked.links, asked.neighbours, lambda: asked.routes(kernel.V4)):
            with pytest.raises(OSError, match="faster"):
                read()


def test_the_kernel_is_asked_to_find_out(hosts: tuple[Host, Host]) -> None:
    """One that is not known, one that was not heard of since long; both are there."""
    a, b = hosts
    index = int(a.run("cat", "/sys/class/net/eth0/ifindex").stdout)

    def state(family: int, address: str) -> int:
        key = socket.inet_pton(family, address)
        found = {one.address: one.state for one in asked.neighbours() if one.link == index}
        return found.get(key, 0)

    with Routing(a.name) as asked:
        for family, address in ((socket.AF_INET, b.ipv4), (socket.AF_INET6, b.ipv6)):
            a.run("ip", "neigh", "flush", "to", address, check=False)
            asked.use(index, socket.inet_pton(family, address))
            wait_for(lambda f=family, to=address: state(f, to) & REACHABLE)
            a.run("ip", "neigh", "change", address, "dev", "eth0", "nud", "stale")
            known = kernel.neighbours(asked.neighbours())
            assert known[index, socket.inet_pton(family, address)].is_stale
            asked.use(index, socket.inet_pton(family, address))
            wait_for(lambda f=family, to=address: state(f, to) & (DELAY | PROBE | REACHABLE))
        asked.use(1 << 20, socket.inet_aton(b.ipv4))  # no such link
