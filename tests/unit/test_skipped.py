# SPDX-License-Identifier: BSD-3-Clause
"""What cannot be read is skipped and said: a foreign message on the bus, an answer, a line of a
worker, a message of the seed. A flood of it is one event, from however many processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
import zmq.asyncio
from unit import fakecore
from unit.fakecore import run
from unit.test_bus import encoded, says
from unit.test_seed_socket import FakeSeed
from unit.test_workers import Shop

from dpsup.bus import messages, sockets
from dpsup.bus.messages import Peer, ProtocolError, Sparing
from dpsup.bus.sockets import AsyncClient, Responder, Server
from dpsup.documents import events
from dpsup.supervisor.engine import WHY_MOST, Engine
from dpsup.supervisor.seed_socket import Seed

GARBAGE = (b"", b"{", b"[]", b"\xff", b'{"v": 1}', b'{"v": 9}', b"[" * 4000)


# --- how much is said -----------------------------------------------------------------------------


def test_of_many_alike_the_first_is_told_then_one_in_a_while() -> None:
    sparing = Sparing(every=60)
    told = [sparing.count("a", now * 0.1) for now in range(1201)]
    assert {now: n for now, n in enumerate(told) if n} == {0: 1, 600: 600, 1200: 600}
    assert sparing.count("b", 120.0) == 1, "another sender, or cause"


def test_many_senders_are_told_of_no_more_than_one() -> None:
    """Each with a pid of its own: a loop that forks, over days."""
    sparing = Sparing(every=60, most=5)
    told = [
        (now, n) for now in range(600) for s in range(50) if (n := sparing.count((now, s), now))
    ]
    assert [now for now, _ in told] == [t for t in range(0, 600, 60) for _ in range(5)]
    assert len(sparing._told) <= 20


# --- the supervisor's socket ----------------------------------------------------------------------


def test_the_supervisor_s_socket_names_the_sender_of_each(tmp_path: Path) -> None:
    skipped: list[tuple[Peer | None, ProtocolError]] = []

    async def handle(_: Any) -> int:
        await asyncio.sleep(60)
        return 1

    async def work() -> None:
        server = Server(str(tmp_path / "s"), handle, lambda *one: skipped.append(one))
        serve = asyncio.create_task(server.serve())
        peer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        peer.setsockopt(zmq.LINGER, 0)
        peer.connect(f"ipc://{tmp_path / 's'}")
        try:
            async with asyncio.timeout(60):
                for raw in GARBAGE:
                    assert (await says(peer, raw)).error is not None
                for n in range(sockets.IN_PROGRESS_MOST):
                    await peer.send_multipart([b"", encoded("slow", str(n))])
                assert (await says(peer, encoded("slow", "more"))).error is not None
        finally:
            for task in server._tasks:
                task.cancel()
            await server.close()
            serve.cancel()
            peer.close()

    run(work())
    assert {who for who, _ in skipped} == {Peer(os.geteuid(), os.getpid())}
    assert len(skipped) == len(GARBAGE) + 1
    assert {e.code for _, e in skipped} == {"E0901", "E0902", "E0905"}


def core_of(tmp_path: Path) -> Engine:
    publisher: Any = SimpleNamespace(publish=lambda *_: 1)
    return Engine(fakecore.model(tmp_path), publisher, lambda: None)


def test_a_flood_is_one_event_with_its_sender(tmp_path: Path) -> None:
    async def work() -> None:
        core = core_of(tmp_path)
        for _ in range(5000):
            core.skip("bus", "a message", "x" * 1000, Peer(7, 8))
        (event,) = core.events.since(0)
        assert (event["type"], event["name"], event["pid"], event["uid"], event["count"]) == (
            ("skipped", "bus", 8, 7, 1)
        )
        assert event["message"] == f"a message is skipped: {'x' * WHY_MOST}"
        core.skip("bus", "a message", "too", None)
        last = core.events.since(0)[-1]
        assert (last["pid"], last["uid"]) == (0, None)

    run(work())
    assert "skipped" in events.TYPES


# --- the primary's, and its answers ---------------------------------------------------------------


def test_a_primary_writes_foreign_messages_to_its_log_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = Responder(str(tmp_path / "s"), lambda _: 1)
    peer: Any = zmq.Context.instance().socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    peer.connect(f"ipc://{tmp_path / 's'}")
    for _ in range(100):
        peer.send_multipart([b"", b"{"])
        peer.send_multipart([b"", *[b"x"] * 50])
    answers = 0
    while answers < 200:
        one.poll(60)
        answers += 1
    peer.close()
    one.close()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert f"skipped 1 message of pid {os.getpid()} (uid {os.geteuid()}): not JSON" in lines[0]


def test_an_answer_that_cannot_be_read_is_skipped_and_said(tmp_path: Path) -> None:
    async def work() -> None:
        primary = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        primary.bind(f"ipc://{tmp_path / 'p'}")
        found: list[str] = []
        client = AsyncClient(str(tmp_path / "p"), lambda e: found.append(e.message))
        asked = asyncio.create_task(client.ask("hello", 60))
        peer, _, raw = await primary.recv_multipart()
        request = messages.decode_request(raw)
        for garbage in (b"{", b'{"v": 1}'):
            await primary.send_multipart([peer, garbage])
        await primary.send_multipart(
            [peer, messages.encode_reply(messages.Reply(request.id, result=5))]
        )
        assert await asked == 5
        assert len(found) == 2
        client.close()
        primary.close()

    run(work())


# --- workers and the seed -------------------------------------------------------------------------


def test_a_line_of_a_worker_that_means_nothing_is_said(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.fork()
    assert shop.worker.sitter is not None
    for line in ("", "READY?", "\x1b[2J", "READY"):
        shop.noted(shop.worker.sitter, line)
    assert shop.core.fired == [("fw/0", "ready")]
    said = shop.core.events.of("skipped")
    assert [e["message"] for e in said] == [
        "a line about its start: 'READY?'",
        "a line about its start: '\\x1b[2J'",
    ]
    assert {e["name"] for e in said} == {"fw/0"}


@pytest.mark.parametrize(
    ("message", "is_said"),
    [
        (b"exit 1 2 0", False),
        (b"forked 77 3", False),  # called off
        (b"refused 77 fork: no", False),
        (b"refused order not understood", True),
        (b"exit one two three", True),
        (b"born 1", True),
        (b"\xff\x00", True),
        (b" ", True),
    ],
)
def test_a_message_that_is_none_of_a_seed_s_is_said(
    tmp_path: Path, message: bytes, is_said: bool
) -> None:
    found: list[str] = []
    exits: list[int] = []

    async def work() -> None:
        fake = FakeSeed(str(tmp_path / "s"))
        seed = Seed(str(tmp_path / "s"), lambda pid, _: exits.append(pid), on_skip=found.append)
        try:
            fake.say(message)
            fake.say(b"exit 0 9999 0")
            async with asyncio.timeout(60):
                while 9999 not in exits:
                    await asyncio.sleep(0)
        finally:
            seed.close()
            fake.close()

    run(work())
    assert bool(found) == is_said
