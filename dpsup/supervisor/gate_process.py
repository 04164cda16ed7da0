# SPDX-License-Identifier: BSD-3-Clause
"""Keeps the gate (dpsup.gate) running beside the supervisor, where [bus] lets other clients in than
the owner. It may die at any time: clients connect to the next one, and repeat what they asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Collection

from dpsup.host import process
from dpsup.plan.model import Plan
from dpsup.supervisor.children import Children, how_of, until_end
from dpsup.supervisor.core import Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Model
from dpsup.supervisor.policy import Ending, History, Policy, decide

NAME = "gate"
POLICY = Policy(intensity=1e9, period=60, initial=0.05, factor=1.5, most=2)


def is_wanted(plan: Plan) -> bool:
    return bool(plan.bus_endpoint or plan.bus_admin or plan.bus_read)


async def keep(core: Core, model: Model, children: Children, reads: Collection[str]) -> None:
    """Until cancelled. `reads`: the verbs that change nothing."""
    history, told = History(), ""
    while True:
        try:
            why = await _serve(core, model, children, reads)
        except OSError as e:  # no process, no descriptor to be had
            why = str(e)
        model.gate_pid = 0
        if why != told:
            told = why
            core.events.add(
                type="warning", name=NAME, message=f"the gate of the bus is down: {why}"
            )
        decision = decide(POLICY, history, Ending(), wanted=True, now=time.monotonic())
        history = decision.history
        await asyncio.sleep(decision.delay or 0)


async def _serve(core: Core, model: Model, children: Children, reads: Collection[str]) -> str:
    """One gate, from its start to its end; why it ended."""
    plan = model.plan
    words = {
        "endpoint": plan.bus_endpoint,
        "keys": plan.bus_keys,
        "admin": plan.bus_admin,
        "read": plan.bus_read,
        "reads": sorted(reads),
    }
    where = str(model.runtime.path), model.name, json.dumps(words)
    spawned = process.spawn([sys.executable, "-P", "-m", "dpsup.gate", *where])
    model.gate_pid = spawned.pid
    ended: list[str] = []
    children.expect(spawned.pid, ended.append)
    refused: list[str] = []

    def noted(word: str) -> None:
        if word == "READY":
            core.log.add(name=NAME, line=f"ready, pid {spawned.pid}")
        elif word:
            refused.append(word)

    Lines(spawned.output, lambda line: core.log.add(name=NAME, line=line))
    Lines(spawned.notify, noted)
    try:
        await until_end(spawned.pidfd)
    finally:
        model.gate_pid = 0
        process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
        os.close(spawned.pidfd)
    how = await how_of(ended)
    return refused[-1] if refused else f"it ended ({how})"
