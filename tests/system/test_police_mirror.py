# SPDX-License-Identifier: BSD-3-Clause
"""The functions `police` and `mirror`, one after the other, while workers die and scale: a meter
gives what it has and no more, and each packet that passes has one copy."""

from __future__ import annotations

import contextlib

import pytest
from harness import Run
from jobs import IO, LOSSLESS, Job, pcap_port
from scapy.contrib.erspan import ERSPAN_II
from scapy.layers.l2 import GRE, Ether
from traffic import compare, read_pcap, save
from versions import many

from dpsup.errors import DpsupError

pytestmark = [pytest.mark.system, pytest.mark.beside]

PACKETS = 12_000
GREEN = 7_000
SIZE = 48  # of each packet, as IP counts
CHAIN = """
[[ports]]
name = "lan"
vdev = "net_pcap_lan,tx_pcap=lan.out.pcap"
[[ports]]
name = "mon"
vdev = "net_pcap_mon,tx_pcap=mon.out.pcap"
[[chains]]
name = "both"
path = ["wan", "police", "mirror", "lan"]
"""


def function(plugin: str, args: str, more: str) -> str:
    return f"""
[[workers]]
name = "{plugin}"
plugin = "{plugin}"
args = {{ {args} }}
count = 2
max = 3
{LOSSLESS}
{more}
"""


def test_a_port_has_its_rate_and_each_packet_its_copy(instance: Run) -> None:
    """One meter for the port, whose packets two workers get, and 1 bit a second: what passes is
    what the burst says, whichever worker died when."""
    packets = many(PACKETS)
    save(instance.folder / "wan.in.pcap", packets)
    rate = f'by = "port", cir = "1bit", cbs = "{GREEN * SIZE}B"'
    copies = 'to = "mon", from = "wan", tunnel = "erspan", source = "192.0.2.1"'
    copies += ', destination = "192.0.2.9", mac = "02:00:00:00:00:09"'
    job = Job(
        instance,
        IO + pcap_port() + CHAIN + function("police", rate, 'bucket_state = "auto"')
        + function("mirror", copies, 'state = "auto"'),
    )  # fmt: skip
    for at, workers in ((1000, 3), (3000, 1), (5000, 2)):
        job.until_sent(at)
        for group in ("police", "mirror"):
            with contextlib.suppress(DpsupError):
                job.instance.kill(f"{group}/0")
            with contextlib.suppress(DpsupError):
                job.instance.scale(group, workers, wait=False)
    doc = job.end(PACKETS)
    assert {k: n for k, n in doc["dropped"].items() if n} == {"red": PACKETS - GREEN}
    assert doc["lost"] == doc["in_flight"] == 0
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])
    passed = list(read_pcap(instance.folder / "lan.out.pcap"))
    assert len(passed) == GREEN
    compare(packets, passed, missing=PACKETS - GREEN)
    copied = []
    sequences: dict[int, list[int]] = {}
    for frame in read_pcap(instance.folder / "mon.out.pcap"):
        copy = Ether(frame)
        sequences.setdefault(copy[ERSPAN_II].session_id, []).append(copy[GRE].sequence_number)
        copied.append(bytes(copy[ERSPAN_II].payload))
    assert sorted(copied) == sorted(passed)
    for numbers in sequences.values():
        assert numbers == list(range(len(numbers)))
