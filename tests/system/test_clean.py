# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup clean` of all that is dead on this machine: no other test may run beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import CALM, Run, kill_all, leftovers, run, wait_for


@pytest.mark.fault(37)
def test_clean_removes_the_dead_and_keeps_the_living(instance: Run, tmp_path: Path) -> None:
    instance.start(CALM)
    dead = Run(f"{instance.name}dead", tmp_path / "dead")
    dead.folder.mkdir()
    dead.start(CALM)
    doc = dead.status()
    kill_all([doc[part]["pid"] for part in ("supervisor", "primary", "seed")])
    wait_for(lambda: dead.do("status", check=False).returncode == 3)
    said = dead.do("status", check=False).stderr
    assert f"it died: `dpsup -n {dead.name} events` shows its record" in said
    assert "-> running" in dead.do("events").stdout
    assert instance.name in run("status", "-n", instance.name, check=True).stdout
    swept = run("clean", check=True).stdout.splitlines()
    # What others left is swept as well.
    (pages,) = (line for line in swept if "hugepage" in line and dead.name in line)
    assert re.fullmatch(rf"removed \d+ hugepages, \S+/dpsup-{dead.name}-g1map_\*", pages)
    assert wait_for(lambda: not leftovers(dead.name))
    assert instance.status()["state"] == "running"
