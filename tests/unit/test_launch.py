# SPDX-License-Identifier: BSD-3-Clause
"""From a command to an instance: how often a supervisor follows itself, and who is told."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import pytest

from dpsup.errors import DpsupError
from dpsup.supervisor import launch
from dpsup.supervisor.launch import _Again, _Crashed, _follow_itself, _Ready


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(launch.time, "sleep", found.append)
    monkeypatch.delenv(_Again.NAME, raising=False)
    return found


class Executed(Exception):
    """Instead of execve(2)."""


def follow(monkeypatch: pytest.MonkeyPatch, before: _Again, *, told: bool = False) -> _Again:
    """The next supervisor of this process, by what the environment says."""

    def execve(_: str, argv: list[str], env: dict[str, str]) -> None:
        assert argv[0] == launch.sys.executable
        raise Executed(env)

    monkeypatch.setattr(launch.os, "execve", execve)
    with pytest.raises(Executed) as caught:
        before.execute(told=told)
    env: dict[str, str] = caught.value.args[0]
    assert env["PATH"] == os.environ["PATH"]
    monkeypatch.setenv(_Again.NAME, env[_Again.NAME])
    after = _Again()
    assert _Again.NAME not in os.environ, "no process that is started inherits it"
    return after


def test_a_supervisor_follows_itself_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    again, delays = _Again(), []
    while (delay := again.decide()) is not None:
        delays.append(delay)
        again = follow(monkeypatch, again)
    assert len(delays) == _Again.POLICY.intensity
    assert delays == sorted(delays) and 0 < delays[0] < delays[-1] <= _Again.POLICY.most


def test_what_the_caller_was_told_is_remembered(
    monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    assert not follow(monkeypatch, _Again()).told
    assert follow(monkeypatch, _Again(), told=True).told


@pytest.mark.parametrize("words", ["", "x", "1 2", "1 2 3 4", "a b c"])
def test_an_environment_that_is_none_of_ours_says_nothing(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv(_Again.NAME, words)
    again = _Again()
    assert again.history.level == 0 and not again.told and again.decide() is not None


def worn_out() -> _Again:
    again = _Again()
    while again.decide() is not None:
        pass
    return again


@pytest.mark.parametrize("forwards", [True, False])
def test_a_crash_is_followed(slept: list[float], forwards: bool) -> None:
    with pytest.raises(_Crashed):
        _follow_itself(forwards, _Again(), "edge.toml")
    assert slept == [_Again.POLICY.initial]


def test_too_many_crashes_leave_what_forwards_alone(slept: list[float]) -> None:
    with pytest.raises(DpsupError) as caught:
        _follow_itself(True, worn_out(), "edge.toml")
    assert "goes on without it" in caught.value.message
    assert "dpsup start edge.toml" in caught.value.help and not slept


def test_too_many_crashes_before_anything_forwards_end_it(slept: list[float]) -> None:
    _follow_itself(False, worn_out(), "edge.toml")
    assert not slept


# --- foreground -----------------------------------------------------------------------------------


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> Any:
    """Run `foreground` with another `_run`; what its caller was told."""
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)

    def front(run: Any) -> list[Any]:
        read, write = os.pipe()
        monkeypatch.setattr(launch, "_run", lambda *args: run(*args[-2:]))
        outcome: Any
        ready = os.dup(write)
        try:
            outcome = launch.foreground("edge.toml", None, None, verbose=False, ready_fd=ready)
        except (DpsupError, Executed) as e:
            outcome = e
        with contextlib.suppress(OSError):  # the process ends, or it was told
            os.close(ready)
        os.close(write)
        with os.fdopen(read) as lines:
            return [outcome, *(json.loads(line) for line in lines)]

    return front


def test_a_start_that_fails_is_told_to_the_caller(front: Any) -> None:
    def run(*_: Any) -> None:
        raise DpsupError("no memory", code="E0801")

    outcome, told = front(run)
    assert isinstance(outcome, DpsupError)
    assert (told["ok"], told["error"]["id"]) == (False, "E0801")


def test_a_start_is_told_once(front: Any) -> None:
    def run(ready: _Ready, _: Any) -> Any:
        ready.tell({"ok": True})
        ready.tell({"ok": False})
        return 0, None

    assert front(run) == [(0, None), {"ok": True}]


def test_a_crash_before_the_start_leaves_the_caller_waiting(
    front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the supervisor that follows; that one knows."""
    executed: list[bool] = []

    def execute(_: _Again, *, told: bool) -> None:
        executed.append(told)
        raise Executed

    monkeypatch.setattr(_Again, "execute", execute)

    def early(*_: Any) -> None:
        raise _Crashed

    def late(ready: _Ready, _: Any) -> None:
        ready.tell({"ok": True})
        raise _Crashed

    read, write = os.pipe()
    for run in (early, late):
        monkeypatch.setattr(launch, "_run", lambda *args, run=run: run(*args[-2:]))
        with pytest.raises(Executed):
            launch.foreground("edge.toml", None, None, verbose=False, ready_fd=os.dup(write))
    assert executed == [False, True]
    os.set_blocking(read, False)
    assert os.read(read, 999) == b'{"ok": true}\n'
    os.close(read)
    os.close(write)


