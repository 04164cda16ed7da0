# SPDX-License-Identifier: BSD-3-Clause
"""The function `police`, by `dpsup try`, against a plain model of RFC 2697 and RFC 2698."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet
from tried import Step, Tried

GREEN, YELLOW, RED = range(3)
DSCP = (10, 12, 14)  # AF11, AF12, AF13
MARKS = 'green = "10", yellow = "12", red = "14"'


@dataclass
class Meter:
    """RFC 2697 §3, or RFC 2698 §3 with a peak rate: bits a second, bytes, in exact numbers."""

    cir: int
    cbs: int
    ebs: int = 0
    pir: int = 0
    pbs: int = 0
    at: Fraction | None = None
    committed: Fraction = field(default_factory=Fraction)
    more: Fraction = field(default_factory=Fraction)

    def colour(self, ns: int, size: int, was: int = GREEN) -> int:
        now = Fraction(ns, 10**9)
        most = self.pbs if self.pir else self.ebs
        if self.at is None:
            self.committed, self.more = Fraction(self.cbs), Fraction(most)
        else:
            came = (now - self.at) * self.cir / 8
            self.committed += came
            if self.pir:
                self.more += (now - self.at) * self.pir / 8
            elif self.committed > self.cbs:
                self.more += self.committed - self.cbs
            self.committed = min(self.committed, Fraction(self.cbs))
            self.more = min(self.more, Fraction(most))
        self.at = now
        if self.pir:
            if was == RED or self.more < size:
                return RED
            self.more -= size
            if was == YELLOW or self.committed < size:
                return YELLOW
            self.committed -= size
            return GREEN
        if was == GREEN and self.committed >= size:
            self.committed -= size
            return GREEN
        if was != RED and self.more >= size:
            self.more -= size
            return YELLOW
        return RED


def police(tmp_path: Path, args: str, more: str = "") -> Tried:
    group = f'bucket_state = "auto"\nargs = {{ {args} }}\n{more}'
    return Tried(tmp_path, "police", ("lan", "wan"), group)


def udp(source: int, size: int, tos: int = 0, *, six: bool = False, tag: bool = False) -> Packet:
    """`size` bytes of IP."""
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    if tag:
        ether /= Dot1Q(vlan=7)
    if six:
        ip = IPv6(src=f"2001:db8::{source:x}", dst="2001:db8:1::1", tc=tos)
        return ether / ip / UDP(sport=source, dport=53) / bytes(size - 48)
    ip = IP(src=f"10.0.{source >> 8}.{source & 255}", dst="198.51.100.1", tos=tos)
    return ether / ip / UDP(sport=source, dport=53) / bytes(size - 28)


def colour(packet: Packet) -> int:
    code = packet[IPv6].tc >> 2 if IPv6 in packet else packet[IP].tos >> 2
    return DSCP.index(code)


@pytest.mark.parametrize("aware", [False, True], ids=["blind", "aware"])
@pytest.mark.parametrize(
    ("args", "rates"),
    [
        ('cir = "80kbit", cbs = "3000B", ebs = "4500B"', {"cir": 80000, "cbs": 3000, "ebs": 4500}),
        ('cir = "64kbit", ebs = "2000B"', {"cir": 64000, "cbs": 0, "ebs": 2000}),
        (
            'cir = "80kbit", cbs = "3000B", pir = "160kbit", pbs = "4000B"',
            {"cir": 80000, "cbs": 3000, "pir": 160000, "pbs": 4000},
        ),
    ],
    ids=["single", "excess", "two-rate"],
)
def test_colours_are_those_of_the_model(
    tmp_path: Path, args: str, rates: dict[str, int], aware: bool
) -> None:
    """Bursts and pauses of many flows; the clock is that of the packets, once for each burst."""
    random_ = random.Random(2697)
    models = [Meter(**rates) for _ in range(5)]
    steps: list[Step] = []
    expected: list[int] = []
    ns = 0
    for _ in range(500):
        ns += random_.choice((0, 1000, 1_000_003, 30_000_001, 90_000_000))
        flow, size = random_.randrange(5), random_.randrange(60, 1500)
        was = random_.choice((GREEN, YELLOW, RED)) if aware else GREEN
        packet = udp(flow, size, DSCP[was] << 2 | 1, six=flow % 2 == 1, tag=flow == 4)
        steps.append((ns / 10**9, "lan", packet))
        expected.append(models[flow].colour(ns, size, was))
    more = ', colour = "aware"' if aware else ""
    doc, left = police(tmp_path, f"{args}{more}, {MARKS}").run(steps, "--burst", "1")
    assert [colour(packet) for _, packet in left] == expected
    assert len(set(expected)) == (2 if rates["cbs"] == 0 else 3)
    for (_, _, was), (_, got) in zip(steps, left, strict=True):
        assert isinstance(was, Packet)
        for layer, name in ((IP, "tos"), (IPv6, "tc")):
            if layer in was:
                assert getattr(got[layer], name) & 3 == 1, "ECN stays (RFC 3168)"
                setattr(was[layer], name, getattr(got[layer], name))
        assert bytes(got) == bytes(was), "and nothing else changes but the checksum"
    for kind, name in enumerate(("green", "yellow", "red")):
        assert doc["counters"][name] == expected.count(kind)


def test_red_is_dropped_and_a_kill_gives_no_second_burst(tmp_path: Path) -> None:
    steps: list[Step] = [(i / 1000, "lan", udp(i % 2, 500)) for i in range(40)]
    doc, left = police(tmp_path, 'cir = "8kbit", cbs = "3kB", ebs = "1kB"').run(
        steps, "--kill-sweep"
    )
    # 3000 and 1000 bytes for each of two flows; 1 byte a millisecond comes.
    assert len(left) == 16
    assert doc["counters"] | {"green": 12, "yellow": 4, "red": 24} == doc["counters"]
    assert doc["counters"]["red_bytes"] == 24 * 500
    assert doc["dropped"] == {"red": 24} | {k: 0 for k in doc["dropped"] if k != "red"}
    assert doc["sweep"]["points"] > 100


@pytest.mark.parametrize("by", ["source", "destination", "port"])
def test_what_has_one_meter_goes_to_one_bucket(tmp_path: Path, by: str) -> None:
    """`dpsup try` carries out no hop: packets that need one leave it as on_hash."""
    steps: list[Step] = [
        (0, "lan", Ether() / IP(src="10.0.0.9", dst="10.1.0.9") / UDP(sport=i, dport=9))
        for i in range(1, 2000)
    ]
    doc, left = police(tmp_path, f'by = "{by}", cir = "8kbit", cbs = "56B", {MARKS}').run(steps)
    measured = sum(doc["counters"][name] for name in ("green", "yellow", "red"))
    assert 0 < measured < 40, "of 2000 flows, about 4 are in a bucket"
    assert doc["counters"]["green"] == 2, "and these have one meter"
    assert len(left) == measured


def test_a_full_bucket_has_one_more_meter_for_the_rest(tmp_path: Path) -> None:
    """No crowd of flows gets more than its meters: those beyond share one."""
    random_ = random.Random(1)
    steps: list[Step] = []
    for i in range(2000):
        packet = Ether() / IP(src="10.0.0.1", dst="10.1.0.1")
        # With the symmetric hash, equal ports cancel out: all these flows are in one bucket.
        steps.append((i / 10**6, "lan", packet / UDP(sport=i + 1, dport=i + 1)))
    random_.shuffle(steps)
    steps = [(i / 10**6, port, packet) for i, (_, port, packet) in enumerate(steps)]
    doc, left = police(tmp_path, f'cir = "8kbit", cbs = "28B", {MARKS}').run(steps)
    counters = doc["counters"]
    assert counters["shared"] > 900
    assert counters["green"] == 2000 - counters["shared"] + 1
    assert len(left) == 2000


def test_prefixes_have_profiles_that_operators_change(tmp_path: Path) -> None:
    (tmp_path / "prefixes.txt").write_text("10.0.0.0/24 1\n10.0.1.0/24 2\n10.0.1.7 3\n")
    (tmp_path / "profiles.txt").write_text("1 8000,100,0,0,0\n2 0,0,0,0,0\n")
    tables = f"""
    [workers.tables]
    prefixes = {{ kind = "ipv4", value = "u32", entries = "1k", file = "{tmp_path}/prefixes.txt" }}
    profiles = {{ kind = "array", value = "u64+u64+u64+u64+u64", entries = "16",
                  file = "{tmp_path}/profiles.txt" }}
    """.replace('",\n                  ', '", ')
    trial = police(tmp_path, f'by = "source", cir = "8kbit", cbs = "200B", {MARKS}', tables)
    # 200 flows of each of: a metered prefix, one without a rate, an address of its own with the
    # arguments' rate, none.
    steps: list[Step] = []
    for i in range(2000):
        for source in (5, 256 + 5, 256 + 7, 512 + 5):
            packet = udp(source, 100)
            packet[UDP].sport = i
            steps.append((0, "lan", packet))
    doc, left = trial.run(steps)
    seen = {source: [] for source in ("10.0.0.5", "10.0.1.5", "10.0.1.7", "10.0.2.5")}
    for _, packet in left:
        seen[packet[IP].src].append(packet[IP].tos >> 2)
    assert seen["10.0.0.5"].count(10) == 1 and seen["10.0.0.5"].count(14) >= 1
    assert seen["10.0.1.7"].count(10) == 2 and seen["10.0.1.7"].count(14) >= 1
    assert seen["10.0.1.5"] == seen["10.0.2.5"] == [0] * 2000
    assert doc["counters"]["unmetered"] == 4000


WRONG = [
    ("", "it needs a rate"),
    ('cir = "10"', "10Mbit"),
    ('cir = "10Mbit"', "cbs or ebs must be above 0"),
    ('cir = "10Mbit", cbs = "2GB"', "more than it takes"),
    ('cir = "10Mbit", cbs = "1kB", pir = "1Mbit", pbs = "1kB"', "pir is not below cir"),
    ('cir = "10Mbit", cbs = "1kB", red = "64"', "neither pass, drop, nor a DSCP"),
    ('cir = "10Mbit", cbs = "1kB", by = "host"', "none of: flow, source, destination, port"),
    ('cir = "10Mbit", cbs = "1kB", rate = "1"', "it has no argument"),
]


@pytest.mark.parametrize(("args", "why"), WRONG, ids=[why for _, why in WRONG])
def test_wrong_arguments_are_refused_with_a_reason(tmp_path: Path, args: str, why: str) -> None:
    assert why in police(tmp_path, args).refusal()
