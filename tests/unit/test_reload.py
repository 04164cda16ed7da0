# SPDX-License-Identifier: BSD-3-Clause
"""Reload: nothing is done of what needs a restart, unless it is asked for by halves."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.fakecore import TWO, Parts, run
from unit.fakehost import FILE, machine

from dpsup.errors import DpsupError, Exit, Problem, TopologyError, UsageError
from dpsup.instance import plugins
from dpsup.plan.place import make_plan
from dpsup.supervisor import reload
from dpsup.supervisor.reload import Reload
from dpsup.supervisor.snapshot import note, recall
from dpsup.topology.load import load

READ = reload._read  # the one of an `Office` reads no file


class Office(Parts):
    """`file` is what is read; `begun` are the rollouts, `fails` why they come to nothing."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.seat(0, 500)
        self.seat(1, 501)
        self.file: str | Exception = TWO
        self.begun: list[tuple[str, str | None]] = []
        self.fails = ""
        core: Any = self.core
        rollouts: Any = SimpleNamespace(begin=self._begin, write=lambda: None)
        self.reload = Reload(core, self.model, self.buckets, self.spares, self.scaler, rollouts)
        started, _ = load(FILE, machine(TWO))
        assert started is not None
        self.model.topologies = (started, started)
        monkeypatch.setattr(reload, "_read", self._read)

    def _read(self, _: str) -> Any:
        if isinstance(self.file, Exception):
            raise self.file
        topology, problems = load(FILE, machine(self.file))
        assert topology is not None, problems
        return topology, make_plan(topology, machine(self.file), 3)

    async def _begin(self, group: Any, plugin: str | None, *_: Any, exact: bool) -> Any:
        assert exact
        self.begun.append((group.plan.name, plugin))
        done = asyncio.Event()
        done.set()
        return SimpleNamespace(failed=self.fails, done=done, patience=60.0)

    def load(self, text: str | Exception, **options: bool) -> dict[str, Any]:
        self.file = text
        usual = {"dry_run": False, "partial": False}

        async def work() -> Any:
            found = await self.reload.reload("", **{**usual, **options})
            self.core.drop()
            return found

        found: dict[str, Any] = run(work())
        return found


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    return Office(tmp_path, monkeypatch)


LIVE = TWO.replace("count = 2", "count = 3")
ROLLING = f'{TWO}plugin = "sink"\n'
RESTART = TWO.replace("max = 4", "max = 8")


WITH_TABLE = TWO.replace(
    'name = "fw"',
    'name = "fw"\ntables = { routes = { kind = "ipv4", entries = "1k", file = "routes.txt" } }',
)


class Builder:
    """What a reload asks of live tables: `answers[verb]` is returned, raised, or waited for."""

    is_wanted = True

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def ask(self, verb: str, **args: Any) -> Any:
        self.asked.append((verb, args))
        answer = self.answers[verb]
        if isinstance(answer, Exception):
            raise answer
        return await answer() if callable(answer) else answer


ROW = {"group": "fw", "table": "routes", "entries": 1, "file": "/etc/dpsup/routes.txt"}


