# SPDX-License-Identifier: BSD-3-Clause
"""The supervisor put together: each action of the table has one method, and no other has one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, model

from dpsup.supervisor import assembly, fsm
from dpsup.supervisor.adopt import Found
from dpsup.supervisor.assembly import Supervisor

PAIRS = sorted((kind, name) for kind, names in fsm.ACTIONS.items() for name in names)


@contextmanager
def put_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    publishers: list[Any] = []
    real = assembly.Publisher

    def publisher(path: str) -> Any:
        publishers.append(real(path))
        return publishers[-1]

    monkeypatch.setattr(assembly, "Publisher", publisher)
    try:
        handle: Any = None
        yield Supervisor(model(folder), handle)
    finally:
        publishers[0].close()


def test_each_action_is_connected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[tuple[str, str]] = []
    real = assembly.Engine.connect

    def connect(self: Any, kind: str, actions: Any) -> None:
        connected.extend((kind, name) for name in actions)
        real(self, kind, actions)

    monkeypatch.setattr(assembly.Engine, "connect", connect)
    with put_together(tmp_path, monkeypatch) as sup:
        assert sorted(connected) == PAIRS == sorted(sup.core.actions)
        assert all(callable(action) for action in sup.core.actions.values())


@pytest.mark.parametrize("change", ["one too few", "one too many"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [("topology", "Life"), ("primary", "Generation"), ("seed", "Attach"), ("worker", "Workers")],
)
def test_an_action_without_a_method_or_the_reverse_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, part: str, change: str
) -> None:
    real = getattr(assembly, part).actions

    def actions(self: Any) -> dict[str, Any]:
        found = dict(real(self))
        if change == "one too few":
            found.popitem()
        else:
            found["dance"] = print
        return found

    monkeypatch.setattr(getattr(assembly, part), "actions", actions)
    with pytest.raises(AssertionError, match=kind), put_together(tmp_path, monkeypatch):
        pass


def test_every_cell_of_the_table_can_be_carried_out(tmp_path: Path) -> None:
    """The parts that tests use are those that the supervisor has."""
    parts = Parts(tmp_path)
    found = {
        "primary": set(parts.generation.actions()),
        "seed": set(parts.attach.actions()),
        "worker": {*parts.workers.actions(), "repair"},
    }
    assert all(found[kind] == fsm.ACTIONS[kind] for kind in found)


def test_a_record_that_is_half_garbage_is_adopted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with put_together(tmp_path, monkeypatch) as sup:
        state: Any = type("State", (), {"memory": ["no", "dict"]})
        begun: list[Any] = []
        monkeypatch.setattr(sup.rejoin, "begin", lambda *args: begun.append(args))
        found = Found(sup.model.plan, state, {}, [])
        sup.adopt(found)
        assert sup.model.adopted and sup.core.crashed is None
        sup.life.rejoin()
        assert begun[0][0] is found


def test_only_a_crash_leaves_the_data_plane_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with put_together(tmp_path, monkeypatch) as sup:
        assert not sup.leaves_alone
        sup.core.crash(ZeroDivisionError())
        assert sup.leaves_alone
        sup.model.state = "stopping"
        assert not sup.leaves_alone


def test_a_feature_outlives_its_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended with the first one, and was missed until the next supervisor."""
    monkeypatch.setattr(assembly, "FAULT_S", 0.0)
    begun: list[int] = []

    async def feature() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise KeyError("unforeseen")

    async def go(sup: Supervisor) -> None:
        sup._keep("metrics", feature)
        async with asyncio.timeout(60):
            while len(begun) < 3:
                await asyncio.sleep(0)

    with put_together(tmp_path, monkeypatch) as sup:
        asyncio.run(go(sup))
        faults = [e for e in sup.core.events.since(0) if e["type"] == "fault"]
        assert [e["name"] for e in faults] == ["metrics"] and sup.core.crashed is None
    assert begun == [0, 1, 2]
