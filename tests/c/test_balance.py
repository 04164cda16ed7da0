# SPDX-License-Identifier: BSD-3-Clause
"""The function `balance`: its backends, its connections when these change, and its packets."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from tried import Step, Tried

HERE = Path(__file__).parent
WORKERS = HERE.parents[1] / "workers"
VIP, VIP6 = "192.0.2.10", "2001:db8::10"
VIPS = f'vips = "{VIP}:80/tcp, {VIP}:53/udp, [{VIP6}]:443/tcp", port = "lan"'
BACKENDS = "b1 02:00:00:00:00:11,10\nb2 02:00:00:00:00:12,10\nb3 02:00:00:00:00:13,20\n"


def compiled(tmp_path: Path, name: str) -> Path:
    program = tmp_path / name
    subprocess.run(
        ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         f"-I{WORKERS / 'sdk'}", f"-I{WORKERS / 'functions'}", HERE / f"{name}.c", "-o", program],
        check=True,
    )  # fmt: skip
    return program


def test_connections_stay_when_the_table_changes(tmp_path: Path) -> None:
    done = subprocess.run(
        [compiled(tmp_path, "balance_steps")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_few_places_change_beyond_those_of_what_goes(tmp_path: Path) -> None:
    program = compiled(tmp_path, "maglev_moves")
    for n, gone, most in ((10, 1, 5_000), (1000, 1, 10_000), (1000, 10, 35_000)):
        out = subprocess.run(
            [program, str(n), str(gone)], capture_output=True, text=True, check=True
        ).stdout
        moved, greatest = map(int, out.split())
        assert 0 < moved < most
        assert greatest < 1020  # thousandths of the mean: all have the same number of places


@pytest.fixture
def balance(tmp_path: Path) -> Tried:
    return balancer(tmp_path)


def balancer(tmp_path: Path, more: str = "", backends: str = BACKENDS) -> Tried:
    (tmp_path / "backends.txt").write_text(backends)
    group = f"""bucket_state = "auto"
args = {{ {VIPS}{more} }}
[workers.tables.backends]
kind = "own"
key = "text8"
value = "mac+u16"
entries = 1000
bytes = "256KiB"
file = "backends.txt"
"""
    return Tried(tmp_path, "balance", ("wan", "lan"), group)


def ether(*, tag: bool = False) -> Packet:
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    return frame / Dot1Q(vlan=7) if tag else frame


def syn(port: int, source: str = "198.51.100.1", flags: str = "S") -> Packet:
    return ether() / IP(src=source, dst=VIP) / TCP(sport=port, dport=80, flags=flags)


def test_weights_and_kills(balance: Tried) -> None:
    steps: list[Step] = [
        (i / 1000, "wan", syn(1000 + i // 2, flags="SA"[i % 2])) for i in range(400)
    ]
    report, left = balance.run(steps)
    assert report["counters"]["new_flows"] == 200 and len(left) == 400
    assert all(port == "lan" for port, _ in left)
    per = Counter(packet.dst for _, packet in left)
    assert per["02:00:00:00:00:13"] > max(per["02:00:00:00:00:11"], per["02:00:00:00:00:12"])
    assert min(per.values()) > 40
    for (_, first), (_, second) in zip(left[::2], left[1::2], strict=True):
        assert first.dst == second.dst
    assert bytes(left[0][1])[14:54] == bytes(syn(1000))[14:54]  # nothing but MAC addresses changes
    balance.run(steps[:6], "--kill-sweep")


def test_an_error_goes_to_the_bucket_of_its_flow(balance: Tried) -> None:
    """`dpsup try` carries out no hop; balance_steps.c goes on from there."""
    steps: list[Step] = []
    for i in range(20):
        quoted = IP(src=VIP, dst="198.51.100.1") / TCP(sport=80, dport=2000 + i)
        error = ether() / IP(src="203.0.113.9", dst=VIP) / ICMP(type=3, code=4) / quoted
        quoted6 = IPv6(src=VIP6, dst="2001:db8:1::1") / TCP(sport=443, dport=2000 + i)
        error6 = IPv6(src="2001:db8:2::1", dst=VIP6) / ICMPv6PacketTooBig(mtu=1400) / quoted6
        steps += [(i, "wan", error), (i + 0.1, "wan", ether(tag=True) / error6)]
    report, left = balance.run(steps)
    assert report["on_hash"].get("fn", 0) + report["counters"]["icmp_errors"] == 40
    assert report["on_hash"]["fn"] > 30 and len(left) == report["counters"]["icmp_errors"]


def test_by_source(tmp_path: Path) -> None:
    steps: list[Step] = [(i / 1000, "wan", syn(1 + i)) for i in range(4000)]
    report, left = balancer(tmp_path, ', by = "source"').run(steps)
    assert report["on_hash"]["fn"] + len(left) == 4000
    assert report["counters"]["new_flows"] == 1 and len(left) > 1
    assert len({packet.dst for _, packet in left}) == 1


def test_what_is_not_for_a_backend(balance: Tried) -> None:
    fragment = IP(src="198.51.100.1", dst=VIP, flags="MF") / UDP(sport=1, dport=53) / bytes(32)
    six = IPv6(src="2001:db8:1::1", dst=VIP6) / IPv6ExtHdrFragment(m=1) / TCP(dport=443)
    steps: list[Step] = [
        (0.0, "wan", ether() / fragment),
        (0.1, "wan", ether() / six),
        (0.2, "wan", ether() / IP(dst=VIP, proto=47) / bytes(40)),
        (0.3, "wan", ether() / IP(dst=VIP, len=1500) / TCP(dport=80)),
        (0.4, "wan", ether() / ARP(pdst=VIP)),
        (0.5, "wan", ether() / IP(dst=VIP) / TCP(dport=81)),
        (0.6, "wan", ether() / IP(dst=VIP) / ICMP()),
    ]
    report, left = balance.run(steps)
    drops = report["dropped"]
    assert (drops["fragment"], drops["protocol"], drops["bad_header"]) == (2, 1, 1)
    assert report["counters"]["passed"] == 2
    assert [port for port, _ in left] == ["wan", "wan", "lan"]


def test_no_backend(tmp_path: Path) -> None:
    report, left = balancer(tmp_path, backends="b1 02:00:00:00:00:11,0\n").run([(0, "wan", syn(1))])
    assert left == [] and report["dropped"]["no_backend"] == 1


@pytest.mark.parametrize(
    ("more", "backends", "says"),
    [
        (', by = "port"', BACKENDS, "none of: flow, source"),
        (', tcp = "1"', BACKENDS, "from 5 to 30000"),
        ("", "b1 02:00:00:00:00:11,1\nb2 02:00:00:00:00:11,1\n", "another backend has its MAC"),
        ("", "b1 01:00:5e:00:00:11,1\n", "a group of hosts"),
    ],
)
def test_refusals(tmp_path: Path, more: str, backends: str, says: str) -> None:
    assert says in balancer(tmp_path, more, backends).refusal()
