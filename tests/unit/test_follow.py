# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel's answers mean, and which batches make the tables of `route` follow them."""

from __future__ import annotations

import dataclasses
import random
import socket
import struct
from pathlib import Path
from typing import Any, cast

import pytest
from unit.fakehost import FILE, machine

from dpsup.check.kernel import kernel_paths
from dpsup.follow import kernel
from dpsup.follow.kernel import Hop, Neighbour, Route
from dpsup.follow.process import Group, Kernel
from dpsup.follow.wanted import ON_LINK, Follower, State, Step, Tables, unresolved
from dpsup.host import python, tap
from dpsup.host.machine import Host
from dpsup.host.routing import Routing
from dpsup.instance.client import TABLE_BYTES, Instance
from dpsup.topology.load import load

MOST = {
    "routes": 100, "routes6": 100, "hops": 8, "ecmp": 4, "neighbours": 3, "neighbours6": 3,
}  # fmt: skip
PORTS = {7: "wan", 8: "lan"}
A, B = b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b"


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def attribute(kind: int, value: bytes) -> bytes:
    raw = struct.pack("=HH", 4 + len(value), kind) + value
    return raw + bytes(-len(raw) % 4)


def route_message(
    target: str, length: int, *attributes: bytes, kind: int = 1, table: int = 254, flags: int = 0
) -> bytes:
    data = ip(target)
    family = kernel.V4 if len(data) == 4 else kernel.V6
    head = struct.pack("=BBBBBBBBI", family, length, 0, 0, table, 0, 0, kind, flags)
    first = attribute(1, data) if length else b""
    return head + first + b"".join(attributes)


def by(link: int, gateway: str = "") -> bytes:
    more = attribute(5, ip(gateway)) if gateway else b""
    return more + attribute(4, struct.pack("=I", link))


def nexthop(link: int, gateway: str, weight: int, flags: int = 0) -> bytes:
    inside = attribute(5, ip(gateway))
    return struct.pack("=HBBi", 8 + len(inside), flags, weight - 1, link) + inside


def state(
    routes: dict[str, Route], neighbours: dict[tuple[int, str], bytes] | None = None
) -> State:
    def prefix(text: str) -> tuple[bytes, int]:
        address, _, length = text.partition("/")
        return ip(address), int(length)

    known = {(i, ip(a)): Neighbour(mac, False) for (i, a), mac in (neighbours or {}).items()}
    return State(PORTS, {prefix(text): route for text, route in routes.items()}, known)


def via(link: int, gateway: str = "", weight: int = 1) -> Route:
    return Route(kernel.UNICAST, (Hop(link, ip(gateway) if gateway else b"", weight),))


def empty() -> Tables:
    return {name: {} for name in MOST}


def carry_out(tables: Tables, steps: list[Step]) -> None:
    for step in steps:
        for line in step.lines:
            verb, key, *value = line.split()
            if verb == "del":
                del tables[step.table][key]
            else:
                tables[step.table][key] = value[0]
            assert len(tables[step.table]) <= MOST[step.table]


def leads_to(tables: Tables, prefix: str) -> str:
    """What a packet finds there."""
    word = tables["routes6" if ":" in prefix else "routes"].get(prefix, "nothing")
    if word.startswith("ecmp/"):
        ways = tables["ecmp"][word[5:]].split("+")
        return "+".join(sorted(tables["hops"][w.partition("*")[0]] for w in ways))
    return tables["hops"][word] if word.isdecimal() else word


def test_messages_that_are_cut_short_are_not_read() -> None:
    several = attribute(9, nexthop(7, "192.0.2.7", 3) + nexthop(8, "198.51.100.8", 2))
    whole = route_message("10.0.0.0", 8, several)
    rng = random.Random(4)
    for size in range(len(whole)):
        kernel.routes([whole[:size]], kernel.V4)
    for _ in range(2000):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        kernel.routes([bytes(data)], kernel.V4)


