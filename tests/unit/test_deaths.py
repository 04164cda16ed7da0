# SPDX-License-Identifier: BSD-3-Clause
"""Deaths: stories are followed in order, each once, and none of them ends two supervisors."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run, sitter
from unit.test_stories import story

from dpsup.bus.sockets import Gone
from dpsup.errors import DpsupError
from dpsup.supervisor import deaths
from dpsup.supervisor.stories import REBUCKETED

STOPPED, CONTINUED = 3, 4


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(deaths, "STATUS_WAIT_S", 0.0)
    monkeypatch.setattr(deaths, "FATE_S", 0.0)
    return Parts(tmp_path)


def told(parts: Parts, *news: Any) -> None:
    parts.core.answers["stories"] = lambda since: [
        one for one in news if not isinstance(one["seq"], int) or one["seq"] > since
    ]

    async def hear() -> None:
        await parts.deaths.read_stories()
        await parts.core.settle()

    run(hear())


def told_only(parts: Parts, *news: Any) -> None:
    """And what that sets going does not run."""
    parts.core.answers["stories"] = list(news)
    run(parts.deaths.read_stories())
    parts.core.drop()


def test_stories_are_followed_in_their_order_and_once(parts: Parts) -> None:
    parts.seat(0, 500).hear(9)
    parts.seat(1, 501).hear(9)
    news = [story(seq=4, pid=501, slot=1), story(seq=5, pid=500)]
    told(parts, *news)
    assert parts.core.fired == [("fw/1", "died"), ("fw/0", "died")]
    told(parts, *news)
    assert len(parts.core.fired) == 2 and parts.model.told == 5
    assert not parts.model.sitters


def test_a_story_that_cannot_be_read_is_skipped_and_said(parts: Parts) -> None:
    parts.seat(0, 500).hear(9)
    told(parts, story(seq=1, kind=99), story(seq="x", pid=7), story(seq=3))
    assert parts.core.fired == [("fw/0", "died")] and parts.model.told == 3
    assert [e["name"] for e in parts.core.events.of("fault")] == ["stories", "stories"]
    assert parts.core.crashed is None


def test_a_story_that_ends_the_core_is_not_told(parts: Parts) -> None:
    """The next supervisor meets it again, and skips it."""
    parts.seat(0, 500)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    parts.core.fire = broken  # type: ignore[method-assign]
    told(parts, story(seq=3), story(seq=4, pid=7))
    assert isinstance(parts.core.crashed, ZeroDivisionError) and parts.model.told == 0
    assert not parts.core.events.of("stranger"), "nothing after it is followed"


def test_a_primary_that_ends_meanwhile_is_no_fault(parts: Parts) -> None:
    parts.core.answers["map_read"] = Gone("it ended")
    with pytest.raises(Gone):
        told(parts, story(seq=3, kind=REBUCKETED))
    assert parts.core.crashed is None and parts.model.told == 0


def test_a_spare_takes_the_place_of_a_worker_that_died(parts: Parts) -> None:
    dead, spare = parts.seat(0, 500), sitter(600, 5, ready=True)
    dead.hear(11)
    parts.worker.takeovers, parts.worker.restarts = 2, 1
    parts.model.sitters[600] = spare
    parts.group.spares.append(spare)
    heard: list[Any] = []
    parts.deaths.on_report = lambda *args: heard.append(args)
    one = story(pid=500, successor=600, seated_ns=40)
    told(parts, one)
    worker = parts.worker
    assert worker.sitter is spare and spare.name == "fw/0" and not parts.group.spares
    assert parts.core.fired == [("fw/0", "succeeded")]
    assert (worker.takeovers, worker.restarts) == (1, 2)
    (event,) = parts.core.events.of("death")
    assert (event["how"], event["successor"]) == ("SIGSEGV", 600)
    assert (parts.model.deaths, parts.model.unreported) == (1, 0)
    assert worker.last_exit is not None and worker.last_exit["signal"] == 11
    assert heard == [(worker, dead, one, -11)]
    assert parts.core.recorded


def test_who_made_room_has_not_died(parts: Parts) -> None:
    parts.seat(0, 500).hear(0)
    parts.model.sitters[600] = sitter(600, 5)
    told(parts, story(pid=500, successor=600, handover=1, noticed_ns=1000, seated_ns=3000))
    assert not parts.core.events.of("death") and parts.model.deaths == 0
    (event,) = parts.core.events.of("handover")
    assert (event["revision"], event["seated_us"]) == (1, 2.0)


NOBODY = 2**31 - 1  # a pid above the kernel's most


def test_a_successor_that_is_dead_too_is_followed_by_its_own(parts: Parts) -> None:
    """The seed died before its word of it, and chaos ended it: its story says what came next."""
    parts.core.steps = True
    parts.core.answers |= {"fate": 1, "counters": {"slots": [{"version": 0}] * 2}}
    parts.seat(0, 500).hear(9)
    last = parts.model.sitters[600] = sitter(600, 5, ready=True)
    parts.group.spares.append(last)
    chain = [
        story(seq=1, pid=500, successor=NOBODY, successor_sitter=4),
        story(seq=2, pid=NOBODY, sitter=4, successor=600, successor_sitter=5),
    ]
    told(parts, *chain)
    assert parts.core.fired == [("fw/0", "succeeded")] * 2
    assert parts.worker.sitter is last and parts.worker.restarts == 1
    assert not parts.group.spares and not parts.core.events.of("stranger")
    assert set(parts.model.sitters) == {600}


def test_a_successor_that_died_without_an_heir_is_a_death_of_the_worker(parts: Parts) -> None:
    parts.core.steps = True
    parts.core.answers |= {"fate": 1, "counters": {"slots": [{"version": 0}] * 2}}
    parts.seat(0, 500).hear(9)
    one, two = story(seq=1, pid=500, successor=NOBODY), story(seq=2, pid=NOBODY)
    news = [one]
    parts.core.answers["stories"] = lambda since: [s for s in news if s["seq"] > since]

    async def hear() -> None:
        await parts.deaths.read_stories()
        assert parts.worker.state == "running"
        news.append(two)
        # Nobody watches it: that it ended is accounted for by what the first story set going.
        await parts.core.settle()

    run(hear())
    assert parts.core.fired == [("fw/0", "succeeded"), ("fw/0", "died")]
    assert not parts.model.sitters


def test_a_foreign_process_with_a_dead_successors_pid_is_let_alone(parts: Parts) -> None:
    parts.core.answers |= {"counters": {"slots": [{"version": 0}] * 2}}
    parts.seat(0, 500).hear(9)
    with subprocess.Popen(["sleep", "60"]) as other:
        told_only(parts, story(pid=500, successor=other.pid))
        assert parts.worker.sitter is not None and parts.worker.sitter.pidfd == -1
        other.kill()


def test_an_unknown_dead_is_a_stranger(parts: Parts) -> None:
    told(parts, story(pid=77, corrupt=1))
    assert parts.core.events.of("stranger")[0]["pid"] == 77
    assert parts.core.asked[-1] == ("reset", {"slot": 0})


def test_a_repair_asks_how_to_go_on(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[Any] = []
    monkeypatch.setattr(parts.workers, "decide", lambda *args: decided.append(args))
    parts.seat(0, 500).hear(256 * 106)
    told(parts, story(pid=500, corrupt=1))
    parts.worker.state = "recovering"
    parts.core.answers["reset"] = DpsupError("no")
    parts.deaths.repair(parts.worker)
    run(parts.core.settle())
    assert decided == [(parts.worker, 106, False)]
    assert parts.worker.sitter is None and parts.worker.left
    assert parts.core.events.of("corrupt") and parts.core.events.of("error")


def test_a_repair_that_comes_too_late_decides_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.workers, "decide", lambda *_: pytest.fail("decided"))
    parts.worker.state = "stopped"  # the primary went
    parts.deaths.repair(parts.worker)
    run(parts.core.settle())


def test_a_stopped_worker_lends_its_buckets_until_it_goes_on(parts: Parts) -> None:
    parts.seat(0, 500)
    parts.seat(1, 501)
    told(parts, story(STOPPED, seq=1, pid=500))
    assert (parts.worker.health, parts.worker.fed) == ("stopped", False)
    told(parts, story(CONTINUED, seq=2, pid=500))
    assert (parts.worker.health, parts.worker.fed) == ("ok", True)
    assert [e["message"] for e in parts.core.events.of("health")] == ["stopped", "continued"]


def test_what_the_primary_lent_is_read_from_it(parts: Parts) -> None:
    parts.seat(1, 501)
    map_ = bytes([1]) * len(parts.group.map)
    parts.core.answers["map_read"] = map_.hex()
    told(parts, story(REBUCKETED, slot=0, left=7))
    (event,) = parts.core.events.of("lent")
    assert (event["requeued"], event["buckets_moved"]) == (7, len(map_))
    assert parts.group.map == tuple(map_)


def test_an_end_that_no_warden_saw_is_buried_without_a_story(parts: Parts) -> None:
    dead = parts.seat(0, 500)
    fates = iter([False, False, True])
    parts.core.answers |= {"fate": lambda **_: next(fates), "stories": []}
    parts.sitters.on_death(dead)
    run(parts.core.settle())
    assert parts.core.fired == [("fw/0", "died")] and not parts.model.sitters


def test_a_warden_that_never_notices_costs_the_generation(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(deaths, "FATE_MOST_S", -1.0)
    monkeypatch.setattr(deaths.process, "signal_pidfd", lambda fd, _: killed.append(fd))
    parts.model.primary.pidfd = 42
    parts.core.answers["fate"] = False
    parts.sitters.on_death(parts.seat(0, 500))
    with pytest.raises(Gone):
        run(parts.core.settle())
    assert killed == [42]


def test_an_end_that_the_primary_does_not_know_is_settled(parts: Parts) -> None:
    parts.core.answers |= {"fate": DpsupError("no such berth"), "stories": []}
    parts.sitters.on_death(parts.seat(0, 500))
    run(parts.core.settle())
    assert parts.core.fired == [("fw/0", "died")]


# --- of the time without a supervisor -------------------------------------------------------------


def account(parts: Parts, one: dict[str, Any], asked: set[int], exits: dict[int, int]) -> Any:
    owner = parts.deaths.account(one, asked, exits)
    run(parts.core.settle())
    return owner


def test_a_death_without_a_supervisor_is_accounted_for(parts: Parts) -> None:
    assert account(parts, story(pid=5), set(), {5: 9}) is parts.worker
    assert parts.core.events.of("death")[0]["how"] == "SIGKILL"
    assert (parts.model.deaths, parts.model.unreported) == (1, 0)
    assert parts.worker.history.level == 0, "it is judged when the worker is brought back"


def test_a_takeover_without_a_supervisor_costs_credit(parts: Parts) -> None:
    assert account(parts, story(pid=5, successor=6), set(), {}) is parts.worker
    assert (parts.worker.restarts, parts.worker.history.level) == (0, 1)


def test_an_asked_end_is_nobody_s_debt(parts: Parts) -> None:
    assert account(parts, story(pid=5), {5}, {5: 0}) is None
    assert parts.model.deaths == 0 and not parts.core.events.of("death")


def test_a_spare_s_death_is_said(parts: Parts) -> None:
    assert account(parts, story(pid=5, slot=2**32 - 1), set(), {}) is None
    assert parts.core.events.of("spare")[0]["pid"] == 5


def test_what_else_happened_is_said_too(parts: Parts) -> None:
    for one in (story(REBUCKETED, left=3), story(STOPPED), story(8)):
        assert account(parts, one, set(), {}) is None
    assert len(parts.core.events.of("lent")) == 1 and len(parts.core.events.of("health")) == 2
