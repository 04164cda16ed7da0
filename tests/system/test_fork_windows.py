# SPDX-License-Identifier: BSD-3-Clause
"""Seeds, workers and spares killed between an order to fork and READY, at each system call there:
no orphan, no zombie, no seat taken twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import Any

import pytest
from eal import own_processes, zombies
from harness import CALM, LONG, Run, wait_for
from ptrace import Gone, Traced

import dpsup

pytestmark = pytest.mark.beside

SPARE = CALM.replace(
    "count = 2", 'count = 1\nspares = 1'
).replace("intensity = 100", "intensity = 1000000")  # fmt: skip
SEED_CALLS = 14  # from the order to the next wait: receive, fork, pidfd, tell, close
CHILD_CALLS = 400  # more than a worker needs to READY
STEP = 1 if LONG else 53


def whole(client: dpsup.Instance) -> dict[str, Any] | None:
    """The status, once everybody who should be there is."""
    status = client.status()
    group = status["groups"][0]
    there = status["state"] == "running" and group["spares_ready"] == 1
    return status if there and status["seed"]["state"] == "running" else None


def nobody_else(client: dpsup.Instance, name: str) -> None:
    """Seed, worker, spare; and no zombie."""

    def so() -> bool:
        status, pids = whole(client), own_processes(name)
        return (
            status is not None
            and len(pids) == 3
            and status["seed"]["pid"] in pids
            and status["groups"][0]["workers"][0]["pid"] in pids
            and not zombies(status["supervisor"]["pid"])
        )

    wait_for(so)
    assert client.status()["generation"] == 1
    assert client.audit()["pools"][0]["unexplained"] == 0


@pytest.mark.fault(18)
@pytest.mark.timeout(900)
def test_a_seed_killed_anywhere_around_a_fork_leaves_no_orphan(instance: Run) -> None:
    instance.start(SPARE)
    with dpsup.connect(instance.name) as client:
        wait_for(lambda: whole(client))
        for calls in range(0, SEED_CALLS, 1 if LONG else 2):
            traced = Traced(client.status()["seed"]["pid"])
            # A spare takes the place, and another one is ordered.
            client.kill("fw/0")
            with contextlib.suppress(Gone):
                for _ in range(calls):
                    traced.to_syscall()
            traced.kill()
            nobody_else(client, instance.name)


@pytest.mark.fault(8)
@pytest.mark.timeout(3600)
def test_a_child_killed_anywhere_before_it_is_ready_leaves_nothing(instance: Run) -> None:
    instance.start(SPARE)
    with dpsup.connect(instance.name) as client:
        wait_for(lambda: whole(client))
        for calls in range(0, CHILD_CALLS, STEP):
            traced = Traced(client.status()["seed"]["pid"], forks=True)
            client.kill("fw/0")
            while (child := traced.to_syscall()) is None:
                pass
            traced.let_go()
            with contextlib.suppress(Gone):
                for _ in range(calls):
                    child.to_syscall()
                    if client.status()["groups"][0]["spares_ready"]:
                        break  # what comes next is a wait without end
            child.kill()
            nobody_else(client, instance.name)


@pytest.mark.fault(10, 47)
@pytest.mark.timeout(900)
def test_everybody_killed_at_once_comes_back(instance: Run) -> None:
    instance.start(SPARE)
    chance = random.Random(1)
    with dpsup.connect(instance.name) as client:
        wait_for(lambda: whole(client))
        for _ in range(100 if LONG else 8):
            for pid in own_processes(instance.name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # Again where it is on its way up.
            time.sleep(chance.random() * 0.2)
            for pid in own_processes(instance.name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            nobody_else(client, instance.name)
