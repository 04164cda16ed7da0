# SPDX-License-Identifier: BSD-3-Clause
"""A supervisor that dies before the live tables are laid out for the first time."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from harness import CALM, Run, dies, pids_of, wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]

ROUTES = 20_000
TABLES = 'tables = { routes = { kind = "ipv4", entries = "20k", file = "routes.txt" } }\ninput ='


def test_the_next_supervisor_waits_for_the_tables(instance: Run) -> None:
    """It forked at once; no worker found its tables, and each was held."""
    with (instance.folder / "routes.txt").open("w") as file:
        file.writelines(f"10.{n >> 8}.{n & 255}.0/24 {n}\n" for n in range(ROUTES))
    process = instance.foreground(CALM.replace("input =", TABLES))
    # It starts once the primary is ready. Where it is stopped too late, nothing is to be waited
    # for, and the rest holds all the same.
    (builder,) = wait_for(lambda: pids_of("dpsup.builder", instance.name), step=0.002)
    os.kill(builder, signal.SIGSTOP)
    assert process.poll() is None
    dies(process.pid)
    process.communicate()
    with contextlib.suppress(ProcessLookupError):
        os.kill(builder, signal.SIGKILL)  # one that was just started would wait for a SIGCONT
    wait_for(lambda: not Path(f"/proc/{builder}").exists())
    instance.foreground()
    instance.until_running()
    group = instance.status()["groups"][0]
    assert [w["state"] for w in group["workers"][:2]] == ["running"] * 2
    assert instance.ask("tables")["tables"][0]["entries"] == ROUTES
    assert not [e for e in instance.events() if e["type"] == "held"]
