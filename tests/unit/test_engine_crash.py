# SPDX-License-Identifier: BSD-3-Clause
"""The engine after an unforeseen exception: it leaves, whatever called it, and writes no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit import fakecore

from dpsup.bus.messages import Request
from dpsup.instance.runtime_dir import ROLLOUT
from dpsup.supervisor import verbs
from dpsup.supervisor.engine import Engine
from dpsup.supervisor.model import Model
from dpsup.supervisor.rollouts import Rollouts


def engine(model: Model, broken: Callable[[Any], None]) -> Engine:
    """One whose workers cannot be forked."""
    publisher: Any = SimpleNamespace(publish=lambda *_: 1)
    one = Engine(model, publisher, lambda: None)
    one.connect("worker", {"fork": broken})
    return one


def bug(_: Any) -> None:
    raise ZeroDivisionError


def faults(core: Engine) -> list[str]:
    return [e["name"] for e in core.events.since(0) if e["type"] == "fault"]


def test_an_action_that_raises_ends_the_supervisor_also_under_a_request(tmp_path: Path) -> None:
    model = fakecore.model(tmp_path)
    worker = model.workers()[0]

    async def go() -> Engine:
        core = engine(model, bug)

        async def scale(*_: Any) -> None:
            core.fire(worker, "start")

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(verbs.VERBS, "scale", scale)
            with pytest.raises(ZeroDivisionError):
                await verbs.handle(
                    SimpleNamespace(core=core), Request("scale", "1", {"group": "fw"})
                )  # type: ignore[arg-type]
        return core

    core = asyncio.run(go())
    assert isinstance(core.crashed, ZeroDivisionError)
    assert core.gone.is_set()
    assert faults(core) == ["supervisor"]
    core.fire(worker, "ready")
    assert worker.state == "starting"


def test_a_request_that_raises_is_told_with_its_traceback(tmp_path: Path) -> None:
    async def go() -> Engine:
        core = engine(fakecore.model(tmp_path), bug)

        async def status(*_: Any) -> None:
            bug(None)

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(verbs.VERBS, "status", status)
            with pytest.raises(ZeroDivisionError):
                await verbs.handle(SimpleNamespace(core=core), Request("status", "1", {}))  # type: ignore[arg-type]
        return core

    core = asyncio.run(go())
    assert core.crashed is None
    assert faults(core) == ["request status"]
    assert any("Traceback" in e["line"] for e in core.log.since(0))


def test_a_supervisor_that_crashed_leaves_the_record_of_a_rollout_alone(tmp_path: Path) -> None:
    core: Any = fakecore.FakeCore()
    parts: Any = SimpleNamespace()
    rollouts = Rollouts(core, fakecore.model(tmp_path), parts, parts, parts)
    core.crash(ZeroDivisionError())
    rollouts.write()
    assert not (tmp_path / ROLLOUT).exists()
    core.crashed = None
    rollouts.write()
    assert (tmp_path / ROLLOUT).exists()


def test_a_listener_that_raises_stops_no_action(tmp_path: Path) -> None:
    """It hears of each event, also of those in the middle of a change of state."""
    model, forked = fakecore.model(tmp_path), []
    worker = model.workers()[0]

    async def go() -> Engine:
        core = engine(model, forked.append)
        core.events.listeners.append(bug)
        core.log.listeners.append(bug)
        core.fire(worker, "start")
        return core

    core = asyncio.run(go())
    assert core.crashed is None and forked == [worker]
    assert faults(core) == ["journal"]
    assert any("ZeroDivisionError" in e["line"] for e in core.log.since(0))
    assert [e["new"] for e in core.events.since(0) if e["type"] == "state"] == ["starting"]


def test_an_event_that_the_bus_has_no_form_for_is_left_out_and_said(tmp_path: Path) -> None:
    def publish(_: str, entry: dict[str, Any]) -> int:
        json.dumps(entry)
        return 1

    async def go() -> Engine:
        publisher: Any = SimpleNamespace(publish=publish)
        core = Engine(fakecore.model(tmp_path), publisher, lambda: None)
        core.events.add(type="advice", message=b"bytes")
        core.events.add(type="advice", message="text")
        return core

    core = asyncio.run(go())
    assert core.crashed is None and faults(core) == ["journal"]
    assert [e["message"] for e in core.events.since(0) if e["type"] == "advice"] == ["text"]
