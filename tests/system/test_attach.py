# SPDX-License-Identifier: BSD-3-Clause
"""Seeds and outsiders killed while they attach: EAL's locks come free again, and nobody stops."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eal import Config, eal_folder, kill_seeds
from harness import NULL, Run, wait_for

import dpsup

LONG = os.environ.get("DPSUP_LONG") == "1"
ONLY_LONG = [pytest.mark.long, pytest.mark.skipif(not LONG, reason="long")]
SLOW_NULL = NULL.replace("net_null0", "net_null0,size=64")


def pids(status: dict[str, Any]) -> list[int]:
    """Who must live on: primary and workers."""
    return [status["primary"]["pid"], *(w["pid"] for g in status["groups"] for w in g["workers"])]


def left_behind(instance: Run, client: dpsup.Instance) -> dict[str, Any]:
    """What must not grow."""
    primary = client.status()["primary"]["pid"]
    return {
        "heap": client.stats()["heap_bytes"],
        "eal": len(list(eal_folder(instance.name).iterdir())),
        "pages": len(list(Path("/dev/hugepages").glob(f"dpsup-{instance.name}-*"))),
        "fds": len(list(Path(f"/proc/{primary}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{primary}/task").iterdir())),
    }


def settled(what: Callable[[], dict[str, Any]], expected: dict[str, Any]) -> dict[str, Any]:
    """What it comes to, in a while: a thread or a file of the last second goes yet."""
    deadline = time.monotonic() + 5
    while (found := what()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def kill_seed(client: dpsup.Instance) -> None:
    seed = client.status()["seed"]["pid"]
    os.kill(seed, signal.SIGKILL)
    wait_for(lambda: (s := client.status()["seed"])["state"] == "running" and s["pid"] != seed)


def renew(client: dpsup.Instance) -> None:
    """Every worker a child of a new seed, which shows that one can attach and fork; then another
    seed, which removes the files of those that have no child any more."""
    kill_seed(client)
    for worker in client.status()["groups"][0]["workers"]:
        client.kill(worker["id"])
        wait_for(
            lambda worker=worker: (
                client.status()["state"] == "running" and worker["pid"] not in pids(client.status())
            )
        )
    kill_seed(client)


def report(found: list[dict[int, int]], events: list[dict[str, Any]]) -> None:
    """Figures of a run, for whoever reads its output."""
    began, attaches = 0, []
    for e in events:
        if e["type"] == "state" and e["kind"] == "seed":
            if e["new"] == "running":
                attaches.append((e["at_ns"] - began) / 1e6)
            began = e["at_ns"]
    attaches.sort()
    quantiles = [round(attaches[int(len(attaches) * q)], 1) for q in (0.5, 0.99) if attaches]
    said = Counter(e["message"] for e in events if e["type"] in ("locks", "seed"))
    left = Counter(str(f) for f in found if f)
    print(f"{len(found)} kills; left held {dict(left)}; said {dict(said)}; ", end="")
    print(f"{len(attaches)} attaches done, p50 and p99 {quantiles} ms")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [60, pytest.param(2000, marks=ONLY_LONG)])
def test_kills_all_over_the_attach_stop_nobody(instance: Run, kills: int) -> None:
    instance.start(SLOW_NULL)
    config = Config(instance.name)
    with dpsup.connect(instance.name) as client:
        renew(client)
        before = client.status()
        was = left_behind(instance, client)
        found: list[dict[int, int]] = []
        events: list[dict[str, Any]] = []
        while len(found) < kills:
            seed = client.status()["seed"]["pid"] or 0
            found += kill_seeds(before["supervisor"]["pid"], seed, min(50, kills), 0.06, config)
            events += client.events(since=events[-1]["seq"] if events else 0)
        wait_for(lambda: client.status()["seed"]["state"] == "running")
        after = client.status()
        assert after["generation"] == 1
        assert pids(after) == pids(before)
        assert after["ports"][0]["rx_packets"] > before["ports"][0]["rx_packets"]
        assert client.audit()["pools"][0]["unexplained"] == 0
        report(found, events)
        # What holds files of dead seeds is workers that these forked: none is left.
        renew(client)
        assert settled(lambda: left_behind(instance, client), was) == was
        assert not config.held()
