# SPDX-License-Identifier: BSD-3-Clause
"""The engine: events in, actions out; what a fault costs, and whom."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import model, run

from dpsup.bus.messages import Request
from dpsup.bus.sockets import Gone, Responder
from dpsup.errors import DpsupError, ShimError, TimedOut
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import PRIMARY
from dpsup.supervisor import engine, silence
from dpsup.supervisor.engine import Engine
from dpsup.supervisor.model import Sitter, Worker


class Numbers:
    """A publisher that nobody hears."""

    def __init__(self) -> None:
        self.seq = {"event": 0, "log": 0}

    def publish(self, topic: str, _: dict[str, Any]) -> int:
        self.seq[topic] += 1
        return self.seq[topic]


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(silence, "PULSE_S", 0.0)
    monkeypatch.setattr(engine, "AGAIN_S", 0.0)
    publisher: Any = Numbers()
    return Engine(model(tmp_path), publisher, lambda: None)


def events(core: Engine, kind: str) -> list[dict[str, Any]]:
    return [e for e in core.events.since(0) if e["type"] == kind]


def broken(*_: Any) -> None:
    raise ZeroDivisionError("unforeseen")


# --- events and actions ---------------------------------------------------------------------------


def test_an_event_runs_the_actions_of_the_table_in_their_order(core: Engine) -> None:
    worker = core.model.workers()[0]
    done: list[str] = []
    core.connect("worker", {n: lambda w, n=n: done.append(n) for n in ("rebucket", "wait")})  # type: ignore[misc]
    core.after_worker = lambda: done.append("after")
    worker.state = "recovering"
    core.fire(worker, "retry")
    assert (worker.state, done) == ("backoff", ["rebucket", "wait", "after"])
    (event,) = events(core, "state")
    assert (event["old"], event["new"], event["why"]) == ("recovering", "backoff", "retry")
    assert worker.since_ns > 0


def test_an_end_that_was_asked_for_is_no_death(core: Engine) -> None:
    core.actions["worker", "repair"] = lambda _: None
    for asked, why in ((False, "died"), (True, "ended")):
        worker = Worker(name="fw/0", group=0, member=0, slot=0, core=1, state="draining")
        worker.sitter = Sitter("fw/0", 0, 500, -1, asked=asked)
        core.fire(worker, "died")
        assert events(core, "state")[-1]["why"] == why


def test_an_event_that_changes_nothing_says_nothing(core: Engine) -> None:
    worker = core.model.workers()[0]
    core.fire(worker, "late")
    assert worker.state == "stopped" and not core.events.since(0)


@pytest.mark.parametrize("raises", [True, False])
def test_no_action_follows_one_that_crashed(core: Engine, raises: bool) -> None:
    worker = core.model.workers()[0]
    done: list[str] = []

    def rebucket(_: Any) -> None:
        broken() if raises else core.crash(ZeroDivisionError("unforeseen"))

    core.connect("worker", {"rebucket": rebucket, "wait": lambda _: done.append("wait")})
    core.after_worker = lambda: done.append("after")
    worker.state = "recovering"
    core.guard(core.fire, worker, "retry")
    assert isinstance(core.crashed, ZeroDivisionError) and core.gone.is_set() and not done
    core.fire(worker, "stop")
    assert worker.state == "backoff", "nothing fires any more"


# --- faults ---------------------------------------------------------------------------------------


async def fails(error: BaseException) -> None:
    raise error


async def ran(core: Engine, error: BaseException, feature: str = "") -> None:
    core.spawn(fails(error), feature=feature)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_a_fault_of_a_feature_is_said_and_the_engine_runs_on(core: Engine) -> None:
    run(ran(core, ZeroDivisionError("unforeseen"), "statistics"))
    (event,) = events(core, "fault")
    assert event["name"] == "statistics" and "unforeseen" in event["message"]
    lines = [e["line"] for e in core.log.since(0)]
    assert lines[0].startswith("Traceback") and "ZeroDivisionError: unforeseen" in lines
    assert not any("\n" in line for line in lines)
    assert core.crashed is None and not core.gone.is_set()
    run(ran(core, ZeroDivisionError("unforeseen"), "statistics"))
    assert len(events(core, "fault")) == 1, "the same feature is not said at each look"
    run(ran(core, ZeroDivisionError("unforeseen"), "notices"))
    assert len(events(core, "fault")) == 2


def test_a_fault_of_the_core_ends_everything(core: Engine) -> None:
    worker = core.model.workers()[0]
    written: list[int] = []
    core._snapshot = lambda: written.append(1)

    async def work() -> None:
        await ran(core, ZeroDivisionError("unforeseen"))
        assert core.gone.is_set()
        core.spawn(fails(ValueError("closed, and never run")))
        core.guard(broken)
        core.fire(worker, "start")
        core.record()
        await asyncio.sleep(0)

    run(work())
    assert isinstance(core.crashed, ZeroDivisionError)
    assert worker.state == "stopped" and not written
    assert len(events(core, "fault")) == 1
    assert "ZeroDivisionError: unforeseen" in [e["line"] for e in core.log.since(0)]


def test_a_fault_is_one_even_where_it_cannot_be_said(core: Engine) -> None:
    core.events.listeners.append(broken)
    core.crash(KeyError("x"))
    assert isinstance(core.crashed, KeyError) and core.gone.is_set()


@pytest.mark.parametrize("error", [Gone("it ended"), OSError(9, "closed"), TimedOut("late")])
def test_what_the_other_side_does_is_no_fault(core: Engine, error: Exception) -> None:
    run(ran(core, error))
    assert core.crashed is None and str(error) in events(core, "error")[0]["message"]


def test_the_loop_s_own_complaint_is_a_fault(core: Engine) -> None:
    loop: Any = None
    core.broken(loop, {"message": "a callback was lost"})
    assert "a callback was lost" in repr(core.crashed)


def test_the_first_reason_to_end_counts(core: Engine) -> None:
    core.connect("topology", {"wind_down": lambda _: None})
    core.fail(ValueError("a"))
    core.fail(DpsupError("b"))
    assert core.model.state == "stopping" and len(events(core, "failed")) == 1
    assert core.model.failure is not None and core.model.failure.code == "E0001"


# --- the primary ----------------------------------------------------------------------------------


class Primary:
    """`says` is raised at each question, in turn; the last one for ever. None: it answers."""

    def __init__(self, core: Engine, monkeypatch: pytest.MonkeyPatch, *says: Any) -> None:
        self.says, self.asked, self.ended = list(says), 0, 0
        self.pulses: Callable[[], dict[int, str]] = lambda: {1: "5 5"}
        core.ask = self.ask  # type: ignore[method-assign]
        core.model.primary.identity, core.model.primary.pidfd = Identity(1, 1), 1
        monkeypatch.setattr(engine.process, "signal_pidfd", self.end)
        monkeypatch.setattr(engine.process, "pulse", lambda _: self.pulses())

    async def ask(self, *_: Any, **__: Any) -> str:
        self.asked += 1
        say = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if say is not None:
            raise say
        return "done"

    def end(self, _: int, number: int) -> None:
        assert number == signal.SIGKILL
        self.ended += 1

    def beat(self) -> None:
        self.pulses = lambda: {1: f"{time.monotonic_ns()} 5"}


@pytest.mark.parametrize("error", [DpsupError("no"), ShimError("map", 22, "no")])
def test_a_refusal_is_an_answer(
    core: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    primary = Primary(core, monkeypatch, error)
    with pytest.raises(DpsupError, match="no"):
        run(core.insist("map"))
    assert (primary.asked, primary.ended) == (3, 0)
    assert len(events(core, "error")) == 2


def test_a_refusal_that_passes_is_forgotten(core: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = Primary(core, monkeypatch, DpsupError("no"), DpsupError("no"), None)
    assert run(core.insist("map")) == "done" and primary.asked == 3


def test_a_silent_primary_whose_io_cores_stand_still_is_ended(
    core: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = Primary(core, monkeypatch, TimedOut("late"))
    with pytest.raises(Gone):
        run(core.insist("map"))
    assert (primary.asked, primary.ended) == (3, 1)


def test_a_silent_primary_whose_io_cores_run_is_asked_again(
    core: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = Primary(core, monkeypatch, *[TimedOut("late")] * 6, None)
    primary.beat()
    assert run(core.insist("map")) == "done" and primary.ended == 0


def test_refusals_do_not_count_as_silences(core: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    says = [TimedOut("late"), DpsupError("no"), TimedOut("late"), DpsupError("no"), None]
    primary = Primary(core, monkeypatch, *says)
    assert run(core.insist("map")) == "done" and primary.ended == 0


@pytest.mark.parametrize("refuses", [False, True])
def test_a_request_whose_answer_is_lost_is_carried_out_once(
    core: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refuses: bool
) -> None:
    """Each berth that was opened and not heard of would be lost: there are 160."""
    opened, lost = 0, 3 if refuses else 2

    class Lossy(Responder):
        def _send(self, peer: bytes, reply: bytes) -> None:
            nonlocal lost
            lost -= 1
            if lost < 0:
                super()._send(peer, reply)

    def handle(_: Request) -> int:
        nonlocal opened
        opened += 1
        if refuses and opened == 1:
            raise ShimError("spare", 28, "no room")
        return opened

    async def go() -> Any:
        responder = Lossy(core.model.runtime.file(PRIMARY), handle)
        over = threading.Event()
        serving = threading.Thread(
            target=lambda: [responder.poll(0.01) for _ in iter(over.is_set, True)]
        )
        serving.start()
        core.open_asks()
        monkeypatch.setattr(core, "ask", partial(core.ask, timeout=0.2))
        monkeypatch.setattr(core, "end_if_dead", alive)
        try:
            async with asyncio.timeout(60):
                return await core.insist("spare", group=0)
        finally:
            core.close_asks()
            over.set()
            serving.join()
            responder.finish()
            responder.close()

    async def alive(_: str) -> bool:
        return False

    # A refusal is an answer; what is asked after it is another request.
    assert run(go()) == opened == 1 + refuses


def test_a_primary_that_ended_is_asked_once(core: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = Primary(core, monkeypatch, Gone("it ended"))
    with pytest.raises(Gone):
        run(core.insist("map"))
    assert (primary.asked, primary.ended) == (1, 0)


def test_no_pulse_at_all_is_none_that_beats(core: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = Primary(core, monkeypatch, None)
    primary.pulses = dict
    assert run(core.end_if_dead("hangs")) and primary.ended == 1
    core.model.primary.pidfd = -1
    assert run(core.end_if_dead("hangs")) and primary.ended == 1


def test_with_no_primary_a_question_says_so(core: Engine) -> None:
    with pytest.raises(Gone, match="no primary"):
        run(core.ask("hello"))
    assert not core.close_asks()


# --- time -----------------------------------------------------------------------------------------


def test_waiting_ends_with_the_event_that_was_waited_for(core: Engine) -> None:
    async def work() -> None:
        seen: list[int] = []
        waits = asyncio.create_task(core.until(lambda: bool(seen), 60))
        await asyncio.sleep(0)
        seen.append(1)
        core.wake()
        assert await waits
        assert not await core.until(lambda: False, 0.0)

    run(work())


def test_a_deadline_fires_unless_it_is_met(core: Engine) -> None:
    core.connect("worker", {"kill": lambda _: None})
    worker = core.model.workers()[0]

    async def work(*, met: bool) -> None:
        worker.state = "draining"
        core.events.listeners[:] = []
        core.deadline(worker, 60, "drained")
        core.deadline(worker, 0, "unborn")  # one at a time: the first is forgotten
        if met:
            worker.met()
        core.connect("worker", {"repair": lambda _: None})
        await asyncio.sleep(0.01)
        assert worker.state == ("draining" if met else "recovering")

    run(work(met=False))
    run(work(met=True))


def test_a_start_that_takes_long_is_said(core: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose init loops: nothing was said for 30 s."""
    monkeypatch.setattr(engine, "SLOW_S", 0.01)
    said: list[str] = []
    core.model.progress = said.append
    worker = core.model.workers()[0]

    async def work(state: str, *, met: bool) -> None:
        worker.state = state
        core.deadline(worker, 60, "late")
        if met:
            worker.met()
        await asyncio.sleep(0.05)
        worker.met()

    run(work("starting", met=True))
    run(work("draining", met=False))
    assert said == []
    run(work("starting", met=False))
    (line,) = said
    assert worker.name in line and "init" in line and "60 s" in line


