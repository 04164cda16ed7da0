# SPDX-License-Identifier: BSD-3-Clause
"""What is compared before a data plane is adopted, and what is remembered of it."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
from unit.fakehost import FILE, FULL, MINIMAL, machine
from unit.test_chains import CHAIN

from dpsup.plan.model import Plan
from dpsup.plan.place import make_plan
from dpsup.supervisor import adopt, snapshot
from dpsup.supervisor.policy import History
from dpsup.supervisor.steering import EMPTY
from dpsup.topology.load import load


def plan(generation: int = 1, text: str = MINIMAL) -> Plan:
    host = machine(text)
    topology, _ = load(FILE, host)
    assert topology is not None
    return make_plan(topology, host, generation)


FOLLOWS = CHAIN.replace('plugin = "forward"', 'plugin = "forward"\nmax = 4\nscale = { max = 3 }')


@pytest.mark.parametrize("text", [MINIMAL, FULL, CHAIN, FOLLOWS])
def test_a_plan_survives_its_file(text: str) -> None:
    one = plan(text=text)
    assert adopt.plan_of(json.loads(json.dumps(dataclasses.asdict(one)))) == one


def test_generations_differ_in_nothing_that_matters() -> None:
    assert adopt.differences(plan(1), plan(7)) == []
    assert adopt.next_generation(plan(1), 7) == plan(7)


def test_what_was_changed_is_named() -> None:
    one = plan()
    group = dataclasses.replace(one.groups[0], max=64)
    found = adopt.differences(one, dataclasses.replace(one, groups=(group, *one.groups[1:])))
    assert found == [f"workers.{group.name}.max"]
    assert not any("generation" in key or "prefix" in key for key in found)


def test_a_port_that_is_left_out_is_no_change_of_the_file() -> None:
    one = plan()
    port = dataclasses.replace(one.ports[0], left_out="it is stuck")
    left = dataclasses.replace(one, ports=(port, *one.ports[1:]))
    assert adopt.differences(left, one) == []


class Fake(SimpleNamespace):
    def workers(self) -> list[Any]:
        return self.all_workers


def fake() -> Any:
    group = SimpleNamespace(
        plan=SimpleNamespace(name="fw", max=4), desired=2, spare_history=None, spare_due_at=0.0,
        home=EMPTY,
    )  # fmt: skip
    worker = SimpleNamespace(name="fw/0", restarts=-1, history=History())
    child = SimpleNamespace(history=History())
    return Fake(groups=[group], all_workers=[worker], primary=child, seed=child, told=0, deaths=0)


@pytest.mark.parametrize(
    "doc",
    [{}, {"seq": 5}, {"deaths": None}, {"groups": {"gone": {}}, "workers": []}, {"asked": ["x"]},
     {"workers": {"fw/0": None}}, {"groups": {"fw": {"desired": "many"}}},
     {"groups": {"fw": {"home": "0001"}}}, {"groups": {"fw": {"home": "who"}}}],
)  # fmt: skip
def test_what_is_not_known_is_no_obstacle(doc: dict[str, Any]) -> None:
    sup = fake()
    snapshot.recall(sup, doc)
    assert sup.groups[0].desired == 2
    assert sup.groups[0].home == EMPTY


def test_recalled_within_the_bounds_of_now() -> None:
    sup = fake()
    past = snapshot.recall(
        sup,
        {"deaths": 3, "told": 9, "seq": {"event": 1012}, "asked": [7],
         "groups": {"fw": {"desired": 9, "home": "00" * 256 + "01" * 256}},
         "workers": {"fw/0": {"state": "held", "restarts": 2, "history": [1.5, 20.0]}}},
    )  # fmt: skip
    assert (sup.deaths, sup.told, past.seq) == (3, 9, {"event": 1012})
    assert sup.groups[0].desired == 4
    assert sup.groups[0].home == (0,) * 256 + (1,) * 256
    assert sup.all_workers[0].history == History(1.5, 20.0)
    assert (past.asked, past.states) == ({7}, {"fw/0": "held"})


def test_copies_of_files_are_no_change() -> None:
    """The recorded plan hands the plugin copies, the topology file's the files themselves."""

    def with_args(path: str, a: str) -> Plan:
        one = plan()
        args = (("file:routes", path), ("a", a))
        return dataclasses.replace(
            one, groups=(dataclasses.replace(one.groups[0], args=args), *one.groups[1:])
        )

    copy = with_args("/run/x/plugins/1-routes.txt", "1")
    assert adopt.differences(copy, with_args("/etc/routes.txt", "1")) == []
    assert adopt.differences(copy, with_args("/etc/routes.txt", "2")) == [
        f"workers.{copy.groups[0].name}.args"
    ]
