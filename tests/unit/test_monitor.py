# SPDX-License-Identifier: BSD-3-Clause
"""The monitor: it ends with the supervisor and never before."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run

from dpsup.bus.sockets import Gone
from dpsup.errors import ShimError, TimedOut
from dpsup.supervisor import monitor
from dpsup.supervisor.monitor import Monitor


def counters(received: int = 0, corrupt: int = 0) -> dict[str, Any]:
    slot = {"lanes_corrupt": corrupt, "outstanding": 0}
    return {"slots": [dict(slot) for _ in range(4)], "io": [], "ports": [{"rx_packets": received}]}


class Post(Parts):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, stories=[], counters=counters())
        core: Any = self.core
        self.stopped: list[int] = []
        self.seen: list[Any] = []
        self.monitor = Monitor(
            core, self.model, self.attach, self.buckets, self.spares, self.workers, self.deaths,
            lambda: self.stopped.append(1),
        )  # fmt: skip
        self.monitor.watchers["first"] = self.seen.append
        self.model.rx_on = True

    def look(self) -> list[str]:
        """One look, and what it led to; the questions."""
        self.core.asked.clear()
        run(self.monitor.observe())
        self.core.drop()
        return self.core.verbs()


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post(tmp_path)


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("unforeseen")


def test_all_watchers_see_each_reading(post: Post) -> None:
    assert post.look() == ["stories", "counters"]
    assert post.seen == [post.core.answers["counters"]] and post.model.counters == post.seen[0]


def test_nothing_is_looked_at_while_the_input_is_closed(post: Post) -> None:
    post.model.rx_on = False
    assert post.look() == []


def test_each_watcher_fails_alone(post: Post) -> None:
    last: list[Any] = []
    post.monitor.watchers = {"a": broken, "b": post.seen.append, "c": broken, "d": last.append}
    post.look()
    assert [name for name, _ in post.core.faults] == ["a", "c"]
    assert len(post.seen) == len(last) == 1 and post.core.crashed is None


def goes_on(post: Post, looks: int = 3) -> int:
    """How many looks were begun, of so many at which the supervisor ends."""
    begun = 0
    real = post.monitor.observe

    async def look() -> None:
        nonlocal begun
        begun += 1
        if begun == looks:
            post.core.crashed = KeyError()
        try:
            await real()
        finally:
            post.core.drop()

    post.monitor.observe = look  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "LOOK_S", 0.0)
        run(asyncio.wait_for(post.monitor.run(), 60))
    return begun


@pytest.mark.parametrize("where", ["ask", "look at locks", "refill", "counters"])
def test_an_unforeseen_exception_costs_one_look(post: Post, where: str) -> None:
    post.seat(0, 500)
    if where == "ask":
        post.core.answers["counters"] = ZeroDivisionError("unforeseen")
    elif where == "look at locks":
        post.model.seed.state = "running"
        post.core.answers["locks"] = ZeroDivisionError("unforeseen")
    elif where == "refill":
        post.spares.refill = broken  # type: ignore[method-assign]
    else:
        post.core.answers["counters"] = {"slots": []}
    assert goes_on(post) == 3
    assert [name for name, _ in post.core.faults] == ["monitor"] * 3


def test_a_slow_grant_delays_no_look(post: Post) -> None:
    """The primary is slow to take it: the looks go on, and grants do not pile up."""
    post.seat(0, 500)
    post.spares.refill = lambda _: None  # type: ignore[method-assign]

    async def looks() -> None:
        await post.monitor.observe()
        assert len(post.core.tasks) == 1, "its turn has not come"
        await post.monitor.observe()
        await post.monitor.observe()
        assert len(post.core.tasks) == 1
        assert post.core.verbs().count("counters") == 3
        assert "takeovers" not in post.core.verbs()
        await post.core.settle()
        assert "takeovers" in post.core.verbs()
        await post.monitor.observe()
        assert len(post.core.tasks) == 1, "and the next one"
        post.core.drop()

    run(looks())


def test_what_the_primary_refuses_has_a_next_look(post: Post) -> None:
    post.seat(0, 500)
    post.core.answers["takeovers"] = ShimError("takeovers", 22, "no")
    assert goes_on(post) == 3 and not post.core.faults
    post.model.seed.state = "running"
    post.core.answers["locks"] = ShimError("locks", 22, "no")
    post.core.crashed = None
    post.core.answers["takeovers"] = None
    post.look()
    assert post.core.events.of("error")[-1]["message"] == "no"


# --- silences -------------------------------------------------------------------------------------


def silent(post: Post, looks: int) -> list[int]:
    """At which looks the primary's pulse was felt."""
    post.core.answers["counters"] = TimedOut("late")
    felt: list[int] = []
    real = post.core.end_if_dead

    async def feel(what: str) -> bool:
        felt.append(now)
        return await real(what)

    post.core.end_if_dead = feel  # type: ignore[method-assign]
    for now in range(looks):  # noqa: B007
        post.look()
    return felt