def test_an_interrupt_before_it_ran_is_no_error(front: Any) -> None:
    def run(*_: Any) -> None:
        raise KeyboardInterrupt

    assert front(run) == [(0, None)]


def test_a_caller_that_has_gone_does_not_end_the_start() -> None:
    read, write = os.pipe()
    os.close(read)
    ready = _Ready(write)
    ready.tell({"ok": True})
    assert ready.is_told
    with pytest.raises(OSError):
        os.fstat(write)


# --- small things ---------------------------------------------------------------------------------


def test_hugepages_are_one_line_of_what_was_removed() -> None:
    paths = [f"/dev/hugepages/dpsup-edge-g3map_{i}" for i in range(3)]
    assert launch._removed([*paths, "/run/dpdk/x"]) == [
        "removed /run/dpdk/x",
        "removed 3 hugepages, /dev/hugepages/dpsup-edge-g3map_*",
    ]


@pytest.mark.parametrize("key", ["lost", "in_flight", "missed", "audit"])
def test_a_job_that_lost_something_has_failed(key: str) -> None:
    summary: dict[str, Any] = {
        "lost": 0,
        "in_flight": 0,
        "missed": 0,
        "audit": [{"unexplained": 0}],
    }
    assert not launch._has_loss(summary)
    summary[key] = [{"unexplained": 1}] if key == "audit" else 1
    assert launch._has_loss(summary)


def test_a_stop_does_not_wait_for_a_thread_that_a_disk_holds() -> None:
    """The supervisor has given back its directory, its last act; a thread of its cannot end."""

    class Where:
        looks = 0

        def is_supervised(self) -> bool:
            self.looks += 1
            return self.looks < 3

    where: Any = Where()
    launch._await_end(where, os.getpid(), timeout=60)
    assert where.looks == 3
    Where.is_supervised = lambda _: True  # type: ignore[method-assign]
    with pytest.raises(DpsupError, match="still stopping"):
        launch._await_end(where, os.getpid(), timeout=0)


@pytest.mark.parametrize(
    "words", ["nan 0 0", "0 nan 0", "inf 0 1", "-inf 0 0", "0 -inf 0", "-1 0 0"]
)
def test_numbers_that_are_none_count_no_crash(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv(_Again.NAME, words)
    again = _Again()
    assert again.history.level == 0 and not again.told
    delays = [again.decide() for _ in range(_Again.POLICY.intensity + 1)]
    assert delays[-1] is None, "there is an end to it"


def test_an_order_to_stop_before_the_adoption_ends_what_was_to_be_adopted(
    front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    class Left:
        name = "edge"

        def read(self, _: str) -> str:
            raise FileNotFoundError

        def acquire(self) -> None:
            did.append("acquire")

        def read_state(self) -> None:
            return None

        def end_processes(self, _: Any) -> bool:
            did.append("end")
            return True

        def sweep(self) -> None:
            did.append("sweep")

        def release(self) -> None:
            did.append("release")

    monkeypatch.setattr(launch, "_headless", lambda *_: Left())

    def run(*_: Any) -> None:
        raise KeyboardInterrupt

    (outcome,) = front(run)
    assert outcome == (0, None) and did == ["acquire", "end", "sweep", "release"]
