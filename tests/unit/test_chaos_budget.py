# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup chaos` kills no worker that would be held after it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from dpsup.chaos import inject
from dpsup.chaos.budget import Budget
from dpsup.chaos.inject import Injector
from dpsup.chaos.report import Found, document, text
from dpsup.chaos.schedule import Fault
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import State
from dpsup.supervisor.policy import Ending, History, Policy, Verdict, decide

Groups = Any


def groups(policy: str = "always", intensity: float = 5, period: float = 60) -> Groups:
    return [
        {"name": "fw", "restart_policy": policy, "intensity": intensity, "period": period},
        {"name": "never", "restart_policy": "never", "intensity": 5, "period": 60},
    ]


@pytest.mark.parametrize(("intensity", "period"), [(5, 60.0), (1, 10.0), (2.5, 3.0), (100, 60.0)])
def test_what_it_allows_the_supervisor_follows_by_a_restart(
    intensity: float, period: float
) -> None:
    """Whenever the supervisor hears of each death, within a tenth of a second."""
    chance = random.Random(7)
    policy, history = Policy("always", intensity, period), History()
    budget, now, deaths = Budget(), 0.0, 0
    budget.learn(groups(intensity=intensity, period=period), {})
    while now < 20 * period:
        now += chance.expovariate(5 * intensity / period)
        if not budget.allows("fw/0", now):
            continue
        deaths += 1
        budget.spend("fw/0", now)
        heard = now + chance.random() * 0.1 * period / 60
        decision = decide(policy, history, Ending(), wanted=True, now=heard)
        assert decision.verdict is not Verdict.GIVE_UP
        history = decision.history
    assert deaths >= 0.8 * 20 * intensity, "and it does not save where it need not"


def test_deaths_before_it_came_count() -> None:
    budget = Budget()
    budget.learn(groups(), {"fw/0": {"history": [4.5, 100.0]}, "fw/1": {}})
    assert not budget.allows("fw/0", 100.0)
    assert budget.allows("fw/1", 100.0)
    assert budget.allows("fw/0", 160.0)


def test_a_group_that_is_never_restarted_is_left_alone() -> None:
    budget = Budget()
    budget.learn(groups(), {})
    assert not budget.allows("never/0", 0.0)


class Target:
    def __init__(self, workers: dict[str, Identity], groups: Groups) -> None:
        self.found = Found("edge", False)
        self.clock: Callable[[], float] = lambda: 1.0
        self._state = State("edge", 1, "", "", "", None, None, None, workers)
        self._groups = groups

    def state(self) -> State:
        return self._state

    def policies(self) -> Any:
        return self._groups, {}


@pytest.mark.parametrize("kind", ["kill", "segv", "hang"])
def test_the_fault_is_counted_as_held_back(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    killed: list[int] = []
    monkeypatch.setattr(inject.process, "kill", lambda one, _: killed.append(one.pid))
    monkeypatch.setattr(Identity, "alive", True)
    workers = {f"fw/{n} g1": Identity(100 + n, 1) for n in range(2)}
    target: Any = Target(workers, groups(intensity=3))
    one = Injector(target, lambda *_: None, lambda: None, lambda: None)
    for _ in range(10):
        one._spent.clear()  # another one sits there each time
        assert one.inject(Fault(0.0, kind, 0.9)), "nobody is waited for"
    assert sorted(set(killed)) == [100, 101] and len(killed) == 4
    assert target.found.held_back == {kind: 6}
    asked: Any = {"faults": [kind], "rate": 5.0, "seed": 1, "seconds": 1.0}
    doc = document(target.found, asked, {"cpus": 2, "load": 0.0})
    assert doc["held_back"] == {kind: 6} and doc["ok"]
    assert "6 faults were held back" in text(doc)


def test_without_a_victim_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "alive", False)
    target: Any = Target({"fw/0 g1": Identity(100, 1)}, groups())
    one = Injector(target, lambda *_: None, lambda: None, lambda: None)
    assert not one.inject(Fault(0.0, "kill", 0.5)) and not target.found.held_back
