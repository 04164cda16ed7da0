# SPDX-License-Identifier: BSD-3-Clause
"""A rollout from its first step to its last, both ways, with fakes in a time of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.fakeroll import RATE, Plugin, World, lost

from dpsup import _abi
from dpsup.errors import DpsupError
from dpsup.supervisor import rollout
from dpsup.supervisor.model import Worker
from dpsup.supervisor.rollout import Options, Rollout

NAMES = ["fw/0", "fw/1", "fw/2"]
FORWARD = [(name, 1) for name in NAMES]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def went_back(world: World, one: Rollout, why: str) -> None:
    """Every slot is as before, and so is what is written down."""
    assert why in one.failed and one.target.why == one.failed
    assert one.phase == "undone" and world.phases()[-2:] == ["undoing", "undone"]
    assert world.versions() == [0, 0, 0] and world.heirs[-1] == 0
    assert [w.state for w in world.group.workers] == ["running"] * 3
    record = world.record()
    assert (record["version"], record["rollout"]) == (0, None)
    assert [r["state"] for r in record["revisions"]] == ["current", "undone"]
    assert why in record["revisions"][1]["why"]
    assert world.group.plan.plugin == world.model.ledgers[0].current.plugin == "macswap"
    assert [s.version for s in world.group.spares if s.pidfd >= 0] == [0]
    also = [args for verb, args in world.core.asked if verb == "also"]
    assert also[-3:] == [{"slot": s, "needs": 0, "changes": False} for s in range(3)]
    assert not world.core.faults


def arrived(world: World, one: Rollout) -> None:
    assert (one.failed, one.phase) == ("", "done")
    assert world.versions() == [1, 1, 1]
    assert world.heirs == [1], "until all are judged the old one follows"
    record = world.record()
    assert (record["version"], record["rollout"], record["slots"]) == (1, None, [1, 2])
    assert [r["state"] for r in record["revisions"]] == ["replaced", "current"]
    assert (world.group.plan.plugin, world.group.plan.args) == ("l2fwd", (("a", "b"),))
    assert world.model.plan.groups[0].plugin == "l2fwd"
    assert [s.version for s in world.group.spares if s.pidfd >= 0] == [1]
    assert not world.core.faults


def at(world: World, name: str, call: Callable[[Worker], None], seconds: float = 0.0) -> None:
    """Once, so long after the new version took a seat of that worker's."""
    calls = [call]

    def seated(worker: Worker, version: int) -> None:
        if worker.name == name and version == 1 and calls:
            world.later(seconds, calls.pop(), worker)

    world.on_seated.append(seated)


# --- forward --------------------------------------------------------------------------------------


def test_it_goes_forward_slot_by_slot(world: World) -> None:
    one = world.roll()
    arrived(world, one)
    assert world.phases() == ["preparing", "canary", "rolling", "closing", "done"]
    assert world.told == FORWARD and world.most == 1
    assert world.seated == [(name, 1, 0) for name in NAMES]
    assert [e["workers"] for e in world.core.events.of("judged")] == [["fw/0"], NAMES]
    assert all(s.asked for s in world.killed), "spares that are done with"


def test_the_canary_is_judged_before_another_slot_changes_over(world: World) -> None:
    judged: list[int] = []
    world.on_seated.append(lambda *_: judged.append(len(world.core.events.of("judged"))))
    arrived(world, world.roll(Options(canary=2, judge=1.0)))
    assert judged == [0, 0, 1]


def test_as_many_as_allowed_change_over_at_a_time(world: World) -> None:
    arrived(world, world.roll(Options(canary=0, judge=0.0, max_unavailable=2)))
    assert world.most == 2 and world.told == FORWARD
    assert "canary" not in world.phases() and not world.core.events.of("judged")


def test_what_is_written_down_is_never_behind(world: World) -> None:
    """The next supervisor would go the wrong way."""
    noted: list[tuple[str, int]] = []

    def look(*_: Any) -> None:
        record = world.record()
        noted.append((record["rollout"]["phase"], record["version"]))

    world.on_seated.append(look)
    arrived(world, world.roll())
    assert noted == [("canary", 0), ("rolling", 0), ("rolling", 0)]


