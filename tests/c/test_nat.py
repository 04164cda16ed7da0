# SPDX-License-Identifier: BSD-3-Clause
"""The function `nat`, by `dpsup try`: what becomes of packets, and of bindings at a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, TCPerror, UDPerror
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding

from dpsup.packets import pcapng
from dpsup.packets.frames import frames

DPSUP = Path(sys.executable).with_name("dpsup")
ROOT = Path(__file__).resolve().parents[2]
SECOND = 10**9
OURS = "192.0.2.1"
TOPOLOGY = """
version = 1
name = "nat"
[[ports]]
name = "lan"
vdev = "net_null0"
rss = {{ key = "{key}" }}
[[ports]]
name = "wan"
vdev = "net_null1"
rss = {{ key = "{key}" }}
[[io]]
cores = "1"
[[workers]]
name = "nat"
plugin = "nat"
input = ["lan", "wan"]
bucket_state = "auto"
args = {{ inside = "lan", outside = "wan", address = "{address}"{more} }}
{tables}
[mempools.default]
mbufs = 16383
"""
FORWARDS = (
    'tables.forwards = { kind = "own", key = "ipv4+be16+text3", value = "ipv4+be16",'
    ' entries = 100, bytes = "16KiB", file = "forwards.txt" }'
)

Step = tuple[float, str, Packet]  # seconds, port, packet


@dataclass
class Nat:
    folder: Path
    address: str = OURS
    more: str = ""
    key: str = "symmetric"
    forwards: str = ""

    def run(
        self, steps: list[Step], *words: str
    ) -> tuple[dict[str, Any], list[tuple[str, Packet]]]:
        """What `dpsup try` says, and what left by which port."""
        (self.folder / "nat.toml").write_text(
            TOPOLOGY.format(
                address=self.address,
                more=self.more,
                key=self.key,
                tables=FORWARDS if self.forwards else "",
            )
        )
        (self.folder / "forwards.txt").write_text(self.forwards)
        parts = [pcapng.section("test"), pcapng.interface("lan", "", 0)]
        parts += [pcapng.interface("wan", "", 0)]
        for at, port, packet in steps:
            frame = bytes(packet)
            frame += bytes(max(0, 60 - len(frame)))
            number = ("lan", "wan").index(port)
            parts.append(pcapng.packet(number, 10**18 + int(at * SECOND), frame, len(frame)))
        (self.folder / "in.pcapng").write_bytes(b"".join(parts))
        out = self.folder / "out.pcapng"
        done = subprocess.run(
            [DPSUP, "try", "nat", self.folder / "in.pcapng", "--topology",
             self.folder / "nat.toml", "--out", out, "-o", "json", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        left: list[tuple[str, Packet]] = [
            (one.interface, Ether(one.data)) for one in frames(out.read_bytes())
        ]
        for _, packet in left:
            assert_sums(packet)
        return json.loads(done.stdout), left

    def out(self, steps: list[Step]) -> list[Packet]:
        """The packets that left outside; with others behind them they leave the same."""
        return [packet for port, packet in self.run(steps)[1] if port == "wan"]


def assert_sums(packet: Packet) -> None:
    if IP not in packet:
        return
    data = packet[IP]
    fresh = data.copy()
    for layer in (IP, TCP, UDP, ICMP):
        if layer in fresh:
            del fresh[layer].chksum
    fresh = IP(bytes(fresh))
    for layer in (IP, TCP, UDP, ICMP):
        if layer in data and not (layer is UDP and data[layer].chksum == 0):
            assert data[layer].chksum == fresh[layer].chksum, (layer, data)


@pytest.fixture
def nat(tmp_path: Path) -> Nat:
    return Nat(tmp_path)


def ether() -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def tcp(source: str, sport: int, target: str, dport: int, flags: str, data: bytes = b"") -> Packet:
    return ether() / IP(src=source, dst=target) / TCP(sport=sport, dport=dport, flags=flags) / data


def udp(source: str, sport: int, target: str, dport: int, **more: Any) -> Packet:
    return ether() / IP(src=source, dst=target) / UDP(sport=sport, dport=dport, **more) / b"what?"


def echo(source: str, target: str, id: int, kind: int = 8) -> Packet:
    return ether() / IP(src=source, dst=target) / ICMP(type=kind, id=id, seq=1) / b"ping"


def answer(packet: Packet, flags: str = "SA") -> Packet:
    """What the remote says to a packet that left."""
    ip = packet[IP]
    if TCP in packet:
        return tcp(ip.dst, packet[TCP].dport, ip.src, packet[TCP].sport, flags)
    if UDP in packet:
        return udp(ip.dst, packet[UDP].dport, ip.src, packet[UDP].sport)
    return echo(ip.dst, ip.src, packet[ICMP].id, 0)


# With the symmetric key the hash of its echoes is that of their answers: `dpsup try` leaves those
# of other hosts, which are steered to the bucket of their answers, on their way.
PINGS = "10.0.200.1"


def clients(n: int, *, pings: bool = True) -> list[Step]:
    """Of many hosts, to many remotes."""
    steps: list[Step] = []
    for i in range(n):
        host, remote = f"10.0.{i % 5}.{i}", f"198.51.100.{i % 7}"
        plain = {"chksum": 0} if i % 3 == 0 else {}
        steps.append((i / 1000, "lan", tcp(host, 40000 + i, remote, 443, "S")))
        steps.append((i / 1000, "lan", udp(host, 5353, remote, 53, **plain)))
        if pings:
            steps.append((i / 1000, "lan", echo(PINGS, remote, i)))
    return steps


@pytest.mark.parametrize("key", ["symmetric", "default"])
def test_answers_come_back_to_who_asked(nat: Nat, key: str) -> None:
    nat.key = key
    asked = clients(40, pings=key == "symmetric")
    left = nat.out(asked)
    assert len(left) == len(asked)
    assert {packet[IP].src for packet in left} == {OURS}
    ends = {bytes(answer(packet)[IP])[12 : 28 if ICMP in packet else 24] for packet in left}
    assert len(ends) == len(left), "two flows of one remote endpoint are one outside"
    doc, all_left = nat.run([*asked, *((1, "wan", answer(packet)) for packet in left)])
    back = [packet for port, packet in all_left if port == "lan"]
    assert len(back) == len(asked), doc
    for (_, _, was), got in zip(asked, back, strict=True):
        assert (got[IP].src, got[IP].dst) == (was[IP].dst, was[IP].src)
        for layer in (TCP, UDP):
            if layer in was:
                assert (got[layer].sport, got[layer].dport) == (was[layer].dport, was[layer].sport)
        if ICMP in was:
            assert got[ICMP].id == was[ICMP].id
    assert doc["counters"]["created"] == doc["counters"]["outward"] == len(asked)
    assert doc["counters"]["inward"] == len(asked)


def test_a_kill_at_each_store_neither_loses_nor_doubles_a_binding(nat: Nat) -> None:
    """Bindings that begin, are used, end, and whose place is used again."""
    nat.more = ", tcp = 3, udp = 3, icmp = 3"
    asked = clients(3)
    again = [(8 + at, port, packet) for at, port, packet in asked]
    back = [(1 + i / 1000, "wan", answer(packet)) for i, packet in enumerate(nat.out(asked))]
    doc, left = nat.run(
        [*asked, *back, *again, *((8 + at, port, packet) for at, port, packet in back)],
        "--kill-sweep",
    )
    assert doc["counters"]["created"] == 2 * len(asked)
    assert doc["counters"]["expired"] == len(asked)
    assert doc["sweep"]["points"] > 10 * len(asked)
    assert [port for port, _ in left].count("lan") >= len(asked)


def test_a_kill_at_each_store_of_a_forward(nat: Nat) -> None:
    """From outside, from inside, and from inside by the outside address: two bindings at once. The
    ports of the forward make up for the addresses, so all of a connection has one bucket."""
    nat.more = ", tcp = 3"
    nat.forwards = f"{OURS},51284,tcp 10.0.0.5,80\n{OURS},8080,tcp 10.0.0.6,80\n"
    steps: list[Step] = [
        (0, "wan", tcp("198.51.100.7", 4000, OURS, 51284, "S")),
        (0.1, "lan", tcp("10.0.0.5", 80, "198.51.100.7", 4000, "SA")),
        (0.2, "lan", tcp("10.0.0.9", 4000, OURS, 51284, "S")),
        # To the bucket of the packets from outside, leaving a note.
        (0.3, "lan", tcp("10.0.0.6", 80, "198.51.100.7", 4001, "SA")),
        (9, "wan", tcp("198.51.100.7", 4002, OURS, 51284, "S")),
    ]
    doc, left = nat.run(steps, "--kill-sweep")
    assert [port for port, _ in left] == ["lan", "wan", "lan", "lan"]
    ends = [(p[IP].src, p[TCP].sport, p[IP].dst, p[TCP].dport) for _, p in left]
    assert ends[0] == ("198.51.100.7", 4000, "10.0.0.5", 80)
    assert ends[1] == (OURS, 51284, "198.51.100.7", 4000)
    assert (ends[2][0], ends[2][2:]) == (OURS, ("10.0.0.5", 80))
    counted = doc["counters"]
    assert (counted["created"], counted["forwarded"], counted["expired"]) == (4, 3, 3)
    assert counted["hairpinned"] == 1 and doc["on_hash"] == {"nat": 1}


def about(packet: Packet, source: str, kind: int = 3) -> Packet:
    """The ICMP error of a router about a packet, which it quotes."""
    quoted = bytes(packet[IP])[: 20 + 20]
    return ether() / IP(src=source, dst=packet[IP].src) / ICMP(type=kind, code=1) / quoted


def test_an_error_reaches_who_sent_the_packet_that_it_is_about(nat: Nat) -> None:
    """From the remote itself, whose error has the hash of its echoes: others are steered."""
    asked: list[Step] = [(0, "lan", echo(PINGS, "198.51.100.1", 5))]
    (out,) = nat.out(asked)
    doc, left = nat.run([*asked, (1, "wan", about(out, "198.51.100.1"))], "--kill-sweep")
    error = left[-1][1]
    assert left[-1][0] == "lan" and doc["counters"]["icmp_errors"] == 1
    assert (error[IP].src, error[IP].dst) == ("198.51.100.1", PINGS)
    assert error[IPerror].src == PINGS and error[ICMPerror].id == 5
    assert bytes(error[IPerror])[:28] == bytes(asked[0][2][IP])[:28]


def test_bytes_behind_an_error_are_no_part_of_it(nat: Nat) -> None:
    """8 bytes of a TCP header are quoted: what a switch appended is not its checksum."""
    asked: list[Step] = [(0, "lan", tcp(PINGS, 7777, "198.51.100.1", 7777, "S"))]
    (out,) = nat.out(asked)
    error = ether() / IP(src="198.51.100.1", dst=out[IP].src) / ICMP(type=3, code=1)
    error /= bytes(out[IP])[: 20 + 8]
    _, left = nat.run([*asked, (1, "wan", error / Padding(b"\xaa" * 16))])
    assert left[-1][1][Padding].load == b"\xaa" * 16


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_both_ports_of_a_quoted_packet(nat: Nat, kind: Any) -> None:
    """Ports that cancel each other out, so that the error has the hash of the flow."""
    make = tcp if kind is TCP else udp
    more: tuple[Any, ...] = ("S",) if kind is TCP else ()
    port = 7777
    asked: list[Step] = [(0, "lan", make(PINGS, port, "198.51.100.1", port, *more))]
    (out,) = nat.out(asked)
    doc, left = nat.run([*asked, (1, "wan", about(out, "198.51.100.1"))])
    assert doc["counters"]["icmp_errors"] == 1, doc
    error = left[-1][1]
    inner = error[TCPerror if kind is TCP else UDPerror]
    assert (error[IP].dst, error[IPerror].src, inner.sport) == (PINGS, PINGS, port)
    assert bytes(error[IPerror])[:28] == bytes(asked[0][2][IP])[:28]


def test_a_shorter_list_of_addresses_leaves_no_packet_with_another(tmp_path: Path) -> None:
    """Bindings that the version before made, of addresses that are no more."""
    program = tmp_path / "nat_addresses"
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-Wno-unused",
         f"-I{ROOT}/workers/sdk", f"-I{ROOT}/workers/functions",
         ROOT / "tests" / "c" / "nat_addresses.c", "-o", program],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    second, strange = map(int, done.stdout.split())
    assert second > 10
    assert strange == 0


REFUSED = [
    ("lan", tcp("10.0.0.1", 1, "198.51.100.1", 80, "A"), "no_binding"),
    ("wan", tcp("198.51.100.1", 80, OURS, 2000, "S"), "no_binding"),
    ("wan", tcp("198.51.100.1", 80, "10.0.0.1", 2000, "S"), "not_ours"),
    ("lan", udp("10.0.0.1", 1, OURS, 80), "hairpin"),
    ("lan", ether() / IP(src="10.0.0.1", dst="198.51.100.1", frag=4) / b"rest", "fragment"),
    ("lan", ether() / IP(src="10.0.0.1", dst="198.51.100.1", proto=47) / b"gre", "protocol"),
    ("lan", ether() / IP(src="10.0.0.1", dst="198.51.100.1", ihl=4), "bad_header"),
]


def test_what_is_refused_has_a_reason(nat: Nat) -> None:
    doc, left = nat.run([(i, port, packet) for i, (port, packet, _) in enumerate(REFUSED)])
    assert not left
    reasons = [reason for _, _, reason in REFUSED]
    assert {k: n for k, n in doc["dropped"].items() if n} == {
        reason: reasons.count(reason) for reason in reasons
    }


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_an_error_of_a_host_inside_about_what_came_to_it(nat: Nat, kind: Any) -> None:
    """It quotes the packet as the host got it; outside it quotes what the remote had sent."""
    make = tcp if kind is TCP else udp
    more: tuple[Any, ...] = ("S",) if kind is TCP else ()
    asked: list[Step] = [(0, "lan", make(PINGS, 7777, "198.51.100.1", 7777, *more))]
    (out,) = nat.out(asked)
    came: list[Step] = [(1, "wan", answer(out))]
    got = nat.run([*asked, *came])[1][-1][1]
    assert got[IP].dst == PINGS
    doc, left = nat.run([*asked, *came, (2, "lan", about(got, PINGS))], "--kill-sweep")
    assert doc["counters"]["icmp_errors"] == 1, doc
    port, error = left[-1]
    assert port == "wan" and (error[IP].src, error[IP].dst) == (OURS, "198.51.100.1")
    assert (error[IPerror].src, error[IPerror].dst) == ("198.51.100.1", OURS)
    inner = error[TCPerror if kind is TCP else UDPerror]
    assert inner.dport == out[kind].sport
    assert bytes(error[IPerror])[:28] == bytes(answer(out)[IP])[:28]
