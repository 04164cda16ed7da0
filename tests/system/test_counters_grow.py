# SPDX-License-Identifier: BSD-3-Clause
"""A plugin's counters are read while its workers die: none of them falls."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from harness import DPSUP, NULL, Run, dies, wait_for

import dpsup

pytestmark = pytest.mark.beside

EXAMPLE = Path(__file__).parents[2] / "workers" / "examples"
DEATHS = 12


def test_they_only_grow_over_takeovers_and_supervisors(instance: Run) -> None:
    source = EXAMPLE / "count_ports.c"
    flags = subprocess.run(
        [*DPSUP, "version", "--cflags"], capture_output=True, text=True, check=True
    ).stdout.split()
    made = instance.folder / "count.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", *flags, str(source), "-o", str(made)], check=True
    )
    text = NULL.replace('plugin = "macswap"', f'plugin = "{made}"\nspares = 1')
    instance.start(text.replace('args = { map = { wan = "lan", lan = "wan" } }', ""))
    live = dpsup.connect(instance.name)
    done = threading.Event()

    def kill() -> None:
        for n in range(DEATHS):
            with dpsup.connect(instance.name) as other:
                os.kill(wait_for(lambda: pid_of_first(other)), signal.SIGKILL)
                wait_for(lambda n=n: other.status()["recovery"]["deaths"] > n)
        done.set()

    killer = threading.Thread(target=kill)
    killer.start()
    before: dict[tuple[str, str], int] = {}
    while not done.is_set():
        for worker in live.status()["groups"][0]["workers"]:
            for name, n in worker["counters"].items():
                assert n >= before.get((worker["id"], name), 0), (worker["id"], name)
                before[worker["id"], name] = n
    killer.join()
    assert any(before.values())
    recovery = live.status()["recovery"]
    pid = live.status()["supervisor"]["pid"]
    assert pid is not None
    dies(pid)
    with wait_for(lambda: _headless(instance.name)) as orphan:
        found = orphan.status()["recovery"]
    assert found["deaths"] >= recovery["deaths"] == DEATHS
    for kind, histogram in recovery["histograms"].items():
        assert found["histograms"][kind]["count"] >= histogram["count"]


def pid_of_first(live: dpsup.Instance) -> int | None:
    worker = live.status()["groups"][0]["workers"][0]
    return worker["pid"] if worker["state"] == "running" else None


def _headless(name: str) -> dpsup.Instance | None:
    one = dpsup.connect(name)
    return one if one.headless else None
