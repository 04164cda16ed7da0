# SPDX-License-Identifier: BSD-3-Clause
"""Keeps a process running that changes the tables of one group (dpsup.follow, dpsup.probe).

It may die at any time: the tables stay as they are, and the next one changes what differs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from dpsup.host import process
from dpsup.supervisor.children import Children, how_of, until_end
from dpsup.supervisor.core import Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Model
from dpsup.supervisor.policy import Ending, History, Policy, decide

POLICY = Policy(intensity=1e9, period=60, initial=0.05, factor=1.5, most=2)
READY_S = 600.0  # a primary starts, and tables are laid out


def _says_no_more(core: Core, group: str, word: str) -> bool:
    return False


@dataclass(frozen=True)
class Kind:
    module: str  # what `python -m` runs, "dpsup.follow"
    code: str  # of its warnings
    what: str  # "the process that ..."
    until: str  # what holds until the next one runs
    told: Callable[[Core, str, str], bool] = _says_no_more
    """Take a line that it says; False: it is none of this kind's."""

    def name(self, group: str) -> str:
        """In logs and events: "follow/router"."""
        return f"{self.module.rpartition('.')[2]}/{group}"


async def keep(kind: Kind, core: Core, model: Model, children: Children, group: str) -> None:
    """Until cancelled."""
    history = History()
    while model.state not in ("stopping", "stopped"):
        await core.until(lambda: model.state in ("running", "degraded"), READY_S)
        if model.state not in ("running", "degraded"):
            continue
        try:
            why = await _serve(kind, core, model, children, group)
        except OSError as e:  # no process, no descriptor to be had
            why = f"cannot be started: {e}"
        if model.state in ("stopping", "stopped"):
            return
        message = f"{kind.what} {why}; {kind.until} until the next one runs"
        core.events.add(type="warning", name=kind.name(group), message=message)
        decision = decide(POLICY, history, Ending(), wanted=True, now=time.monotonic())
        history = decision.history
        await asyncio.sleep(decision.delay or 0)


async def _serve(kind: Kind, core: Core, model: Model, children: Children, group: str) -> str:
    """One of them, from its start to its end; why it ended."""
    name = kind.name(group)
    where = str(model.runtime.path), model.name, group
    spawned = process.spawn([sys.executable, "-P", "-m", kind.module, *where])
    ended: list[str] = []
    children.expect(spawned.pid, ended.append)

    def noted(word: str) -> None:
        if word == "READY":
            core.log.add(name=name, line=f"ready, pid {spawned.pid}")
        elif word.startswith("WARNING "):
            message = f"{kind.code}: {word.removeprefix('WARNING ')}"
            core.events.add(type="warning", name=name, message=message)
        elif word and not kind.told(core, group, word):
            core.skip(name, "a line about its start", repr(word))

    Lines(spawned.output, lambda line: core.log.add(name=name, line=line))
    Lines(spawned.notify, noted)
    try:
        await until_end(spawned.pidfd)
    finally:
        process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
        os.close(spawned.pidfd)
    return f"ended ({await how_of(ended)})"


FOLLOW = Kind(
    "dpsup.follow", "E0454", "the process that follows the kernel's routes",
    "the tables stay as they are",
)  # fmt: skip


def _backend(core: Core, group: str, word: str) -> bool:
    """ "DOWN web1 TEXT", "UP web1" """
    state, _, rest = word.partition(" ")
    backend, _, why = rest.partition(" ")
    if state not in ("UP", "DOWN") or not backend:
        return False
    message = f"backend {backend} is down: {why}" if state == "DOWN" else f"backend {backend} is up"
    core.events.add(
        type="backend", name=group, backend=backend, new=state.lower(), why=why, message=message
    )
    return True


PROBE = Kind(
    "dpsup.probe", "E0459", "the process that probes backends", "their marks stay as they are",
    _backend,
)  # fmt: skip
