# SPDX-License-Identifier: BSD-3-Clause
"""dpsup@ with the drop-in that takes root's rights away, as docs/systemd.md installs it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import dies, wait_for
from lab.guest import PATIENCE, End, Nic, exchange, passes, ports, sh
from lab.units import ETC, SHIPPED, TOPOLOGY, Unit, install, threads

NAME = "plain"
RIGHTS = re.compile(r"^(Cap(?:Inh|Prm|Eff|Bnd|Amb)):\s*0*$", re.M)


@pytest.fixture(scope="module")
def unit(nics: dict[str, Nic]) -> Iterator[Unit]:
    install()
    sh("systemd-sysusers", str(SHIPPED.parent / "debian/dpsup.sysusers"))
    place = ETC / "dpsup@.service.d"
    place.mkdir(exist_ok=True)
    shutil.copy(SHIPPED / "unprivileged.conf", place)
    shutil.copy(SHIPPED / "60-dpsup-vfio.rules", "/etc/udev/rules.d")
    sh("systemctl", "daemon-reload")
    sh("udevadm", "control", "--reload")
    sh("udevadm", "trigger", "--subsystem-match=vfio", "--settle")
    text = TOPOLOGY.format(name=NAME, wan="wan0", lan="lan0", io="1", cores="2-3")
    one = Unit(NAME, text + ports(nics["wan0"], nics["lan0"]))
    yield one
    one.ctl("stop", check=False)
    shutil.rmtree(place)
    one.remove()


def test_it_forwards_between_nics_without_a_capability(unit: Unit, nics: dict[str, Nic]) -> None:
    two = End(nics["far-wan"]), End(nics["far-lan"])
    unit.ctl("start")
    told = unit.runs()
    passes(*two)
    passes(*reversed(two))
    exchange(*two, packets=60)
    uid = int(sh("id", "-u", "dpsup"))
    for pid in unit.pids():
        status = Path(f"/proc/{pid}/status").read_text()
        assert len(RIGHTS.findall(status)) == 5, status
        assert "NoNewPrivs:\t1" in status
        assert Path(f"/proc/{pid}").stat().st_uid == uid
    found = list(threads(told["primary"]["pid"]))
    assert any(policy == os.SCHED_FIFO and priority == 1 for _, policy, priority in found), found

    before = told["groups"][0]["workers"][0]["pid"]
    dies(before)
    wait_for(lambda: unit.runs()["groups"][0]["workers"][0]["pid"] != before, PATIENCE)
    dies(unit.main)
    unit.runs()
    exchange(*two, packets=60, seed=5)
    unit.ctl("stop")
    unit.is_gone()
    for end in two:
        end.close()
