# SPDX-License-Identifier: BSD-3-Clause
"""The function `nat` with steering between its buckets: forwards, hairpin, damaged state.

nat_world.c has the commands; it ends each packet and tick at each of its touches and runs it anew.
"""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import LONG
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.l2 import Ether
from scapy.packet import Packet

ROOT = Path(__file__).resolve().parents[2]
OURS = "192.0.2.1"
HOST = "10.0.0.5"
REMOTE = "198.51.100.9"
ARGS = f"inside=lan outside=wan address={OURS}"
KEYS = {
    "symmetric": "6d5a" * 26,
    "default": "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
    + "00" * 12,
}
WEB = {f"{OURS},8080,tcp": f"{HOST},80", f"{OURS},53,udp": f"{HOST},5353"}


FLIPS = 5_000 if LONG else 150


@dataclass
class World:
    process: subprocess.Popen[str]

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().rstrip("\n")
        assert said, f"{line[:80]}: it ended"
        return said

    def begin(self, args: str = ARGS, key: str = "symmetric") -> None:
        self.ask(f"key {KEYS[key]}")
        assert self.ask(f"begin {args}") == "ok"

    def forwards(self, table: dict[str, str]) -> str:
        words = []
        for key, value in table.items():
            address, port, protocol = key.split(",")
            inside, inside_port = value.split(",")
            words.append(
                (socket.inet_aton(address) + struct.pack("!H", int(port)) + protocol.encode()).hex()
            )
            words.append((socket.inet_aton(inside) + struct.pack("!H", int(inside_port))).hex())
        return self.ask("forwards " + " ".join(words))

    def send(self, port: str, packet: Packet) -> tuple[str, Packet | str]:
        """The port that it leaves by and what it is then, or "drop" and the reason."""
        was = bytes(packet)
        where, what = self.ask(f"{port} {was.hex()}").split()
        if where == "drop":
            return where, what
        left = Ether(bytes.fromhex(what))
        assert_sums(left)
        return where, left

    def counters(self) -> dict[str, int]:
        pairs = (word.split("=") for word in self.ask("counters").split())
        return {name: int(n) for name, n in pairs}


def assert_sums(packet: Packet) -> None:
    fresh = packet[IP].copy()
    for layer in (IP, TCP, UDP, ICMP):
        if layer in fresh:
            del fresh[layer].chksum
    fresh = IP(bytes(fresh))
    for layer in (IP, TCP, UDP, ICMP):
        if layer in fresh:
            assert packet[layer].chksum == fresh[layer].chksum, (layer, packet)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("nat") / "world"
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         f"-I{ROOT}/workers/sdk", f"-I{ROOT}/workers/functions",
         ROOT / "tests" / "c" / "nat_world.c", "-o", made],
        check=True,
    )  # fmt: skip
    return made


