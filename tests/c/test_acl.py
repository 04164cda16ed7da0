# SPDX-License-Identifier: BSD-3-Clause
"""The function `acl`: its trees against a plain search; what becomes of packets, by `dpsup try`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import rulesets
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, TCPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from tried import Step, Tried

ROOT = Path(__file__).resolve().parents[2]
TABLE = (
    'state = "auto"\nbucket_state = "auto"\nargs = {{ {args} }}\n'
    'tables = {{ rules = {{ kind = "own", key = "be32", value = "words200", entries = "1k",'
    ' bytes = "4MiB", file = "{file}" }} }}\n'
)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("acl") / "acl_tree"
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-g", "-w", *sanitize, f"-I{ROOT}/workers/sdk",
         f"-I{ROOT}/workers/functions", ROOT / "tests" / "c" / "acl_tree.c", "-o", program],
        check=True,
    )  # fmt: skip
    return program


def same(trees: Path, kind: str, rules: int, packets: int, seed: int, room: int = 32 << 20) -> str:
    done = subprocess.run(
        [trees, str(room), str(packets), str(seed)],
        input="\n".join(rulesets.rules(kind, rules, seed)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", rulesets.KINDS)
def test_the_first_rule_that_fits(trees: Path, kind: str) -> None:
    for rules, seed in ((1, 1), (7, 2), (60, 3), (500, 4)):
        same(trees, kind, rules, 4000, seed)


def test_where_trees_do_not_fit_leaves_are_longer(trees: Path) -> None:
    rich = same(trees, "anything", 300, 2000, 5)
    poor = same(trees, "anything", 300, 2000, 5, 110_000)
    longest = [int(said.split("longest ")[1].split()[0]) for said in (rich, poor)]
    assert longest[0] < longest[1]


@pytest.mark.long
@pytest.mark.parametrize("kind", rulesets.KINDS)
def test_a_million_packets_by_many_rules(trees: Path, kind: str) -> None:
    for seed in range(10):
        same(trees, kind, 10_000 if seed == 0 else 1000, 100_000, 100 + seed)


# --- packets --------------------------------------------------------------------------------------


def acl(tmp_path: Path, rules: str, args: str = "", ports: tuple[str, ...] = ()) -> Tried:
    file = tmp_path / "rules.txt"
    lines = [line.strip() for line in rules.strip().splitlines()]
    file.write_text("".join(f"{10 * (i + 1)} {line}\n" for i, line in enumerate(lines)))
    more = TABLE.format(args=args, file=file)
    more += '[[chains]]\nname = "line"\npath = ["lan", "fn", "wan"]\n'
    return Tried(tmp_path, "acl", ports or ("lan", "wan"), more)


def ether() -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def tcp(flags: str = "S", source: str = "10.0.0.1", target: str = "198.51.100.1", sport: int = 4000,
        dport: int = 443, **more: int) -> Packet:  # fmt: skip
    ip = ether() / IP(src=source, dst=target, **more)
    return ip / TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=2000) / bytes(6)


def back(packet: Packet, flags: str = "SA") -> Packet:
    ip = packet[IP]
    return tcp(flags, ip.dst, ip.src, packet[TCP].dport, packet[TCP].sport)


def udp(dport: int = 53, **more: int) -> Packet:
    ip = ether() / IP(src="10.0.0.1", dst="198.51.100.1", **more)
    return ip / UDP(sport=5000, dport=dport) / bytes(20)


def six(payload: Packet, source: str = "2001:db8::1") -> Packet:
    return ether() / IPv6(src=source, dst="2001:db8:1::1") / payload


# (what a rule says, packets that it fits, packets that it does not)
SAYS = [
    ("permit tcp from 10.0.0.0/8 to 198.51.100.0/24 port 443", [tcp()],
     [tcp(source="11.0.0.1"), tcp(target="198.51.101.1"), tcp(dport=444), udp(443)]),
    ("permit tcp from any port 4000-4001 to any", [tcp(), tcp(sport=4001)], [tcp(sport=4002)]),
    ("permit udp", [udp()], [tcp(), six(TCP())]),
    ("permit from 2001:db8::/32", [six(UDP() / b"x")], [udp(), six(UDP() / b"x", "2001:db9::1")]),
    ("permit from 2001:db8::1 to 2001:db8:1::/48", [six(UDP() / b"x")],
     [six(UDP() / b"x", "2001:db8::2"), six(UDP() / b"x", "2001:db8:0:1::1")]),
    ("permit icmp type 8 code 0", [ether() / IP() / ICMP(type=8)], [ether() / IP() / ICMP(type=0)]),
    ("permit icmpv6 type 128", [six(ICMPv6EchoRequest())], [ether() / IP() / ICMP(type=8)]),
    ("permit protocol 47", [ether() / IP(proto=47) / bytes(30)], [udp()]),
    ("permit tcp flags S/SA", [tcp("S"), tcp("SF")], [tcp("SA"), tcp("A")]),
    ("permit dscp 46", [udp(tos=46 << 2), udp(tos=46 << 2 | 3)], [udp(), udp(tos=47 << 2)]),
    ("permit vlan 7", [ether() / Dot1Q(vlan=7) / udp()[IP]],
     [udp(), ether() / Dot1Q(vlan=8) / udp()[IP]]),
    ("permit vlan none", [udp()], [ether() / Dot1Q(vlan=7) / udp()[IP]]),
    ("permit fragment", [ether() / IP(frag=10) / bytes(30)],
     [udp(), ether() / IP(flags="MF") / UDP() / bytes(30)]),
    ("permit tcp from any to any port 443", [ether() / Dot1Q() / Dot1Q() / tcp()[IP]],
     [ether() / IP(frag=10, proto=6) / bytes(30)]),
    ("permit udp from any to any port 53",
     [six(IPv6ExtHdrHopByHop() / UDP(dport=53) / b"x"),
      six(IPv6ExtHdrFragment(m=1) / UDP(dport=53) / bytes(8))],
     [six(IPv6ExtHdrFragment(offset=5, nh=17) / bytes(30))]),
    ("permit in lan", [udp()], []),
    ("permit in wan", [], [udp()]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "fit", "others"), SAYS, ids=[rule for rule, _, _ in SAYS])
def test_what_a_rule_says(
    tmp_path: Path, rule: str, fit: list[Packet], others: list[Packet]
) -> None:
    steps: list[Step] = [(i, "lan", p) for i, p in enumerate([*fit, *others])]
    doc, left = acl(tmp_path, rule).run(steps)
    assert [bytes(packet) for _, packet in left] == [bytes(packet) for packet in fit]
    assert doc["dropped"].get("no_rule", 0) == len(others)


def test_the_first_rule_decides(tmp_path: Path) -> None:
    rules = """
        permit tcp from 10.0.0.1
        deny from 10.0.0.0/24
        permit
    """
    steps: list[Step] = [
        (0, "lan", p) for p in (tcp(), tcp(source="10.0.0.2"), udp(), tcp(source="9.1.1.1"))
    ]
    doc, left = acl(tmp_path, rules).run(steps)
    assert [packet[IP].src for _, packet in left] == ["10.0.0.1", "9.1.1.1"]
    assert doc["dropped"]["denied"] == 2


ODD = {
    "bad_header": [
        ether() / IP(ihl=4) / bytes(40),
        ether() / IP(len=900) / UDP() / bytes(20),
        Ether(type=0x800) / bytes([0x45, 0, 0, 40]),
        ether() / IP(proto=6) / bytes(12),
        six(IPv6ExtHdrHopByHop(len=200) / UDP() / b"x"),
    ],
    "tiny_fragment": [
        ether() / IP(flags="MF", proto=6) / bytes(8),
        ether() / IP(frag=1, proto=6) / bytes(30),
    ],
}


def test_odd_packets_are_dropped_whatever_the_rules(tmp_path: Path) -> None:
    packets = [packet for some in ODD.values() for packet in some]
    doc, left = acl(tmp_path, "permit").run([(i, "lan", p) for i, p in enumerate(packets)])
    assert not left
    assert {k: n for k, n in doc["dropped"].items() if n} == {k: len(v) for k, v in ODD.items()}


def test_what_is_not_ip_passes_or_not(tmp_path: Path) -> None:
    arp: list[Step] = [(0, "lan", ether() / ARP() / bytes(18))]
    assert acl(tmp_path, "deny").run(arp)[1]
    assert not acl(tmp_path, "permit", 'not_ip = "deny"').run(arp)[1]


def test_a_mark_is_a_dscp(tmp_path: Path) -> None:
    steps: list[Step] = [(0, "lan", udp(tos=3)), (0, "lan", six(UDP() / b"x"))]
    _, left = acl(tmp_path, "permit mark 46").run(steps)
    marked = left[0][1]
    assert marked[IP].tos == 46 << 2 | 3 and left[1][1][IPv6].tc == 46 << 2
    fresh = marked[IP].copy()
    del fresh.chksum
    assert IP(bytes(fresh)).chksum == marked[IP].chksum


def test_answers_of_a_reject(tmp_path: Path) -> None:
    syn = tcp()
    steps: list[Step] = [
        (0, "lan", syn), (0, "lan", tcp("A")), (0, "lan", tcp("R")), (0, "lan", udp()),
        (0, "lan", six(TCP(flags="S"))), (0, "lan", six(UDP() / b"x")),
        (0, "lan", ether() / Dot1Q(vlan=7) / tcp()[IP]),
        (0, "lan", ether() / IP(src="10.0.0.1", dst="1.1.1.1") / ICMP(type=3) / bytes(28)),
    ]  # fmt: skip
    doc, left = acl(tmp_path, "reject").run(steps, "--kill-sweep")
    assert doc["dropped"]["rejected"] == len(steps)
    assert [port for port, _ in left] == ["lan"] * 6
    reset, reset2, icmp, six_reset, six_icmp, tagged = (packet for _, packet in left)
    assert (reset[IP].src, reset[IP].dst) == ("198.51.100.1", "10.0.0.1")
    assert (reset.src, reset.dst) == (syn.dst, syn.src)
    assert (reset[TCP].flags, reset[TCP].ack, reset[TCP].seq) == ("RA", 1007, 0)
    assert (reset2[TCP].flags, reset2[TCP].seq) == ("R", 2000)
    assert (icmp[ICMP].type, icmp[ICMP].code) == (3, 13) and icmp[IPerror].src == "10.0.0.1"
    assert six_reset[TCP].flags == "RA" and six_reset[IPv6].src == "2001:db8:1::1"
    assert six_icmp[ICMPv6DestUnreach].code == 1
    assert tagged[Dot1Q].vlan == 7 and tagged[TCP].flags == "RA"
    for packet in (reset, reset2, six_reset, tagged):
        fresh = packet.copy()
        del fresh[TCP].chksum
        assert Ether(bytes(fresh))[TCP].chksum == packet[TCP].chksum


def test_a_group_answers_no_connection(tmp_path: Path) -> None:
    """RFC 9293 3.9.2.3; and what answered would have a group's address as its own."""
    cast = tcp()
    cast.dst = "ff:ff:ff:ff:ff:ff"
    group = ether() / IPv6(src="2001:db8::1", dst="ff02::1") / TCP(flags="S")
    steps: list[Step] = [
        (0, "lan", cast), (0, "lan", tcp(target="224.0.0.5")), (0, "lan", tcp(source="224.0.0.5")),
        (0, "lan", group),
    ]  # fmt: skip
    doc, left = acl(tmp_path, "reject").run(steps)
    assert doc["dropped"]["rejected"] == len(steps) and left == []


