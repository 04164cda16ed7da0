# SPDX-License-Identifier: BSD-3-Clause
"""Going on with what runs: who sits where, who is brought back, and how to leave."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.fakecore import Parts, run, sitter
from unit.test_stories import story

from dpsup import _abi
from dpsup.bus.sockets import Gone
from dpsup.errors import ShimError, TimedOut
from dpsup.host.process import Identity
from dpsup.supervisor import deaths, rejoin
from dpsup.supervisor.policy import History
from dpsup.supervisor.rejoin import AWAITED, LIVES, NO_SLOT, Rejoin
from dpsup.supervisor.sitters import SEATED, STARTING
from dpsup.supervisor.snapshot import Past


def seat(pid: int, slot: int = NO_SLOT, **more: Any) -> dict[str, Any]:
    usual = {"state": LIVES, "told": 0, "group": 0, "berth": pid - 500, "hand": SEATED, "health": 0}
    return {**usual, "pid": pid, "slot": slot, **more}


class Heir(Parts):
    """`lives`: the pids that are still there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.plane: dict[str, Any] = {"sitters": [], "stories": 0, "exits": [], "rx": True}
        self.news: list[Any] = []
        self.lives: set[int] = set()
        self.core.answers |= {
            "stories": lambda since: [s for s in self.news if s["seq"] > since],
            "sitters": lambda: self.plane,
            "counters": {"slots": [{"outstanding": 0, "version": 0}] * 4},
            "versions": lambda berths: [0] * len(berths),
            "map_read": bytes(self.group.map).hex(),
        }
        core: Any = self.core
        self.rejoin = Rejoin(
            core, self.model, self.children, self.sitters, self.buckets, self.spares,
            self.deaths, self.attach, self.rollouts,
        )  # fmt: skip
        self.past = Past()
        self.children.meet = lambda *_: True  # type: ignore[method-assign]
        self.sitters.meet = self._meet  # type: ignore[method-assign]
        self.model.seed.state = "absent"

    def _meet(self, name: str, berth: int, pid: int) -> Any:
        if pid not in self.lives:
            return None
        one = self.model.sitters[pid] = sitter(pid, berth)
        one.name = name
        return one

    def sits(self, *seats: dict[str, Any]) -> None:
        self.plane["sitters"] = list(seats)
        self.lives |= {one["pid"] for one in seats}

    def tells(self, *news: Any) -> None:
        self.news = list(news)
        self.plane["stories"] = len(news)

    def begin(self) -> list[tuple[str, str]]:
        """What the workers hear."""
        found: Any = SimpleNamespace(
            hello={"pid": 400, "start": 1}, state=SimpleNamespace(seed=None)
        )
        self.rejoin.begin(found, self.past)
        # That alone: what it leads to is the business of others.
        run(self.core.tasks.pop(0))
        self.core.drop()
        return [(n, e) for n, e in self.core.fired if n.startswith("fw/")]


@pytest.fixture
def heir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heir:
    monkeypatch.setattr(rejoin, "LOOK_S", 0.0)
    monkeypatch.setattr(deaths, "STATUS_WAIT_S", 0.0)
    monkeypatch.setattr(rejoin.process, "with_words", lambda *_: [])
    return Heir(tmp_path)


def test_who_sits_there_is_found_and_who_does_not_is_recalled(heir: Heir) -> None:
    heir.sits(seat(500, 0), seat(510))
    assert heir.begin() == [("fw/0", "found"), ("fw/1", "recall")]
    assert heir.core.fired[0] == ("primary", "adopt")
    worker = heir.worker
    assert worker.pid == 500 and worker.sitter is not None and worker.sitter.ready and worker.fed
    assert [s.pid for s in heir.group.spares] == [510]
    assert set(heir.group.map) == {0} and heir.model.rx_on


def test_who_was_told_to_end_is_known(heir: Heir) -> None:
    heir.past.asked = {500}
    heir.sits(seat(500, 0), seat(501, 1, hand=STARTING))
    heir.begin()
    first, second = heir.group.workers[:2]
    assert first.sitter is not None and first.sitter.asked
    assert second.sitter is not None and not second.sitter.ready and not second.fed


def test_a_stopped_worker_is_not_fed(heir: Heir) -> None:
    heir.sits(seat(500, 0, health=_abi.DPS_STORY_STOPPED))
    heir.begin()
    assert heir.worker.health == "stopped" and not heir.worker.fed


def test_who_is_not_wanted_any_more_is_told_to_stop(heir: Heir) -> None:
    heir.sits(seat(502, 2))
    assert heir.begin()[-1] == ("fw/2", "stop")


def test_who_has_just_gone_or_is_told_of_sits_nowhere(heir: Heir) -> None:
    heir.sits(seat(500, 0), seat(501, 1, told=1))
    heir.lives = {501}
    assert heir.begin() == [("fw/0", "recall"), ("fw/1", "recall")]


def test_packets_in_an_empty_seat_are_remembered(heir: Heir) -> None:
    heir.core.answers["counters"] = {"slots": [{"outstanding": 3}] * 4}
    heir.begin()
    assert heir.worker.left


# --- the census -----------------------------------------------------------------------------------


def test_orders_that_nobody_came_for_are_called_off(heir: Heir) -> None:
    heir.sits({**seat(0), "state": AWAITED, "berth": 9})

    def call_off(berth: int) -> int:
        assert berth == 9
        heir.sits()
        return 0

    heir.core.answers["call_off"] = call_off
    heir.begin()
    assert heir.core.verbs().count("call_off") == 1