def test_the_kernel_s_choice_among_routes() -> None:
    found = kernel.routes(
        [
            route_message("10.0.0.0", 8, by(7, "192.0.2.7"), attribute(6, struct.pack("=I", 20))),
            route_message("10.0.0.0", 8, by(8), attribute(6, struct.pack("=I", 10))),
            route_message("0.0.0.0", 0, by(7, "192.0.2.1")),
            route_message("192.0.2.9", 32, by(7), kind=kernel.LOCAL, table=255),
            route_message("192.0.2.9", 32, by(8)),
            route_message("10.1.0.0", 16, by(8), flags=0x1),  # dead
            route_message("10.2.0.0", 16, by(8), table=100),
            route_message("127.0.0.0", 8, by(1), kind=kernel.LOCAL, table=255),
            route_message("10.3.0.0", 16, kind=kernel.BLACKHOLE),
            route_message(
                "10.4.0.0", 16,
                attribute(9, nexthop(7, "192.0.2.7", 3) + nexthop(8, "198.51.100.7", 1, 0x1)
                          + nexthop(8, "198.51.100.8", 2)),
            ),
        ],
        kernel.V4,
    )  # fmt: skip
    assert found == {
        (ip("10.0.0.0"), 8): via(8),
        (ip("0.0.0.0"), 0): via(7, "192.0.2.1"),
        (ip("192.0.2.9"), 32): Route(kernel.LOCAL),
        (ip("10.3.0.0"), 16): Route(kernel.BLACKHOLE),
        (ip("10.4.0.0"), 16): Route(1, (Hop(7, ip("192.0.2.7"), 3), Hop(8, ip("198.51.100.8"), 2))),
    }


def test_ways_of_ipv6_in_messages_of_their_own() -> None:
    messages = [route_message("2001:db8::", 32, by(link, "fe80::1")) for link in (7, 8)]
    (route,) = kernel.routes(messages, kernel.V6).values()
    assert [hop.link for hop in route.hops] == [7, 8]


@pytest.mark.parametrize(
    ("route", "word"),
    [
        (via(7), f"wan,{ON_LINK}"),
        (via(8, "198.51.100.7"), f"lan,{A.hex(':')}"),
        (via(8, "198.51.100.9"), f"lan,{ON_LINK}"),  # not known yet
        (via(99, "203.0.113.1"), "local"),  # not one of dpsup's
        (via(8, "198.51.100.7")._replace(is_wrapped=True), "local"),
        (Route(kernel.LOCAL), "local"),
        (Route(kernel.BROADCAST), "local"),
        (Route(kernel.BLACKHOLE), "blackhole"),
        (Route(kernel.UNREACHABLE), "unreachable"),
        (Route(kernel.THROW), "unreachable"),
        (Route(kernel.PROHIBIT), "prohibited"),
        (
            Route(1, (Hop(7, b"", 1, True), Hop(8, ip("198.51.100.7")))),
            f"lan,{A.hex(':')}",  # the other link is down
        ),
    ],
)
def test_where_a_route_leads_to(route: Route, word: str) -> None:
    tables = empty()
    now = state({"10.0.0.0/8": route}, {(8, "198.51.100.7"): A})
    carry_out(tables, Follower(MOST).steps(tables, now))
    assert leads_to(tables, "10.0.0.0/8") == word


def test_a_next_router_s_new_address_is_one_operation() -> None:
    tables, follower = empty(), Follower(MOST)
    routes = {f"10.{n}.0.0/16": via(8, "198.51.100.7") for n in range(90)}
    carry_out(tables, follower.steps(tables, state(routes, {(8, "198.51.100.7"): A})))
    steps = follower.steps(tables, state(routes, {(8, "198.51.100.7"): B}))
    assert [(s.table, len(s.lines)) for s in steps] == [("neighbours", 1), ("hops", 1)]