def test_one_silence_may_be_our_own(post: Post) -> None:
    assert silent(post, 1) == [] and not post.core.events.entries


def test_a_primary_that_stays_silent_is_ended_with_its_pulse(post: Post) -> None:
    post.core.deaf = True
    assert silent(post, 2) == [1] and not post.core.events.of("error")


def test_a_primary_that_stays_silent_and_forwards_is_said_once(post: Post) -> None:
    assert silent(post, 5) == [1, 2, 3, 4]
    (event,) = post.core.events.of("error")
    assert "its io cores forward" in event["message"]


def test_an_answer_ends_the_silence(post: Post) -> None:
    silent(post, 3)
    post.core.answers["counters"] = counters()
    post.look()
    assert silent(post, 1) == []
    assert silent(post, 1) == [0] and len(post.core.events.of("error")) == 2


@pytest.mark.parametrize("error", [Gone("x"), ShimError("counters", 5, "no")])
def test_who_has_gone_or_refuses_is_not_silent(post: Post, error: Exception) -> None:
    post.core.answers["counters"] = error
    for _ in range(4):
        post.look()
    assert not post.seen and not post.core.events.entries


# --- what was refused -----------------------------------------------------------------------------


def test_what_was_refused_is_tried_again(post: Post) -> None:
    post.seat(0, 500)
    post.worker.unfed, post.worker.fed, post.group.unsettled = True, False, True
    tried: list[str] = []

    async def feed(_: Any) -> None:
        tried.append("feed")

    async def steer(_: Any) -> None:
        tried.append("steer")

    post.buckets.feed, post.buckets.steer = feed, steer  # type: ignore[method-assign]
    post.group.filling = True  # no spare is forked meanwhile

    async def work() -> None:
        await post.monitor.observe()
        await post.core.settle()
        await post.monitor.observe()
        await post.core.settle()

    run(work())
    assert tried == ["steer", "feed"], "once: what is refused again says so again"


def test_a_worker_that_is_down_is_not_fed(post: Post) -> None:
    post.seat(0, 500)
    post.worker.unfed, post.worker.state = True, "recovering"
    post.look()
    assert post.worker.unfed


def test_a_corrupt_lane_ends_its_worker(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(monitor.Workers, "kill", lambda _, worker: killed.append(worker.pid))
    post.core.answers["counters"] = counters(corrupt=1)
    post.seat(0, 500)
    post.look()
    assert killed == [500] and len(post.core.events.of("corrupt")) == 1


# --- an idle input --------------------------------------------------------------------------------


def test_a_job_ends_with_its_input(post: Post) -> None:
    post.model.idle_limit = 0.0
    post.core.answers["counters"] = counters(received=5)
    post.look()
    assert not post.stopped, "packets came"
    post.look()
    assert post.stopped == [1]


def test_an_instance_does_not(post: Post) -> None:
    for _ in range(3):
        post.look()
    assert not post.stopped


def test_who_is_held_is_tried_once_more_when_it_is_time(post: Post) -> None:
    worker, group = post.worker, post.group
    worker.wanted, worker.state, worker.held_for = True, "held", "it would end the same way again"
    group.spares_held = "no licence"
    post.look()
    assert not post.core.fired and group.spares_held, "not before, and never without a time"
    worker.retry_at = group.spares_retry_at = time.monotonic() + 1e6
    post.look()
    assert not post.core.fired and group.spares_held
    worker.retry_at = group.spares_retry_at = time.monotonic() - 0.01
    post.look()
    assert post.core.fired == [(worker.name, "restart")]
    assert worker.history.level == group.policy.intensity and worker.held_for == ""
    assert group.spares_held == ""
    told = [e["name"] for e in post.core.events.of("retry")]
    assert sorted(told) == [worker.name, f"spare of {group.plan.name}"]
    # Meanwhile it was scaled away: nothing is tried.
    worker.state, worker.wanted, worker.retry_at = "held", False, time.monotonic() - 0.01
    post.core.fired.clear()
    post.look()
    assert not post.core.fired