@pytest.fixture
def world(program: Path) -> Iterator[World]:
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield World(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def tcp(source: str, sport: int, target: str, dport: int, flags: str) -> Packet:
    return Ether() / IP(src=source, dst=target) / TCP(sport=sport, dport=dport, flags=flags)


def udp(source: str, sport: int, target: str, dport: int) -> Packet:
    return Ether() / IP(src=source, dst=target) / UDP(sport=sport, dport=dport) / b"what?"


def ends(packet: Packet | str) -> tuple[str, int, str, int]:
    assert isinstance(packet, Packet), packet
    l4 = packet[TCP] if TCP in packet else packet[UDP]
    return packet[IP].src, l4.sport, packet[IP].dst, l4.dport


def speak(world: World, port: int = 40000, remote: str = REMOTE) -> None:
    """A connection from outside to the forward of WEB."""
    for flags in ("S", "A", "PA"):
        where, got = world.send("wan", tcp(remote, port, OURS, 8080, flags))
        assert (where, ends(got)) == ("lan", (remote, port, HOST, 80)), got
        where, got = world.send("lan", tcp(HOST, 80, remote, port, "SA" if flags == "S" else "A"))
        assert (where, ends(got)) == ("wan", (OURS, 8080, remote, port)), got


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_forward(world: World, key: str) -> None:
    world.begin(key=key)
    assert world.forwards(WEB) == "ok"
    for i in range(40):
        speak(world, 40000 + i, f"198.51.{i}.9")
    where, got = world.send("wan", udp(REMOTE, 7, OURS, 53))
    assert (where, ends(got)) == ("lan", (REMOTE, 7, HOST, 5353))
    where, got = world.send("lan", udp(HOST, 5353, REMOTE, 7))
    assert (where, ends(got)) == ("wan", (OURS, 53, REMOTE, 7))
    # The host begins, from the same endpoint: it is the same outside.
    where, got = world.send("lan", udp(HOST, 5353, REMOTE, 99))
    assert (where, ends(got)) == ("wan", (OURS, 53, REMOTE, 99))
    where, got = world.send("wan", udp(REMOTE, 99, OURS, 53))
    assert (where, ends(got)) == ("lan", (REMOTE, 99, HOST, 5353))
    counted = world.counters()
    assert (counted["forwarded"], counted["created"], counted["expired"]) == (41, 42, 0)
    world.ask("time 8000")
    assert world.counters()["expired"] == 42
    # What opens no connection makes no binding.
    assert world.send("wan", tcp(REMOTE, 1, OURS, 8080, "A")) == ("drop", "no_binding")
    assert world.send("wan", tcp(REMOTE, 1, OURS, 8081, "S")) == ("drop", "no_binding")


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_connection_stays_where_it_began(world: World, key: str) -> None:
    """Its forward is deleted, or leads to another host."""
    world.begin(key=key)
    assert world.forwards(WEB) == "ok"
    for i in range(10):
        speak(world, 40000 + i)
    for table in ({}, {f"{OURS},8080,tcp": "10.0.0.6,80"}):
        assert world.forwards(table) == "ok"
        for _ in range(4):
            world.ask("time 150")
            for i in range(10):
                where, got = world.send("wan", tcp(REMOTE, 40000 + i, OURS, 8080, "A"))
                assert (where, ends(got)) == ("lan", (REMOTE, 40000 + i, HOST, 80))
                where, got = world.send("lan", tcp(HOST, 80, REMOTE, 40000 + i, "A"))
                assert (where, ends(got)) == ("wan", (OURS, 8080, REMOTE, 40000 + i))
        new = world.send("wan", tcp(REMOTE, 50000, OURS, 8080, "S"))
        if table:
            assert isinstance(new[1], Packet) and new[1][IP].dst == "10.0.0.6"
        else:
            assert new == ("drop", "no_binding")


def test_a_connection_anew_goes_by_the_table(world: World) -> None:
    """With the ports of one that is closed."""
    world.begin()
    assert world.forwards(WEB) == "ok"
    speak(world)
    world.send("wan", tcp(REMOTE, 40000, OURS, 8080, "FA"))
    world.send("lan", tcp(HOST, 80, REMOTE, 40000, "FA"))
    where, got = world.send("wan", tcp(REMOTE, 40000, OURS, 8080, "S"))
    assert (where, ends(got)[2:]) == ("lan", (HOST, 80))
    world.send("wan", tcp(REMOTE, 40000, OURS, 8080, "R"))
    assert world.forwards({f"{OURS},8080,tcp": "10.0.0.6,81"}) == "ok"
    where, got = world.send("wan", tcp(REMOTE, 40000, OURS, 8080, "S"))
    assert (where, ends(got)[2:]) == ("lan", ("10.0.0.6", 81))
    where, got = world.send("lan", tcp("10.0.0.6", 81, REMOTE, 40000, "SA"))
    assert (where, ends(got)[:2]) == ("wan", (OURS, 8080))
    world.send("wan", tcp(REMOTE, 40000, OURS, 8080, "R"))
    assert world.forwards({}) == "ok"
    assert world.send("wan", tcp(REMOTE, 40000, OURS, 8080, "S")) == ("drop", "no_binding")


def test_flags_that_close_open_nothing(world: World) -> None:
    """A kill after it has counted, and it is run once more: the state is the same."""
    world.begin("inside=lan outside=wan address=192.0.2.1 tcp=10 tcp_open=1000")
    _, got = world.send("lan", tcp("10.0.0.7", 7, REMOTE, 80, "S"))
    back = ends(got)
    for _ in range(2):
        world.send("wan", tcp(REMOTE, 80, OURS, back[1], "SA"))
        world.send("lan", tcp("10.0.0.7", 7, REMOTE, 80, "A"))
        world.send("lan", tcp("10.0.0.7", 7, REMOTE, 80, "SFR"))
    world.ask("time 20")
    assert world.send("lan", tcp("10.0.0.7", 7, REMOTE, 80, "A")) == ("drop", "no_binding")


def test_a_flood_to_a_forward_leaves_room_to_the_hosts_inside(world: World) -> None:
    world.begin()
    world.ask("quick")
    assert world.forwards(WEB) == "ok"
    # Of one bucket: what one half of the address adds the other takes.
    syn = bytearray(bytes(tcp(REMOTE, 9, OURS, 8080, "S")))
    said = []
    for i in range(300, 2200):
        syn[26:30] = i.to_bytes(2) * 2
        said.append(world.ask(f"wan {syn.hex()}").split()[0])
    assert said == ["lan"] * 1792 + ["drop"] * 108
    # To each bucket, so to that of the flood too.
    asks = bytearray(bytes(udp("10.0.0.7", 0, REMOTE, 53)))
    for port in range(1, 513):
        asks[34:36] = port.to_bytes(2)
        assert world.ask(f"lan {asks.hex()}").startswith("wan ")


def test_a_forward_of_an_address_that_is_not_ours_does_nothing(world: World) -> None:
    world.begin()
    assert world.forwards({"203.0.113.1,80,tcp": f"{HOST},80"}) == "ok"
    assert world.send("wan", tcp(REMOTE, 1, "203.0.113.1", 80, "S")) == ("drop", "not_ours")
    assert ends(world.send("lan", tcp(HOST, 80, REMOTE, 1, "S"))[1])[0] == OURS


def test_what_the_table_refuses(world: World) -> None:
    world.begin()
    wrong = [
        ({f"{OURS},80,tcx": f"{HOST},80"}, "neither tcp nor udp"),
        ({f"{OURS},0,tcp": f"{HOST},80"}, "0 is no port"),
        ({f"{OURS},80,tcp": "0.0.0.0,80"}, "no host inside"),
        ({f"{OURS},80,tcp": f"{OURS},80"}, "the outside address itself"),
        (
            {f"{OURS},80,tcp": f"{HOST},80", f"{OURS},81,tcp": f"{HOST},80"},
            f"belong already to forward {OURS},80",
        ),
    ]
    for table, why in wrong:
        assert why in world.forwards(table)


def test_no_binding_takes_the_port_of_a_forward(world: World) -> None:
    world.begin()
    _, got = world.send("lan", udp("10.0.0.7", 7, REMOTE, 53))
    port = ends(got)[1]
    world.ask("time 1000")
    assert world.forwards({f"{OURS},{port},udp": f"{HOST},53"}) == "ok"
    _, got = world.send("lan", udp("10.0.0.7", 7, REMOTE, 53))
    assert ends(got)[1] != port


def about(packet: Packet, source: str) -> Packet:
    quoted = bytes(packet[IP])[:28]
    return Ether() / IP(src=source, dst=packet[IP].src) / ICMP(type=3, code=3) / quoted


@pytest.mark.parametrize("key", sorted(KEYS))
def test_errors_about_what_was_forwarded(world: World, key: str) -> None:
    world.begin(key=key)
    assert world.forwards(WEB) == "ok"
    asked = udp(REMOTE, 7, OURS, 53)
    _, came = world.send("wan", asked)
    assert isinstance(came, Packet)
    where, error = world.send("lan", about(came, HOST))
    assert where == "wan" and isinstance(error, Packet)
    assert (error[IP].src, error[IP].dst) == (OURS, REMOTE)
    assert bytes(error[IPerror])[:28] == bytes(asked[IP])[:28]
    answer = udp(HOST, 5353, REMOTE, 7)
    _, left = world.send("lan", answer)
    assert isinstance(left, Packet)
    where, error = world.send("wan", about(left, "203.0.113.3"))
    assert where == "lan" and isinstance(error, Packet)
    assert (error[IP].dst, error[UDPerror].sport) == (HOST, 5353)
    assert bytes(error[IPerror])[:28] == bytes(answer[IP])[:28]
    assert world.counters()["icmp_errors"] == 2


def test_hairpin(world: World) -> None:
    """A host inside speaks with the forward of another, or of its own, by its outside address."""
    world.begin()
    assert world.forwards(WEB) == "ok"
    for i, host in enumerate(("10.0.0.7", "10.0.3.8", HOST)):
        source = None
        for flags in ("S", "A", "FA"):
            where, got = world.send("lan", tcp(host, 40000 + i, OURS, 8080, flags))
            assert where == "lan"
            assert ends(got)[0] == OURS and ends(got)[2:] == (HOST, 80)
            source = source or ends(got)[1]
            assert ends(got)[1] == source
            where, got = world.send("lan", tcp(HOST, 80, OURS, source, "SA"))
            assert (where, ends(got)) == ("lan", (OURS, 8080, host, 40000 + i))
    counted = world.counters()
    assert (counted["hairpinned"], counted["created"], counted["forwarded"]) == (18, 6, 3)
    assert counted["outward"] == counted["inward"] == 0
    # Where nothing is, it is as outside: but for a binding.
    assert world.send("lan", tcp("10.0.0.7", 1, OURS, 81, "S")) == ("drop", "hairpin")
    # An error of the one reaches the other.
    _, got = world.send("lan", udp("10.0.0.7", 40000, OURS, 53))
    assert isinstance(got, Packet)
    where, error = world.send("lan", about(got, HOST))
    assert where == "lan" and isinstance(error, Packet)
    assert (error[IP].src, error[IP].dst) == (OURS, "10.0.0.7")
    assert (error[IPerror].src, error[UDPerror].sport) == ("10.0.0.7", 40000)
    assert (error[IPerror].dst, error[UDPerror].dport) == (OURS, 53)


def test_hosts_inside_that_know_their_outside_endpoints(world: World) -> None:
    """One outside endpoint for all remotes, so two hosts reach each other by it, once both have
    sent (RFC 4787, REQ-1 and 9)."""
    world.begin()
    mine = {}
    for host in ("10.0.0.7", "10.0.9.8"):
        seen = {
            ends(world.send("lan", udp(host, 5000, f"198.51.{i}.{2 * i}", 3478 + i))[1])[:2]
            for i in range(100)
        }
        (mine[host],) = seen
    (one, a), (two, b) = mine.items()
    assert world.send("lan", udp(one, 5000, *b)) == ("drop", "hairpin")
    where, got = world.send("lan", udp(two, 5000, *a))
    assert (where, ends(got)) == ("lan", (*b, one, 5000))
    where, got = world.send("lan", udp(one, 5000, *b))
    assert (where, ends(got)) == ("lan", (*a, two, 5000))
    # With another hash a port would be for one remote.
    assert world.counters()["created"] == 202


def test_a_hash_that_differs_by_direction_has_no_hairpin(world: World) -> None:
    world.begin(key="default")
    assert world.forwards(WEB) == "ok"
    assert world.send("lan", tcp("10.0.0.7", 1, OURS, 8080, "S")) == ("drop", "hairpin")


def test_bindings_of_the_version_before(world: World) -> None:
    world.begin(f"{ARGS} limit=512")
    # Each has a bucket of its own, of 512.
    flows = [("10.0.0.7", i, "198.51.100.1", 53) for i in range(200)]
    left = [ends(world.send("lan", udp(*flow))[1]) for flow in flows]
    assert world.ask("migrate") == "ok"
    # Of the same bucket as one of them.
    flow = ("10.0.0.7", 99 ^ 4096, "198.51.100.1", 53 ^ 4096)
    assert world.send("lan", udp(*flow)) == ("drop", "limit")
    for flow, got in zip(flows, left, strict=True):
        assert ends(world.send("lan", udp(*flow))[1]) == got
        where, back = world.send("wan", udp(got[2], got[3], got[0], got[1]))
        assert (where, ends(back)[2:]) == ("lan", flow[:2])
    assert world.counters()["created"] == 200
    world.ask("time 1000")
    assert world.counters()["expired"] == 200


def test_damaged_state_ends_in_a_drop(world: World) -> None:
    """No chain is endless, none leads out of the state, whatever bits change. What is run once more
    may leave another state then: a place that is in use may look free."""
    world.begin(f"{ARGS} udp=1000000")
    world.ask("quick")
    assert world.forwards(WEB) == "ok"
    # One bucket: ports that make up for each other.
    flows = [("10.0.0.7", i, REMOTE, i) for i in range(1, 300)]
    for flow in flows:
        world.send("lan", udp(*flow))
    reasons = set()
    for i in range(FLIPS):
        assert world.ask("flip 8") == "ok"
        flow = flows[i * 7 % len(flows)]
        where, got = world.send("lan", udp(*flow))
        if where == "drop":
            reasons.add(got)
        where, got = world.send("wan", udp(REMOTE, flow[3], OURS, 1024 + i % 60000))
        if where == "drop":
            reasons.add(got)
        # A forward and hairpin, in the same bucket.
        x = i % 64
        for port, packet in (
            ("wan", tcp(f"198.51.{100 ^ x}.9", 0xD796 ^ x << 8, OURS, 8080, "S")),
            ("lan", tcp(f"10.0.{x}.7", 0x7FAB ^ x << 8, OURS, 8080, "S")),
        ):
            where, got = world.send(port, packet)
            if where == "drop":
                reasons.add(got)
        if i % 50 == 0:
            world.ask("time 1")
    assert "damaged" in reasons
    assert reasons <= {"damaged", "no_binding", "no_port", "full", "hairpin"}


BLOCKS = f"inside=lan outside=wan address={OURS},192.0.2.2 hosts=10.0.0.0/26 block=1024"


def test_who_had_a_port_follows_from_the_arguments(world: World) -> None:
    """RFC 7422: no log is needed. The formula is that of docs/functions/nat.md."""
    world.begin(BLOCKS)
    ports = 0
    for host in range(64):
        for i in range(3):
            source = f"10.0.0.{host}"
            asked = Ether() / IP(src=source, dst=f"198.51.100.{i}") / ICMP(type=8, id=i)
            for packet in (udp(source, 1000 + i, f"198.51.100.{i}", 53), asked):
                _, got = world.send("lan", packet)
                assert isinstance(got, Packet)
                port = got[UDP].sport if UDP in got else got[ICMP].id
                per_address = (65535 + 1 - 1024) // 1024
                number = (OURS, "192.0.2.2").index(got[IP].src) * per_address
                number += (port - 1024) // 1024
                assert number == host, (got, host)
                ports += 1
    assert ports == 64 * 6
    assert world.send("lan", udp("10.0.0.64", 1, REMOTE, 53)) == ("drop", "no_block")


def test_a_host_has_no_more_ports_than_its_block(world: World) -> None:
    """RFC 6888, REQ-4. A block has two ports for each bucket."""
    world.begin(BLOCKS)
    world.ask("quick")
    seen = set()
    for port in range(1, 1601):
        where, got = world.send("lan", udp("10.0.0.9", port, REMOTE, 53))
        if where == "drop":
            assert got == "no_port"
        else:
            seen.add(ends(got)[1])
    assert len(seen) == 1024
    world.send("lan", udp("10.0.0.9", 1, "198.51.100.77", 53))
    _, got = world.send("lan", udp("10.0.0.10", 1, REMOTE, 53))
    assert ends(got)[1] not in seen


def test_the_limit_of_a_host_is_per_bucket(world: World) -> None:
    world.begin(f"{ARGS} limit=5000 udp=10")
    # Of one bucket, as source and destination port make up for each other.
    said = [world.send("lan", udp("10.0.0.7", i, REMOTE, i)) for i in range(1, 20)]
    assert [where for where, _ in said] == ["wan"] * 10 + ["drop"] * 9
    assert said[-1] == ("drop", "limit")
    assert world.send("lan", udp("10.0.0.7", 5, REMOTE, 5))[0] == "wan"
    # Another host, in the same bucket.
    assert world.send("lan", udp("10.1.0.6", 7, REMOTE, 7))[0] == "wan"
    world.ask("time 20")
    assert world.send("lan", udp("10.0.0.7", 30, REMOTE, 30))[0] == "wan"


REFUSED = [
    ("block=1024", "hosts, the prefix"),
    ("hosts=10.0.0.0/26", "block, how many"),
    ("hosts=10.0.0.0/26 block=1000", "no multiple of 512"),
    ("hosts=10.0.0.0/26 block=512 first_port=2000", "first_port is no multiple of 512"),
    ("hosts=10.0.0.0/26 block=1024", "64 addresses, and there are 63 blocks"),
    ("hosts=10.0.0.0/99 block=1024", "not an IPv4 prefix"),
    ("limit=0", "limit: write a number from 1"),
]


@pytest.mark.parametrize(("args", "why"), REFUSED)
def test_what_init_refuses(world: World, args: str, why: str) -> None:
    assert why in world.ask(f"begin {ARGS} {args}")


def test_an_endless_chain_is_cut(world: World) -> None:
    world.begin()
    # Of one bucket, so that many share a chain.
    flows = [("10.0.0.7", i, REMOTE, i) for i in range(1, 300)]
    for flow in flows:
        world.send("lan", udp(*flow))
    assert world.ask("loop") == "ok"
    flows.append(("10.0.0.7", 9999, REMOTE, 9999))
    for _ in range(2):
        said = [world.send("lan", udp(*flow)) for flow in flows]
    assert all(where == "wan" for where, _ in said)
    assert world.ask("loop") == "ok"
    reasons = {what for where, what in (world.send("lan", udp(*flow)) for flow in flows)
               if where == "drop"}  # fmt: skip
    assert reasons == {"damaged"}
    world.ask("time 1000")
    counted = world.counters()
    assert counted["created"] == counted["expired"]
