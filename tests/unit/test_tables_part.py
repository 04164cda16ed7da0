# SPDX-License-Identifier: BSD-3-Clause
"""What keeps the builder of live tables running: no start waits for it without end."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import FakeCore, model, run
from unit.fakehost import MINIMAL

from dpsup.builder.process import refusal_line
from dpsup.bus.sockets import Gone
from dpsup.errors import DpsupError, TimedOut
from dpsup.host import process
from dpsup.supervisor import tables
from dpsup.supervisor.tables import Tables

TEXT = MINIMAL.replace(
    '[[workers]]\nname = "fw"',
    '[[workers]]\nname = "fw"\ntables = { routes = { kind = "ipv4", entries = "1k" } }',
)


class Keeper:
    """The part, and the programs that it starts in the builder's place."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.core = FakeCore()
        core: Any = self.core
        self.model = model(folder, TEXT)
        self.model.primary.state = "running"
        self.model.state = "starting"
        children: Any = self
        self.tables = Tables(core, self.model, children)
        self.pids: list[int] = []
        self.started: list[list[str]] = []
        self.programs: list[str | Exception | Callable[[], None]] = []
        fail = self.core.fail

        def failed(error: Exception) -> None:
            fail(error)
            self.model.state = "stopping"

        self.core.fail = failed  # type: ignore[method-assign]
        spawn = process.spawn

        def start(argv: list[str]) -> process.Spawned:
            self.started.append(argv)
            program = self.programs.pop(0) if len(self.programs) > 1 else self.programs[0]
            if isinstance(program, Exception):
                raise program
            if callable(program):
                program()
                program = "pass"
            return spawn([sys.executable, "-I", "-S", "-c", program])

        monkeypatch.setattr(tables.process, "spawn", start)
        monkeypatch.setattr(tables, "FAULT_S", 0.0)
        monkeypatch.setattr(
            tables, "POLICY", dataclasses.replace(tables.POLICY, initial=0.0, most=0.0)
        )

    def expect(self, pid: int, heard: Callable[[str], None]) -> None:
        self.pids.append(pid)
        heard("exit 0")

    def end(self) -> None:
        """No zombie is left, which a later test would reap."""
        for pid in self.pids:
            os.waitpid(pid, 0)

    def lay_out(self) -> None:
        directory = self.model.runtime.path / "tables"
        directory.mkdir(exist_ok=True)
        (directory / "fw").touch()

    def stop(self) -> None:
        self.model.state = "stopping"

    def run(self, *programs: str | Exception | Callable[[], None]) -> None:
        self.programs = list(programs)
        run(asyncio.wait_for(self.tables.run(), 60))


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    one = Keeper(tmp_path, monkeypatch)
    yield one
    one.end()


def says(line: str) -> str:
    return f"import os, sys; os.write(int(sys.argv[-1]), {(line + chr(10)).encode()!r})"


def test_a_start_ends_where_builders_die_without_a_word(keeper: Keeper) -> None:
    """Builder after builder was started, and the start waited without end."""
    keeper.run("print('MemoryError', flush=True)")
    assert len(keeper.started) == tables.TRIES
    (error,) = keeper.core.failed
    assert isinstance(error, DpsupError)
    assert error.code == "E0528"
    assert "MemoryError" in error.why
    assert not keeper.core.faults


def test_no_fault_of_ours_leaves_an_instance_without_a_builder(keeper: Keeper) -> None:
    keeper.lay_out()
    keeper.run(OSError(11, "no process"), ValueError("a bug"), KeyError("another"), keeper.stop)
    assert len(keeper.started) == 4
    assert [f for f, _ in keeper.core.faults] == ["tables", "tables"]
    assert not keeper.core.failed, "packets are under way"
    assert "no process" in keeper.core.events.of("warning")[0]["message"]


def test_a_start_ends_where_no_builder_can_be_started(keeper: Keeper) -> None:
    keeper.run(ValueError("a bug"))
    assert len(keeper.started) == tables.TRIES
    assert "a bug" in str(keeper.core.failed[0])


@pytest.mark.parametrize(
    "garbage", ["{", "[]", '"x"', "{}" + "x" * 6000, '{"message": "' + "y" * 6000]
)
def test_a_refusal_in_whatever_form_ends_the_start(keeper: Keeper, garbage: str) -> None:
    """One that was cut off ended the task that starts builders."""
    keeper.run(says(f"REFUSED {garbage}"))
    assert len(keeper.started) == len(keeper.core.failed) == 1
    assert "the builder refused" in str(keeper.core.failed[0])


def test_a_refusal_of_many_problems_arrives(keeper: Keeper) -> None:
    keeper.run(says("REFUSED " + refusal_line(DpsupError("m" * 9000, code="E0521", help="do it"))))
    (error,) = keeper.core.failed
    assert isinstance(error, DpsupError)
    assert (error.code, error.help) == ("E0521", "do it")
    # Later it is an event: forwarding goes on with what holds.
    keeper.model.state = "running"
    keeper.core.failed.clear()
    keeper.lay_out()
    keeper.run(says("REFUSED " + refusal_line(OSError(28, "No space"))), keeper.stop)
    assert not keeper.core.failed
    assert "refused: " in keeper.core.events.of("warning")[-1]["message"]


