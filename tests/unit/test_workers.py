# SPDX-License-Identifier: BSD-3-Clause
"""Workers: from order to seat, from death to verdict; each action answers to the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import TWO, Parts, run, sitter
from unit.test_chains import CHAIN

from dpsup.errors import DpsupError, Exit
from dpsup.supervisor import fsm, workers
from dpsup.supervisor.model import Sitter
from dpsup.supervisor.policy import History
from dpsup.supervisor.sitters import SEATED, STARTING
from dpsup.supervisor.steering import EMPTY

BERTH = {"berth": 3, "ticket": 4}


class Shop(Parts):
    """`noted` hears what the last worker that was forked says."""

    def __init__(self, folder: Path, text: str = TWO) -> None:
        super().__init__(folder, text, prepare=BERTH)
        self.fails: Exception | None = None
        self.before: Callable[[], None] = lambda: None
        self.noted: Callable[[Sitter, str], None]
        seams: Any = self.sitters
        seams.fork = self._fork
        seams._seed = object()  # it takes orders

    async def _fork(self, name: str, berth: Any, noted: Any, version: int) -> Sitter:
        assert (name, berth) == (self.worker.name, BERTH)
        self.before()
        if self.fails is not None:
            raise self.fails
        self.noted = noted
        return sitter(600, 3, version=version)

    def fork(self) -> None:
        self.worker.state = "starting"
        self.workers.fork(self.worker)
        run(self.core.settle())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(workers.process, "signal_pidfd", lambda fd, _: found.append(fd))
    return found


def test_every_action_of_the_table_is_here_but_repair(shop: Shop) -> None:
    assert set(shop.workers.actions()) | {"repair"} == fsm.ACTIONS["worker"]


# --- up -------------------------------------------------------------------------------------------


def test_a_worker_is_forked_and_says_that_it_is_ready(shop: Shop) -> None:
    shop.fork()
    worker = shop.worker
    assert (worker.pid, worker.restarts, worker.forking) == (600, 0, False)
    assert shop.core.timers[0][2] == (worker, "late") and shop.core.recorded
    assert worker.sitter is not None
    shop.noted(sitter(599), "READY")
    assert not shop.core.fired, "who sat there before says nothing of this one"
    shop.noted(worker.sitter, "READY")
    assert shop.core.fired == [("fw/0", "ready")]
    shop.noted(worker.sitter, "REFUSED abc")
    assert worker.refused == (None, "abc")


def test_without_a_seed_nothing_is_ordered(shop: Shop) -> None:
    shop.sitters._seed = None
    shop.fork()
    assert shop.worker.pid is None and not shop.core.asked


def test_one_that_is_started_again_is_not_given_up_any_more(shop: Shop) -> None:
    """From its start on, not only once it is ready."""
    rule = dataclasses.replace(shop.group.plan, on_down="drop")
    shop.group.plan, shop.group.given_up = rule, True
    shop.worker.wanted, shop.worker.state = True, "starting"
    shop.fork()
    assert ("given_up", {"group": 0, "on": False}) in shop.core.asked
    shop.core.asked.clear()
    shop.fork()
    assert "given_up" not in shop.core.verbs()


def test_an_order_is_given_once(shop: Shop) -> None:
    shop.worker.forking = True
    shop.fork()
    assert not shop.core.asked


def test_a_fork_that_fails_is_unborn(shop: Shop) -> None:
    shop.fails = DpsupError("no memory")
    with pytest.raises(DpsupError):
        shop.fork()
    ((_, call, args),) = shop.core.timers
    call(*args)
    assert shop.core.fired == [("fw/0", "unborn")] and not shop.worker.forking
    shop.worker.sitter = sitter(600)
    call(*args)
    assert len(shop.core.fired) == 1, "somebody has come since"


def test_who_was_told_to_stop_before_it_came_is_ended(shop: Shop, killed: list[int]) -> None:
    def stop() -> None:
        shop.worker.state = "draining"

    shop.before = stop
    shop.fork()
    assert shop.worker.sitter is not None and shop.worker.sitter.asked
    assert not killed and shop.core.timers[-1][1] == shop.workers._unborn


@pytest.mark.parametrize("ready", [True, False])
def test_a_worker_that_was_found_is_awaited(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    monkeypatch.setattr(workers, "LOOK_S", 0.0)
    hands = iter([STARTING, SEATED])

    def look() -> dict[str, Any]:
        hand = next(hands)
        if hand == SEATED:
            shop.core.steps = True
        return {"sitters": [{"pid": 500, "hand": hand}]}

    shop.core.answers["sitters"] = look
    shop.seat(0, 500).ready = ready
    shop.worker.state = "starting"
    shop.workers.await_seat(shop.worker)
    run(shop.core.settle())
    assert shop.core.fired == [("fw/0", "ready")]
    assert len(shop.core.timers) == (0 if ready else 1)


def test_a_spare_in_the_seat_costs_credit_and_another_spare(shop: Shop) -> None:
    shop.seat(0, 500)
    shop.workers.succeed(shop.worker)
    assert shop.worker.history.level == 1 and shop.group.spare_due_at > 0
    assert len(shop.core.tasks) == 2  # takeovers are granted, a spare is forked
    shop.core.drop()
    shop.group.filling = False
    shop.worker.story = {"handover": 1}
    shop.workers.succeed(shop.worker)
    assert shop.worker.history.level == 1, "who made room has not died"
    shop.core.drop()


# --- down -----------------------------------------------------------------------------------------


def unfeed(shop: Shop, monkeypatch: pytest.MonkeyPatch, *outstanding: int) -> None:
    left = iter(outstanding)
    shop.core.answers["counters"] = lambda: {"slots": [{"outstanding": next(left)}] * 4}
    shop.worker.state = "draining"
    shop.workers.unfeed(shop.worker)
    run(shop.core.settle())


def test_a_worker_is_drained_before_it_is_told_to_stop(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.seat(0, 500)
    shop.seat(1, 501)
    unfeed(shop, monkeypatch, 3, 1, 0)
    assert set(shop.group.map) == {1}
    assert shop.core.fired == [("fw/0", "drained")]
    shop.workers.halt(shop.worker)
    run(shop.core.settle())
    assert shop.core.asked[-1] == ("command", {"slot": 0, "command": "stop"})
    assert shop.worker.sitter is not None and shop.worker.sitter.asked


def test_the_last_worker_that_restarts_keeps_what_waits(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.seat(0, 500)
    unfeed(shop, monkeypatch)  # nothing is waited for
    assert shop.core.fired == [("fw/0", "drained")]


def test_draining_has_an_end(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.seat(0, 500)
    shop.seat(1, 501)
    shop.model.drain_s = -1.0
    unfeed(shop, monkeypatch)
    assert shop.core.fired == [("fw/0", "drained")]


def test_nothing_is_steered_while_the_instance_stops(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.seat(0, 500)
    shop.worker.wanted = False
    shop.model.state = "stopping"
    unfeed(shop, monkeypatch, 0)
    assert "map" not in shop.core.verbs() and shop.core.fired == [("fw/0", "drained")]


def test_an_end_is_asked_for_only_where_it_was(shop: Shop, killed: list[int]) -> None:
    one = shop.seat(0, 500)
    one.pidfd = 41
    shop.workers.kill(shop.worker)
    assert killed == [41] and not one.asked  # too late, or corrupt: a death
    shop.worker.state = "draining"
    shop.workers.kill(shop.worker)
    assert one.asked


def test_what_went_with_the_primary_is_forgotten(shop: Shop) -> None:
    shop.seat(0, 500)
    shop.worker.left = shop.worker.unfed = True
    shop.group.map = (0,) * len(EMPTY)
    shop.workers.forget(shop.worker)
    worker = shop.worker
    assert not (worker.sitter or worker.fed or worker.left or worker.unfed)
    assert shop.group.map == EMPTY and not shop.model.sitters


# --- after a death --------------------------------------------------------------------------------


def decided(shop: Shop, code: int | None = 1, *, asked: bool = False) -> str:
    shop.core.fired.clear()
    shop.worker.state = "recovering"
    shop.workers.decide(shop.worker, code, asked)
    return next(event for name, event in shop.core.fired if name == shop.worker.name)


def policy(shop: Shop, **changes: Any) -> None:
    shop.group.policy = dataclasses.replace(shop.group.policy, **changes)


def test_verdicts(shop: Shop) -> None:
    shop.worker.wanted = True
    assert decided(shop) == "retry" and shop.worker.due_at > 0
    assert decided(shop, asked=True) == "again"
    assert decided(shop, 106) == "give_up" and shop.worker.held_for
    assert decided(shop) == "retry" and not shop.worker.held_for
    policy(shop, policy="never")
    assert decided(shop) == "give_up"
    policy(shop, policy="on-failure")
    assert decided(shop, 0) == "give_up" and decided(shop, None) == "retry"
    shop.worker.wanted = False
    assert decided(shop) == "rest"
    assert not shop.core.failed, "what runs is not ended"


def test_who_dies_again_and_again_is_held(shop: Shop) -> None:
    shop.worker.wanted = True
    verdicts = [decided(shop) for _ in range(7)]
    assert verdicts == ["retry"] * 5 + ["give_up"] * 2
    assert "5 restarts" in shop.worker.held_for


def test_a_refusal_counts_where_the_exit_code_is_not_known(shop: Shop) -> None:
    """The seed died with the word of it."""
    shop.worker.wanted, shop.worker.refused = True, (106, "no such plugin")
    assert decided(shop, None) == "give_up"


@pytest.fixture
def first(shop: Shop) -> Shop:
    shop.model.state = "starting"
    shop.model.plan = dataclasses.replace(shop.model.plan, generation=1)
    shop.worker.wanted = True
    return shop


def test_a_first_start_that_is_refused_is_the_topology_s_fault(first: Shop) -> None:
    first.worker.refused = (106, "no such plugin")
    assert decided(first, 106) == "rest"
    (error,) = first.core.failed
    assert isinstance(error, DpsupError)
    assert (error.exit_code, error.code) == (Exit.BAD_TOPOLOGY, "E0805")
    assert "no such plugin" in error.message and "fw" in error.help


def test_a_first_start_that_dies_on_and_on_is_told_how(first: Shop) -> None:
    first.worker.last_exit = {"how": "SIGSEGV"}
    while decided(first) == "retry":
        assert not first.core.failed
    (error,) = first.core.failed
    assert isinstance(error, DpsupError) and "SIGSEGV" in error.message and error.code == "E0806"


def test_a_later_start_is_no_first_one(first: Shop) -> None:
    first.model.adopted = True
    first.worker.refused = (106, "no such plugin")
    assert decided(first, 106) == "give_up" and not first.core.failed


# --- who is restarted with it ---------------------------------------------------------------------


def chain(folder: Path, strategy: str, died: str) -> tuple[list[str], Shop]:
    shop = Shop(folder, CHAIN)
    for worker in shop.model.workers():
        worker.state, worker.wanted = "running", True
        group = shop.model.group_of(worker)
        group.policy = dataclasses.replace(group.policy, strategy=strategy)
    shop.worker = next(w for w in shop.model.workers() if w.name == died)
    decided(shop)
    return [name for name, event in shop.core.fired if event == "restart"], shop


@pytest.mark.parametrize(
    ("strategy", "died", "restarted"),
    [
        ("one-for-one", "fw/0", []),
        ("rest-for-chain", "fw/0", ["log/0", "nat/0"]),
        ("rest-for-chain", "log/0", []),
    ],
)
def test_the_rest_of_the_chain_is_restarted_in_reverse(
    tmp_path: Path, strategy: str, died: str, restarted: list[str]
) -> None:
    found, shop = chain(tmp_path, strategy, died)
    assert found == restarted and len(shop.core.events.of("restart")) == bool(restarted)


def test_all_of_a_group_are_those_that_run(shop: Shop) -> None:
    policy(shop, strategy="all")
    for member in range(3):
        shop.seat(member, 500 + member)
    shop.group.workers[2].state = "held"
    decided(shop)
    assert [n for n, e in shop.core.fired if e == "restart"] == ["fw/1"]
    assert decided(shop, asked=True) == "again"
    assert len(shop.core.fired) == 1, "one that was asked to takes nobody with it"


def test_nobody_is_restarted_while_the_input_is_closed(shop: Shop) -> None:
    policy(shop, strategy="all")
    for member in range(2):
        shop.seat(member, 500 + member)
    shop.model.state = "starting"
    decided(shop)
    assert len(shop.core.fired) == 1


# --- again ----------------------------------------------------------------------------------------


def test_held_workers_start_afresh(shop: Shop) -> None:
    held, runs = shop.group.workers[:2]
    for worker in (held, runs):
        worker.history, worker.held_for, worker.wanted = History(5.0, 1.0), "why", True
    held.state, runs.state = "held", "running"
    assert shop.workers.reset_failed([held, runs], []) == [held]
    assert shop.core.fired == [("fw/0", "restart")]
    assert held.history == runs.history == History() and not held.held_for


def test_a_delay_that_is_over_is_no_delay(shop: Shop) -> None:
    shop.worker.due_at = 0.0
    shop.workers.wait(shop.worker)
    assert shop.core.timers == [(0.0, shop.core.fire, (shop.worker, "due"))]


def test_who_is_held_is_said_with_what_to_do(shop: Shop) -> None:
    said: list[str] = []
    shop.model.progress = said.append
    shop.worker.last_exit = {"how": "exit 106", "reason": "no such plugin"}
    shop.workers.say(shop.worker)
    assert "exit 106 (no such plugin)" in said[0] and "reset-failed fw/0" in said[0]
    shop.worker.last_exit = None
    shop.workers.say(shop.worker)
