# SPDX-License-Identifier: BSD-3-Clause
"""Captures and measurements, as far as they are pure: files, lines, filters, order, percentiles."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import ARP, IP, TCP, UDP, Dot1Q, Ether, ICMPv6EchoRequest, IPv6, PcapNgReader, Raw
from scapy.layers.inet6 import IPv6ExtHdrFragment, IPv6ExtHdrHopByHop

from dpsup.errors import DpsupError, NoSuchObject, UsageError
from dpsup.inspect import capture, perf_report
from dpsup.inspect.capture import BACK, LENT, RX, TX, Captured, Clock, InOrder, Lines, Names, Pcapng
from dpsup.packets import filter, pcapng
from dpsup.packets.decode import one_line
from dpsup.packets.pcap import scan
from dpsup.primary.capture import find_target
from dpsup.primary.lease import LEASE_S, Lease

HZ = 2_000_000_000
CLOCK = Clock(1000, 1_700_000_000_000_000_000, HZ)
NAMES = Names("fw/1", ["wan", "lan"], ["nat", "fw"], [{}, {"1": ["runt"]}], 1)


def seen(what: int, tsc: int = 1000, **more: Any) -> Captured:
    fields = dict.fromkeys(("length", "index", "verdict", "io", "port", "slot", "version"), 0)
    fields |= {"bad": False, "data": bytes(Ether() / ARP()), **more}
    return Captured(what=what, tsc=tsc, **fields)


# --- decoding -------------------------------------------------------------------------------------


# Without an address scapy asks the neighbours, for a second each time.
HEAD = Ether(dst="02:00:00:00:00:02")


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (HEAD / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1024, dport=80, flags="SA"),
         "10.0.0.1:1024 > 10.0.0.2:80 TCP SA"),
        (HEAD / Dot1Q(vlan=7) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=5, dport=53),
         "vlan 7 10.0.0.1:5 > 10.0.0.2:53 UDP"),
        (HEAD / IP(src="10.0.0.1", dst="10.0.0.2", proto=17, frag=185) / Raw(bytes(20)),
         "10.0.0.1 > 10.0.0.2 UDP fragment at 1480"),
        (HEAD / IPv6(src="fe80::1", dst="fe80::2") / IPv6ExtHdrHopByHop() / TCP(flags="R"),
         "[fe80::1]:20 > [fe80::2]:80 TCP R"),
        (HEAD / IPv6(src="fe80::1", dst="fe80::2") / ICMPv6EchoRequest(),
         "fe80::1 > fe80::2 ICMPv6"),
        (HEAD / IPv6(src="fe80::1", dst="fe80::2") / IPv6ExtHdrFragment(offset=2, nh=17),
         "fe80::1 > fe80::2 UDP fragment at 16"),
        (Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(),
         "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP"),
        (Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff", type=0x88B5) / Raw(b"x"),
         "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff type 0x88b5"),
    ],
)  # fmt: skip
def test_a_packet_in_one_line(frame: Any, line: str) -> None:
    assert one_line(bytes(frame)) == line


FRAMES = [
    bytes(Ether() / Dot1Q() / IP(options=[b"\x44\x04\x05\x00"]) / TCP()),
    bytes(Ether() / IPv6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment() / UDP()),
]


@given(st.binary(max_size=80), st.sampled_from(FRAMES), st.integers(0, 90))
def test_whatever_the_bytes_they_are_one_line(noise: bytes, frame: bytes, cut: int) -> None:
    for data in (noise, frame[:cut], frame[:14] + noise):
        assert one_line(data).isprintable()


# --- pcapng ---------------------------------------------------------------------------------------


def test_scapy_and_our_own_scanner_read_what_was_written(tmp_path: Path) -> None:
    frames = [bytes(Ether() / IP() / UDP() / Raw(bytes(n))) for n in (0, 1, 2, 3, 1400)]
    file = tmp_path / "o.pcapng"
    data = pcapng.section("dpsup") + pcapng.interface("wan", "a port", 100, "tcp")
    for i, frame in enumerate(frames):
        data += pcapng.packet(
            0, i + 10**18, frame[:100], len(frame), direction=1, comment="out lan", packet_id=i
        )
    data += pcapng.statistics(0, 10**18, 5, 2)
    file.write_bytes(data)
    found = scan(data, 1500)
    assert found is not None
    assert (found.packets, found.cut, found.damaged) == (5, 1, False)
    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert [bytes(p) for p in packets] == [f[:100] for f in frames]
    assert [p.wirelen for p in packets] == [len(f) for f in frames]
    assert [round(float(p.time)) for p in packets] == [10**9] * 5
    assert {p.comment for p in packets} == {b"out lan"}


def test_a_workers_file_has_both_sides_and_verdicts(tmp_path: Path) -> None:
    out = io.BytesIO()
    sink = Pcapng(out, NAMES, CLOCK, 64, "")
    frame = bytes(Ether() / ARP())
    sink.write([seen(LENT, index=3, data=frame, length=60), seen(BACK, 1002, index=3, verdict=0)])
    sink.end(2, 7)
    file = tmp_path / "o.pcapng"
    file.write_bytes(out.getvalue())
    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert [p.comment for p in packets] == [b"from wan", b"drop, reason 0"]
    assert [p.sniffed_on for p in packets] == ["fw/1 before", "fw/1 after"]
    assert struct.pack("<HHQ", 5, 8, 7) in out.getvalue()  # isb_ifdrop: missed


# --- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "version", "bad", "text"),
    [
        (0x1001, 0, False, "out lan"), (0x1009, 0, False, "out port 9"),
        (0x0000, 1, False, "drop runt"), (0x0000, 0, False, "drop, reason 0"),
        (0x2000, 0, False, "to nat"), (0x3000, 0, False, "quarantined"),
        (0x4000, 0, False, "requeued"), (0x1000, 0, True, "bad verdict"),
        (0x60FF, 0, False, "to nat, bucket 255"), (0x7FFF, 0, False, "to group 15, bucket 511"),
        (0xC000, 0, False, "to the kernel"), (0x9001, 0, False, "out lan, copy out wan"),
    ],
)  # fmt: skip
def test_verdicts_have_names(verdict: int, version: int, bad: bool, text: str) -> None:
    assert NAMES.verdict(seen(BACK, verdict=verdict, version=version, bad=bad)) == text


def test_lines_say_when_where_and_what_became_of_it() -> None:
    lines = Lines(io.BytesIO(), NAMES, CLOCK)
    assert ".000000001 wan rx: 60 " in lines.line(seen(RX, 1002, length=60))
    assert " lan tx: 60 " in lines.line(seen(TX, port=1, length=60))
    assert " fw/1 io/2 #9 before, from lan: " in lines.line(seen(LENT, io=2, index=9, port=1))
    assert " fw/1 io/2 #9 after, out wan: " in lines.line(seen(BACK, io=2, index=9, verdict=0x1000))


def test_packets_of_several_io_cores_come_in_order_and_none_is_left() -> None:
    rng = random.Random(3)
    stamped = sorted(rng.randrange(10**6) for _ in range(2000))
    order, out = InOrder(), []
    for now in range(0, 10**6 + 1, 10_000):
        # Published 3000 cycles after it was stamped.
        late = [t for t in stamped if now - 10_000 <= t + 3000 < now]
        batch = sorted(late, key=lambda t: (t % 2, t))  # one io core's ring after the other's
        out += order.add((seen(RX, t) for t in batch), now)
    out += order.add((seen(RX, t) for t in stamped if t + 3000 >= 10**6), 10**6)
    out += order.rest()
    assert [one.tsc for one in out] == stamped


def test_records_that_end_in_the_middle_are_not_followed() -> None:
    assert list(capture.parse(bytes(31))) == []


# --- who may, and what ----------------------------------------------------------------------------

PLAN = {
    "io": [{}, {}],
    "groups": [
        {"name": "fw", "first_slot": 0, "max": 2},
        {"name": "nat", "first_slot": 2, "max": 1},
    ],
}


def test_a_capture_of_a_group_names_each_worker() -> None:
    workers = {0: "nat/0", 1: "fw/0", 2: "fw/1"}
    names = Names("fw", ["wan", "lan"], ["nat", "fw"], [{}, {"0": ["runt"]}], 1, workers)
    assert not names.is_port and Names("wan", ["wan"], ["fw"], []).is_port
    assert Names("fw", ["fw"], ["fw"], []).is_port, "find_target looks for ports first"
    lines = Lines(io.BytesIO(), names, CLOCK)
    assert " fw/1 io/0 #0 before, from wan: " in lines.line(seen(LENT, slot=2))
    assert " fw/0 io/0 #0 after, drop runt: " in lines.line(seen(BACK, slot=1))
    out = io.BytesIO()
    made = Pcapng(out, names, CLOCK, 65536, "")
    assert b"fw before" in out.getvalue() and b"fw after" in out.getvalue()
    assert b"fw/1: drop runt" in made.block(seen(BACK, slot=2))


def test_targets() -> None:
    ports = {"wan": 0, "lan": 1}
    assert find_target(PLAN, ports, "lan").ports == [1]
    worker = find_target(PLAN, ports, "nat/0")
    assert (worker.slots, worker.ios) == ([2], [0, 1])
    group = find_target(PLAN, ports, "fw")
    assert (group.slots, group.ports, group.ios) == ([0, 1], [], [0, 1])
    lane = find_target(PLAN, ports, "io/1:fw/1")
    assert (lane.slots, lane.ios) == ([1], [1])
    for wrong in ("fv", "fw/2", "io/2:fw/0", "fw/0:io/0", ""):
        with pytest.raises(NoSuchObject):
            find_target(PLAN, ports, wrong)
    with pytest.raises(NoSuchObject) as e:
        find_target(PLAN, ports, "io/1:fv/1")
    assert e.value.help == 'did you mean "io/1:fw/1"?'


def test_a_lease_has_one_holder_and_runs_out() -> None:
    lease = Lease()
    first = lease.take("one", 0.0, DpsupError("busy"))
    with pytest.raises(DpsupError) as e:
        lease.take("two", 1.0, DpsupError("busy"))
    assert "one" in e.value.why
    lease.renew(first, 2.0)
    assert not lease.has_run_out(2.0 + LEASE_S)
    assert lease.has_run_out(2.1 + LEASE_S)
    lease.end()
    assert not lease.has_run_out(1e9)
    second = lease.take("two", 9.0, DpsupError("busy"))
    for id in (first, ""):
        with pytest.raises(DpsupError):
            lease.renew(id, 9.0)
    lease.renew(second, 9.0)


def test_filters_are_libpcaps() -> None:
    assert filter.compile_filter("") == []
    words = filter.compile_filter("tcp port 80")
    assert words[-1] >> 48 == 6  # BPF_RET
    with pytest.raises(UsageError, match="syntax error"):
        filter.compile_filter("tcp prt 80")
    with pytest.raises(UsageError, match="instructions"):
        # Ports joined by `or` take libpcap's optimizer 16 s.
        filter.compile_filter("+".join(["ether[0]", "ether[1]"] * 350) + " = 5")


# --- histograms -----------------------------------------------------------------------------------


def class_of(value: int) -> int:
    """As shim/dpsup.h: dps_class."""
    if value < 8:
        return value
    power = value.bit_length() - 1
    return min(255, (power - 2) * 8 + (value >> (power - 3) & 7))


@given(st.integers(0, 1 << 33))
def test_a_value_is_in_its_class(value: int) -> None:
    index = class_of(value)
    assert perf_report.lowest(index) <= value <= perf_report.highest(index)


@given(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=50))
def test_percentiles_are_within_an_eighth(values: list[int]) -> None:
    counts = [0] * 256
    for value in values:
        counts[class_of(value)] += 1
    found = perf_report.percentiles(counts, max(values))
    values.sort()
    for p in (50, 90, 99):
        true = values[-(-len(values) * p // 100) - 1]
        assert true <= (found[f"p{p}"] or 0) <= true + true // 8
    assert found["max"] == values[-1]


def raw(**more: Any) -> dict[str, Any]:
    empty = {
        "bursts": 0, "packets": 0, "cycles_most": 0, "cycles": [0] * 256, "batch": [0] * 64,
        "delay_packets": 0, "delay_most": 0, "delay": [0] * 256, "slow": [],
    }  # fmt: skip
    return {**empty, **more}


def test_a_worker_without_packets_has_no_figures() -> None:
    doc = perf_report.document("fw/0", 1.0, HZ, raw())
    assert doc["batch"]["p50"] is None
    assert "nothing was measured" in perf_report.lines(doc)[1]


def test_the_slowest_come_first_with_what_was_in_them() -> None:
    head = bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)).hex()
    packets = [{"len": 60, "head": head}] * 5
    slow = [
        {"cycles": c, "tsc": 1, "lane": 0, "packets": packets} for c in (500, 2_000_000, 700)
    ]  # fmt: skip
    cycles, batch = [0] * 256, [0] * 64
    cycles[class_of(100)], batch[4] = 15, 3
    doc = perf_report.document(
        "fw/0", 1.0, HZ, raw(bursts=3, packets=15, cycles=cycles, batch=batch, slow=slow,
                             cycles_most=100)
    )  # fmt: skip
    assert [one["cycles"] for one in doc["slowest"]] == [2_000_000, 700, 500]
    assert doc["slowest"][0]["ns"] == 1_000_000
    assert doc["slowest"][0]["packets"][0]["decoded"] == "10.0.0.1:1 > 10.0.0.2:2 UDP"
    assert doc["batch"]["p99"] == 5
    text = "\n".join(perf_report.lines(doc))
    assert "2000000 cycles (1ms), 5 packets of io/0" in text
    assert "and 4 more" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_no_file_of_the_instance_is_overwritten(tmp_path: Path) -> None:
    inside, topology, link = tmp_path / "in.pcap", tmp_path / "t.toml", tmp_path / "link"
    for one in (inside, topology):
        one.write_text("x")
    link.symlink_to(inside)
    port = {"name": "wan", "vdev": f"net_pcap0,rx_pcap={inside},tx_pcap={tmp_path}/out.pcap"}
    plan: Any = {"topology_file": str(topology), "ports": [port, {"name": "lan", "vdev": ""}]}
    assert capture.used_by(str(link), plan) == "rx_pcap of port wan"
    said = capture.used_by(f"{tmp_path}/../{tmp_path.name}/t.toml", plan)
    assert said == "the instance's topology"
    assert capture.used_by(str(tmp_path / "new.pcapng"), plan) == ""
    (tmp_path / "out.pcap").touch()
    assert capture.used_by(str(tmp_path / "out.pcap"), plan) == "tx_pcap of port wan"


def test_a_file_is_emptied_once_a_capture_begins(tmp_path: Path) -> None:
    """A capture that was refused, of a worker that is none, had emptied it before."""
    old = tmp_path / "old.pcapng"
    old.write_text("of yesterday")
    with capture._open(str(old)) as out:
        assert old.read_text() == "of yesterday"
        capture._empty(out)
        assert old.read_text() == ""
