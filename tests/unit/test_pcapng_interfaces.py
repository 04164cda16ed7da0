# SPDX-License-Identifier: BSD-3-Clause
"""pcapng files of several interfaces: which packets libpcap passes over, told by tcpdump."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from itertools import product
from pathlib import Path

import pytest
from unit.fakehost import FILE, FULL, machine, pcap
from unit.test_pcapfile import block

from dpsup.check.captures import promised
from dpsup.check.topology import check
from dpsup.errors import Severity
from dpsup.packets.pcap import scan
from dpsup.topology.load import load

ETHERNET, RAW = 1, 101


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(link_type: int = ETHERNET, snap: int = 0, order: str = "<") -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link_type, 0, snap))


def packet(number: int, size: int = 60, order: str = "<") -> bytes:
    head = struct.pack(f"{order}IIIII", number, 0, 0, size, size)
    return block(order, 6, head + bytes(12) + b"\x88\xb5" + bytes(size - 14))


def old(number: int, size: int = 60) -> bytes:
    return block("<", 2, struct.pack("<HHIIII", number, 0, 0, 0, size, size) + bytes(size))


BOTH = packet(0) + packet(1) + packet(0) + packet(1)
FILES = [
    (section() + interface() + interface() + BOTH, 0),
    (section() + interface(snap=0) + interface(snap=262144) + BOTH, 0),
    (section() + interface(snap=65535) + interface(snap=262144) + BOTH, 2),
    (section() + interface() + interface(RAW) + BOTH, 2),
    # the third one is known as number 1
    (section() + interface() + interface(RAW) + interface() + BOTH + packet(2), 1),
    (section() + interface() + packet(0) + section() + interface(snap=96) + packet(0), 1),
    (section() + interface() + packet(0) + section() + packet(0), 1),
    (section() + interface() + old(0) + old(1), 1),
    (section() + interface(snap=96) + packet(0, 97) + packet(0, 96), 1),
    (section() + interface() + packet(7), 1),
    (section(">") + interface(order=">") + packet(0, order=">"), 0),
]


@pytest.mark.parametrize("number", range(len(FILES)))
def test_as_libpcap_reads_it(tmp_path: Path, number: int) -> None:
    data, skipped = FILES[number]
    found = scan(data, 9000)
    assert found is not None
    assert found.skipped == skipped
    assert bool(found.first_skipped) == bool(skipped)
    if not shutil.which("tcpdump"):
        pytest.skip("no tcpdump")
    # It stops at the first error, be it an interface's; net_pcap asks again and goes on.
    file = tmp_path / "a.pcapng"
    file.write_bytes(data)
    command = ["tcpdump", "-nr", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(skipped), done.stderr
    read = len(re.findall(r"^\d\d:\d\d:", done.stdout, re.MULTILINE))
    assert read < found.first_skipped if skipped else read == found.packets


def test_no_order_of_blocks_confuses_it() -> None:
    blocks = [section(), section(">"), interface(), interface(RAW), packet(0), packet(1)]
    for order in product(blocks, repeat=4):
        found = scan(section() + b"".join(order), 9000)
        assert found is not None
        assert 0 <= found.skipped <= found.packets <= 4


def test_a_pcap_file_whose_head_is_wrong_is_read_in_part() -> None:
    """libpcap cuts each packet to the snapshot length in the file's head."""
    whole = pcap([(60, 60), (142, 142), (64, 142)])
    for snap, clipped, first in ((141, 1, 2), (142, 0, 0), (59, 3, 1), (0, 0, 0), (1 << 31, 0, 0)):
        data = whole[:16] + struct.pack("<I", snap) + whole[20:]
        result = scan(data, 9000)
        assert result is not None
        assert (result.clipped, result.first_clipped) == (clipped, first)
        host = machine(FULL, captures={"/etc/dpsup/in.pcap": data})
        topology, _ = load(FILE, host)
        assert topology is not None
        said = [p.message for p in check(topology, host) if p.code == "E0445"]
        assert len(said) == (clipped > 0)
        assert all(f"cut to {snap} bytes, the first is number {first}" in one for one in said)


def test_check_refuses_it_and_knows_how_many_a_job_will_read() -> None:
    text, path = FULL, "/etc/dpsup/in.pcap"
    host = machine(text, captures={path: FILES[2][0]})
    topology, _ = load(FILE, host)
    assert topology is not None
    (problem,) = check(topology, host)
    assert problem.code == "E0445"
    assert problem.severity is Severity.ERROR
    assert "2 of 4 packets" in problem.message
    host = machine(text, captures={path: FILES[0][0]})
    assert promised(topology, host) == {"lan": 4}
    endless = text.replace("rx_pcap=in.pcap", "rx_pcap=in.pcap,infinite_rx=1")
    topology, _ = load(FILE, machine(endless))
    assert topology is not None
    assert promised(topology, host) == {}