def test_a_successor_changes_nothing_that_is_right() -> None:
    routes = {f"10.{n}.0.0/16": via(7 + n % 2, f"192.0.2.{n % 3 + 1}") for n in range(50)}
    routes["10.99.0.0/16"] = Route(1, (Hop(7, ip("192.0.2.1"), 3), Hop(8, ip("192.0.2.2"))))
    now = state(routes, {(7, "192.0.2.1"): A, (8, "192.0.2.2"): B})
    tables = empty()
    carry_out(tables, Follower(MOST).steps(tables, now))
    assert [step for step in Follower(MOST).steps(tables, now) if step.lines] == []


def test_what_has_no_room_goes_by_the_kernel_or_is_said() -> None:
    tables, follower = empty(), Follower(MOST)
    routes = {f"10.{n}.0.0/16": via(8, f"198.51.100.{n + 1}") for n in range(12)}
    known = {(8, f"198.51.100.{n}"): A for n in range(1, 6)}
    carry_out(tables, follower.steps(tables, state(routes, known)))
    assert len(tables["hops"]) == 8 and len(tables["neighbours"]) == 3
    assert list(tables["routes"].values()).count("local") == 4
    assert len(follower.troubles) == 2
    many = {f"10.{n}.0.0/16": via(8) for n in range(101)}
    assert follower.steps(tables, state(many)) == [] and "101" in follower.troubles[-1]


def test_every_moment_has_the_old_way_or_the_new_one() -> None:
    """Whatever changes, and wherever a follower dies: between any two lines each prefix that is
    there before and after leads where it led or will lead."""
    rng = random.Random(11)
    tables, follower = empty(), Follower(MOST)
    gateways = [(7, "192.0.2.1"), (7, "192.0.2.2"), (8, "198.51.100.1"), (8, "198.51.100.2")]
    for _ in range(150):
        routes = {}
        for n in rng.sample(range(30), rng.randrange(30)):
            some = [Hop(i, ip(a), rng.randrange(1, 3)) for i, a in rng.sample(gateways, 2)]
            one = via(*rng.choice(gateways))
            routes[f"10.{n}.0.0/16"] = Route(1, tuple(some)) if rng.random() < 0.1 else one
        now = state(routes, {one: rng.choice((A, B)) for one in gateways if rng.random() < 0.8})
        after = {name: dict(entries) for name, entries in tables.items()}
        steps = follower.steps(tables, now)
        carry_out(after, steps)
        before = {name: dict(entries) for name, entries in tables.items()}
        macs = {f"{PORTS[i]},{a}": i for i, a in gateways}
        assert len(macs) == len(gateways)
        done, stop = 0, rng.randrange(200)
        for step in steps:
            for line in step.lines:
                if (done := done + 1) > stop:
                    break
                carry_out(tables, [Step(step.table, [line])])
                for prefix in before["routes"].keys() & after["routes"].keys():
                    found = leads_to(tables, prefix)  # fails where its next hop is not there
                    ports = {part.partition(",")[0] for part in found.split("+")}
                    allowed = [leads_to(t, prefix) for t in (before, after)]
                    assert any(
                        ports == {part.partition(",")[0] for part in one.split("+")}
                        for one in allowed
                    )
        if done > stop:  # it died; its successor knows the tables alone
            follower = Follower(MOST)
            carry_out(tables, follower.steps(tables, now))
        for prefix, route in routes.items():
            if len(route.hops) == 1:
                hop = route.hops[0]
                mac = now.neighbours.get((hop.link, hop.gateway))
                wanted = f"{PORTS[hop.link]},{mac.mac.hex(':') if mac else ON_LINK}"
                assert leads_to(tables, prefix) == wanted
        assert tables["routes"].keys() == routes.keys()


def test_which_addresses_the_kernel_is_to_find_out() -> None:
    now = state(
        {"10.0.0.0/8": via(8, "198.51.100.7"), "11.0.0.0/8": via(8, "198.51.100.8"),
         "12.0.0.0/8": via(99, "203.0.113.1"), "13.0.0.0/8": via(7)},
        {(8, "198.51.100.7"): A},
    )  # fmt: skip
    assert unresolved(now) == {(8, ip("198.51.100.8"))}


