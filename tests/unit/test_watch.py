# SPDX-License-Identifier: BSD-3-Clause
"""Files that change are applied: once, when they stand still, through the links of a ConfigMap."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import MINIMAL, FakeCore, model, run

from dpsup.errors import DpsupError
from dpsup.instance import plugins
from dpsup.supervisor import watch
from dpsup.supervisor.watch import Change, Watch, identities


class Hand:
    """Rollouts that are asked for."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.error: DpsupError | None = None

    async def begin(self, group: Any, plugin: str, args: None, options: Any) -> None:
        self.begun.append((group.plan.name, plugin))
        if self.error:
            raise self.error


class Case:
    def __init__(self, folder: Path, file: Path) -> None:
        self.model = model(folder)
        self.model.plan = watch_plan(self.model.plan, file)
        self.core, self.hand = FakeCore(), Hand()
        self.reloads = 0
        rollouts: Any = self.hand
        self.watch = Watch(self.core, self.model, rollouts, self.reload)

    async def reload(self) -> None:
        self.reloads += 1

    def looks(self, n: int) -> int:
        """The reloads in so many looks."""
        before = self.reloads
        for _ in range(n):
            run(self.watch.once())
        return self.reloads - before


def watch_plan(plan: Any, file: Path) -> Any:
    from dataclasses import replace

    return replace(plan, topology_file=str(file))


def config_map(folder: Path, number: int, text: str) -> Path:
    """As the kubelet's atomic writer does it."""
    data = folder / f"..2026_{number}"
    data.mkdir(parents=True)
    (data / "edge.toml").write_text(text)
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if not (folder / "edge.toml").is_symlink():
        (folder / "edge.toml").symlink_to("..data/edge.toml")
    return folder / "edge.toml"


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "run", config_map(tmp_path / "config", 1, MINIMAL))


def test_a_config_map_is_applied_once(case: Case, tmp_path: Path) -> None:
    assert case.looks(5) == 1, "it may have changed since the start read it"
    config_map(tmp_path / "config", 2, MINIMAL)
    assert case.looks(1) == 0, "it may not stand still yet"
    assert case.looks(5) == 1
    os.utime(tmp_path / "config" / "..2026_2" / "edge.toml", (1, 1))
    assert case.looks(5) == 1


def test_a_file_that_goes_on_changing_is_waited_for(case: Case, tmp_path: Path) -> None:
    case.looks(3)
    for number in range(2, 7):
        config_map(tmp_path / "config", number, MINIMAL)
        assert case.looks(1) == 0
    assert case.looks(3) == 1


def test_a_file_that_is_gone_is_told_of_once_and_back_again(case: Case, tmp_path: Path) -> None:
    case.looks(3)
    (tmp_path / "config" / "edge.toml").unlink()
    assert case.looks(5) == 1
    (tmp_path / "config" / "edge.toml").write_text(MINIMAL)
    assert case.looks(5) == 1


def test_files_of_plugins_and_tables_are_watched(case: Case, tmp_path: Path) -> None:
    from unit.fakehost import FILE, machine

    from dpsup.topology.load import load

    routes, rules = tmp_path / "routes", tmp_path / "rules"
    text = (
        f'{MINIMAL}files = {{ rules = "{rules}" }}\n'
        f'tables = {{ r = {{ kind = "ipv4", entries = 10, file = "{routes}" }} }}\n'
    )
    topology, _ = load(FILE, machine(text))
    assert topology is not None
    case.model.topologies = (topology, topology)
    assert case.looks(3) == 1
    routes.write_text("")
    assert case.looks(3) == 1
    rules.write_text("")
    assert case.looks(3) == 1
    assert case.looks(3) == 0


def test_a_plugin_that_changed_is_rolled_out_once(case: Case, tmp_path: Path) -> None:
    from dataclasses import replace

    group, so = case.model.groups[0], tmp_path / "fw.so"
    group.plan = replace(group.plan, plugin=str(so), plugin_path=str(so))
    so.write_bytes(b"one")
    for state in ("", "same", plugins.MISSING):
        group.on_disk = state
        case.looks(3)
    assert not case.hand.begun
    group.on_disk = plugins.CHANGED
    case.looks(1)
    assert not case.hand.begun
    case.hand.error = DpsupError("it was undone", code="E0716")
    case.looks(5)
    assert case.hand.begun == [("fw", str(so))]
    (told,) = case.core.events.of("warning")
    assert told["message"] == f"watch: {so} has changed and was not rolled out: it was undone"
    so.write_bytes(b"another")
    case.hand.error = None
    case.looks(5)
    assert len(case.hand.begun) == 2


def test_nothing_is_looked_at_unless_wanted_and_open(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Over(Exception):
        pass

    looked = []

    async def once() -> None:
        looked.append(1)

    async def sleep(_: float) -> None:
        raise Over

    monkeypatch.setattr(case.watch, "once", once)
    monkeypatch.setattr(watch.asyncio, "sleep", sleep)
    for state, wanted, n in (("running", False, 0), ("starting", True, 0), ("degraded", True, 1)):
        case.model.state, case.model.watch = state, wanted
        looked.clear()
        with pytest.raises(Over):
            run(case.watch.run())
        assert len(looked) == n, state


def test_no_path_is_no_error() -> None:
    assert identities(["/nowhere/at/all", "a\0b"]) == ((), ())
    assert not Change().see(())
