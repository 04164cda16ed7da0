# SPDX-License-Identifier: BSD-3-Clause
"""The function `balance`: its backends, its connections when these change, and its packets."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from tried import Step, Tried

HERE = Path(__file__).parent
WORKERS = HERE.parents[1] / "workers"
VIP, VIP6 = "192.0.2.10", "2001:db8::10"
VIPS = f'vips = "{VIP}:80/tcp, {VIP}:53/udp, [{VIP6}]:443/tcp", port = "lan"'
# What it keeps for itself: where its tables and counters have what it has looked for.
SWEEP = ("--kill-sweep", "--allow", "own-memory")
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


def test_the_program_that_measures_it_runs(tmp_path: Path) -> None:
    out = subprocess.run(
        [compiled(tmp_path, "balance_cycles"), "1000"], capture_output=True, text=True, check=True
    ).stdout
    assert int(out) > 0


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


def balancer(
    tmp_path: Path, more: str = "", backends: str = BACKENDS, address: str = "", down: str = ""
) -> Tried:
    """`address`: the type of the backends' IP addresses, and then it is balance_tunnel."""
    (tmp_path / "backends.txt").write_text(backends)
    (tmp_path / "down.txt").write_text(down)
    group = f"""bucket_state = "auto"
state = "auto"
args = {{ {VIPS}{more} }}
[workers.tables.backends]
kind = "own"
key = "text8"
value = "mac+u16{address and "+" + address}"
entries = 1000
bytes = "256KiB"
file = "backends.txt"
[workers.tables.down]
kind = "exact"
key = "text8"
value = "text8"
entries = 1000
file = "down.txt"
"""
    plugin = "balance_tunnel" if address else "balance"
    return Tried(tmp_path, plugin, ("wan", "lan"), group)


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
    balance.run(steps[:6], *SWEEP)


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


def test_what_is_down_gets_no_connection(tmp_path: Path) -> None:
    steps: list[Step] = [(i / 1000, "wan", syn(1000 + i)) for i in range(200)]
    _, left = balancer(tmp_path, down="b3 down\nb2 drain\n").run(steps)
    assert {packet.dst for _, packet in left} == {"02:00:00:00:00:11"} and len(left) == 200


FAR = """b1 02:00:00:00:00:09,10,{0}1
b2 02:00:00:00:00:09,10,{0}2
"""
FAR4, FAR6 = FAR.format("203.0.113."), FAR.format("2001:db8:9::")


def both_families(size: int) -> list[Step]:
    """What a client sends, of each family: by TCP, and an echo. Of IP, so many bytes."""
    four, six = IP(src="198.51.100.1", dst=VIP, tos=0x2A, flags="DF"), IPv6(
        src="2001:db8:1::1", dst=VIP6, tc=0x2A
    )  # fmt: skip
    tcp4, tcp6 = TCP(sport=1000, dport=80, flags="S"), TCP(sport=1000, dport=443, flags="S")
    packets = (
        ether() / four / tcp4 / bytes(size - 40), ether(tag=True) / six / tcp6 / bytes(size - 60),
        ether() / four / ICMP() / bytes(size - 28),
        ether() / six / ICMPv6EchoRequest(data=bytes(size - 48)),
    )  # fmt: skip
    return [(n / 10, "wan", packet) for n, packet in enumerate(packets)]


