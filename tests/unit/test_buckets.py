# SPDX-License-Identifier: BSD-3-Clause
"""Buckets: what the io cores are told follows from which workers are fed; a refusal is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run

from dpsup.bus.sockets import Gone
from dpsup.errors import ShimError
from dpsup.supervisor.steering import BUCKETS, EMPTY


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def steer(parts: Parts) -> list[str]:
    """The questions that it took."""
    parts.core.asked.clear()
    run(parts.buckets.steer(parts.group))
    return parts.core.verbs()


def both(parts: Parts) -> None:
    parts.seat(0, 500)
    parts.seat(1, 501)
    steer(parts)


def test_the_fed_share_all_buckets(parts: Parts) -> None:
    both(parts)
    ((verb, args),) = parts.core.asked
    assert (verb, bytes.fromhex(args["map"])) == ("map", bytes(parts.group.map))
    assert set(parts.group.map) == {0, 1} and parts.group.home == parts.group.map
    assert parts.core.events.of("steer")[0]["buckets_moved"] == BUCKETS
    assert steer(parts) == [], "nothing has changed"


def test_a_worker_that_comes_back_has_its_own_buckets_again(parts: Parts) -> None:
    both(parts)
    before = parts.group.map
    parts.worker.fed, parts.worker.state, parts.worker.left = False, "backoff", True
    assert steer(parts) == ["map", "requeue"], "what waits in its lane goes behind the map"
    assert set(parts.group.map) == {1} and not parts.worker.left
    parts.worker.fed, parts.worker.state = True, "running"
    assert steer(parts) == ["map"] and parts.group.map == before


def test_a_worker_that_may_be_fed_again_keeps_what_waits(parts: Parts) -> None:
    both(parts)
    parts.worker.fed, parts.worker.state, parts.worker.left = False, "recovering", True
    assert steer(parts) == ["map"] and parts.worker.left


def rule(parts: Parts, **rules: str) -> None:
    parts.group.plan = dataclasses.replace(parts.group.plan, **rules)


def none_fed(parts: Parts, *, wanted: bool) -> None:
    for worker in parts.group.workers:
        worker.fed, worker.state, worker.wanted = False, "backoff", wanted and worker.wanted
        worker.left = True


def test_with_nobody_left_buckets_wait_for_their_slots(parts: Parts) -> None:
    rule(parts, on_down="hold")
    both(parts)
    before = parts.group.map
    none_fed(parts, wanted=True)
    assert steer(parts) == [] and parts.group.map == before


def test_with_nobody_wanted_the_rule_at_zero_counts(parts: Parts) -> None:
    rule(parts, at_zero="drop")
    both(parts)
    none_fed(parts, wanted=False)
    verbs = steer(parts)
    assert verbs[0] == "map" and set(verbs[1:]) == {"requeue"}
    assert parts.core.asked[0][1]["when_empty"] == "drop"
    assert (parts.group.map, parts.group.when_empty) == (EMPTY, "drop")


def test_what_all_held_workers_would_have_had_has_a_reason_of_its_own(parts: Parts) -> None:
    rule(parts, on_down="hold")
    both(parts)
    none_fed(parts, wanted=True)
    for worker in parts.group.workers[:2]:
        worker.state = "held"
    assert steer(parts) == ["given_up"] and parts.core.asked[0][1]["on"] is True
    assert steer(parts) == [], "it is told once"
    parts.worker.state, parts.worker.fed = "running", True
    assert steer(parts)[0] == "given_up" and parts.core.asked[0][1]["on"] is False


def test_one_that_is_about_to_be_restarted_is_waited_for(parts: Parts) -> None:
    rule(parts, on_down="drop")
    both(parts)
    none_fed(parts, wanted=True)
    parts.worker.state = "held"
    assert "given_up" not in steer(parts)


def test_a_refusal_is_kept_for_the_next_look(parts: Parts) -> None:
    parts.core.answers["map"] = ShimError("map", 22, "no")
    parts.seat(0, 500)
    with pytest.raises(ShimError):
        steer(parts)
    assert parts.group.unsettled and parts.group.map == EMPTY
    del parts.core.answers["map"]
    assert steer(parts) == ["map"] and not parts.group.unsettled


def test_a_primary_that_ended_leaves_nothing_to_settle(parts: Parts) -> None:
    parts.core.answers["map"] = Gone("it ended")
    parts.seat(0, 500)
    with pytest.raises(Gone):
        steer(parts)
    assert not parts.group.unsettled and not parts.group.lock.locked()


# --- feed -----------------------------------------------------------------------------------------


def feed(parts: Parts) -> list[str]:
    parts.core.asked.clear()
    run(parts.buckets.feed(parts.worker))
    return parts.core.verbs()


def ready(parts: Parts, **worker: Any) -> None:
    parts.seat(0, 500)
    parts.worker.fed, parts.worker.left = False, True
    for key, value in worker.items():
        setattr(parts.worker, key, value)


def test_a_worker_that_is_ready_gets_lanes_then_takeovers_then_buckets(parts: Parts) -> None:
    ready(parts)
    assert feed(parts) == ["lane", "takeovers", "map"]
    assert parts.worker.fed and not parts.worker.left and set(parts.group.map) == {0}


def test_a_worker_that_went_meanwhile_gets_no_buckets(parts: Parts) -> None:
    ready(parts, state="recovering")
    assert feed(parts) == ["lane"]
    assert not parts.worker.fed and parts.worker.left


def test_a_stopped_worker_gets_no_buckets(parts: Parts) -> None:
    ready(parts, health="stopped")
    feed(parts)
    assert not parts.worker.fed and parts.group.map == EMPTY


@pytest.mark.parametrize("verb", ["lane", "takeovers"])
def test_a_worker_that_is_refused_its_lanes_is_unfed(parts: Parts, verb: str) -> None:
    ready(parts)
    parts.core.answers[verb] = ShimError(verb, 22, "no")
    with pytest.raises(ShimError):
        feed(parts)
    assert parts.worker.unfed and not parts.worker.fed
    del parts.core.answers[verb]
    feed(parts)
    assert parts.worker.fed and not parts.worker.unfed


def test_feeding_ends_with_the_primary(parts: Parts) -> None:
    ready(parts)
    parts.core.answers["lane"] = Gone("it ended")
    with pytest.raises(Gone):
        feed(parts)
    assert not parts.worker.unfed


# --- takeovers ------------------------------------------------------------------------------------


def grant(parts: Parts) -> list[tuple[str, dict[str, Any]]]:
    parts.core.asked.clear()
    run(parts.buckets.grant(parts.worker))
    return parts.core.asked


def test_takeovers_are_granted_once_and_taken_back(parts: Parts) -> None:
    parts.seat(0, 500)
    ((_, args),) = grant(parts)
    assert args["n"] == parts.group.plan.intensity and args["failures"] is False
    assert grant(parts) == [], "nothing has changed"
    parts.worker.wanted = False
    assert grant(parts)[0][1]["n"] == 0


def test_without_spares_nobody_takes_over(parts: Parts) -> None:
    parts.seat(0, 500)
    rule(parts)
    parts.group.plan = dataclasses.replace(parts.group.plan, spares=0)
    assert grant(parts) == []


def test_maps_are_read_from_the_io_cores(parts: Parts) -> None:
    parts.core.answers["map_read"] = "00" * BUCKETS
    run(parts.buckets.read_maps())
    assert parts.group.map == (0,) * BUCKETS
    assert run(parts.buckets.read_map(parts.group)) == 0


def test_what_is_lent_is_steered_anew(parts: Parts) -> None:
    both(parts)
    parts.buckets.rebucket(parts.worker)
    run(parts.core.settle())
    assert set(parts.group.map) == {1}