TEXT = """
version = 1
name = "edge"
[mempools.default]
mbufs = 16383
[[ports]]
name = "wan"
vdev = "net_null0"
kernel = "tap"
[[io]]
cores = "1"
[[workers]]
name = "router"
plugin = "route"
state = "auto"
follow = "kernel"
[workers.tables]
routes = { kind = "ipv4", value = "hop", entries = "1k" }
hops = { kind = "array", value = "port+mac", entries = "8" }
"""


def test_the_package_that_reads_the_kernel_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = dataclasses.replace(machine(TEXT), is_here=True)
    topology, _ = load(FILE, machine(TEXT))
    monkeypatch.setattr(Host, "no_taps", lambda _: "")
    monkeypatch.setattr(Host, "tap", lambda *_: tap.Seen())

    def found() -> list[tuple[str | None, bool]]:
        assert topology is not None
        return [(p.code, "pip install" in (p.help or "")) for p in kernel_paths(topology, there)]

    assert found() == []
    monkeypatch.setattr(python, "has", lambda package: package != "pyroute2")
    assert found() == [("E0460", True)]


class FakeInstance:
    """Of one table; a batch that is more than one request may hold must come from a file."""

    def __init__(self) -> None:
        self.batches: list[str] = []

    def tables(self) -> dict[str, Any]:
        tables = ("routes", "hops")
        return {
            "tables": [{"group": "g", "table": t, "most": 10_000, "version": 0} for t in tables]
        }

    def table_pages(self, _: str) -> list[dict[str, Any]]:
        return [{"version": 0, "text": ""}]

    def table_change(self, _: str, text: str) -> dict[str, Any]:
        assert len(text) <= TABLE_BYTES
        self.batches.append(text)
        return {"version": 1}

    def table_batch(self, _: str, file: str) -> dict[str, Any]:
        self.batches.append(Path(file).read_text())
        return {"version": 1}


def test_a_change_of_a_table_is_one_batch_however_long(tmp_path: Path) -> None:
    instance, file = FakeInstance(), tmp_path / "g:follow"
    group = Group(cast("Instance", instance), "g", file)
    assert group.refresh() and not group.refresh()
    routes = {f"10.{n // 250}.{n % 250}.0/24": via(8) for n in range(4000)}
    assert group.follow(state(routes)) == 4001
    assert [batch.count("\n") for batch in instance.batches] == [1, 4000]
    assert len(instance.batches[1]) > TABLE_BYTES and not file.exists()


class FakeRouting:
    """Notes what is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def links(self) -> dict[str, int]:
        self.asked.append("links")
        return {tap.mark_of("edge", "wan"): 7}

    def routes(self, family: int) -> list[bytes]:
        self.asked.append(f"routes {family}")
        return [route_message("10.0.0.0", 8, by(7))]

    def neighbours(self) -> list[tuple[int, bytes, bytes, int]]:
        self.asked.append("neighbours")
        return [(7, ip("192.0.2.1"), A, 2)]


@pytest.mark.parametrize(
    ("kinds", "asked"),
    [
        (set(), []),
        ({28, 29}, ["neighbours"]),
        ({24}, ["routes 2", "routes 10"]),
        ({20, 104}, ["routes 2", "routes 10"]),
        ({17}, ["links", "routes 2", "routes 10", "neighbours"]),
        ({0}, ["links", "routes 2", "routes 10", "neighbours"]),
    ],
)
def test_what_the_news_touch_is_read_again(kinds: set[int], asked: list[str]) -> None:
    fake = FakeRouting()
    plan = {"ports": [{"name": "wan", "kernel_tap": "wan"}]}
    known = Kernel(cast("Routing", fake), "edge", plan)
    before = known.read({0})
    fake.asked.clear()
    assert known.read(kinds) == before and fake.asked == asked
    assert before.ports == {7: "wan"} and (7, ip("192.0.2.1")) in before.neighbours
