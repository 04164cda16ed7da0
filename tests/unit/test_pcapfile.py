# SPDX-License-Identifier: BSD-3-Clause
"""What is known of a capture before a packet of it is read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.all import Ether, PcapNgWriter, Raw, rdpcap, wrpcap
from unit.fakehost import pcap

from dpsup.packets import pcap as pcap_file
from dpsup.packets.pcap import Capture, scan

Lengths = list[tuple[int, int]]  # captured, original

ORDERS = [(order, magic) for order in "<>" for magic in (0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34)]


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(f"{order}II", kind, len(body) + 12) + body + struct.pack(
        f"{order}I", len(body) + 12
    )  # fmt: skip


def pcapng(packets: Lengths, order: str = "<", link_type: int = 1, snap: int = 0) -> bytes:
    head = struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)
    out = block(order, 0x0A0D0D0A, head)
    out += block(order, 1, struct.pack(f"{order}HHI", link_type, 0, snap))
    out += block(order, 5, bytes(12))  # interface statistics: no packet
    for captured, length in packets:
        lengths = struct.pack(f"{order}IIIII", 0, 0, 0, captured, length)
        out += block(order, 6, lengths + bytes(captured))
    return out


FORMATS = [
    *(lambda p, o=o, m=m: pcap(p, o, m) for o, m in ORDERS),
    *(lambda p, o=o: pcapng(p, o) for o in "<>"),
]


@pytest.mark.parametrize("make", FORMATS)
def test_packets_are_counted_in_every_format(make) -> None:  # type: ignore[no-untyped-def]
    assert scan(make([]), 100) == Capture()
    whole = scan(make([(60, 60), (100, 100)]), 100)
    assert whole == Capture(packets=2)
    found = scan(make([(60, 60), (96, 1500), (101, 101), (96, 1500), (202, 202)]), 100)
    assert found == Capture(packets=5, cut=2, first_cut=2, long=2, first_long=3, longest=202)


@pytest.mark.parametrize("make", FORMATS)
def test_file_that_ends_within_a_packet(make) -> None:  # type: ignore[no-untyped-def]
    data = make([(60, 60), (60, 60)])
    for short in (1, 30, 64):
        assert scan(data[:-short], 100) == Capture(packets=1, damaged=True)


@pytest.mark.parametrize("link_type", [1, 101, 113])
def test_link_type(link_type: int) -> None:
    for data in (pcap([(9, 9)], link_type=link_type), pcapng([(9, 9)], link_type=link_type)):
        found = scan(data, 100)
        assert found is not None
        assert found.link_type == link_type


def test_simple_packets_of_pcapng_are_as_long_as_the_interface_captures() -> None:
    data = pcapng([], snap=96) + block("<", 3, struct.pack("<I", 1500) + bytes(96))
    assert scan(data, 100) == Capture(packets=1, cut=1, first_cut=1)


@pytest.mark.parametrize(
    "data", [b"", b"\n\r\r\n", b"version = 1\n" * 9, bytes(99), b"\x1f\x8b" * 20]
)
def test_what_is_no_capture(data: bytes) -> None:
    assert scan(data, 100) is None


def test_length_that_cannot_be_is_damage() -> None:
    assert scan(pcap([(60, 60)]) + struct.pack("<4I", 1, 2, 1 << 31, 60), 99) == Capture(
        packets=1, damaged=True
    )
    assert scan(pcapng([(60, 60)]) + struct.pack("<3I", 6, 0, 0), 99) == Capture(
        packets=1, damaged=True
    )


def test_large_file_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap_file, "MOST_RECORDS", 3)
    assert scan(pcap([(60, 60)] * 5), 99) == Capture(packets=3, whole=False)
    monkeypatch.setattr(pcap_file, "MOST_BYTES", 24 + 2 * 76)
    assert scan(pcap([(60, 60)] * 5), 99) == Capture(packets=2, whole=False)


def test_blocks_that_are_no_packets_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap_file, "MOST_RECORDS", 9)
    data = pcapng([]) + block("<", 5, b"") * 20
    assert scan(data, 99) == Capture(whole=False)


def test_what_scapy_writes(tmp_path: Path) -> None:
    packets = [Ether() / Raw(bytes(n)) for n in (50, 1600)]
    wrpcap(str(tmp_path / "a"), packets)
    with PcapNgWriter(str(tmp_path / "b")) as out:
        for packet in packets:
            out.write(packet)
    for name in "ab":
        found = scan((tmp_path / name).read_bytes(), 1522)
        assert found == Capture(packets=2, long=1, first_long=2, longest=1614), name


def test_scapy_reads_what_is_written(tmp_path: Path) -> None:
    frames = [bytes(n) for n in (14, 60, 9000)]
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_file.to_bytes(frames, 1_800_000_000.25))
    read = rdpcap(str(path))
    assert [bytes(p) for p in read] == frames
    assert [float(p.time) for p in read] == pytest.approx([1_800_000_000.25] * 3, abs=1e-5)
    assert list(pcap_file.read_pcap(path)) == frames


@pytest.mark.parametrize(("order", "magic"), ORDERS)
def test_frames_of_every_kind_of_pcap(tmp_path: Path, order: str, magic: int) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([(60, 60), (9, 9)], order, magic))
    assert [len(f) for f in pcap_file.read_pcap(path)] == [60, 9]
    path.write_bytes(pcap([(60, 60), (9, 10)], order, magic))
    with pytest.raises(pcap_file.CutError):
        list(pcap_file.read_pcap(path))


@given(st.binary(max_size=200), st.sampled_from([b"", pcap([]), pcapng([])]))
@settings(max_examples=300)
def test_any_bytes_are_survived(tail: bytes, head: bytes) -> None:
    found = scan(head + tail, 99)
    assert found is None or found.packets <= len(tail)