def test_what_comes_later_is_guarded(core: Engine) -> None:
    async def work() -> None:
        core.later(0, broken)
        await asyncio.wait_for(core.gone.wait(), 10)

    run(work())
    assert isinstance(core.crashed, ZeroDivisionError)


# --- state.json -----------------------------------------------------------------------------------


def test_a_full_disk_is_one_event_until_it_is_not_full(core: Engine) -> None:
    full = True

    def write() -> None:
        if full:
            raise OSError(28, "No space left on device")

    core._snapshot = write
    for _ in range(3):
        core.record()
    assert len(events(core, "error")) == 1
    full = False
    core.record()
    full = True
    core.record()
    assert len(events(core, "error")) == 2 and core.crashed is None


def test_many_changes_are_one_writing(core: Engine) -> None:
    written: list[int] = []
    core._snapshot = lambda: written.append(1)
    core.model.primary.identity = Identity(1, 1)

    async def work() -> None:
        for _ in range(5):
            core.remember()
        await asyncio.sleep(0)
        core.remember()
        await asyncio.sleep(0)

    run(work())
    assert len(written) == 2


def test_the_end_cancels_what_runs(core: Engine) -> None:
    ended: list[bool] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def work() -> None:
        core.spawn(endless())
        await asyncio.sleep(0)
        core.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(work())
    assert ended and core.crashed is None