def test_a_census_waits_for_the_last_story(heir: Heir) -> None:
    heir.tells(story(seq=1), story(seq=2, slot=1))
    late = heir.news.pop()

    def sitters() -> Any:
        heir.news = [s for s in (story(seq=1), late)]
        return heir.plane

    heir.core.answers["sitters"] = sitters
    heir.begin()
    assert heir.model.told == 2


def test_a_census_has_an_end(heir: Heir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stories that were not kept are lost."""
    monkeypatch.setattr(rejoin, "CENSUS_S", -1.0)
    heir.plane["stories"] = 1000
    heir.begin()
    assert heir.model.told == 1000


def test_a_story_that_cannot_be_read_is_skipped(heir: Heir) -> None:
    heir.tells({"seq": 1}, story(seq=2, signal=127))
    assert heir.begin() == [("fw/0", "recall"), ("fw/1", "recall")]
    assert len(heir.core.events.of("fault")) == 2 and heir.model.told == 2


def test_a_story_that_ended_the_last_supervisor_is_skipped(heir: Heir) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("unforeseen")

    heir.deaths.account = broken  # type: ignore[method-assign]
    heir.tells(story(seq=1))
    heir.begin()
    assert "unforeseen" in heir.core.events.of("fault")[0]["message"]
    assert heir.model.told == 1 and heir.core.crashed is None


# --- bring back -----------------------------------------------------------------------------------


def brought(heir: Heir, was: str, *, owed: bool = False, **worker: Any) -> str:
    heir.core.fired.clear()
    for key, value in worker.items():
        setattr(heir.worker, key, value)
    heir.rejoin._bring_back(heir.worker, was, owed)
    ((_, event),) = heir.core.fired
    return event


def test_who_is_brought_back_comes_at_once_or_after_its_delay(heir: Heir) -> None:
    assert brought(heir, "held") == "hold"
    assert brought(heir, "backoff", due_at=5.0) == "recall" and heir.worker.due_at == 5.0
    assert brought(heir, "running") == "recall" and heir.worker.due_at > 5.0
    assert heir.worker.history.level == 0
    before = heir.worker.due_at
    assert brought(heir, "recovering") == "recall" and heir.worker.due_at > before
    assert heir.worker.history.level == 1
    assert brought(heir, "", owed=True) == "recall" and heir.worker.history.level > 1.5


def test_who_died_too_often_or_refused_is_held(heir: Heir) -> None:
    often = History(5.0, 1e12)
    assert brought(heir, "running", owed=True, history=often) == "hold"
    assert brought(heir, "running", owed=True, last_exit={"code": 106}) == "hold"
    assert len(heir.core.events.of("held")) == 2


def test_a_death_without_successor_is_owed_until_one_follows(heir: Heir) -> None:
    heir.tells(story(seq=1), story(seq=2, slot=1), story(seq=3, successor=9))
    owed: dict[str, Any] = {}
    run(heir.rejoin._census(heir.past, owed))
    heir.core.drop()
    assert list(owed) == ["fw/1"]


# --- the seed -------------------------------------------------------------------------------------


def test_a_seed_that_lives_is_adopted(heir: Heir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejoin.process, "with_words", lambda *_: [Identity(450, 1)])
    monkeypatch.setattr(rejoin.process, "has_words", lambda *_: True)
    tries: list[int] = []

    def open_orders() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionRefusedError

    heir.sitters.open_orders = open_orders  # type: ignore[method-assign]
    heir.core.steps = True
    heir.begin()
    assert ("seed", "adopt") in heir.core.fired and ("seed", "ready") in heir.core.fired
    assert len(tries) == 3 and heir.attach.pid == 450


def test_a_seed_that_never_listens_is_late(heir: Heir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejoin, "SEED_ANSWERS_S", -1.0)
    monkeypatch.setattr(rejoin.process, "with_words", lambda *_: [Identity(450, 1)])
    monkeypatch.setattr(rejoin.process, "has_words", lambda *_: True)
    heir.begin()
    assert ("seed", "late") in heir.core.fired


# --- it cannot be ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["stories", "sitters", "map_read", "counters", "versions"])
def test_a_refusal_makes_this_supervisor_leave(heir: Heir, verb: str) -> None:
    """An exception that is unforeseen to the engine: a crash, after which another one adopts."""
    heir.core.answers[verb] = ShimError(verb, 22, "no")
    with pytest.raises(RuntimeError, match="adoption failed: no"):
        heir.begin()


def test_no_descriptor_makes_this_supervisor_leave(heir: Heir) -> None:
    heir.core.answers["sitters"] = OSError(24, "Too many open files")
    with pytest.raises(RuntimeError, match="Too many"):
        heir.begin()


@pytest.mark.parametrize("pidfd", [-1, 42])
def test_a_primary_that_ends_leads_to_the_next_generation(heir: Heir, pidfd: int) -> None:
    heir.model.primary.pidfd = pidfd
    heir.core.answers["sitters"] = Gone("it ended")
    heir.begin()
    # One that is watched says so by its pidfd.
    assert (("primary", "died") in heir.core.fired) == (pidfd < 0)
    assert "adoption failed" in heir.core.events.of("error")[0]["message"]


def test_a_primary_that_is_gone_already_leads_there_too(heir: Heir) -> None:
    heir.children.meet = lambda *_: False  # type: ignore[method-assign]
    heir.begin()
    assert heir.core.fired == [("primary", "adopt"), ("primary", "died")]


@pytest.mark.parametrize("deaf", [True, False])
def test_a_silent_primary_is_ended_or_left_alone(heir: Heir, deaf: bool) -> None:
    heir.core.deaf = deaf
    heir.core.answers["sitters"] = TimedOut("late")
    if deaf:
        heir.begin()
        assert heir.core.events.of("error")
    else:
        with pytest.raises(RuntimeError, match="forwards, and does not answer"):
            heir.begin()
