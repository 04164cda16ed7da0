# SPDX-License-Identifier: BSD-3-Clause
"""The seed's socket: orders, their answers, word of exits, and garbage."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import descriptors, run

from dpsup.errors import TimedOut
from dpsup.supervisor.seed_socket import Seed, SeedError


class FakeSeed:
    """The other end: it takes orders, and says what it is told to say."""

    def __init__(self, path: str) -> None:
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.bind(path)
        self._door.listen()
        self._socket: socket.socket | None = None

    @property
    def one(self) -> socket.socket:
        if self._socket is None:
            self._socket, _ = self._door.accept()
            assert self._socket.recv(128) == b"hello"
        return self._socket

    def order(self) -> str:
        """The next order; its descriptors are closed."""
        data, fds, _, _ = socket.recv_fds(self.one, 128, 4)
        for fd in fds:
            os.close(fd)
        return f"{data.decode()} with {len(fds)}"

    def say(self, data: bytes, *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.one.sendmsg([data], rights)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._door.close()


Work = Callable[[FakeSeed, Seed, list[tuple[int, int]]], Coroutine[Any, Any, None]]


def between(folder: Path, work: Work) -> None:
    """Run `work` between both ends; no descriptor is left, no callback failed."""
    complaints: list[Any] = []

    async def both() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        before = descriptors()
        fake, exits = FakeSeed(str(folder / "s")), []  # type: ignore[var-annotated]
        seed = Seed(str(folder / "s"), lambda pid, status: exits.append((pid, status)))
        try:
            await work(fake, seed, exits)
            await asyncio.sleep(0)
        finally:
            seed.close()
            seed.close()
            fake.close()
        assert not descriptors() - before

    run(both())
    assert not complaints


def test_a_log_is_handed_on(tmp_path: Path) -> None:
    """With its descriptor; one without, or with no number, is no message."""

    async def work() -> None:
        before, fake, came, skipped = descriptors(), FakeSeed(str(tmp_path / "s")), [], []
        seed = Seed(
            str(tmp_path / "s"),
            lambda *_: None,
            on_skip=skipped.append,
            on_log=lambda pid, fd: came.append((pid, os.read(fd, 9), os.close(fd))),
        )
        read, write = os.pipe()
        os.write(write, b"words")
        fake.say(b"log 3 77", read)
        fake.say(b"log 3 77")
        fake.say(b"log 3 x", read)
        while len(skipped) < 2:
            await asyncio.sleep(0)
        assert came == [(77, b"words", None)]
        os.close(read)
        os.close(write)
        seed.close()
        fake.close()
        assert not descriptors() - before

    run(work())


def ordered(fake: FakeSeed, seed: Seed, timeout: float = 60) -> asyncio.Task[tuple[int, int]]:
    return asyncio.create_task(seed.fork(7, 99, 1, 2, timeout))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_an_order_is_answered_with_a_process(tmp_path: Path) -> None:
    async def work(fake: FakeSeed, seed: Seed, exits: list[Any]) -> None:
        order = ordered(fake, seed)
        await turns()
        assert fake.order() == "fork 7 99 with 2"
        fake.say(b"exit 3 400 9")
        fake.say(b"forked 7 500", 0)
        pid, pidfd = await order
        assert pid == 500 and exits == [(400, 9)]
        os.close(pidfd)

    between(tmp_path, work)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"refused 7 fork: no memory left", "fork: no memory left"),
        (b"refused 7", "refused"),
        (b"forked 7 500", "500"),  # without a descriptor nobody can watch it
    ],
)
def test_an_order_is_refused(tmp_path: Path, answer: bytes, why: str) -> None:
    async def work(fake: FakeSeed, seed: Seed, _: list[Any]) -> None:
        order = ordered(fake, seed)
        await turns()
        fake.say(answer)
        with pytest.raises(SeedError, match=why):
            await order

    between(tmp_path, work)


GARBAGE = [
    b" ", b"\xff\xfe", b"exit", b"exit 1", b"exit 1 x 2", b"exit 1 2 \xc2\xb2", b"forked",
    b"forked x", b"forked \xc2\xb2 3", b"forked 7", b"forked 7 \xd9\xa1", b"forked 8 1", b"7 7 7 7",
    b"forked 99999999999999999999 1", b"refused order not understood", b"refused 8 no", b"x" * 127,
]  # fmt: skip


def test_garbage_ends_neither_the_order_nor_the_supervisor(tmp_path: Path) -> None:
    async def work(fake: FakeSeed, seed: Seed, exits: list[Any]) -> None:
        order = ordered(fake, seed)
        await turns()
        for said in GARBAGE:
            if not said.startswith(b"forked 7"):  # which is a refusal, of sorts
                fake.say(said)
                await turns()
        fake.say(b"forked 7 500", 0)
        pid, pidfd = await order
        os.close(pidfd)
        assert pid == 500 and not exits

    between(tmp_path, work)


def test_descriptors_that_come_with_garbage_are_closed(tmp_path: Path) -> None:
    async def work(fake: FakeSeed, seed: Seed, exits: list[Any]) -> None:
        for said in GARBAGE:
            fake.say(said, 0)
            await turns()
        assert not exits

    between(tmp_path, work)


def test_an_answer_that_comes_too_late_is_nobody_s(tmp_path: Path) -> None:
    async def work(fake: FakeSeed, seed: Seed, _: list[Any]) -> None:
        with pytest.raises(TimedOut):
            await ordered(fake, seed, 0.0)
        fake.say(b"forked 7 500", 0)
        await turns()

    between(tmp_path, work)


def test_a_seed_that_ends_answers_all_orders(tmp_path: Path) -> None:
    async def work(fake: FakeSeed, seed: Seed, _: list[Any]) -> None:
        order = ordered(fake, seed)
        await turns()
        fake.order()
        fake.one.close()
        with pytest.raises(SeedError, match="gone"):
            await order
        with pytest.raises(SeedError, match="does not take orders"):
            await ordered(fake, seed)
        seed.quit()

    between(tmp_path, work)


def test_a_seed_is_told_to_quit(tmp_path: Path) -> None:
    async def work(fake: FakeSeed, seed: Seed, _: list[Any]) -> None:
        seed.quit()
        assert fake.order() == "quit with 0"

    between(tmp_path, work)


def test_a_seed_that_does_not_listen_costs_no_descriptor(tmp_path: Path) -> None:
    async def work() -> None:
        before = descriptors()
        for _ in range(3):
            try:
                Seed(str(tmp_path / "s"), lambda *_: None)
            except OSError as e:
                kept = e  # its traceback holds on to all that was made on the way
                assert kept.__traceback__ is not None
                assert not descriptors() - before
            else:
                pytest.fail("somebody listens")

    run(work())
