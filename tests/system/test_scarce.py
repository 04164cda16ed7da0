# SPDX-License-Identifier: BSD-3-Clause
"""A process that gets no more descriptors or memory: forwarding goes on, and all is well later."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import NULL, Run, lives, wait_for

from dpsup.errors import DpsupError

pytestmark = pytest.mark.beside


@contextlib.contextmanager
def scarce(pid: int, what: int) -> Iterator[None]:
    """It keeps what it has, and gets next to nothing more: a limit of memory is one of addresses,
    and poll(2) fails where a process may not have as many descriptors as it waits for."""
    before = resource.prlimit(pid, what)
    held = max(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir())
    least = held + 1 if what == resource.RLIMIT_NOFILE else 0
    resource.prlimit(pid, what, (least, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


def forwarded(instance: Run) -> int:
    return int(sum(port["tx_packets"] for port in instance.status()["ports"]))


@pytest.mark.fault(19, 43)
@pytest.mark.parametrize(
    "what", [resource.RLIMIT_NOFILE, resource.RLIMIT_AS], ids=["files", "memory"]
)
def test_forwarding_goes_on_and_all_is_well_later(instance: Run, what: int) -> None:
    instance.start(NULL.replace("net_null0", "net_null0,size=64") + "spares = 1\n")
    for part in ("supervisor", "primary", "seed"):
        doc = instance.status()
        before = forwarded(instance)
        pid = int(doc[part]["pid"])
        with scarce(pid, what):
            victim = next(w["pid"] for w in doc["groups"][0]["workers"] if w["pid"])
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda victim=victim: not lives(victim))
            for _ in range(5):  # it may not be able to answer, or end
                with contextlib.suppress(DpsupError, AssertionError):
                    instance.do("status", check=False)
        if not lives(int(doc["supervisor"]["pid"])):
            instance.start()
        instance.until(
            lambda doc: (
                doc["state"] == "running"
                and all(w["state"] == "running" for w in doc["groups"][0]["workers"])
            )
        )
        if part != "primary":  # whose end the supervisor answers with a new generation
            assert instance.status()["generation"] == doc["generation"], part
            wait_for(lambda before=before: forwarded(instance) > before)
    audit = instance.audit()
    assert not any(pool["unexplained"] for pool in audit["pools"])
    instance.stop()
