# SPDX-License-Identifier: BSD-3-Clause
"""Ports in trouble: what the supervisor says of them, and generations that a driver ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run

from dpsup.supervisor import blocked
from dpsup.supervisor.ports import DIFFERS, Ports
from dpsup.supervisor.primary import Generation


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def port(
    trouble: str = "", *, absent: bool = False, reopened: int = 0, nic_hash: str = "none"
) -> Any:
    one = {"name": "wan", "trouble": trouble, "absent": absent, "reopened": reopened,
           "nic_hash": nic_hash}  # fmt: skip
    return {"ports": [one]}


def test_each_change_is_said_once_and_judged(parts: Parts) -> None:
    judged: list[dict[str, str]] = []
    core, model = parts.core, parts.model
    ports = Ports(core, model, lambda: judged.append(model.troubles))
    for look in (port(), port("interface eth0 is down"), port("interface eth0 is down"), port()):
        ports.observe(look)
    said = [e["message"] for e in core.events.of("port")]
    assert said == ["interface eth0 is down", "it forwards again"]
    assert judged == [{"wan": "interface eth0 is down"}, {}]


def test_a_port_that_was_opened_again_between_two_looks_is_said(parts: Parts) -> None:
    ports = Ports(parts.core, parts.model, lambda: None)
    for look in (port(), port(reopened=1), port(reopened=1)):
        ports.observe(look)
    (event,) = parts.core.events.of("port")
    assert "opened again" in event["message"]


def test_a_nic_that_hashes_otherwise_is_said_once(parts: Parts) -> None:
    parts.core.answers["hello"] = {"absent": [], "ports": []}
    ports = Ports(parts.core, parts.model, lambda: None)
    for now in ("compared", "compared", "differs", "differs"):
        ports.observe(port(nic_hash=now))
    (event,) = parts.core.events.of("port")
    assert event["message"] == DIFFERS and event["name"] == "wan"
    assert len(parts.core.tasks) == 1, "what is said of the port is asked for again"
    run(parts.core.tasks[0])


def test_a_port_without_a_device_is_asked_about_again(parts: Parts) -> None:
    judged: list[bool] = []
    parts.core.answers["hello"] = {"absent": ["wan"], "ports": []}
    ports = Ports(parts.core, parts.model, lambda: judged.append(True))
    ports.observe(port("interface eth0 is gone", absent=True))
    for task in parts.core.tasks:
        run(task)
    assert parts.model.absent == ["wan"]
    assert judged == [True]


def test_a_port_that_ends_two_generations_is_left_out_of_the_third(parts: Parts) -> None:
    model = parts.model
    name = model.plan.ports[0].name
    model.state, model.primary_deaths = "running", 1
    line = f"primary: io core 0 is stuck in the driver of port {name}: no turn ended in 3 ms"
    left_out = []
    for _ in range(2):
        parts.core.log.add(name="primary", line=line)
        parts.generation.report(model.primary)
        model.state = "starting"
        parts.generation._next()
        left_out.append(model.plan.ports[0].left_out)
    assert left_out == ["", blocked.WHY]
    # A supervisor that adopts, and then has to start a generation from the file.
    core: Any = parts.core
    after = Generation(core, model, parts.children, parts.sitters)
    after._next()
    assert model.plan.ports[0].left_out == blocked.WHY
    said = [e["message"] for e in parts.core.events.of("port")]
    assert len(said) == 2
    assert "left out" in said[1]
