# SPDX-License-Identifier: BSD-3-Clause
"""A job whose output could not be written does not end with "lost 0" and 0."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Run, run
from jobs import IO, group
from traffic import write_pcap

from dpsup.packets import pcap

pytestmark = pytest.mark.beside

PACKETS = 20_000
PORT = """
[[ports]]
name = "wan"
vdev = "net_pcap0,rx_pcap=in.pcap,tx_pcap={out}{more}"
"""


@pytest.fixture
def job(instance: Run) -> Run:
    write_pcap(instance.folder / "in.pcap", [bytes(12) + b"\x88\xb5" + bytes(242)] * PACKETS)
    return instance


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.fault(26)
def test_a_full_disk(job: Run, small: Path) -> None:
    text = PORT.format(out=small / "out.pcap", more="") + IO + group("forward", 1)
    job.write(text)
    done = run("start", str(job.file), "--exit-when-idle", "500ms", "-o", "json")
    assert done.returncode == 1, done.stderr
    doc = json.loads(done.stdout)
    written = pcap.count(small / "out.pcap")
    assert 0 < written < PACKETS
    assert f"has {written} of {PACKETS} packets" in done.stderr
    assert doc["unwritten"][0]["written"] == doc["sent"] == written
    assert doc["dropped"] == {"tx_failed": PACKETS - written}
    assert doc["lost"] == doc["in_flight"] == 0


def test_a_service_notices_while_it_runs(job: Run, small: Path) -> None:
    write_pcap(job.folder / "in.pcap", [bytes(12) + b"\x88\xb5" + bytes(1000)] * 64)
    ports = f"""
[[ports]]
name = "wan"
vdev = "net_pcap0,rx_pcap=in.pcap,infinite_rx=1"
[[ports]]
name = "lan"
vdev = "net_pcap1,tx_pcap={small}/out.pcap"
"""
    job.start(ports + IO + group("forward", 1, 'map = { wan = "lan" }'))
    status = job.until(lambda s: s["state"] == "degraded" and s)
    assert status["ports"][1]["unwritten_bytes"] > 0
    events = json.loads(run("-n", job.name, "events", "-o", "json").stdout)
    assert any(e["type"] == "error" and "out.pcap lacks" in e["message"] for e in events)
    job.stop()


def test_frames_that_the_driver_did_not_send(job: Run) -> None:
    """Of an interface whose frames are shorter: net_af_packet takes them and frees them unsent."""
    write_pcap(job.folder / "in.pcap", [bytes(12) + b"\x88\xb5" + bytes(n) for n in (50, 3000)] * 8)
    device = f"d{os.getpid()}"
    subprocess.run(["ip", "link", "add", device, "type", "veth", "peer", f"{device}p"], check=True)
    try:
        for end in (device, f"{device}p"):
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
        ports = f"""
[[ports]]
name = "wan"
vdev = "net_pcap0,rx_pcap=in.pcap"
mtu = 9000
[[ports]]
name = "lan"
vdev = "net_af_packet0,iface={device}"
"""
        job.write(ports + IO + group("forward", 1, 'map = { wan = "lan" }'))
        done = run("start", str(job.file), "--exit-when-idle", "1s", "-o", "json")
    finally:
        subprocess.run(["ip", "link", "del", device], check=True)
    doc = json.loads(done.stdout)
    assert doc["dropped"]["tx_failed"] == 8
    # What the kernel itself sends there comes in at "lan", and feeds no group.
    assert doc["sent"] == 8
    assert doc["lost"] == doc["in_flight"] == 0
