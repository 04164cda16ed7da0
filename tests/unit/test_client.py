# SPDX-License-Identifier: BSD-3-Clause
"""An instance as an object: found by name, asked by verb, headless or not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from unit.test_bus import responding

from dpsup import _abi
from dpsup.bus.messages import Request
from dpsup.errors import DpsupError, NotPermitted, NotRunning, UsageError
from dpsup.host import process
from dpsup.instance import client, runtime_dir
from dpsup.instance.client import Instance
from dpsup.instance.runtime_dir import Runtime, State


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime_dir, "roots", lambda: [tmp_path])
    return tmp_path


def instance(root: Path, name: str, *, headless: bool = False) -> Runtime:
    """One that runs; headless: a primary that lives, and no supervisor."""
    where = Runtime(str(root / name), name)
    where.acquire()
    if headless:
        where.write_state(State(name, 3, "p", "/h", "f", primary=process.own()))
        assert where._lock is not None
        os.close(where._lock)
        where._lock = None
    return where


def test_an_instance_is_found_by_name_or_as_the_only_one(root: Path) -> None:
    with pytest.raises(NotRunning, match="no instance is running"):
        client.find(None)
    edge = instance(root, "edge")
    assert client.find(None).name == client.find("edge").name == "edge"
    with pytest.raises(NotRunning) as caught:
        client.find("edgy")
    assert "edge" in caught.value.help
    core = instance(root, "core")
    with pytest.raises(UsageError, match="core, edge"):
        client.find(None)
    core.release()
    (root / "dead").mkdir()
    with pytest.raises(NotRunning) as caught:
        client.find("dead")
    assert "it died" in caught.value.help
    edge.release()


def test_a_request_that_is_too_long_is_refused_at_once(root: Path) -> None:
    edge = instance(root, "edge")
    text = "clear # ää\n" * 3700  # 48,100 bytes, and 81,400 as JSON
    assert len(text.encode()) <= client.TABLE_BYTES
    found = Instance(edge)
    try:
        with pytest.raises(UsageError, match="too long"):  # nobody answers
            found.table_change("routes", text, timeout=5)
    finally:
        found.close()
        edge.release()


def test_a_headless_instance_is_found_too(root: Path) -> None:
    instance(root, "edge", headless=True)
    assert client.find(None).name == "edge"


def test_each_call_is_one_verb(root: Path) -> None:
    asked: list[Request] = []

    def handle(request: Request) -> Any:
        asked.append(request)
        if request.verb == "state":
            first = request.args["first"]
            following = 256 if first == 0 else None
            return {"group": "fw", "workers": [first], "buckets": [first], "next": following}
        return {"events": [1], "lines": [2]}

    where = instance(root, "edge")
    with responding(root / "edge" / "control.sock", handle), client.connect("edge") as edge:
        assert not edge.headless
        edge.scale("fw", "+1", dry_run=True)
        edge.rebalance("fw", 2)
        edge.stop(3)
        edge.stop()
        edge.kill("fw/0")
        edge.rollout("fw", "macswap", judge=1.5)
        assert edge.events() == [1] and edge.logs("fw/0", most=3) == [2]
        assert edge.state("workers") == {
            "apiVersion": "dpsup/v1", "kind": "State", "name": "edge", "group": "fw",
            "workers": [0, 256], "buckets": [0, 256],
        }  # fmt: skip
    where.release()
    said = [(r.verb, r.args) for r in asked]
    assert said[0] == ("scale", {"group": "fw", "n": "+1", "wait": True, "dry_run": True})
    assert said[1][1]["seconds"] == 2.0 and isinstance(said[1][1]["seconds"], float)
    assert said[2:5] == [
        ("stop", {"drain": 3.0}), ("stop", {}), ("kill", {"worker": "fw/0", "signal": 9}),
    ]  # fmt: skip
    assert said[5][1]["judge"] == 1.5
    assert [a["first"] for v, a in said if v == "state"] == [0, 256]


def test_a_headless_instance_answers_for_its_data_plane_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, alive = 2**22 + 1, process.own().pid

    def handle(request: Request) -> Any:
        if request.verb == "stories":
            assert request.args == {"since": 7}
            death = {"kind": _abi.DPS_STORY_DEATH, "pid": 1, "handover": 0, "successor": 0}
            return [
                {**death, "slot": 0, "successor": 9}, {**death, "slot": 0},
                {**death, "slot": 1, "handover": 1}, {**death, "slot": 1, "pid": 5},
                {**death, "slot": 77}, {**death, "kind": _abi.DPS_STORY_REBUCKETED, "slot": 1},
            ]  # fmt: skip
        if request.verb == "sitters":
            parked = {"hand": _abi.DPS_HAND_PARKED, "group": 1}
            seated = {**parked, "pid": alive, "hand": _abi.DPS_HAND_SEATED}
            return {"sitters": [{**parked, "pid": alive}, {**parked, "pid": dead}, seated]}
        assert request.verb == "counters"
        return {"slots": [{"pid": dead}, {"pid": alive}]}

    where = instance(root, "edge", headless=True)
    # As a dpsup without copies of plugins wrote it.
    groups = [{"plugin_path": "/x/fw.so"}]
    left = {"name": "edge", "n_slots": 2, "ports": [], "groups": groups}
    where.write("plan.json", json.dumps(left))
    memory: Any = {"told": 7, "asked": [5], "deaths": 40}
    where.write_state(State("edge", 3, "p", "/h", "f", primary=process.own(), memory=memory))
    monkeypatch.setattr(
        client.status,
        "status",
        lambda plan, counters, view, left: {"groups": [{}], "of": (plan, counters, view, left)},
    )
    with responding(root / "edge" / "primary.sock", handle), Instance(where) as edge:
        assert edge.headless
        doc = cast(Any, edge.status())
        assert doc["groups"] == [{"plugin_on_disk": ""}]
        found: Any = doc["of"]
        assert found[0]["primary_pid"] == alive and found[2] is None
        assert found[1]["slots"] == [{"pid": 0}, {"pid": alive}]
        assert found[3] == {
            "memory": memory, "deaths": {0: 2}, "takeovers": {0: 1}, "spares": {1: 1},
        }  # fmt: skip
        for order in (edge.stats, edge.stop, lambda: edge.scale("fw", 1), edge.events):
            with pytest.raises(DpsupError) as caught:
                order()
            assert caught.value.code == "E0607"


def test_somebody_else_s_instance_is_not_talked_to(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = instance(root, "edge")
    monkeypatch.setattr(runtime_dir.os, "access", lambda *_: False)
    with pytest.raises(NotPermitted):
        Instance(where)
    where.release()
