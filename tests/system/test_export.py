# SPDX-License-Identifier: BSD-3-Clause
"""The function `export`: what the collector counts is what was forwarded, exactly, while workers
die, scale and are replaced; nfdump reads the same."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from harness import Run, wait_for
from ipfix import collect, number
from jobs import IO, LOSSLESS, Job, pcap_port
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from traffic import compare, read_pcap, save
from versions import many

from dpsup.errors import DpsupError

pytestmark = [pytest.mark.system, pytest.mark.beside]

PACKETS = 12_000
CHAIN = """
[[ports]]
name = "lan"
vdev = "net_pcap_lan,tx_pcap=lan.out.pcap"
[[ports]]
name = "mon"
vdev = "net_pcap_mon,tx_pcap=mon.out.pcap"
[[chains]]
name = "line"
path = ["wan", "export", "slow", "lan"]
[[workers]]
name = "slow"
plugin = "delay"
args = { cycles = 300000 }
on_full = "hold"
[[workers]]
name = "export"
plugin = "export"
state = "auto"
bucket_state = "auto"
control = true
count = 2
max = 3
"""
ARGS = """
[workers.args]
to = "mon"
source = "192.0.2.1"
destination = "192.0.2.9"
mac = "02:00:00:00:00:09"
active = 1
"""


def test_the_sum_of_what_is_exported_is_what_was_forwarded(instance: Run) -> None:
    packets = many(PACKETS)
    save(instance.folder / "wan.in.pcap", packets)
    job = Job(instance, IO + pcap_port() + CHAIN + LOSSLESS + ARGS)
    live = job.instance
    for at, workers in ((1000, 3), (3000, 1), (5000, 2), (7000, 3)):
        job.until_sent(at)
        live.tell("export", "flush")
        with contextlib.suppress(DpsupError):
            live.kill("export/0")
        with contextlib.suppress(DpsupError):
            live.scale("export", workers, wait=False)
    job.until_sent(PACKETS)
    wait_for(lambda: live.status()["state"] == "running")
    live.rollout("export")
    live.kill("export/0")

    def is_exported() -> bool:
        # A worker that starts gets the text once more.
        workers = live.status()["groups"][1]["workers"]
        counters = [w["counters"] for w in workers]
        assert sum(c["packets"] for c in counters) == PACKETS
        return sum(c["records"] - c["flows_begun"] for c in counters) == 0

    live.tell("export", "flush")
    wait_for(is_exported)
    doc = job.end()
    assert doc["lost"] == doc["in_flight"] == 0 == sum(doc["dropped"].values())
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])
    compare(packets, read_pcap(instance.folder / "lan.out.pcap"))
    frames = [Ether(frame) for frame in read_pcap(instance.folder / "mon.out.pcap")]
    messages = [bytes(frame[UDP].payload) for frame in frames]
    got = collect(messages)
    expected = Counter(IP(p.frame[14:]).src for p in packets)
    counted: Counter[str] = Counter()
    for record in got.records:
        counted[socket.inet_ntoa(record["source"])] += number(record["packets"])
    assert counted == expected
    assert got.total("octets") == sum(len(p.frame) - 14 for p in packets)
    assert len(got.records) > len(expected), "flows were reported while they went on"
    read_by_nfdump(messages, instance.folder, got.total("packets"), got.total("octets"))


def read_by_nfdump(messages: list[bytes], folder: Path, packets: int, octets: int) -> None:
    if shutil.which("nfcapd") is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = folder / "nfdump"
    where.mkdir()
    taker = subprocess.Popen(
        ["nfcapd", "-w", where, "-p", str(port), "-b", "127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        hexed = f"{port:04X}"
        wait_for(lambda: f":{hexed} " in Path("/proc/net/udp").read_text())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for message in messages:
                s.sendto(message, ("127.0.0.1", port))
                time.sleep(0.001)
    finally:
        # It writes its file at the end.
        time.sleep(1)
        taker.terminate()
        taker.wait()
    said = subprocess.run(["nfdump", "-R", where, "-I"], capture_output=True, text=True, check=True)
    assert f"Packets: {packets}\n" in said.stdout and f"Bytes: {octets}\n" in said.stdout, (
        said.stdout
    )
