# SPDX-License-Identifier: BSD-3-Clause
"""Two e1000e NICs by VFIO through an IOMMU, a worker killed, a clean end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Run, leftovers, run, wait_for
from lab.guest import PATIENCE, End, Nic, exchange, passes, ports

FORWARD = """
[[io]]
cores = "0"
[[workers]]
name = "fw"
plugin = "forward"
args = { map = { wan0 = "lan0", lan0 = "wan0" } }
input = ["wan0", "lan0"]
count = 2
cores = "1"
"""


@pytest.fixture
def ends(nics: dict[str, Nic]) -> Iterator[tuple[End, End]]:
    two = End(nics["far-wan"]), End(nics["far-lan"])
    yield two
    for end in two:
        end.close()


def test_two_nics_by_vfio(nics: dict[str, Nic], instance: Run, ends: tuple[End, End]) -> None:
    """Both ways byte-identical, a worker's death between, each mbuf accounted for, nothing left."""
    text = ports(nics["wan0"], nics["lan0"]) + FORWARD
    assert list(Path("/sys/kernel/iommu_groups").iterdir()), "the machine has no IOMMU"
    instance.write(text)
    found = json.loads(run("doctor", str(instance.file), "-o", "json").stdout)
    assert [one for one in found["checks"] if one["level"] == "error"] == []
    instance.start()
    passes(*ends)
    passes(*reversed(ends))
    exchange(*ends)
    killed = instance.worker("fw/0")
    os.kill(killed["pid"], signal.SIGKILL)
    wait_for(lambda: instance.worker("fw/0")["pid"] not in (0, None, killed["pid"]), PATIENCE)
    exchange(*ends, seed=7)
    doc = instance.audit()
    assert not any(pool["unexplained"] for pool in doc["pools"]), doc
    instance.stop()
    wait_for(lambda: not leftovers(instance.name), PATIENCE)
