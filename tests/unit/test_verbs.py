# SPDX-License-Identifier: BSD-3-Clause
"""What the bus can ask: arguments that make no sense are refused, before anything is done."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from unit.fakecore import TWO, Parts, run
from unit.test_chains import CHAIN

from dpsup.bus.messages import Origin, ProtocolError, Request
from dpsup.bus.sockets import Gone
from dpsup.errors import DpsupError, NoSuchObject, NotPermitted, TimedOut, UsageError
from dpsup.supervisor import verbs
from dpsup.supervisor.policy import History


class Sup(Parts):
    """As much of a supervisor as a verb sees."""

    def __init__(self, folder: Path, text: str = TWO) -> None:
        super().__init__(folder, text)
        self.stopped: list[Any] = []
        self.reloads: list[Any] = []
        self.reload = SimpleNamespace(reload=self._reload)

    def stop(self, drain: float | None) -> None:
        self.stopped.append(drain)

    async def _reload(self, file: str, **options: bool) -> str:
        self.reloads.append((file, options))
        return "reloaded"

    def ask(self, verb: str, **args: Any) -> Any:
        sup: Any = self
        return run(verbs.handle(sup, Request(verb, "1", args)))


@pytest.fixture
def sup(tmp_path: Path) -> Sup:
    one = Sup(tmp_path)
    one.seat(0, 500)
    one.seat(1, 501)
    return one


def test_a_verb_that_is_none_names_all(sup: Sup) -> None:
    with pytest.raises(ProtocolError) as caught:
        sup.ask("explode")
    assert caught.value.code == "E0903" and "status" in caught.value.help


def test_an_order_for_another_generation_is_not_carried_out(sup: Sup) -> None:
    now, any_sup = sup.model.plan.generation, cast(Any, sup)
    for generation in (None, now):
        assert run(verbs.handle(any_sup, Request("ping", "1", generation=generation)))
    with pytest.raises(DpsupError) as caught:
        run(verbs.handle(any_sup, Request("stop", "2", generation=now + 1)))
    assert caught.value.code == "E0477" and not sup.stopped


def test_the_role_of_a_request_holds_for_every_verb(sup: Sup) -> None:
    any_sup = cast(Any, sup)
    for verb in verbs.VERBS:
        for role in ("read", ""):
            if role == "read" and verb not in verbs.CHANGING:
                continue
            with pytest.raises(NotPermitted) as caught:
                run(verbs.handle(any_sup, Request(verb, verb, origin=Origin(role, key="k"))))
            assert caught.value.code == "E0470"
    assert run(verbs.handle(any_sup, Request("ping", "1", origin=Origin("read"))))
    origin = Origin("admin", key="k", address="::1")
    run(verbs.handle(any_sup, Request("reload", "2", origin=origin)))
    event = sup.core.events.since(0, 10)[-1]
    assert (event["type"], event["key"], event["remote"]) == ("command", "k", "::1")
    assert event["uid"] is None


WRONG = [
    ("state", {}), ("state", {"group": 7}), ("state", {"group": "fw", "first": -1}),
    ("state", {"group": "fw", "first": 512}), ("state", {"group": "fw", "first": "0"}),
    ("state", {"group": "fw", "first": True}),
    ("scale", {}), ("scale", {"group": "fw"}), ("scale", {"group": "fw", "n": None}),
    ("scale", {"group": "fw", "n": [1]}), ("scale", {"group": "fw", "n": 1, "wait": 1}),
    ("scale", {"group": "fw", "n": 1, "dry_run": "no"}), ("scale", {"group": "fw", "n": 1.5}),
    ("rebalance", {"seconds": "1"}), ("rebalance", {"seconds": 0.0}), ("rebalance", {"group": 1}),
    ("rollout", {}), ("rollout", {"group": "fw", "plugin": 1}),
    ("rollout", {"group": "fw", "args": {"a": 1}}), ("rollout", {"group": "fw", "args": []}),
    ("rollout", {"group": "fw", "canary": "1"}), ("rollout", {"group": "fw", "judge": "2"}),
    ("rollout", {"group": "fw", "judge": True}), ("rollout", {"group": "fw", "more_drops": None}),
    ("rollout_undo", {"wait": 0}), ("rollout_status", {"group": 1}),
    ("rollout_history", {"group": 1}),
    ("reload", {"file": 1}), ("reload", {"dry_run": 1}), ("reload", {"partial": None}),
    ("restart", {"target": 1}), ("reset_failed", {"target": None}),
    ("kill", {}), ("kill", {"worker": 1}), ("kill", {"worker": "fw/0", "signal": "9"}),
    ("events", {"since": "0"}), ("events", {"most": 1.0}), ("logs", {"name": 1}),
    ("logs", {"since": "1"}), ("stop", {"drain": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "args"), WRONG, ids=str)
def test_arguments_are_checked(sup: Sup, verb: str, args: dict[str, Any]) -> None:
    with pytest.raises((ProtocolError, UsageError)):
        sup.ask(verb, **args)
    assert not (sup.core.fired or sup.core.asked or sup.core.tasks or sup.reloads or sup.stopped)


NAMES_A_GROUP = ["state", "scale", "rebalance", "rollout", "rollout_undo", "rollout_history"]


@pytest.mark.parametrize("verb", NAMES_A_GROUP)
def test_a_group_that_is_none_is_suggested(sup: Sup, verb: str) -> None:
    with pytest.raises(NoSuchObject) as caught:
        sup.ask(verb, group="fv", n="1")
    assert caught.value.code == "E0701" and "fw" in caught.value.help


@pytest.mark.parametrize(
    ("verb", "key"),
    [("kill", "worker"), ("restart", "target"), ("reset_failed", "target"), ("logs", "name")],
)
def test_a_worker_that_is_none_is_suggested(sup: Sup, verb: str, key: str) -> None:
    with pytest.raises(NoSuchObject) as caught:
        sup.ask(verb, **{key: "fw/9"})
    assert caught.value.code == "E0702"


def test_the_only_group_needs_no_name(sup: Sup, tmp_path: Path) -> None:
    assert sup.ask("rollout_history", group="workers")
    one: Any = sup
    assert verbs.find_worker(one, "workers/1").name == "fw/1"
    several: Any = Sup(tmp_path, CHAIN)
    for find in (
        lambda: verbs.find_group(several, "workers"),
        lambda: verbs.find_worker(several, "workers/0"),
    ):
        with pytest.raises(NoSuchObject):
            find()


def test_a_primary_that_is_silent_leaves_a_status(sup: Sup, monkeypatch: Any) -> None:
    monkeypatch.setattr(verbs.status, "status", lambda _, counters, __: counters)
    for error in (Gone("x"), TimedOut("x")):
        sup.core.answers["counters"] = error
        assert sup.ask("status") is None
    with pytest.raises(DpsupError, match="no primary"):
        sup.ask("stats")
    sup.model.primary.state = "starting"
    sup.core.asked.clear()
    assert sup.ask("status") is None and not sup.core.asked
    assert sup.ask("ping") == {"name": "edge", "state": "running"}


def test_a_kill_is_of_a_process_and_with_a_signal(sup: Sup) -> None:
    with pytest.raises(DpsupError, match="has no process"):
        sup.ask("kill", worker="fw/2")
    with subprocess.Popen(["sleep", "60"]) as child:
        one = sup.seat(0, child.pid)
        one.pidfd = os.pidfd_open(child.pid)
        for number in (0, -1, 65, 10**9):
            with pytest.raises(UsageError):
                sup.ask("kill", worker="fw/0", signal=number)
        assert child.poll() is None
        found = sup.ask("kill", worker="fw/0", signal=int(signal.SIGTERM))
        assert found == {"worker": "fw/0", "pid": child.pid, "signal": 15}
        assert child.wait() == -15
        os.close(one.pidfd)


# --- restart, reset -------------------------------------------------------------------------------


def restarting(sup: Sup, state: str = "running") -> None:
    """Who is told to restart is back at once."""

    def fire(who: Any, event: str) -> None:
        sup.core.fired.append((who.name, event))
        who.restarts += 1
        who.state = state

    sup.core.fire = fire  # type: ignore[method-assign]


def test_a_restart_is_one_after_the_other(sup: Sup) -> None:
    restarting(sup)
    for target, names in (
        ("", ["fw/0", "fw/1"]),
        ("all", ["fw/0", "fw/1"]),
        ("fw", ["fw/0", "fw/1"]),
        ("fw/1", ["fw/1"]),
    ):
        sup.core.fired.clear()
        assert sup.ask("restart", target=target) == {"restarted": names}
        assert sup.core.fired == [(name, "restart") for name in names]
        sup.core.drop()
        sup.group.filling = False


def test_a_held_worker_is_forgiven_by_its_restart(sup: Sup) -> None:
    restarting(sup)
    sup.worker.state, sup.worker.history = "held", History(5.0, 1e12)
    sup.ask("restart", target="fw/0")
    assert sup.worker.history == History()


def test_who_does_not_come_back_ends_the_restart(sup: Sup) -> None:
    restarting(sup, "held")
    with pytest.raises(TimedOut, match="fw/0 did not come back: it is held"):
        sup.ask("restart")
    assert sup.core.fired == [("fw/0", "restart")], "the next one runs on"


def test_who_is_not_in_use_is_not_restarted(sup: Sup) -> None:
    with pytest.raises(DpsupError, match="not in use"):
        sup.ask("restart", target="fw/3")


@pytest.mark.parametrize("verb", ["restart", "reset_failed", "scale", "rebalance", "rollout"])
def test_an_instance_that_does_not_run_takes_no_orders(sup: Sup, verb: str) -> None:
    sup.model.state = "stopping"
    args = {"group": "fw", "n": "1", "plugin": "macswap"}
    with pytest.raises(DpsupError) as caught:
        sup.ask(verb, **args)
    assert caught.value.code == "E0705" and not sup.core.fired


def test_a_reset_starts_who_is_held(sup: Sup) -> None:
    sup.worker.state = "held"
    found = sup.ask("reset_failed")
    assert found["started"] == {"fw/0": "held"} and found["reset"] == ["fw/0", "fw/1"]
    assert sup.core.fired == [("fw/0", "restart")]
    assert sup.core.events.of("reset")[0]["name"] == "edge"
    sup.core.drop()
    assert sup.ask("reset_failed", target="fw/1")["started"] == {}
    assert sup.ask("reset_failed", target="all")["reset"] == ["fw/0", "fw/1"]


# --- what was said --------------------------------------------------------------------------------


def test_a_reply_holds_the_latest(sup: Sup) -> None:
    for n in range(200):
        sup.core.events.add(type="x", seq=n, message="m" * 10_000)
    found = sup.ask("events")["events"]
    assert 0 < len(found) < 200 and found[-1]["seq"] == 199


def test_logs_of_one_process(sup: Sup) -> None:
    for n in range(3):
        sup.core.log.add(name="fw/0", line=str(n))
    sup.core.log.add(name="gone/7", line="x")
    assert [e["line"] for e in sup.ask("logs", name="fw/0", most=2)["lines"]] == ["1", "2"]
    assert len(sup.ask("logs", most=0)["lines"]) == 1
    assert sup.ask("logs", name="seed") == {"lines": []}
    assert sup.ask("logs", name="builder") == {"lines": []}  # an error's help names it
    assert len(sup.ask("logs", name="gone/7")["lines"]) == 1, "of a worker that there was"


def test_a_stop_answers_first(sup: Sup) -> None:
    assert sup.ask("stop", drain=2.5) == {"pid": os.getpid()}
    assert not sup.stopped
    run(sup.core.settle())
    assert sup.stopped == [2.5]


def test_a_reload_is_handed_on(sup: Sup) -> None:
    assert sup.ask("reload", file="f", partial=True, more_drops=1) == "reloaded"
    ((file, asked),) = sup.reloads
    assert (file, asked["dry_run"], asked["partial"]) == ("f", False, True)
    assert asked["options"].margins.drops == 1 and asked["options"].judge == 2


def test_state_is_named_by_worker_and_bucket(sup: Sup) -> None:
    run(sup.buckets.steer(sup.group))
    sup.core.answers["state"] = {
        "slots": [{"hex": "00"}, None], "buckets": [None, {"hex": "01"}], "next": None,
    }  # fmt: skip
    found = sup.ask("state", group="fw", first=4)
    assert [w["id"] for w in found["workers"]] == ["fw/0"]
    assert [(b["bucket"], b["member"]) for b in found["buckets"]] == [(5, sup.group.map[5])]


def test_rollouts_are_listed_of_one_group_or_all(sup: Sup) -> None:
    assert sup.ask("rollout_status") == sup.ask("rollout_status", group="fw")
