# SPDX-License-Identifier: BSD-3-Clause
"""The function `export`, by `dpsup try`, and a collector of IPFIX that forgives nothing."""

from __future__ import annotations

import ipaddress
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ipfix import Collector, collect, number
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from tried import Step, Tried

ENDS = 'source = "192.0.2.1", destination = "192.0.2.9", mac = "02:00:00:00:00:09"'
ENDS6 = 'source = "2001:db8::1", destination = "2001:db8::9", mac = "02:00:00:00:00:09"'


def export(tmp_path: Path, args: str = ENDS) -> Tried:
    group = f'state = "auto"\nbucket_state = "auto"\nargs = {{ to = "mon", {args} }}\n'
    return Tried(tmp_path, "export", ("lan", "mon"), group)


def messages(left: list[tuple[str, Packet]]) -> list[bytes]:
    """What went to the collector, with sums and lengths checked."""
    found = []
    for port, packet in left:
        if port != "mon":
            continue
        assert packet.dst == "02:00:00:00:00:09"
        ip = packet[IP] if IP in packet else packet[IPv6]
        fresh = ip.copy()
        del fresh[UDP].chksum
        if IP in packet:
            del fresh.chksum
        fresh = type(ip)(bytes(fresh))
        assert (fresh[UDP].chksum, bytes(fresh)) == (ip[UDP].chksum, bytes(ip))
        assert ip[UDP].dport == 4739 and ip[UDP].len == 8 + len(bytes(ip[UDP].payload))
        assert len(bytes(ip)) <= 1428 + 12
        found.append(bytes(ip[UDP].payload))
    return found


def run(trial: Tried, steps: list[Step], *words: str) -> tuple[dict[str, Any], Collector]:
    """And what passed is what came in."""
    doc, left = trial.run(steps, *words)
    passed = [bytes(packet) for port, packet in left if port == "lan"]
    assert passed == [bytes(packet) for _, _, packet in steps]
    return doc, collect(messages(left))


def ether() -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def udp(i: int, size: int = 100) -> Packet:
    ip = IP(src=f"10.0.{i >> 8}.{i & 255}", dst="10.1.0.1", tos=8)
    return ether() / ip / UDP(sport=i, dport=53) / bytes(size - 28)


def until(seconds: float) -> Step:
    """Time passes: a packet that is no flow's."""
    return (seconds, "lan", ether() / ARP() / bytes(18))


def test_a_record_says_what_a_flow_was(tmp_path: Path) -> None:
    tagged = ether() / Dot1Q(vlan=7) / udp(5)[IP]
    six = (
        ether()
        / IPv6(src="2001:db8::5", dst="2001:db8::6", tc=12)
        / TCP(sport=7, dport=8, flags="S")
    )
    six2 = (
        ether()
        / IPv6(src="2001:db8::5", dst="2001:db8::6")
        / TCP(sport=7, dport=8, flags="PA")
        / b"xyz"
    )
    ping = ether() / IP(src="10.0.0.9", dst="10.1.0.1") / ICMP(type=8, code=0) / bytes(20)
    ping6 = ether() / IPv6(src="2001:db8::5", dst="2001:db8::6") / ICMPv6EchoRequest(data=bytes(8))
    steps: list[Step] = [
        (0, "lan", tagged), (1, "lan", six), (1.5, "lan", six2), (2, "lan", ping),
        (3, "lan", ping6),
        (4, "lan", tagged), until(40),
    ]  # fmt: skip
    doc, got = run(export(tmp_path), steps, "--burst", "1")
    assert len(got.records) == doc["counters"]["records"] == doc["counters"]["flows_begun"] == 4
    by = {number(r["protocol"]): r for r in got.records}
    one = by[17]
    assert ipaddress.ip_address(one["source"]) == ipaddress.ip_address("10.0.0.5")
    assert ipaddress.ip_address(one["target"]) == ipaddress.ip_address("10.1.0.1")
    values = {name: number(one[name]) for name in ("sport", "dport", "vlan", "port", "tos", "end")}
    assert values == {"sport": 5, "dport": 53, "vlan": 7, "port": 1, "tos": 8, "end": 1}
    assert (number(one["packets"]), number(one["octets"])) == (2, 200)
    # Times are in units of 2^20 ns, a millisecond and a little more; the first packet comes now.
    assert abs(number(one["last"]) - number(one["first"]) - 4000) <= 2
    assert abs(number(one["first"]) - time.time() * 1000) < 600_000
    tcp = by[6]
    assert ipaddress.ip_address(tcp["source"]) == ipaddress.ip_address("2001:db8::5")
    assert (number(tcp["flags"]), number(tcp["tos"]), number(tcp["packets"])) == (0x1A, 12, 2)
    assert number(tcp["octets"]) == 60 + 63
    assert number(by[1]["icmp"]) == 8 << 8 and number(by[58]["icmp"]) == 128 << 8
    assert doc["counters"]["not_ip"] == 1
    assert got.times == sorted(got.times)
    assert abs(got.times[0] - number(one["first"]) / 1000) < 60


