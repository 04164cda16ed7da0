# SPDX-License-Identifier: BSD-3-Clause
"""Keeps a process (dpsup.follow) running for each group whose tables follow the kernel.

It may die at any time: the tables stay as they are, and the next one changes what differs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from dpsup.host import process
from dpsup.supervisor.children import Children, how_of, until_end
from dpsup.supervisor.core import Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Model
from dpsup.supervisor.policy import Ending, History, Policy, decide

POLICY = Policy(intensity=1e9, period=60, initial=0.05, factor=1.5, most=2)
READY_S = 600.0  # a primary starts, and tables are laid out


async def keep(core: Core, model: Model, children: Children, group: str) -> None:
    """Until cancelled."""
    history, name = History(), f"follow/{group}"
    while model.state not in ("stopping", "stopped"):
        await core.until(lambda: model.state in ("running", "degraded"), READY_S)
        if model.state not in ("running", "degraded"):
            continue
        try:
            why = await _serve(core, model, children, group)
        except OSError as e:  # no process, no descriptor to be had
            why = f"cannot be started: {e}"
        if model.state in ("stopping", "stopped"):
            return
        core.events.add(
            type="warning",
            name=name,
            message=f"the process that follows the kernel's routes {why}; the tables stay as they"
            " are until the next one runs",
        )
        decision = decide(POLICY, history, Ending(), wanted=True, now=time.monotonic())
        history = decision.history
        await asyncio.sleep(decision.delay or 0)


async def _serve(core: Core, model: Model, children: Children, group: str) -> str:
    """One of them, from its start to its end; why it ended."""
    name = f"follow/{group}"
    where = str(model.runtime.path), model.name, group
    spawned = process.spawn([sys.executable, "-P", "-m", "dpsup.follow", *where])
    ended: list[str] = []
    children.expect(spawned.pid, ended.append)

    def noted(word: str) -> None:
        if word == "READY":
            core.log.add(name=name, line=f"ready, pid {spawned.pid}")
        elif word.startswith("WARNING "):
            message = f"E0454: {word.removeprefix('WARNING ')}"
            core.events.add(type="warning", name=name, message=message)
        elif word:
            core.skip(name, "a line about its start", repr(word))

    Lines(spawned.output, lambda line: core.log.add(name=name, line=line))
    Lines(spawned.notify, noted)
    try:
        await until_end(spawned.pidfd)
    finally:
        process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
        os.close(spawned.pidfd)
    return f"ended ({await how_of(ended)})"
