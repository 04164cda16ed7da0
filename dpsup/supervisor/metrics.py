# SPDX-License-Identifier: BSD-3-Clause
"""Keeps the metrics process (instance.openmetrics) running beside the supervisor.

It is a process of its own, on the supervisor's cores: however often and by whomever it is asked,
what it asks of the supervisor stays at one look a second, and its faults cost nobody else anything.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from dpsup.host import process
from dpsup.supervisor.journal import Lines

if TYPE_CHECKING:
    from dpsup.supervisor.core import Supervisor

AGAIN_S = 2.0  # after it ended: an address in use may be free by then
NAME = "metrics"


async def keep(sup: Supervisor) -> None:
    """Until cancelled. An exporter that cannot serve is said once, and tried for ever."""
    told = ""
    while True:
        words = (
            "dpsup.instance.openmetrics",
            str(sup.runtime.path),
            sup.plan.name,
            sup.plan.metrics_listen,
        )
        spawned = process.spawn([sys.executable, "-P", "-m", *words])
        refused: list[str] = []
        Lines(spawned.output, lambda line: sup.log.add(name=NAME, line=line))
        Lines(spawned.notify, refused.append)
        try:
            await _end(spawned.pidfd)
        finally:
            process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
            os.close(spawned.pidfd)
        why = refused[-1] if refused and refused[-1] != "READY" else "it ended"
        if why != told:
            told = why
            sup.events.add(type="warning", name=NAME, message=f"no metrics are served: {why}")
        await asyncio.sleep(AGAIN_S)
        sup._endings.pop(spawned.pid, None)  # reaped by now, and no worker


async def _end(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