def test_why_a_flow_is_over(tmp_path: Path) -> None:
    fin = ether() / IP(src="10.0.0.2", dst="10.1.0.1") / TCP(flags="FA")
    steps: list[Step] = [(0, "lan", fin)]
    steps += [(i, "lan", udp(7)) for i in range(0, 130, 5)]
    steps += [(3, "lan", udp(8))]
    steps.sort(key=lambda step: step[0])
    steps += [until(200)]
    doc, got = run(export(tmp_path), steps, "--burst", "1")
    ends = sorted((number(r["sport"]), number(r["end"]), number(r["packets"])) for r in got.records)
    assert ends[:1] == [(7, 1, ends[0][2])] and ends[-2:] == [(8, 1, 1), (20, 3, 1)]
    active = [packets for port, end, packets in ends if (port, end) == (7, 2)]
    assert len(active) == 2 and sum(active) + ends[0][2] == 26
    assert doc["counters"]["packets"] == got.total("packets") == 28


@pytest.mark.parametrize(("ends", "sweep"), [(ENDS, True), (ENDS6, False)], ids=["ipv4", "ipv6"])
def test_the_sum_is_exact_over_kills(tmp_path: Path, ends: str, sweep: bool) -> None:
    """A kill at each store of packets that make, use and end flows, and of ticks that export."""
    random_ = random.Random(7011)
    steps: list[Step] = []
    for i in range(30):
        packet = udp(random_.randrange(6), random_.randrange(60, 900))
        if i % 5 == 0:
            packet = ether() / IPv6(src="2001:db8::5", dst="2001:db8::6") / UDP(sport=i % 3) / b"x"
        steps.append((i * 0.7, "lan", packet))
    steps.append(until(100))
    # Messages have the time of day, so that no two runs are equal.
    words = ("--kill-sweep", "--allow", "burst") if sweep else ()
    doc, got = run(export(tmp_path, ends), steps, "--burst", "1", *words)
    assert not sweep or doc["sweep"]["points"] > 200
    assert got.total("packets") == 30 == doc["counters"]["packets"]
    assert got.total("octets") == sum(len(bytes(p)) - 14 for _, _, p in steps[:30])


def test_messages_fit_the_mtu_and_templates_come_again(tmp_path: Path) -> None:
    """With the symmetric hash, equal ports of two hosts cancel out: all flows are in one bucket."""
    steps: list[Step] = []
    for i in range(400):
        packet = ether() / IP(src="10.0.0.1", dst="10.1.0.1") / UDP(sport=i + 1, dport=i + 1)
        steps.append((i / 1000, "lan", packet / bytes(10)))
    steps += [(t, "lan", udp(1)) for t in range(30, 300, 30)]
    doc, got = run(export(tmp_path), [*steps, until(400)])
    counters = doc["counters"]
    assert got.total("packets") == 409 and counters["not_counted"] == 0
    assert got.templates_seen // 2 >= 4, "each 60 s"
    assert counters["records"] == counters["flows_begun"] == len(got.records)
    assert counters["messages"] < 60, "many flows in one"


def test_a_full_bucket_ends_its_oldest_flows_early(tmp_path: Path) -> None:
    steps: list[Step] = []
    for i in range(900):
        packet = ether() / IP(src="10.0.0.1", dst="10.1.0.1") / UDP(sport=i + 1, dport=i + 1)
        steps.append((i / 1000, "lan", packet / bytes(10)))
    # A tick exports some hundred flows, and none is made up for.
    doc, got = run(export(tmp_path), [*steps, *(until(t) for t in range(20, 40))])
    assert got.total("packets") == 900
    reasons = Counter(number(record["end"]) for record in got.records)
    assert reasons[5] == doc["counters"]["ended_early"] >= 900 - 504


WRONG = [
    ("", "it needs the argument"),
    (ENDS.replace("192.0.2.9", "2001:db8::9"), "of the same kind"),
    (f"{ENDS}, idle = 0", "from 1 to 3600"),
    (f"{ENDS}, speed = 9", "it has no argument"),
]


@pytest.mark.parametrize(("args", "why"), WRONG, ids=[why for _, why in WRONG])
def test_wrong_arguments_are_refused_with_a_reason(tmp_path: Path, args: str, why: str) -> None:
    assert why in export(tmp_path, args or "domain = 1").refusal()