def test_no_error_about_an_error_behind_an_authentication_header(tmp_path: Path) -> None:
    """RFC 4443 2.4 (e.1): it has an ICMPv6 error, though not as its first header."""
    steps: list[Step] = []
    for kind in (1, 128):
        behind = bytes([58, 4]) + bytes(22) + bytes([kind, 0]) + bytes(54)
        steps.append(
            (0, "lan", ether() / IPv6(src="2001:db8::1", dst="2001:db8::2", nh=51) / behind)
        )
    doc, left = acl(tmp_path, "reject").run(steps)
    assert doc["dropped"]["rejected"] == 2
    assert len(left) == 1 and bytes(left[0][1][ICMPv6DestUnreach])[8 + 64] == 128


KEEP = """
    permit tcp from 10.0.0.0/8 keep
    permit udp from 10.0.0.0/8 keep
    permit icmp from 10.0.0.0/8 keep
"""


def test_a_flow_that_is_kept_has_its_answers(tmp_path: Path) -> None:
    syn, ask = tcp(), udp()
    ping = ether() / IP(src="10.0.0.1", dst="198.51.100.1") / ICMP(type=8, id=7)
    pong = ether() / IP(src="198.51.100.1", dst="10.0.0.1") / ICMP(type=0, id=7)
    answer = ether() / IP(src="198.51.100.1", dst="10.0.0.1") / UDP(sport=53, dport=5000)
    steps: list[Step] = [
        (0, "wan", back(syn)), (0, "wan", answer), (0, "wan", pong), (0, "lan", tcp("A")),
        (1, "lan", syn), (1, "lan", ask), (1, "lan", ping),
        (2, "wan", back(syn)), (2, "wan", answer), (2, "wan", pong), (2, "lan", tcp("A")),
        (3, "wan", back(tcp(sport=4001))),
    ]  # fmt: skip
    doc, left = acl(tmp_path, KEEP).run(steps, "--kill-sweep")
    assert [bytes(p) for _, p in left] == [bytes(p) for _, _, p in steps[4:11]]
    assert doc["counters"]["flows_begun"] == 3 and doc["counters"]["of_a_flow"] == 4
    assert doc["dropped"]["no_rule"] == 5


