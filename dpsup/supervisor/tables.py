# SPDX-License-Identifier: BSD-3-Clause
"""Keeps the builder running, and asks it for what the bus asks of live tables.

A builder that dies is replaced, and asked again with the same request: it carries out once what is
in its log. Forwarding needs no builder; workers that start need what one has laid out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from typing import Any

from dpsup.bus.messages import as_exception
from dpsup.bus.sockets import AsyncClient, Gone
from dpsup.errors import DpsupError, NoSuchObject, TimedOut
from dpsup.host import process
from dpsup.instance.runtime_dir import BUILDER, PLAN, TABLES
from dpsup.supervisor.children import Children, how_of, until_end
from dpsup.supervisor.core import Core
from dpsup.supervisor.journal import Lines
from dpsup.supervisor.model import Model
from dpsup.supervisor.policy import Ending, History, Policy, decide

NAME = "builder"
POLICY = Policy(intensity=1e9, period=60, initial=0.01, factor=1.5, most=2)
READY_S = 600.0  # a file of a million lines is read in seconds
ASK_S = 600.0
SLOW_S = 3.0  # without a builder
WATCH_S = 1.0  # between two looks at what workers told
FAULT_S = 1.0  # after an internal error
TRIES = 5  # builders that end before the tables are laid out, or over the same request
FAILING = 3  # builders that end unready, after which no request waits for the next one
READ_FILES = ("batch", "load")  # requests that name a file
LOOK_S = 1.0  # between two looks whether it is stopped
LIST_S = 8.0  # a person waits, and the command's own patience is 10 s
LAST_WORDS = 6  # lines of a builder that did not get ready


class Tables:
    def __init__(self, core: Core, model: Model, children: Children) -> None:
        self._core, self._model, self._children = core, model, children
        self._client: AsyncClient | None = None  # while a builder is ready
        self._history = History()
        self._failures = 0  # of builders, before the tables are laid out

    @property
    def is_wanted(self) -> bool:
        return any(g.tables for g in self._model.plan.groups)

    @property
    def is_laid_out(self) -> bool:
        """A group's file appears in one step, once its tables say what they should: whichever
        supervisor started the builder."""
        directory = self._model.runtime.path / TABLES
        return all((directory / g.name).exists() for g in self._model.plan.groups if g.tables)

    async def run(self) -> None:
        """Until cancelled."""
        if not self.is_wanted:
            return
        while not self._is_over:
            try:
                await self._keep_one()
            except Exception as e:  # nothing else starts a builder
                self._core.fault("tables", e)
                self._note_failure(f"met an internal error: {e!r}")
                await asyncio.sleep(FAULT_S)

    async def watch(self) -> None:
        """Keep what workers told for `status`, which waits for no builder."""
        while self._learns and not self._is_over:
            if self._client is not None:
                with contextlib.suppress(DpsupError):
                    self._model.learned = await self._client.ask("learned", WATCH_S)
            await asyncio.sleep(WATCH_S)

    @property
    def _learns(self) -> bool:
        return any(t[6].startswith("learn") for g in self._model.plan.groups for t in g.tables)

    @property
    def _is_over(self) -> bool:
        return self._model.state in ("stopping", "stopped")

    async def _keep_one(self) -> None:
        """From the start of a builder to the time for the next one."""
        await self._core.until(lambda: self._model.primary.state == "running", READY_S)
        if self._model.primary.state != "running":
            return
        try:
            why = await self._serve()
        except OSError as e:  # no process, no descriptor to be had
            why = f"cannot be started: {e}"
        self._note_failure(why)
        if self._is_over:
            return
        decision = decide(POLICY, self._history, Ending(), wanted=True, now=time.monotonic())
        self._history = decision.history
        self._core.events.add(type="warning", name=NAME, message=f"the builder {why}")
        await asyncio.sleep(decision.delay or 0)

    def _note_failure(self, why: str) -> None:
        """Without tables no worker starts: a start that waits for them must end."""
        one = self._model.builder
        one.failed += 1
        one.pid, one.trouble = None, why
        one.state = "failing" if self._is_failing else "starting"
        self._core.wake()
        if self.is_laid_out or self._is_over:
            return
        self._failures += 1
        if self._failures >= TRIES:
            self._core.fail(self._unready(f"{TRIES} builders ended: the last one {why}"))

    @property
    def _is_failing(self) -> bool:
        return self._model.builder.failed >= FAILING

    def _unready(self, what: str) -> DpsupError:
        words = [e["line"] for e in self._core.log.since(0) if e["name"] == NAME]
        return DpsupError(
            f"the live tables cannot be laid out: {what}",
            code="E0528",
            why="\n        ".join(words[-LAST_WORDS:]),
            help="`dpsup check FILE` reads the tables' files; see that the machine has memory for"
            " the builder, and the runtime directory room",
        )

    async def _serve(self) -> str:
        """One builder, from its start to its end; why it ended."""
        plan = self._model.runtime.file(PLAN)
        spawned = process.spawn([sys.executable, "-P", "-m", "dpsup.builder", plan])
        ended: list[str] = []
        self._children.expect(spawned.pid, ended.append)
        one = self._model.builder
        one.pid, one.state = spawned.pid, "failing" if self._is_failing else "starting"
        words: list[str] = []

        def noted(word: str) -> None:
            words.append(word)
            if word == "READY":
                path = self._model.runtime.file(BUILDER)
                skip = self._core.skip
                self._client = AsyncClient(path, lambda e: skip(NAME, "an answer", e.message))
                # Its own end is none of an unready one.
                one.state, one.trouble, one.failed = "ready", "", -1
                self._core.wake()
                self._core.log.add(name=NAME, line=f"ready, pid {spawned.pid}")
            elif word.startswith("WARNING "):
                message = word.removeprefix("WARNING ")
                self._core.events.add(type="warning", name=NAME, message=message)
            elif word and not word.startswith("REFUSED "):
                self._core.skip(NAME, "a line about its start", repr(word))

        def late() -> None:
            if "READY" in words:
                return
            words.append("late")
            process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
            if not self.is_laid_out:
                # Not after its end: one that waits for a disk or a network may not come to it.
                self._core.fail(self._unready(f"the builder is not ready after {READY_S:g} s"))

        Lines(spawned.output, lambda line: self._core.log.add(name=NAME, line=line))
        Lines(spawned.notify, noted)
        deadline = asyncio.get_running_loop().call_later(READY_S, late)
        watch = asyncio.create_task(self._watch(spawned.pid))
        try:
            await until_end(spawned.pidfd)
        finally:
            watch.cancel()
            deadline.cancel()
            process.signal_pidfd(spawned.pidfd, signal.SIGKILL)
            os.close(spawned.pidfd)
            if self._client is not None:
                self._client.close()
                self._client = None
        if "late" in words:
            return f"was not ready after {READY_S:g} s, and was ended"
        refused = [w.removeprefix("REFUSED ") for w in words if w.startswith("REFUSED ")]
        if not refused:
            return f"ended ({await how_of(ended)}), and is started again"
        error = _refusal(refused[0])
        if not self.is_laid_out:
            # A person waits for the start, and no packet is under way.
            self._core.fail(error)
        return f"refused: {error.message}"

    async def _watch(self, pid: int) -> None:
        """Says that it is stopped: it does not end then, and answers nothing."""
        one, before = self._model.builder, False
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                looked = process.is_stopped(pid)
            except OSError:
                return
            # A debugger stops it for some moments: two looks must agree.
            stopped, before = looked and before, looked
            if stopped == (one.state == "stopped"):
                continue
            said = "is stopped, by a signal or a debugger" if stopped else "continues"
            one.state = "stopped" if stopped else "ready" if self._client else "starting"
            self._core.events.add(type="warning", name=NAME, message=f"the builder {said}")

    async def laid_out(self) -> None:
        """Returns once the tables are what workers can map."""
        said = False
        while self.is_wanted and not await self._core.until(lambda: self.is_laid_out, SLOW_S):
            if self._is_over:
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
        patience = LIST_S if verb == "list" else ASK_S
        deadline = time.monotonic() + patience
        one = self._model.builder
        ends = 0
        while (left := deadline - time.monotonic()) > 0:
            await self._core.until(
                lambda: self._client is not None or self._is_failing, min(SLOW_S, left)
            )
            if self._client is None:
                if self._is_failing:
                    raise DpsupError(
                        f"no builder gets ready: the last one {one.trouble}",
                        code="E0528",
                        why="workers go on with the tables as they are; the builder is tried again"
                        " every 2 s",
                        help="`dpsup logs builder` and `dpsup events` show what each one said",
                    )
                continue
            try:
                return await self._answer(verb, left, args)
            except TimedOut:
                break
            except Gone:
                if verb in READ_FILES:
                    # It may be reading that file that ended it, or kept it until it was ended.
                    raise DpsupError(
                        f"the builder ended while it carried out `{verb}`",
                        code="E0528",
                        why="a request that names a file is not repeated: it may be the cause",
                        help="`dpsup table` shows the version, and so whether it was carried out;"
                        " `dpsup logs builder` shows what the builder said",
                    ) from None
                ends += 1
                if ends == TRIES:
                    raise DpsupError(
                        f"{TRIES} builders ended while they carried out `{verb}`",
                        code="E0528",
                        why="the request may be the cause, so it is not repeated any more",
                        help="`dpsup logs builder` shows what they said",
                    ) from None
        raise TimedOut(
            f"no answer of the builder (pid {one.pid}, {one.state}) to `{verb}` within"
            f" {patience:g} s",
            code="E0904",
            why="it carries out one request after the other: a large file takes some seconds, a"
            " disk or network that hangs takes longer",
            help="`dpsup events --type command` shows what it was asked, `dpsup logs builder` what"
            " it said",
        )

    async def _answer(self, verb: str, timeout: float, args: dict[str, Any]) -> Any:
        """Raises: TimedOut, also at once where the builder is stopped; Gone; what it refuses."""
        assert self._client is not None
        asked = asyncio.ensure_future(self._client.ask(verb, timeout, **args))
        one = self._model.builder
        try:
            while True:
                await asyncio.wait({asked}, timeout=LOOK_S)
                if asked.done():
                    return asked.result()
                if one.state == "stopped":
                    raise DpsupError(
                        f"the builder of live tables, pid {one.pid}, is stopped, by a signal or a"
                        " debugger",
                        code="E0528",
                        why=f"it does not answer `{verb}`; a change is carried out, if it came to"
                        " it, once it continues",
                        help=f"kill -CONT {one.pid}; `dpsup table` shows the version then",
                    )
        finally:
            asked.cancel()


def _refusal(text: str) -> DpsupError:
    try:
        return as_exception(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return DpsupError(f"the builder refused: {text}", code="E0528")
