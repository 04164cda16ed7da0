# SPDX-License-Identifier: BSD-3-Clause
"""The seed refuses what it must, with a code and a message of its own; and forking from it leaves
nothing behind, however often."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from eal import attach_arguments, eal_folder
from harness import CALM, NULL, Run, at_rest, held_by, wait_for

import dpsup
from dpsup._shim import lib

pytestmark = pytest.mark.beside


def attach(instance: Run, tmp_path: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """Start a seed by hand, with some of its arguments changed."""
    argv = attach_arguments(instance, tmp_path, changed)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.fault(38, 39)
@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"abi": "0"}, "DPS_EXIT_ABI", "ABI 0"),
        ({"dpdk": "1.2.3"}, "DPS_EXIT_DPDK", "1.2.3"),
        ({"generation": "7"}, "DPS_EXIT_GENERATION", "generation 7"),
        ({"primary-start": "1"}, "DPS_EXIT_PRIMARY_GONE", "dead"),
        ({"primary": "4194300"}, "DPS_EXIT_PRIMARY_GONE", "dead"),
        ({"file-prefix": "dpsup-nobody-g1"}, "DPS_EXIT_ATTACH", "dpsup-nobody-g1"),
        ({"socket": "/nowhere/seed.sock"}, "DPS_EXIT_SEED_GONE", "/nowhere"),
        ({"unknown": "x"}, "DPS_EXIT_USAGE", "unknown"),
    ],
    ids=lambda v: v if isinstance(v, str) and v.startswith("DPS") else "",
)
def test_each_refusal_has_its_code(
    shared: Run, tmp_path: Path, changed: dict[str, str], code: str, says: str
) -> None:
    done = attach(shared, tmp_path, **changed)
    with contextlib.suppress(FileNotFoundError):
        eal_folder("nobody").rmdir()  # EAL creates it before it finds no primary in it
    assert done.returncode == getattr(lib, code), done.stderr
    assert says in done.stderr
    # Whoever was refused, the instance goes on.
    assert shared.status()["state"] == "running"


def test_a_worker_ends_with_its_primary_and_holds_no_socket_of_eal(instance: Run) -> None:
    instance.start(CALM)
    doc = instance.status()
    pid = doc["groups"][0]["workers"][0]["pid"]
    held = set(held_by(pid))
    assert not any(h.startswith("socket:") for h in held), held
    assert len(held) <= 4, held  # stdin, its log twice, the primary's pidfd
    assert os.getsid(pid) == pid


def snapshot(instance: Run, client: dpsup.Instance) -> dict[str, Any]:
    prefix = f"dpsup-{instance.name}-g1"
    return {
        "heap": client.stats()["heap_bytes"],
        "eal": sorted(p.name for p in Path("/var/run/dpdk", prefix).iterdir()),
        # Of a record, which has a bound, the older half.
        "runtime": sorted(
            p.name for p in Path("/run/dpsup", instance.name).iterdir() if p.suffix != ".1"
        ),
        "pages": sorted(p.name for p in Path("/dev/hugepages").glob(f"{prefix}map_*")),
        "fds": len(held_by(client.status()["supervisor"]["pid"])),
    }


def settled(instance: Run, client: dpsup.Instance) -> dict[str, Any]:
    wait_for(lambda: client.status()["groups"][0]["spares_ready"] == 1)
    return at_rest(lambda: snapshot(instance, client))


@pytest.mark.fault(48)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("restarts", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_restarts_leave_everything_as_it_was(instance: Run, restarts: int) -> None:
    text = NULL.replace('"10ms"', '"0ms"').replace("intensity = 100", "intensity = 1000000")
    # Few packets: this is about processes.
    instance.start(text.replace("net_null0", "net_null0,size=64").replace("count = 2", "count = 1"))
    with dpsup.connect(instance.name) as client:

        def restart() -> None:
            pid = client.status()["groups"][0]["workers"][0]["pid"]
            client.kill("fw/0")
            wait_for(
                lambda: (
                    (w := client.status()["groups"][0]["workers"][0])["state"] == "running"
                    and w["pid"] != pid
                ),
                step=0.01,
            )

        restart()
        before = settled(instance, client)
        for _ in range(restarts):
            restart()
        after = settled(instance, client)
        assert client.status()["recovery"]["deaths"] == restarts + 1
        assert client.audit()["pools"][0]["unexplained"] == 0
    assert after == before
