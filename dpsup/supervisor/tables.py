# SPDX-License-Identifier: BSD-3-Clause
"""Keeps the builder running, and asks it for what the bus asks of live tables.

A builder that dies is replaced, and asked again with the same request: it carries out once what is
in its log. Forwarding needs no builder; workers that start need what one has laid out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from typing import Any

from dpsup.bus.messages import as_exception
from dpsup.bus.sockets import AsyncClient, Gone
from dpsup.errors import NoSuchObject, TimedOut
from dpsup.host import process
from dpsup.instance.runtime_dir import BUILDER, PLAN
from dpsup.supervisor.children import Children
from dpsup.supervisor.core import Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Model
from dpsup.supervisor.policy import Ending, History, Policy, decide

NAME = "builder"
POLICY = Policy(intensity=1e9, period=60, initial=0.01, factor=1.5, most=2)
READY_S = 600.0  # a file of a million lines is read in seconds
ASK_S = 600.0
SLOW_S = 3.0  # without a builder


class Tables:
    def __init__(self, core: Core, model: Model, children: Children) -> None:
        self._core, self._model, self._children = core, model, children
        self._client: AsyncClient | None = None  # while a builder is ready
        self._is_laid_out = model.adopted
        self._history = History()

    @property
    def is_wanted(self) -> bool:
        return any(g.tables for g in self._model.plan.groups)

    async def run(self) -> None:
        """Until cancelled."""
        if not self.is_wanted:
            return
        fresh = not self._model.adopted
        self._is_laid_out = not fresh
        while True:
            await self._core.until(lambda: self._model.primary.state == "running", READY_S)
            if self._model.primary.state != "running":
                continue
            why = ""
            try:
                why = await self._serve(fresh=fresh and not self._is_laid_out)
            except OSError as e:  # no process, no descriptor to be had
                why = str(e)
            if self._model.state in ("stopping", "stopped"):
                return
            decision = decide(POLICY, self._history, Ending(), wanted=True, now=time.monotonic())
            self._history = decision.history
            self._core.events.add(type="warning", name=NAME, message=f"the builder {why}")
            await asyncio.sleep(decision.delay or 0)

    async def _serve(self, *, fresh: bool) -> str:
        """One builder, from its start to its end; why it ended."""
        plan = self._model.runtime.file(PLAN)
        argv = [sys.executable, "-P", "-m", "dpsup.builder", plan, "fresh" if fresh else "again"]
        spawned = process.spawn(argv)
        self._children.expect(spawned.pid)
        words: list[str] = []

        def noted(word: str) -> None:
            words.append(word)
            if word == "READY":
                self._client = AsyncClient(self._model.runtime.file(BUILDER))
                self._is_laid_out = True
                self._core.wake()
                self._core.log.add(name=NAME, line=f"ready, pid {spawned.pid}")

        Lines(spawned.output, lambda line: self._core.log.add(name=NAME, line=line))
        Lines(spawned.notify, noted)
        try:
            await _end(spawned.pidfd)
        finally:
            process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
            os.close(spawned.pidfd)
            if self._client is not None:
                self._client.close()
                self._client = None
        last = words[-1] if words else ""
        if not last.startswith("REFUSED "):
            return "ended, and is started again"
        error = as_exception(json.loads(last.removeprefix("REFUSED ")))
        if not self._is_laid_out:
            # A person waits for the start, and no packet is under way.
            self._core.fail(error)
        return f"refused: {error.message}"

    async def laid_out(self) -> None:
        """Returns once the tables are what workers can map."""
        said = False
        while self.is_wanted and not await self._core.until(lambda: self._is_laid_out, SLOW_S):
            if self._model.state in ("stopping", "stopped"):
                return
            if not said:
                said = True
                self._model.progress("the builder reads the files of live tables (`dpsup events`)")

    async def ask(self, verb: str, **args: Any) -> Any:
        """Raises: DpsupError."""
        if not self.is_wanted:
            raise NoSuchObject(
                "this instance has no tables",
                code="E0527",
                help='[[workers]] declares them: tables = { routes = { kind = "ipv4", ... } }',
            )
        args.setdefault("request", uuid.uuid4().hex)
        deadline = time.monotonic() + ASK_S
        while time.monotonic() < deadline:
            if not await self._core.until(lambda: self._client is not None, SLOW_S):
                continue
            try:
                assert self._client is not None
                return await self._client.ask(verb, deadline - time.monotonic(), **args)
            except Gone:
                continue
        raise TimedOut(
            f"no answer of the builder to `{verb}` within {ASK_S:g} s",
            code="E0904",
            help="`dpsup logs builder` shows what it said",
        )


async def _end(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
