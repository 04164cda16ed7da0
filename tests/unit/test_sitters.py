# SPDX-License-Identifier: BSD-3-Clause
"""Processes of the seed's: from order to end, and nothing left behind where it fails."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from unit.fakecore import Parts, descriptors, run, sitter
from unit.test_seed_socket import FakeSeed, turns

from dpsup.bus.sockets import Gone
from dpsup.errors import DpsupError
from dpsup.host import process
from dpsup.supervisor import sitters
from dpsup.supervisor.seed_socket import SeedError
from dpsup.supervisor.sitters import SEATED, STARTING, end_if_late

BERTH = {"berth": 7, "ticket": 99}
OPEN = {"berth": 3, "ticket": 4}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    for name in ("AGAIN_S", "FATE_S"):
        monkeypatch.setattr(sitters, name, 0.0)
    return Parts(tmp_path, call_off=0)


def worker_of(parts: Parts) -> subprocess.Popen[bytes]:
    """A process whose command line says that it is a worker of this instance's."""
    argv = [f"dpsup-worker: {parts.model.name} fw/0", "60"]
    child = subprocess.Popen(argv, executable="/bin/sleep")
    # For a moment of exec(2) there is none.
    wait_for(Path(f"/proc/{child.pid}/cmdline").read_bytes)
    return child