def test_the_builder_alone_reads_the_files_of_tables(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = READ
    files = {FILE: WITH_TABLE, "/etc/dpsup/routes.txt": "10.0.0.0/99 1\n"}
    monkeypatch.setattr("dpsup.host.machine.read_host", lambda: machine(WITH_TABLE, files=files))
    assert read(FILE)[0].workers[0].tables
    # It says what is wrong with them, with the exit code that `check` has.
    wrong = DpsupError("routes.txt:1: no prefix length", code="E0521")
    builder: Any = Builder(list=[{**ROW, "changed_on_disk": True}], load=wrong)
    office.reload.tables = builder
    with pytest.raises(DpsupError) as caught:
        office.load(TWO)
    assert caught.value is wrong
    assert wrong.exit_code == Exit.BAD_TOPOLOGY
    assert [a.get("dry_run") for verb, a in builder.asked if verb == "load"] == [True]


def test_a_reload_does_not_wait_for_a_builder_that_is_not_there(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "LIST_S", 0.01)

    async def never() -> None:
        await asyncio.Event().wait()

    builder: Any = Builder(list=never)
    office.reload.tables = builder
    for text, done in ((TWO, []), (LIVE, ["workers.fw.count"])):
        found = office.load(text)
        assert "builder has not answered" in found["warnings"][0]
        assert [c["key"] for c in found["changes"] if c["done"]] == done
        assert not found["done"] and not found["failed"]  # nobody knows whether it is
    assert len(office.core.events.of("warning")) == 2
    builder.answers["list"] = [{**ROW, "changed_on_disk": False}]
    found = office.load(LIVE)
    assert found["done"] and not found["warnings"]


def untouched(office: Office) -> bool:
    return not (office.core.fired or office.core.asked or office.begun)


def test_a_file_that_has_not_changed_changes_nothing(office: Office) -> None:
    found = office.load(TWO)
    assert found["done"] and not found["changes"] and untouched(office)
    assert not office.core.events.of("reload")


def test_a_dry_run_says_what_would_be_done(office: Office) -> None:
    found = office.load(LIVE, dry_run=True)
    assert not found["done"] and found["changes"] and untouched(office)


def test_what_is_live_is_done_at_once(office: Office) -> None:
    found = office.load(LIVE)
    assert found["done"] and all(c["done"] for c in found["changes"])
    assert office.group.desired == 3 and ("fw/2", "start") in office.core.fired
    assert office.model.plan.groups[0] is office.group.plan
    assert office.load(LIVE)["changes"] == [], "the file as loaded is what counts from now on"


def test_what_needs_a_restart_stops_all_of_it(office: Office) -> None:
    both = LIVE.replace("max = 4", "max = 8")
    found = office.load(both)
    assert found["restart_needed"] and not found["done"] and untouched(office)
    found = office.load(both, partial=True)
    assert office.group.desired == 3 and office.group.plan.max == 4
    assert {c["class"]: c["done"] for c in found["changes"]} == {"live": True, "restart": False}


def test_no_more_workers_than_there_is_room_for(office: Office) -> None:
    office.load(RESTART.replace("count = 2", "count = 8"), partial=True)
    assert office.group.desired <= 4


def test_a_plugin_is_rolled_out(office: Office) -> None:
    found = office.load(ROLLING)
    assert office.begun == [("fw", "sink")] and found["done"]
    assert office.core.events.of("reload")[0]["message"] == ""


def test_a_new_retry_counts_for_who_is_held(office: Office) -> None:
    one, two = office.group.workers[:2]
    one.state = two.state = "held"
    one.held_for, two.held_for = "more than 5 restarts in 60 s", "restart policy is on-failure"
    text = f'{TWO}restart = {{ policy = "on-failure", retry = "%s" }}\n'
    before = time.monotonic()
    office.load(text % "20s")
    assert before + 20 <= one.retry_at <= time.monotonic() + 20 and two.retry_at == 0
    office.load(text % "0s")
    assert one.retry_at == 0


def test_other_arguments_alone_bring_in_no_other_file(office: Office) -> None:
    office.load(f'{TWO}args = {{ a = "b" }}\n')
    assert office.begun == [("fw", None)]


def test_a_rollout_that_goes_back_is_not_done(office: Office) -> None:
    office.fails = "more drops"
    found = office.load(ROLLING)
    assert not found["done"] and found["failed"] == "fw: more drops"
    office.fails = ""
    assert office.load(ROLLING)["changes"], "it is tried again"


def test_spares_that_are_too_many_are_ended(office: Office) -> None:
    from unit.fakecore import sitter

    office.group.spares.append(sitter(600))
    office.load(TWO.replace("spares = 1", "spares = 0"))
    assert office.group.spares[0].asked


def test_a_file_with_faults_is_refused_with_its_exit_code(office: Office) -> None:
    problem = Problem("no such key", exit_code=Exit.BAD_TOPOLOGY)
    with pytest.raises(DpsupError, match="no such key") as caught:
        office.load(TopologyError([problem]))
    assert caught.value.exit_code == Exit.BAD_TOPOLOGY and untouched(office)


def test_the_file_of_another_instance_is_refused(office: Office) -> None:
    with pytest.raises(UsageError, match="core"):
        office.load(TWO.replace('name = "edge"', 'name = "core"'))


def test_without_a_file_or_an_instance_nothing_is_loaded(office: Office) -> None:
    office.model.topologies = None
    with pytest.raises(DpsupError) as caught:
        office.load(TWO)
    assert caught.value.code == "E0721"
    office.model.state = "stopping"
    with pytest.raises(DpsupError) as caught:
        office.load(TWO)
    assert caught.value.code == "E0705"


@pytest.fixture
def handed(office: Office, tmp_path: Path) -> tuple[str, Path]:
    """A topology that hands its plugin a file, as it was started."""
    routes = tmp_path / "routes.txt"
    routes.write_text("one")
    text = f'{TWO}files = {{ routes = "{routes}" }}\n'
    topology, problems = load(FILE, machine(text))
    assert topology is not None, problems
    named = make_plan(topology, machine(text), 3)
    started = plugins.copied(tmp_path, named)
    office.model.topologies = (topology, topology)
    office.model.loaded = plugins.digests_of(named.groups, started.groups)
    office.model.ledgers[0].current.args = started.groups[0].args
    return text, routes


def test_a_file_with_other_contents_is_rolled_out(office: Office, handed: tuple[str, Path]) -> None:
    text, routes = handed
    assert office.load(text)["changes"] == [] and not office.begun
    routes.write_text("two")
    assert office.load(text, dry_run=True)["changes"] and not office.begun
    assert office.load(text)["done"] and office.begun == [("fw", None)]
    assert office.load(text)["changes"] == []
    routes.unlink()
    assert office.load(text, dry_run=True)["changes"], "a rollout says what is wrong with it"


def test_a_reload_does_not_undo_a_rollout_of_another_file(
    office: Office, handed: tuple[str, Path], tmp_path: Path
) -> None:
    text, routes = handed
    current, other = office.model.ledgers[0].current, tmp_path / "other.txt"
    other.write_text("other")
    current.args = plugins.take_files(tmp_path, (("file:routes", str(other)),))
    assert office.load(text)["changes"] == [] and not office.begun
    # The next supervisor remembers what was loaded.
    noted = note(office.model, {})
    office.model.loaded = {}
    recall(office.model, noted)
    assert office.load(text)["changes"] == [] and not office.begun
    routes.write_text("two")
    assert office.load(text)["done"] and office.begun == [("fw", None)]


def test_a_file_that_was_rolled_out_by_hand_is_no_change(
    office: Office, handed: tuple[str, Path], tmp_path: Path
) -> None:
    text, routes = handed
    current, first = office.model.ledgers[0].current, office.model.ledgers[0].current.args
    routes.write_text("two")
    current.args = plugins.take_files(tmp_path, (("file:routes", str(routes)),))
    assert office.load(text)["changes"] == [] and not office.begun
    current.args = first  # another rollout goes back to it: that stays
    assert office.load(text)["changes"] == [] and not office.begun