@pytest.mark.parametrize(("address", "kind"), [("ipv4", "ipip"), ("ipv4", "gue"), ("ipv6", "ipip")])
def test_a_tunnel_to_each_backend(tmp_path: Path, address: str, kind: str) -> None:
    is4 = address == "ipv4"
    source = "192.0.2.1" if is4 else "2001:db8::1"
    more = f', source = "{source}", tunnel = "{kind}"'
    made = balancer(tmp_path, more, FAR4 if is4 else FAR6, address)
    steps = both_families(200)
    steps += [(1 + n / 100, "wan", syn(2000 + n)) for n in range(20)]
    report, left = made.run(steps)
    assert report["counters"]["packets"] == len(left) == 24
    assert len({packet[IP if is4 else IPv6].dst for _, packet in left}) == 2
    for (port, packet), (_, _, sent) in zip(left, steps, strict=True):
        outer = packet[IP if is4 else IPv6]
        inner = bytes(sent[IP if IP in sent else IPv6])
        assert (port, packet.dst, outer.src) == ("lan", "02:00:00:00:00:09", source)
        raw = bytes(outer)
        protocol = 4 if IP in sent else 41
        head = 20 if is4 else 40
        if is4:
            assert (outer.flags, outer.ttl, outer.len) == ("DF", 64, len(raw))
            again = IP(raw)
            del again.chksum
            assert bytes(again) == raw
        else:
            assert (outer.hlim, outer.plen) == (64, len(raw) - 40)
        if kind == "gue":
            udp = outer[UDP]
            assert (udp.dport, udp.len, udp.chksum) == (6080, len(raw) - 20, 0)
            assert udp.sport >= 49152 and raw[28:32] == bytes((0, protocol, 0, 0))
            head = 32
        else:
            assert (outer.proto if is4 else outer.nh) == protocol
        assert raw[head:] == inner
        tos = sent[IP].tos if IP in sent else sent[IPv6].tc
        assert (outer.tos if is4 else outer.tc) == tos
    if kind == "gue":
        made.run(steps[:2], *SWEEP)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    made = balancer(tmp_path, ', source = "192.0.2.1"', FAR4, "ipv4")
    free = ether() / IP(src="198.51.100.1", dst=VIP) / TCP(dport=80) / bytes(1441)
    steps = [*both_families(1481), (0.6, "wan", free), (0.7, "wan", both_families(1480)[0][2])]
    report, left = made.run(steps)
    assert report["dropped"]["too_big"] == 5
    assert report["counters"]["too_big_told"] == 3 and len(left) == 4
    (_, one), (_, two), (_, six), (port, through) = left
    for packet in (one, two):
        assert (packet[IP].src, packet[IP].dst) == (VIP, "198.51.100.1")
        assert (packet[ICMP].type, packet[ICMP].code, packet[ICMP].nexthopmtu) == (3, 4, 1480)
        assert packet.dst == "02:00:00:00:00:01"
    assert six[ICMPv6PacketTooBig].mtu == 1480 and six[IPv6].src == VIP6
    assert port == "lan" and len(through[IP]) == 1500
    made.run(steps[2:3], *SWEEP)


def test_an_error_goes_into_the_tunnel(tmp_path: Path) -> None:
    quoted = IP(src=VIP, dst="198.51.100.1") / TCP(sport=80, dport=2000)
    error = ether() / IP(src="203.0.113.9", dst=VIP) / ICMP(type=3, code=4) / quoted
    made = balancer(tmp_path, ', source = "192.0.2.1"', FAR4, "ipv4")
    found = []
    for source in range(40):  # some source is in the flow's bucket
        error[IP].src = f"203.0.113.{source + 1}"
        found.append((source / 10, "wan", error.copy()))
    report, left = made.run(found)
    assert report["on_hash"].get("fn", 0) + len(left) == 40
    assert all(packet[IP].proto == 4 for _, packet in left)


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


@pytest.mark.parametrize(
    ("more", "backends", "says"),
    [
        ("", FAR4, "the IP address that its tunnels begin at"),
        (', source = "2001:db8::1"', FAR4, "mac+u16+ipv6"),
        (', source = "2001:db8::1", tunnel = "gue"', FAR4, "goes over IPv4"),
        (', source = "192.0.2.1"', FAR4.replace("113.2", "113.1"), "another backend has its IP"),
    ],
)  # fmt: skip
def test_refusals_of_a_tunnel(tmp_path: Path, more: str, backends: str, says: str) -> None:
    assert says in balancer(tmp_path, more, backends, "ipv4").refusal()