def test_an_error_about_a_flow_passes_and_no_other(tmp_path: Path) -> None:
    """With equal ports, so that the hash of the flow is that of the error (a symmetric key)."""
    syn = tcp(sport=443, dport=443)
    quoted = IP(bytes(syn[IP])[:28])
    error = ether() / IP(src="198.51.100.1", dst="10.0.0.1") / ICMP(type=3, code=1) / quoted
    other = ether() / IP(src="198.51.100.1", dst="10.0.0.1") / ICMP(type=3, code=1)
    other /= IP(bytes(tcp(sport=444, dport=444)[IP])[:28])
    steps: list[Step] = [(0, "wan", error), (1, "lan", syn), (2, "wan", error), (3, "wan", other)]
    doc, left = acl(tmp_path, KEEP).run(steps)
    assert [port for port, _ in left] == ["wan", "lan"]
    assert doc["counters"]["errors_of_a_flow"] == 1
    assert left[1][1][ICMPerror if ICMPerror in left[1][1] else TCPerror] is not None


def test_flows_end(tmp_path: Path) -> None:
    syn = tcp()
    opens: list[Step] = [(0, "lan", syn), (1, "wan", back(syn)), (2, "lan", tcp("A"))]
    closes: list[Step] = [(3, "lan", tcp("FA")), (4, "wan", back(syn, "FA"))]
    resets: list[Step] = [(3, "wan", back(syn, "R"))]
    late: list[Step] = [(300, "wan", back(syn, "A"))]
    trial = acl(tmp_path, KEEP)
    for steps, lives in ((opens, True), ([*opens, *closes], False), ([*opens, *resets], False)):
        _, left = trial.run([*steps, *late], "--burst", "1")
        assert len(left) == len(steps) + lives
    assert len(trial.run([opens[0], *late], "--burst", "1")[1]) == 1, "never answered"