def test_a_builder_that_hangs_is_ended(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "READY_S", 0.05)
    keeper.run("import time; time.sleep(600)")
    assert len(keeper.started) == 1
    assert "is not ready after" in str(keeper.core.failed[0])
    # Where workers have their tables the next one is tried.
    keeper.model.state = "running"
    keeper.core.failed.clear()
    keeper.lay_out()
    keeper.run("import time; time.sleep(600)", keeper.stop)
    assert not keeper.core.failed
    assert "was ended" in keeper.core.events.of("warning")[-1]["message"]


def test_an_heir_knows_by_the_files_what_is_laid_out(keeper: Keeper) -> None:
    """It took them for laid out, whatever the dead one had come to."""
    keeper.model.adopted = True
    assert not keeper.tables.is_laid_out
    keeper.lay_out()
    assert keeper.tables.is_laid_out


def test_requests_fail_at_once_where_no_builder_gets_ready(keeper: Keeper) -> None:
    """Each waited for ten minutes; and `status` said nothing."""
    keeper.lay_out()
    keeper.model.state = "running"
    seen: list[Any] = []

    def look() -> None:
        seen.append(dataclasses.replace(keeper.model.builder))
        if len(seen) > tables.FAILING:
            with pytest.raises(DpsupError, match="no builder gets ready") as refused:
                keeper.tables.ask("list").send(None)  # it waits for nothing
            seen.append(refused.value)
            keeper.stop()

    keeper.run(look)
    *before, failing, error = seen
    assert [b.state for b in before] == ["absent", "starting", "starting"]
    assert (failing.pid, failing.state) == (None, "failing")
    assert error.code == "E0528"
    assert failing.trouble and failing.trouble in str(error)


def test_one_that_gets_ready_is_asked_again(keeper: Keeper) -> None:
    keeper.lay_out()
    keeper.model.state = "running"
    states: list[Any] = []

    def look() -> None:
        states.append(keeper.model.builder.state)

    ready = says("READY")
    keeper.run("", "", "", look, ready, look, "", "", look, keeper.stop)
    assert states == ["failing", "starting", "failing"]


def test_a_request_over_which_builders_end_is_given_up(keeper: Keeper) -> None:
    """It ended one after the other, for ten minutes."""
    asked: list[str] = []

    class Client:
        async def ask(self, verb: str, *_: Any, **__: Any) -> Any:
            asked.append(verb)
            raise Gone("gone")

    client: Any = Client()
    keeper.tables._client = client
    with pytest.raises(DpsupError, match="ended while they carried out `show`") as refused:
        run(keeper.tables.ask("show"))
    assert refused.value.code == "E0528"
    assert len(asked) == tables.TRIES


def test_a_request_that_names_a_file_is_not_repeated(keeper: Keeper) -> None:
    """The file may be what ended the builder: it hung the next one too."""
    asked: list[str] = []

    class Client:
        async def ask(self, verb: str, *_: Any, **__: Any) -> Any:
            asked.append(verb)
            if len(asked) < 3:
                raise Gone("gone")
            return verb

    client: Any = Client()
    keeper.tables._client = client
    assert run(keeper.tables.ask("change")) == "change"
    assert asked == ["change"] * 3
    for verb in tables.READ_FILES:
        asked.clear()
        with pytest.raises(DpsupError, match="the builder ended") as refused:
            run(keeper.tables.ask(verb))
        assert refused.value.code == "E0528"
        assert asked == [verb]


class Silent:
    """A builder that answers nothing."""

    async def ask(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()


def test_a_stopped_builder_is_named_and_keeps_nobody_waiting(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dpsup table` waited for ten minutes, `dpsup status` said nothing."""
    monkeypatch.setattr(tables, "LOOK_S", 0.01)
    keeper.lay_out()
    said: list[str] = []

    async def work() -> None:
        keeper.programs = [says("READY") + "; import time; time.sleep(600)", keeper.stop]
        serving = asyncio.create_task(keeper.tables.run())
        one = keeper.model.builder
        while one.state != "ready":
            await asyncio.sleep(0.01)
        client: Any = Silent()
        keeper.tables._client = client
        assert one.pid is not None
        os.kill(one.pid, signal.SIGSTOP)
        with pytest.raises(DpsupError) as refused:
            await keeper.tables.ask("change")
        assert refused.value.code == "E0528" and f"kill -CONT {one.pid}" in refused.value.help
        assert one.state == "stopped"
        os.kill(one.pid, signal.SIGCONT)
        while one.state != "ready":
            await asyncio.sleep(0.01)
        keeper.tables._client = None  # none of zmq's is left
        os.kill(one.pid, signal.SIGSEGV)
        await serving
        said.extend(e["message"] for e in keeper.core.events.of("warning"))

    run(asyncio.wait_for(work(), 60))
    assert said[:2] == [
        "the builder is stopped, by a signal or a debugger", "the builder continues",
    ]  # fmt: skip
    # The fake tells of the end at once, as "exit 0".
    assert keeper.model.builder.trouble == "ended (exit 0), and is started again"


def test_a_busy_builder_is_named(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LOOK_S", 0.01)
    monkeypatch.setattr(tables, "LIST_S", 0.05)

    class Late:
        async def ask(self, verb: str, timeout: float, **_: Any) -> Any:
            await asyncio.sleep(timeout)
            raise TimedOut("late")

    client: Any = Late()
    keeper.tables._client = client
    keeper.model.builder.pid, keeper.model.builder.state = 7, "ready"
    with pytest.raises(TimedOut, match=r"of the builder \(pid 7, ready\) to `list`"):
        run(keeper.tables.ask("list"))
