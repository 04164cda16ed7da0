# SPDX-License-Identifier: BSD-3-Clause
"""Keeps the metrics process (instance.openmetrics) running beside the supervisor.

It is a process of its own, on the supervisor's cores: however often it is asked, what it asks of
the supervisor stays at one look a second, and its faults cost no other process anything.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from dpsup.host import process
from dpsup.supervisor.children import Children, how_of, until_end
from dpsup.supervisor.core import Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Model

AGAIN_S = 2.0  # after it ended: an address in use may be free by then
NAME = "metrics"


async def keep(core: Core, model: Model, children: Children) -> None:
    """Until cancelled. A metrics process that cannot serve is reported once, and tried again."""
    told = ""
    while True:
        try:
            why = await _serve(core, model, children)
        except OSError as e:  # no process, no descriptor to be had
            why = str(e)
        if why != told:
            told = why
            core.events.add(type="warning", name=NAME, message=f"no metrics are served: {why}")
        await asyncio.sleep(AGAIN_S)


async def _serve(core: Core, model: Model, children: Children) -> str:
    """One metrics process, from its start to its end; why it ended."""
    where = str(model.runtime.path), model.name, model.plan.metrics_listen
    argv = [sys.executable, "-P", "-m", "dpsup.instance.openmetrics", *where]
    spawned = process.spawn(argv)
    ended: list[str] = []
    children.expect(spawned.pid, ended.append)
    refused: list[str] = []
    Lines(spawned.output, lambda line: core.log.add(name=NAME, line=line))
    Lines(spawned.notify, refused.append)
    try:
        await until_end(spawned.pidfd)
    finally:
        process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
        os.close(spawned.pidfd)
    how = await how_of(ended)
    return refused[-1] if refused and refused[-1] != "READY" else f"it ended ({how})"
