# SPDX-License-Identifier: BSD-3-Clause
"""The packets of capture files with their times and interfaces."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup.packets import pcapng
from dpsup.packets.frames import DamagedError, Frame, frames
from dpsup.packets.pcap import to_bytes

A, B = bytes(60), bytes(range(61))


def pcap(order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1, cut: int = 0) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    more = bytes(8) if magic == 0xA1B2CD34 else b""
    return head + b"".join(
        struct.pack(f"{order}IIII", 7, n, len(data), len(data) + cut) + more + data
        for n, data in ((1, A), (2, B))
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1), (0xA1B2CD34, 1000)]
)
def test_pcap(order: str, magic: int, unit: int) -> None:
    wanted = [Frame(7 * 10**9 + unit, "", A), Frame(7 * 10**9 + 2 * unit, "", B)]
    assert list(frames(pcap(order, magic))) == wanted


def test_what_dpsup_writes() -> None:
    assert [frame.data for frame in frames(to_bytes([A, B]))] == [A, B]
    file = pcapng.section("x") + pcapng.interface("wan", "", 0) + pcapng.interface("lan", "", 0)
    file += pcapng.packet(1, 12345, A, len(A)) + pcapng.statistics(0, 1, 1, 0)
    file += pcapng.packet(0, 2**40 + 1, B, len(B), comment="c")
    assert list(frames(file)) == [Frame(12345, "lan", A), Frame(2**40 + 1, "wan", B)]


def test_pcapng_in_microseconds_and_big_endian() -> None:
    def block(kind: int, body: bytes) -> bytes:
        size = len(body) + 12
        return struct.pack(">II", kind, size) + body + struct.pack(">I", size)

    file = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
    file += block(1, struct.pack(">HHI", 1, 0, 0))
    file += block(6, struct.pack(">IIIII", 0, 0, 5, 60, 60) + A)
    assert list(frames(file)) == [Frame(5000, "", A)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "neither"),
        (b"x" * 100, "neither"),
        (pcap(link=113), "not Ethernet"),
        (pcap(cut=4), "packet 1 was captured in part"),
        (pcap()[:-1], "in the middle of packet 2"),
        (pcap()[:90], "in the middle of packet 1"),
        (pcapng.section("x")[:-4], "in the middle of a block"),
        (pcapng.section("x") + pcapng.packet(0, 1, A, 60), "packet 1 is damaged"),
        (pcapng.section("x") + pcapng.interface("a", "", 0) + pcapng.packet(0, 1, A, 99), "part"),
    ],
)
def test_damage(data: bytes, text: str) -> None:
    with pytest.raises(DamagedError, match=text):
        list(frames(data))


WHOLE = pcapng.section("x") + pcapng.interface("a", "", 0) + pcapng.packet(0, 1, A, 60)


@given(st.sampled_from([WHOLE, pcap(), pcap(">")]), st.data())
def test_any_bytes_are_read_or_damaged(whole: bytes, data: st.DataObject) -> None:
    spoilt = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        spoilt[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DamagedError):
        list(frames(bytes(spoilt)[: data.draw(st.integers(0, len(whole)))]))
