# SPDX-License-Identifier: BSD-3-Clause
"""The instance's life: when it is whole, when its input opens, and in which order it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run, sitter

from dpsup.errors import ShimError, TimedOut
from dpsup.supervisor import fsm, life
from dpsup.supervisor.life import Life

STILL = {
    "slots": [],
    "io": [],
    "ports": [],
    "groups": [],
}


class Home(Parts):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, counters=STILL, audit=[])
        self.did: list[str] = []
        self.evidence: Exception | None = None
        core: Any = self.core
        self.life = Life(
            core, self.model, self.buckets, self.spares, self.generation, self._keep,
            lambda: self.did.append("end"),
        )  # fmt: skip
        self.life.on_running = lambda: self.did.append("running")
        self.life.on_stopping = lambda: self.did.append("stopping")

    async def _keep(self) -> None:
        self.core.trace.append("evidence")
        if self.evidence is not None:
            raise self.evidence

    def judged(self) -> str:
        self.core.fired.clear()
        self.life.judge()
        return self.core.fired[0][1] if self.core.fired else ""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(life.status, "account", lambda _: {"sent": 1})
    return Home(tmp_path)


def test_every_action_of_the_table_is_here(home: Home) -> None:
    assert set(home.life.actions()) == fsm.ACTIONS["topology"]


# --- judgement ------------------------------------------------------------------------------------


def test_whole_is_as_many_ready_as_desired(home: Home) -> None:
    home.seat(0, 500)
    assert home.judged() == "short"
    home.seat(1, 501)
    assert home.judged() == "whole"
    home.group.workers[1].state = "draining"
    assert home.judged() == "short"


def test_between_two_sizes_nothing_is_degraded(home: Home) -> None:
    """A group that grows or shrinks as it was asked to lacks nobody."""
    home.core.steps = False
    home.model.state = "running"
    home.seat(0, 500)
    home.seat(1, 501)
    scaler = home.scaler
    events: list[str] = []

    def judging(who: Any, event: str) -> None:
        if who is home.model:
            events.append(event)
            return
        who.state = fsm.step("worker", who.state, event).state
        home.life.judge()

    home.core.fire = judging  # type: ignore[method-assign]
    scaler.resize(home.group, 4, "asked")
    scaler.resize(home.group, 1, "asked")
    assert set(events) == {"whole"}
    home.group.workers[0].state = "recovering"
    home.life.judge()
    assert events[-1] == "short"
    # One that it was to grow by and that does not come up is missing.
    home.group.workers[0].state = "running"
    for worker in home.group.workers[1:]:
        worker.state = "stopped"
    scaler.resize(home.group, 2, "asked")
    assert events[-1] == "whole"
    home.group.workers[1].state = "recovering"
    home.life.judge()
    assert events[-1] == "short"


def test_a_port_that_is_not_there_leaves_it_short(home: Home) -> None:
    home.seat(0, 500)
    home.seat(1, 501)
    home.model.hello = {"absent": ["wan"]}
    assert home.judged() == "short"
    home.model.state = "starting"
    assert home.judged() == "whole", "it may start so"


def test_a_port_in_trouble_leaves_it_short(home: Home) -> None:
    home.seat(0, 500)
    home.seat(1, 501)
    home.model.troubles = {"wan": "interface eth0 is down"}
    assert home.judged() == "short"
    home.model.troubles = {}
    assert home.judged() == "whole"


def test_a_first_start_waits_for_all_and_a_later_one_does_not(home: Home) -> None:
    home.model.state = "starting"
    home.seat(0, 500)
    held = home.group.workers[1]
    held.state, held.wanted = "held", True
    assert home.judged() == "whole", "generation 3: the rest is held, and said"
    held.state = "backoff"
    assert home.judged() == "short"
    held.state = "held"
    home.model.plan = dataclasses.replace(home.model.plan, generation=1)
    assert home.judged() == "short"
    home.model.adopted = True
    assert home.judged() == "whole"


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_the_end_is_not_judged(home: Home, state: str) -> None:
    home.model.state = state
    assert home.judged() == ""


# --- opening --------------------------------------------------------------------------------------


def opened(home: Home) -> None:
    home.model.state = "starting"
    home.life.open(home.model)
    run(home.core.settle())


def fired(home: Home) -> list[str]:
    return [event for who, event in home.core.fired if who == home.model.name]


def test_it_runs_once_packets_are_let_in_behind_the_buckets(home: Home) -> None:
    home.seat(0, 500)
    opened(home)
    assert home.core.trace[:3] == ["map", "rx", "edge opened"]
    assert home.core.asked[1] == ("rx", {"on": True})
    assert home.model.rx_on
    home.core.asked.clear()
    opened(home)
    assert not home.core.asked and fired(home).count("opened") == 1


def test_until_then_a_worker_that_dies_makes_it_no_less_starting() -> None:
    for event in ("whole", "short"):
        assert fsm.step("topology", "starting", event).state == "starting"


def test_opened_is_said_and_spares_follow(home: Home) -> None:
    home.model.state = "running"
    home.life.opened(home.model)
    assert home.did == ["running"] and home.group.filling
    for task in home.core.tasks:
        task.close()


def test_input_does_not_begin_where_the_end_came_first(home: Home) -> None:
    def stop(**_: Any) -> None:
        home.model.state = "stopping"

    home.core.answers["map"] = stop
    home.seat(0, 500)
    opened(home)
    assert not home.model.rx_on and "opened" not in fired(home)


def test_input_of_another_generation_is_not_this_ones(home: Home) -> None:
    def died(**_: Any) -> None:
        plan = home.model.plan
        home.model.plan = dataclasses.replace(plan, generation=plan.generation + 1)

    home.core.answers["map"] = died
    home.seat(0, 500)
    opened(home)
    assert not home.model.rx_on and "opened" not in fired(home)


@pytest.mark.parametrize("verb", ["map", "rx"])
def test_an_input_that_did_not_open_is_opened_later(home: Home, verb: str) -> None:
    home.core.answers[verb] = ShimError(verb, 110, "no answer")
    home.seat(0, 500)
    opened(home)
    assert not home.model.rx_on and home.core.events.of("error")
    del home.core.answers[verb]
    ((_, again, args),) = home.core.timers
    again(*args)
    assert fired(home)[-1] in ("whole", "short")
    opened(home)
    assert home.model.rx_on and fired(home).count("opened") == 1


def test_nothing_opens_without_a_primary(home: Home) -> None:
    home.model.state = "starting"
    for worker in home.group.workers:
        worker.wanted = False
    assert home.judged() == "whole"
    home.model.primary.state = "lost"
    assert home.judged() == "short"


def test_a_degraded_instance_says_what_it_lacks(home: Home) -> None:
    said: list[str] = []
    home.model.progress = said.append
    home.model.state, home.model.hello = "degraded", {"absent": ["wan"]}
    home.life.announce(home.model)
    assert "fw 0/2 ready" in said[0] and "port wan" in said[0]


def test_the_next_generation_opens_anew(home: Home) -> None:
    opened(home)
    home.model.state = "starting"
    home.life.again(home.model)
    assert not home.model.rx_on and len(home.core.timers) == 1
    opened(home)
    assert fired(home).count("opened") == 2


# --- the end --------------------------------------------------------------------------------------


def wind_down(home: Home) -> list[str]:
    home.core.trace.clear()
    home.life.wind_down(home.model)
    run(home.core.settle())
    return home.core.trace


def test_the_end_is_the_start_in_reverse(home: Home) -> None:
    home.seat(0, 500)
    spare = sitter(600)
    home.group.spares.append(spare)
    trace = wind_down(home)
    assert trace == [
        "rx", "counters",  # no packet comes, none is under way
        "fw/0 stop", "fw/1 stop", "fw/2 stop", "fw/3 stop",
        "evidence", "counters", "audit",
        "seed stop", "primary stop",
    ]  # fmt: skip
    assert spare.asked and home.did == ["stopping"]
    assert home.model.summary == {
        "sent": 1, "unwritten": [], "unread": [], "deaths": 0, "audit": [],
    }  # fmt: skip
    assert not any(w.wanted for w in home.group.workers)


def test_an_end_before_there_was_a_primary(home: Home) -> None:
    home.model.primary.state = "absent"
    trace = wind_down(home)
    assert trace[-3:] == ["seed stop", "primary stop", "edge gone"] and not home.core.asked


@pytest.mark.parametrize(
    "error", [OSError(28, "full"), TimeoutError(), ZeroDivisionError(), TimedOut("x")]
)  # fmt: skip
def test_the_end_does_not_depend_on_evidence(home: Home, error: Exception) -> None:
    home.evidence = error
    trace = wind_down(home)
    assert trace[-3:] == ["audit", "seed stop", "primary stop"]
    assert home.model.summary is not None
    assert home.core.events.of("fault")[0]["name"] == "quarantine"


@pytest.mark.parametrize("verb", ["rx", "counters", "audit"])
def test_the_end_does_not_depend_on_answers(home: Home, verb: str) -> None:
    home.core.answers[verb] = ShimError(verb, 5, "no")
    trace = wind_down(home)
    assert trace[-2:] == ["seed stop", "primary stop"]
    assert home.model.summary is None or verb == "rx"


def test_packets_under_way_have_so_long_to_leave(home: Home) -> None:
    looks = iter([5, 3, 0, 0])
    home.core.answers["counters"] = lambda: {
        "slots": [{"outstanding": next(looks)}],
        "io": [],
        "ports": [],
    }
    assert wind_down(home)[:4] == ["rx", "counters", "counters", "counters"]
    home.core.answers["counters"] = {"slots": [{"outstanding": 1}], "io": [], "ports": []}
    home.model.drain_s = -1.0
    assert wind_down(home)[:3] == ["rx", "counters", "fw/0 stop"]


def test_the_last_event_ends_the_supervisor(home: Home) -> None:
    home.life.actions()["finish"](home.model)
    home.life.rejoin = lambda: home.did.append("rejoin")
    home.life.actions()["rejoin"](home.model)
    home.life.actions()["begin"](home.model)
    assert home.did == ["end", "rejoin"] and home.core.fired == [("primary", "start")]
