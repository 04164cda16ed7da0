# SPDX-License-Identifier: BSD-3-Clause
"""A detached start: what the command that waits makes of the word, and of orders meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from dpsup.errors import DpsupError, Exit
from dpsup.supervisor import detach
from dpsup.supervisor.detach import start_detached

SIGNALS = (signal.SIGINT, signal.SIGTERM)
READY = {"ok": True, "name": "edge", "pid": 4711}


def nothing() -> None:
    pass


class Start:
    """A child that is none: what it writes to the pipe, and what happens at which moment."""

    def __init__(self) -> None:
        self.word: Any = READY
        self.fails: OSError | None = None
        self.at_birth: Callable[[], None] = nothing
        self.at_close: Callable[[], None] = nothing  # the child is there, nobody reads yet
        self.at_read: Callable[[], None] = nothing
        self.argv: list[str] = []
        self.options: dict[str, Any] = {}
        self.sent: list[int] = []
        self.waited = 0
        self.returncode: int | None = None
        self.said: list[str] = []
        self.fds: list[int] = []
        self.closed: list[int] = []

    def spawn(self, argv: list[str], **options: Any) -> Start:
        self.argv, self.options = argv, options
        if self.fails is not None:
            raise self.fails
        if self.word is not None:
            (ready,) = options["pass_fds"]
            os.write(ready, json.dumps(self.word).encode() + b"\n")
        self.at_birth()
        return self

    def send_signal(self, order: int) -> None:
        self.sent.append(order)

    def wait(self) -> int:
        self.waited += 1
        return 78

    # --- its pipe, as the module under test sees it ------------------------------------------

    def pipe(self) -> tuple[int, int]:
        self.fds = list(os.pipe())
        return self.fds[0], self.fds[1]

    def close(self, fd: int) -> None:
        os.close(fd)
        self.closed.append(fd)
        if fd == self.fds[1]:
            self.at_close()

    def fdopen(self, fd: int) -> Reader:
        return Reader(self, fd)

    def run(self, idle_limit: float | None = None) -> None:
        start_detached("edge.toml", idle_limit, self.said.append)


class Reader:
    def __init__(self, start: Start, fd: int) -> None:
        self.start, self.fd, self.file = start, fd, os.fdopen(fd)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        self.file.close()
        self.start.closed.append(self.fd)

    def readline(self) -> str:
        self.start.at_read()
        return self.file.readline()


@pytest.fixture
def before() -> Iterator[dict[int, Any]]:
    """Handlers that are known; those of the run are put back."""
    kept = {sig: signal.getsignal(sig) for sig in SIGNALS}
    known: dict[int, Any] = {sig: lambda *_: None for sig in SIGNALS}
    for sig, handler in known.items():
        signal.signal(sig, handler)
    yield known
    for sig, handler in kept.items():
        signal.signal(sig, handler)


@pytest.fixture
def start(before: dict[int, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    one = Start()
    # The module's own names alone.
    monkeypatch.setattr(detach, "subprocess", SimpleNamespace(Popen=one.spawn))
    monkeypatch.setattr(
        detach,
        "os",
        SimpleNamespace(pipe=one.pipe, close=one.close, fdopen=one.fdopen, devnull=os.devnull),
    )
    yield one
    assert {sig: signal.getsignal(sig) for sig in SIGNALS} == before, "as it found them"
    assert sorted(one.closed) == sorted(one.fds)


def order(sig: int) -> Callable[[], None]:
    """As if it came now."""

    def come() -> None:
        handler = signal.getsignal(sig)
        assert callable(handler)
        handler(sig, None)

    return come


def test_an_instance_that_is_ready_is_on_its_own(start: Start) -> None:
    start.run()
    assert start.said == ["edge is running, supervisor pid 4711"]
    assert start.returncode == 0, "no warning of a child that runs on"
    assert not start.waited and not start.sent


@pytest.mark.parametrize(("limit", "words"), [(None, []), (2.5, ["--exit-when-idle", "2.500000s"])])
def test_the_child_is_told_the_file_and_keeps_nothing_of_ours(
    start: Start, limit: float | None, words: list[str]
) -> None:
    start.run(limit)
    ready = start.fds[1]
    assert start.argv[1:] == [
        "-P", "-m", "dpsup", "start", "edge.toml", "--ready-fd", str(ready), *words
    ]  # fmt: skip
    streams = [start.options[name] for name in ("stdin", "stdout", "stderr")]
    assert [s.name for s in streams] == [os.devnull] * 3
    assert start.options["pass_fds"] == (ready,) and start.options["start_new_session"]


def test_a_child_that_says_nothing_has_ended(start: Start) -> None:
    start.word = None
    with pytest.raises(DpsupError, match="exit code 78") as caught:
        start.run()
    assert caught.value.code == "E0611"
    assert start.waited == 1 and not start.said


def test_a_refusal_is_the_command_s_own(start: Start) -> None:
    start.word = {
        "ok": False,
        "error": {"message": "no room", "why": "w", "help": "h", "id": "E0301", "code": 6},
    }
    with pytest.raises(DpsupError) as caught:
        start.run()
    error = caught.value
    assert (error.message, error.why, error.help) == ("no room", "w", "h")
    assert (error.code, error.exit_code) == ("E0301", Exit.HOST)
    assert start.waited == 1 and not start.said


@pytest.mark.parametrize("sig", SIGNALS)
@pytest.mark.parametrize("word", [READY, None])
@pytest.mark.parametrize("when", ["at_birth", "at_read"])
def test_an_order_is_passed_on_and_the_child_is_waited_for(
    start: Start, when: str, word: Any, sig: int
) -> None:
    """Whatever it says of itself: a start that a person broke off is none."""
    start.word = word
    setattr(start, when, order(sig))
    with pytest.raises(KeyboardInterrupt):
        start.run()
    assert start.sent == [sig]
    assert start.waited == 1 and not start.said


def test_an_order_is_passed_on_once(start: Start) -> None:
    """There is a child, and nobody has looked for earlier orders yet."""
    start.at_close = order(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start.run()
    assert start.sent == [signal.SIGINT]


def test_each_order_is_passed_on(start: Start) -> None:
    def both() -> None:
        order(signal.SIGINT)()
        order(signal.SIGTERM)()

    start.at_read = both
    with pytest.raises(KeyboardInterrupt):
        start.run()
    assert start.sent == [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("ignored", SIGNALS)
def test_what_is_ignored_stays_so(start: Start, before: dict[int, Any], ignored: int) -> None:
    """As a shell has it for what runs in the background."""
    before[ignored] = signal.SIG_IGN
    signal.signal(ignored, signal.SIG_IGN)
    (other,) = set(SIGNALS) - {ignored}
    meanwhile: list[Any] = []
    start.at_read = lambda: meanwhile.extend(signal.getsignal(s) for s in (ignored, other))
    start.run()
    assert meanwhile[0] == signal.SIG_IGN and meanwhile[1] not in (signal.SIG_IGN, before[other])


def test_a_child_that_cannot_be_started_leaves_nothing_behind(start: Start) -> None:
    start.fails = BlockingIOError(11, "no process")
    with pytest.raises(BlockingIOError):
        start.run()


def test_the_real_one_is_what_is_faked() -> None:
    """The fake has no method that a process of subprocess's has not."""
    assert all(hasattr(subprocess.Popen, name) for name in ("send_signal", "wait"))