def test_a_full_bucket_begins_no_flow(tmp_path: Path) -> None:
    """With a symmetric hash equal ports cancel out: all of these are in one bucket."""
    steps: list[Step] = [(0, "lan", tcp(sport=i + 1, dport=i + 1)) for i in range(900)]
    doc, left = acl(tmp_path, KEEP).run(steps)
    assert len(left) == doc["counters"]["flows_begun"] <= 640
    assert doc["dropped"]["state_full"] == 900 - len(left)


def test_a_log_is_a_copy(tmp_path: Path) -> None:
    rules = "deny udp log\npermit log"
    trial = acl(tmp_path, rules, 'log = "mon", log_sample = 2', ("lan", "wan", "mon"))
    doc, left = trial.run([(i, "lan", udp()) for i in range(4)] + [(9, "lan", tcp())])
    assert doc["counters"]["logged"] == 5 and doc["out"]["mon"]["copies"] == 3
    assert [port for port, _ in left if port != "mon"] == ["wan"]


WRONG = [
    ("allow udp", "allow", "permit, deny or reject"),
    ("permit tcp from 10.0.0.1/8", "10.0.0.1/8", "bits set behind its length"),
    ("permit from 10.0.0.0/8 to 2001:db8::/32", "2001:db8::/32", "of the other IP version"),
    ("permit icmp from 2001:db8::/32", "2001:db8::/32", "of the other IP version"),
    ("permit from any port 80", "ports", "tcp, udp or sctp"),
    ("permit tcp from any port 80-70", "80-70", "not a number or range"),
    ("permit tcp from any port 65536", "65536", "up to 65535"),
    ("permit in dmz", "dmz", "no port"),
    ("permit vlan 4096", "4096", "up to 4095"),
    ("permit tcp flags SA", "SA", "write those that are set"),
    ("permit type 8", "type", "icmp or icmpv6"),
    ("deny keep", "keep", "without permit"),
    ("permit tcp from", "", "an address is missing"),
    ("permit quick", "quick", "no part of a rule"),
    ("permit tcp keep fragment", "fragment", "neither flags nor keep"),
]


@pytest.mark.parametrize(("rule", "word", "why"), WRONG, ids=[rule for rule, _, _ in WRONG])
def test_a_wrong_rule_is_refused_with_its_number(
    tmp_path: Path, rule: str, word: str, why: str
) -> None:
    said = acl(tmp_path, f"permit udp\n{rule}").refusal()
    assert "rule 20: " in said and word in said and why in said