def with_seed(parts: Parts, work: Callable[[FakeSeed], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with a seed that takes orders; no descriptor is left."""

    async def both() -> None:
        await asyncio.sleep(0)
        before = descriptors()
        fake = FakeSeed(parts.model.runtime.file("seed.sock"))
        parts.sitters.open_orders()
        parts.sitters.open_orders()
        try:
            await work(fake)
        finally:
            parts.sitters.drop_orders()
            parts.sitters.drop_orders()
            fake.close()
        await turns()
        assert not descriptors() - before

    run(both())


async def fork(parts: Parts, heard: list[str]) -> Any:
    return await parts.sitters.fork("fw/0", BERTH, lambda _, line: heard.append(line), 1)


def test_a_fork_brings_a_process_that_is_watched_to_its_end(parts: Parts) -> None:
    heard: list[str] = []
    dead: list[Any] = []
    parts.sitters.on_death = dead.append

    async def work(fake: FakeSeed) -> None:
        order = asyncio.create_task(fork(parts, heard))
        await turns()
        with subprocess.Popen(["sleep", "60"]) as child:
            # The descriptors that came with the order are closed: both pipes end at once.
            assert fake.order() == "fork 7 99 with 2"
            pidfd = os.pidfd_open(child.pid)
            fake.say(f"forked 7 {child.pid}".encode(), pidfd)
            os.close(pidfd)
            one = await order
            assert (one.pid, one.version, one.start) == (
                child.pid, 1, process.start_ticks(child.pid),
            )  # fmt: skip
            assert parts.model.sitters == {child.pid: one}
            child.kill()
            async with asyncio.timeout(60):
                while not dead:
                    await asyncio.sleep(0.001)
        assert dead == [one] and one.pidfd == -1
        fake.say(f"exit 7 {child.pid} 9".encode())
        await turns()
        assert one.status == 9 and one.heard.is_set()
        parts.sitters.forget(one)
        assert not parts.model.sitters

    with_seed(parts, work)


def test_a_process_that_a_story_named_first_is_the_same_one(parts: Parts) -> None:
    """The seed's word comes late: a worker's place is taken already."""

    async def work(fake: FakeSeed) -> None:
        order = asyncio.create_task(fork(parts, []))
        await turns()
        fake.order()
        known = parts.model.sitters[500] = sitter(500)
        pidfd = os.pidfd_open(os.getpid())
        fake.say(b"forked 7 500", pidfd)
        os.close(pidfd)
        assert await order is known

    with_seed(parts, work)


def failing(parts: Parts, answer: bytes | None) -> None:
    async def work(fake: FakeSeed) -> None:
        order = asyncio.create_task(fork(parts, []))
        await turns()
        if answer is None:
            fake.order()
            fake.one.close()
        else:
            fake.order()
            fake.say(answer)
        with pytest.raises(SeedError):
            await order
        await parts.core.settle()

    with_seed(parts, work)


@pytest.mark.parametrize("answer", [b"refused 7 fork: no memory", b"forked 7 1", None])
def test_an_order_that_fails_is_called_off_and_leaves_nothing(
    parts: Parts, answer: bytes | None
) -> None:
    failing(parts, answer)
    assert parts.core.asked == [("call_off", BERTH)]


def test_without_a_seed_nobody_is_forked(parts: Parts) -> None:
    async def work() -> None:
        before = descriptors()
        with pytest.raises(SeedError, match="gone"):
            await fork(parts, [])
        assert not descriptors() - before
        with pytest.raises(OSError):
            parts.sitters.open_orders()
        assert not descriptors() - before

    run(work())
    assert not parts.sitters.can_fork
    parts.core.drop()


@pytest.mark.parametrize("calls", [1, 2])
def test_without_a_pipe_nobody_is_forked(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    real, left = process.lasting_pipe, calls

    def exhausted() -> tuple[int, int]:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(24, "Too many open files")
        return real()

    monkeypatch.setattr(sitters.process, "lasting_pipe", exhausted)

    async def work() -> None:
        before = descriptors()
        with pytest.raises(OSError, match="Too many"):
            await fork(parts, [])
        assert not descriptors() - before

    run(work())
    parts.core.drop()


def test_calling_off_goes_on_until_nobody_comes(parts: Parts) -> None:
    """Whoever came meanwhile, and is unknown, is ended."""
    with worker_of(parts) as child:
        answers = iter([-1, child.pid, 0])
        parts.core.answers["call_off"] = lambda **_: next(answers)
        failing(parts, None)
        assert child.wait() == -9
        assert parts.core.events.of("stranger")[0]["pid"] == child.pid
    assert parts.core.verbs() == ["call_off"] * 3


def test_calling_off_spares_who_is_known(parts: Parts) -> None:
    parts.seat(0, 500)
    parts.core.answers["call_off"] = 500
    failing(parts, None)
    assert parts.core.verbs() == ["call_off"] and not parts.core.events.of("stranger")


# --- slots ----------------------------------------------------------------------------------------


def test_a_slot_is_opened_once_nobody_sits_there(parts: Parts) -> None:
    looked: list[int] = []

    async def read() -> None:
        looked.append(1)

    parts.sitters.read_stories = read
    with worker_of(parts) as child:
        answers = iter([{"sitting": child.pid}, {"sitting": 0}, {"berth": 3, "ticket": 4}])
        parts.core.answers["prepare"] = lambda **_: next(answers)
        parts.worker.takeovers = 3
        found = run(parts.sitters.open_slot(parts.worker))
        assert child.wait() == -9
    assert found == {"berth": 3, "ticket": 4} and len(looked) == 2
    assert parts.worker.takeovers == 0


@pytest.mark.parametrize("verb", ["call_off", "prepare"])
def test_a_pid_that_a_worker_may_have_written_is_not_believed(parts: Parts, verb: str) -> None:
    """It comes from shared memory: only a worker of this instance's is ended."""
    with subprocess.Popen(["sleep", "60"]) as child:
        answers = iter([child.pid, 0] if verb == "call_off" else [{"sitting": child.pid}, OPEN])
        parts.core.answers[verb] = lambda **_: next(answers)
        parts.core.answers["stories"] = []
        if verb == "call_off":
            failing(parts, None)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(process, "wait_gone", lambda *_: False)
                run(parts.sitters.open_slot(parts.worker))
        assert child.poll() is None
        child.kill()


def test_a_slot_that_stays_taken_is_an_error(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitters, "HALT_S", -1.0)
    parts.core.answers["prepare"] = {"sitting": 0}
    with pytest.raises(SeedError, match="sits in fw/0"):
        run(parts.sitters.open_slot(parts.worker))


# --- known processes ------------------------------------------------------------------------------


def test_an_end_that_was_heard_too_early_is_kept(parts: Parts) -> None:
    async def work() -> None:
        with subprocess.Popen(["sleep", "60"]) as child:
            parts.sitters.says(child.pid, 9)
            one = parts.sitters.know(sitter(child.pid, 7))
            one.pidfd = -1
            assert one.status == 9
            child.kill()

    real: Any = asyncio.SelectorEventLoop.add_reader
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.SelectorEventLoop, "add_reader",
                      lambda self, fd, *a: real(self, fd, *a) if fd >= 0 else None)  # fmt: skip
        run(work())


def test_only_a_worker_of_this_instance_is_met(parts: Parts) -> None:
    async def work() -> None:
        before = descriptors()
        with subprocess.Popen(["sleep", "60"]) as child:
            assert parts.sitters.meet("fw/0", 3, child.pid) is None
            child.kill()
        assert parts.sitters.meet("fw/0", 3, 2**22 + 1) is None
        assert not descriptors() - before
        words = f"dpsup-worker: {parts.model.name} fw/0"
        program = "print('before', flush=True); import time; time.sleep(60)"
        read, write = process.lasting_pipe()
        with subprocess.Popen(["python3", "-c", program, words], stdout=write) as child:
            async with asyncio.timeout(60):
                while (one := parts.sitters.meet("fw/0", 3, child.pid)) is None:
                    await asyncio.sleep(0.001)  # until it has become that program
                while not parts.core.log.entries:
                    await asyncio.sleep(0.001)
            assert one.berth == 3 and parts.model.living() == [one]
            child.kill()
        os.close(write)
        os.close(read)
        parts.sitters.forget_all()
        assert not parts.model.sitters
        async with asyncio.timeout(60):
            while descriptors() - before:
                await asyncio.sleep(0.001)

    run(work())
    assert parts.core.log.entries == [{"name": "fw/0", "line": "before"}]


def test_who_dies_with_the_primary_is_the_primary_s_affair(parts: Parts) -> None:
    parts.sitters.on_death = lambda _: pytest.fail("judged")
    parts.model.primary.state = "lost"
    parts.sitters._ended(sitter(500))


def test_a_hand_is_read_from_the_primary(parts: Parts) -> None:
    parts.core.answers["sitters"] = {"sitters": [{"pid": 500, "hand": SEATED}]}
    assert run(parts.sitters.hand(sitter(500))) == SEATED
    assert run(parts.sitters.hand(sitter(501))) == STARTING


@pytest.mark.parametrize("error", [Gone("x"), DpsupError("x")])
def test_calling_off_ends_with_the_primary(parts: Parts, error: Exception) -> None:
    parts.core.answers["call_off"] = error
    with pytest.raises(DpsupError, match="x"):
        failing(parts, None)


def test_a_spare_that_is_late_is_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        one = sitter(child.pid)
        end_if_late(one)
        one.pidfd = os.pidfd_open(child.pid)
        one.ready = True
        end_if_late(one)
        assert child.poll() is None
        one.ready = False
        end_if_late(one)
        assert child.wait() == -9
        os.close(one.pidfd)


def test_an_end_of_long_ago_is_that_of_another_process(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pid that was used before, and the bound of what is kept (r3.21)."""
    for pid in range(2, sitters.ENDINGS_MOST + 10):
        parts.sitters.says(pid, 9)
    assert len(parts.sitters._endings) == sitters.ENDINGS_MOST
    parts.sitters.says(7, 9)
    now = sitters.time.monotonic()
    monkeypatch.setattr(sitters.time, "monotonic", lambda: now + sitters.ENDING_S + 1)
    parts.sitters.on_death = lambda _: None
    assert parts.sitters.mourn(sitter(7, 7)).status is None