def test_one_that_was_all_but_done_is_closed(world: World) -> None:
    """Of a dead supervisor's: all slots had been changed over and judged."""
    one = world.prepared()
    one.phase = "closing"
    world.model.ledgers[0].slots = [1, 2]
    arrived(world, world.follow(one))
    assert world.phases() == ["closing", "done"]
    assert "version" not in world.core.verbs(), "its place is not written again"


def test_held_workers_start_with_the_new_version(world: World) -> None:
    for worker in world.group.workers:
        worker.state, worker.sitter = "held", None
    phases: list[str] = []
    world.on_seated.append(lambda *_: phases.append(world.phases()[-1]))
    one = world.roll()
    assert (one.failed, one.phase) == ("", "done") and world.versions() == [1, 1, 1]
    assert not world.told, "there is nobody to take over from"
    assert phases == ["rolling"] * 3, "they are judged as well"
    assert world.core.fired == [(name, "restart") for name in NAMES]


# --- the new version is worse ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (Plugin(drops=0.2), "it drops 20"),
        (Plugin(cost=300), "it takes 300 cycles a packet"),
    ],
)
def test_a_canary_that_is_worse_goes_back_alone(world: World, new: Plugin, why: str) -> None:
    world.plugins[1] = new
    one = world.roll()
    went_back(world, one, why)
    assert world.phases() == ["preparing", "canary", "undoing", "undone"]
    assert world.told == [("fw/0", 1), ("fw/0", 0)]
    (judged,) = world.core.events.of("judged")
    assert why in judged["message"]


@pytest.mark.parametrize(
    ("new", "options", "why"),
    [
        (Plugin(bad=1.0), Options(judge=100.0), "verdicts have no meaning"),
        (Plugin(bad=1.0), Options(judge=0.0), "verdicts have no meaning"),
        (Plugin(drops=1.0), Options(judge=100.0), "it drops all"),
    ],
)
def test_a_version_that_harms_every_packet_goes_back_at_once(
    world: World, new: Plugin, options: Options, why: str
) -> None:
    world.plugins[1] = new
    if not options.judge:  # the next worker does not leave at once: else it would be over
        at(world, "fw/0", lambda _: setattr(world, "stays", 1))
    started: list[float] = []
    at(world, "fw/0", lambda _: started.append(world.clock.now()))
    one = world.roll(options)
    went_back(world, one, why)
    assert world.clock.now() - started[0] < 5 + rollout.MOVE_S
    assert not world.core.events.of("judged")


@pytest.mark.parametrize(
    ("story", "code", "why"),
    [
        ({"signal": 11}, None, "fw/0 died of it: SIGSEGV"),
        ({"signal": 9, "hung": 1, "sender": 1}, None, "fw/0 was stuck with it"),
        ({}, 3, "fw/0 left with exit code 3"),
    ],
)
def test_a_canary_that_ends_by_itself_goes_back(
    world: World, story: dict[str, Any], code: int | None, why: str
) -> None:
    at(world, "fw/0", lambda worker: world.die(worker, story, code), 0.3)
    went_back(world, world.roll(), why)
    # Its warden has seated the old one; the others were not touched.
    assert world.told == [("fw/0", 1)]
    assert world.seated == [("fw/0", 1, 0), ("fw/0", 0, 0)]
    assert not world.core.events.of("judged"), "nobody waits for a verdict"


@pytest.mark.parametrize(
    ("story", "code"), [({"signal": 9, "sender": 77}, None), ({}, _abi.DPS_EXIT_TEMPORARY)]
)
def test_what_is_no_evidence_is_done_once_more(
    world: World, story: dict[str, Any], code: int | None
) -> None:
    at(world, "fw/0", lambda worker: world.die(worker, story, code), 0.3)
    arrived(world, world.roll())
    assert world.told == [("fw/0", 1), ("fw/0", 1), ("fw/1", 1), ("fw/2", 1)]


def test_no_second_try_until_it_is_known_why_the_first_came_to_nothing(world: World) -> None:
    def report(worker: Worker) -> None:
        world.model.unreported = 0
        one.blame(f"{worker.name} died of it")

    def died(worker: Worker) -> None:
        world.model.unreported = 1
        world.sit(worker, world.process(0, ready=True))
        world.later(3.0, report, worker)

    one = world.prepared()
    at(world, "fw/0", died, 0.3)
    world.follow(one)
    went_back(world, one, "fw/0 died of it")
    assert world.told == [("fw/0", 1)]


