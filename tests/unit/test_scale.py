# SPDX-License-Identifier: BSD-3-Clause
"""Scale, rebalance and autoscale: what is asked for, and what is done of it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run

from dpsup.errors import DpsupError, Exit, TimedOut, UsageError
from dpsup.plan.model import ScalePlan
from dpsup.supervisor import autoscale
from dpsup.supervisor.scale import Follower, changes, size_of
from dpsup.supervisor.steering import BUCKETS


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    one = Parts(tmp_path)
    one.seat(0, 500)
    one.seat(1, 501)
    run(one.buckets.steer(one.group))
    return one


@pytest.mark.parametrize(("spec", "n"), [("0", 0), ("4", 4), ("+1", 3), ("-2", 0), ("+0", 2)])
def test_sizes(parts: Parts, spec: str, n: int) -> None:
    assert size_of(parts.group, spec, "f") == n


@pytest.mark.parametrize("spec", ["", "+", "x", "1.5", "None", "True", "5", "-3", "+3", "9" * 5000])
def test_sizes_that_cannot_be(parts: Parts, spec: str) -> None:
    with pytest.raises(UsageError):
        size_of(parts.group, spec, "f")


def test_a_number_below_zero_is_not_advised_as_a_size(parts: Parts) -> None:
    with pytest.raises(UsageError) as caught:
        size_of(parts.group, "-5", "edge.toml")
    assert "max" not in caught.value.help and "scale fw 0" in caught.value.help
    with pytest.raises(UsageError) as caught:
        size_of(parts.group, "5000", "edge.toml")
    assert "max = " not in caught.value.help


def test_workers_that_refuse_are_named(parts: Parts) -> None:
    parts.group.workers[2].state, parts.group.workers[2].held_for = "held", "no licence"
    assert scaled(parts, "3")["held"] == {"fw/2": "no licence"}


def scaled(parts: Parts, spec: str, **options: bool) -> dict[str, Any]:
    parts.core.fired.clear()
    found: dict[str, Any] = run(parts.scaler.scale(parts.group, spec, **options))
    return found


def test_a_dry_run_does_nothing(parts: Parts) -> None:
    found = scaled(parts, "+1", dry_run=True)
    assert [w["worker"] for w in found["add"]] == ["fw/2"] and not found["remove"]
    assert found["buckets_moved"] > 0 and found["dry_run"]
    assert not parts.core.fired and parts.group.desired == 2
    assert changes(parts.group, 0)["at_zero"] == parts.group.plan.at_zero


def test_more_and_fewer_workers(parts: Parts) -> None:
    assert scaled(parts, "3", wait=False)["old"] == 2
    assert ("fw/2", "start") in parts.core.fired and parts.group.workers[2].wanted
    scaled(parts, "1", wait=False)
    assert ("fw/1", "stop") in parts.core.fired and not parts.group.workers[1].wanted
    assert [(e["old"], e["new"]) for e in parts.core.events.of("scale")] == [(2, 3), (3, 1)]
    assert parts.core.recorded == 2
    scaled(parts, "1", wait=False)
    assert len(parts.core.events.of("scale")) == 2, "no change is none"


def test_a_scale_waits_until_all_are_there(parts: Parts) -> None:
    with pytest.raises(TimedOut, match="2 of 3"):
        scaled(parts, "3")
    parts.group.workers[2].state = "running"
    with pytest.raises(TimedOut, match="3 of 3"):
        scaled(parts, "3")  # it has no buckets yet
    parts.group.workers[2].fed = True
    assert scaled(parts, "3")["ready"] == 3
    assert parts.core.events.of("steer"), "they are dealt out before the caller hears of it"


def test_who_is_wanted_again_comes_back_once_it_has_ended(parts: Parts) -> None:
    parts.group.workers[1].state = "stopped"
    with pytest.raises(TimedOut):
        run(parts.scaler.settled(parts.group))
    assert parts.core.fired == [("fw/1", "start")]


def test_one_change_of_a_group_at_a_time(parts: Parts) -> None:
    """ "+1" counts from what is there when its turn comes."""

    async def work() -> None:
        await parts.group.scaling.acquire()
        second = asyncio.create_task(parts.scaler.scale(parts.group, "+1", wait=False))
        await asyncio.sleep(0)
        parts.scaler.resize(parts.group, 3, "asked")
        parts.group.scaling.release()
        await second

    run(work())
    assert parts.group.desired == 4


def test_an_instance_that_does_not_run_is_not_scaled(parts: Parts) -> None:
    parts.model.state = "starting"
    for options in ({}, {"dry_run": True}):
        with pytest.raises(DpsupError) as caught:
            scaled(parts, "1", **options)
        assert caught.value.code == "E0705"


# --- rebalance ------------------------------------------------------------------------------------


def rebalanced(
    parts: Parts, *loads: list[int], seconds: float = 0.05, dry_run: bool = False
) -> Any:
    """`loads`: what the io cores have counted, look by look."""
    looks = iter(loads)
    parts.core.answers["loads"] = lambda **_: next(looks)
    return run(parts.scaler.rebalance(parts.group, seconds, dry_run=dry_run))


def skewed(parts: Parts) -> list[int]:
    """The first worker has four times as many packets."""
    return [400 if member == 0 else 100 for member in parts.group.map]


ZERO = [0] * BUCKETS


def test_load_is_moved_where_that_is_worth_it(parts: Parts) -> None:
    load = skewed(parts)
    found = rebalanced(parts, ZERO, load, load, [2 * n for n in load])
    assert found["done"] and found["imbalance_measured"] < found["imbalance"]
    assert found["buckets_moved"] > 0 and sum(found["measured"].values()) == pytest.approx(1)
    assert parts.group.loads == tuple(load) and len(parts.core.events.of("rebalance")) == 1


def test_counters_that_wrapped_are_counted(parts: Parts) -> None:
    found = rebalanced(parts, [2**32 - 1] * BUCKETS, ZERO, dry_run=True)
    assert found["packets"] == BUCKETS


@pytest.mark.parametrize(("load", "why"), [(ZERO, "no packet"), ([100] * BUCKETS, "less than")])
def test_what_is_even_stays(parts: Parts, load: list[int], why: str) -> None:
    found = rebalanced(parts, ZERO, load)
    assert why in found["why"] and not found["done"] and not parts.core.events.of("rebalance")


def test_one_elephant_is_not_split(parts: Parts) -> None:
    load = [0] * BUCKETS
    load[0] = 1000
    found = rebalanced(parts, ZERO, load)
    assert (
        not found["done"] and found["elephants"][0]["bucket"] == 0 and "never split" in found["why"]
    )


@pytest.mark.parametrize("seconds", [0.0, -1.0, 61.0, float("inf"), float("nan")])
def test_a_measurement_has_bounds(parts: Parts, seconds: float) -> None:
    with pytest.raises(UsageError):
        rebalanced(parts, seconds=seconds)


def test_one_worker_has_nobody_to_share_with(parts: Parts) -> None:
    parts.group.workers[1].fed = False
    with pytest.raises(DpsupError, match="1 worker with"):
        rebalanced(parts)


# --- autoscale ------------------------------------------------------------------------------------


class Clock:
    """Readings of the counters, a quarter of a second apart."""

    def __init__(self) -> None:
        self.at, self.busy, self.full = 0, 0, 0

    def tick(self, share: float, full: int = 0) -> dict[str, Any]:
        self.at += 250_000_000
        self.busy += int(share * 250)
        self.full += full
        slot = {"busy": self.busy, "lane_full": self.full}
        return {
            "generation": 3,
            "at_ns": self.at,
            "slots": [slot, slot, *[dict.fromkeys(slot, 0)] * 2],
        }


def follower(parts: Parts, *, dry_run: bool = False) -> Follower:
    parts.model.hello = {"tsc_hz": 1000}
    scale = ScalePlan(min=1, max=4, target_busy=0.7, cooldown=10.0, dry_run=dry_run)
    parts.group.plan = dataclasses.replace(parts.group.plan, scale=scale)
    core: Any = parts.core
    return Follower(core, parts.model, parts.scaler, parts.group)


def test_a_group_follows_its_load(parts: Parts) -> None:
    one, clock = follower(parts), Clock()
    for _ in range(8):
        one.observe(clock.tick(0.97))
    assert parts.group.desired > 2
    (event,) = parts.core.events.of("autoscale")
    assert (event["old"], event["new"], event["dry_run"]) == (2, parts.group.desired, False)


def test_a_dry_run_of_autoscale_says_each_decision_once(parts: Parts) -> None:
    one, clock = follower(parts, dry_run=True), Clock()
    for _ in range(30):
        one.observe(clock.tick(0.97))
        one.memory = dataclasses.replace(one.memory, changed_at=-1.0)
    assert parts.group.desired == 2 and len(parts.core.events.of("autoscale")) == 1


@pytest.mark.parametrize("why", ["off", "scaling", "short", "generation", "clock", "zero"])
def test_nothing_is_measured_between_two_sizes(parts: Parts, why: str) -> None:
    one, clock = follower(parts), Clock()
    if why == "off":
        parts.group.plan = dataclasses.replace(parts.group.plan, scale=None)
    elif why == "scaling":
        run(parts.group.scaling.acquire())
    elif why == "short":
        parts.group.workers[0].state = "recovering"
    elif why == "clock":
        parts.model.hello = {}
    elif why == "zero":
        parts.group.desired = 0
        for worker in parts.group.workers:
            worker.wanted = False
    for n in range(10):
        reading = clock.tick(0.97)
        one.observe({**reading, "generation": n} if why == "generation" else reading)
    assert one.memory == autoscale.Memory() and not parts.core.events.of("autoscale")


def test_exit_codes_say_whose_fault_it_is(parts: Parts) -> None:
    with pytest.raises(UsageError) as caught:
        size_of(parts.group, "5", "edge.toml")
    assert caught.value.exit_code == Exit.USAGE and "max = 5" in caught.value.help