def test_the_death_of_the_old_version_is_no_evidence(world: World) -> None:
    at(world, "fw/0", lambda _: world.die(world.group.workers[2], {"signal": 11}))
    arrived(world, world.roll())


# --- it does not come -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comes", "why"),
    [
        ("", "no spare of it becomes ready"),
        ("dies", "its processes end before they are ready"),
        ("REFUSED 108 no table", "a spare of it refuses to start: no table"),
    ],
)
def test_no_slot_changes_over_to_a_version_that_does_not_come(
    world: World, comes: str, why: str
) -> None:
    world.plugins[1] = Plugin(comes=comes)
    went_back(world, world.roll(), why)
    assert not world.told and not world.seated
    assert 1 <= world.forks.count(1) <= 1 + rollout.TRIES
    assert not world.group.spares_held, "the old version's are forked as ever"


def test_its_place_is_written_once_no_process_has_it(world: World) -> None:
    answers = [True, False, False]
    world.core.answers["version"] = lambda **_: answers.pop()
    arrived(world, world.roll())
    assert not answers


def test_a_process_of_an_earlier_version_that_stays_ends_it(world: World) -> None:
    world.core.answers["version"] = lambda **_: False
    went_back(world, world.roll(), "a process of an earlier version does not end")
    assert 1 not in world.forks


# --- it is stopped in the middle ------------------------------------------------------------------


def refuse(world: World, *names: str) -> None:
    """The primary refuses to change these over, once each time that they are named."""
    refusals, handover = list(names), world.core.answers["handover"]

    def answer(slot: int, version: int) -> Any:
        if refusals and world.group.workers[slot].name == refusals[0]:
            refusals.pop(0)
            raise DpsupError("no such slot")
        return handover(slot, version)

    world.core.answers["handover"] = answer


def test_a_refusal_of_the_primary_in_the_middle_goes_back(world: World) -> None:
    refuse(world, "fw/1")
    went_back(world, world.roll(), "no such slot")
    assert world.told == [("fw/0", 1), ("fw/0", 0)]


def test_going_back_is_tried_again(world: World) -> None:
    refuse(world, "fw/1", "fw/0", "fw/0")
    went_back(world, world.roll(), "no such slot")
    assert world.phases().count("undoing") == 3


def test_one_that_cannot_go_back_is_stuck_and_says_so(world: World) -> None:
    refuse(world, "fw/1", *["fw/0"] * 99)
    one = world.roll()
    assert one.phase == world.phases()[-1] == "stuck"
    assert world.phases().count("undoing") == rollout.TRIES
    errors = [e["message"] for e in world.core.events.of("error")]
    assert errors == ["undoing a rollout: no such slot"] * rollout.TRIES
    assert world.record()["revisions"][1]["state"] == "undone"


def test_a_blame_in_the_middle_goes_back_and_the_first_counts(world: World) -> None:
    one = world.prepared()

    def blame(_: Worker) -> None:
        one.blame("it smells")
        one.blame("it smokes")

    at(world, "fw/1", blame)
    world.follow(one)
    went_back(world, one, "it smells")
    assert ("fw/2", 1) not in world.told
    assert world.told[-2:] == [("fw/0", 0), ("fw/1", 0)]
    one.blame("too late")
    assert one.failed == "it smells"


def test_a_blame_after_it_is_done_is_none(world: World) -> None:
    one = world.roll()
    one.blame("too late")
    assert one.failed == ""


def test_an_undo_in_the_middle_goes_back(world: World) -> None:
    outcomes: list[Any] = []

    async def undo() -> None:
        outcomes.append(await world.rollouts.undo(world.group, wait=True))

    at(world, "fw/1", lambda _: world.spawn(undo()))
    one = world.roll()
    went_back(world, one, "it was asked to")
    assert ("fw/2", 1) not in world.told
    assert outcomes, "it waits until all is as before"


def test_an_instance_that_stops_is_left_alone(world: World) -> None:
    at(world, "fw/0", lambda _: setattr(world.model, "state", "stopping"))
    one = world.roll()
    assert one.failed == "the instance is stopping" and one.done.is_set()
    assert world.told == [("fw/0", 1)] and "undoing" not in world.phases()
    assert one.target.state == "undone"


def test_a_bug_of_ours_is_told_and_goes_back(world: World) -> None:
    def broken(**_: Any) -> Any:
        raise ZeroDivisionError("oops")

    world.core.answers["facts"] = broken
    one = world.roll()
    assert [name for name, _ in world.core.faults] == ["rollout"]
    world.core.faults.clear()
    went_back(world, one, "internal error: ZeroDivisionError")


# --- a worker that does not make room -------------------------------------------------------------


def test_a_worker_that_does_not_leave_is_ended_and_done_once_more(world: World) -> None:
    first = world.group.workers[0].sitter
    assert first is not None
    world.stays = 1
    arrived(world, world.roll())
    assert first in world.killed and first.asked
    # Its heir was of the old version.
    assert world.seated[:2] == [("fw/0", 0, 0), ("fw/0", 1, 0)]


def test_a_slot_that_never_changes_over_ends_it(world: World) -> None:
    world.stays = 99
    went_back(world, world.roll(), f"fw/0 could not be changed over {rollout.TRIES} times")
    assert world.told == [("fw/0", 1)] * rollout.TRIES


def test_a_worker_that_does_not_come_up_ends_it(world: World) -> None:
    at(world, "fw/0", lambda _: setattr(world.group.workers[1], "state", "backoff"))
    went_back(world, world.roll(), "fw/1 does not come up")
    assert ("fw/1", "restart") in world.core.fired, "the old version gets it up"


# --- what is kept, and what is needed -------------------------------------------------------------


def test_state_is_not_forgotten_unasked(world: World) -> None:
    world.core.answers["state_lost"] = lambda **_: lost(3, bytes=12)
    went_back(world, world.roll(), "it would forget the state of 3 buckets, 12 bytes")
    assert not world.told


def test_state_is_forgotten_where_a_person_says_so(world: World) -> None:
    world.core.answers["state_lost"] = lambda **_: lost(3, bytes=12)
    world.plugins[1] = Plugin(forgets=2)
    arrived(world, world.roll(Options(judge=1.0, forget_state=True)))


def test_a_migrate_that_refuses_blocks_goes_back(world: World) -> None:
    world.plugins[1] = Plugin(forgets=2)
    world.slots[0].forgotten = 7  # of an earlier rollout's
    went_back(world, world.roll(), "its migrate refuses 2 blocks of state")
    assert {name for name, _ in world.told} == {"fw/0"}


def test_packets_get_what_either_version_needs_while_both_run(world: World) -> None:
    needs = _abi.DPS_NEED_VLAN
    world.core.answers["facts"] = lambda **_: {"needs": needs, "rewrites": 1, "prepends": 0}
    told: list[int] = []
    world.core.answers["also"] = lambda slot, needs, changes: told.append(len(world.told))
    arrived(world, world.roll())
    asked = [args for verb, args in world.core.asked if verb == "also"]
    both = [{"slot": w.slot, "needs": needs, "changes": True} for w in world.group.workers]
    none = [{"slot": w.slot, "needs": 0, "changes": False} for w in world.group.workers]
    assert asked == both + none
    assert told == [0] * 3 + [3] * 3, "before the first changes over, after the last"


@pytest.mark.parametrize("passes", [True, False])
def test_packets_that_lack_what_it_needs_pass_first(world: World, passes: bool) -> None:
    needs = _abi.DPS_NEED_VLAN
    world.core.answers["facts"] = lambda **_: {"needs": needs, "rewrites": 0, "prepends": 0}
    # What is under way at the time is given back within so many packets, or in an hour.
    world.slots[1].kept = 500 if passes else 10**8
    seated: list[float] = []
    world.on_seated.append(lambda *_: seated.append(world.clock.now()))
    one = world.roll(Options(judge=0.0))
    if passes:
        arrived(world, one)
        assert seated[0] >= 500 / RATE
    else:
        went_back(world, one, "packets that lack what it needs do not leave fw/1")
        assert not world.told
