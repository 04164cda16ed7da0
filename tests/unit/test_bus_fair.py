# SPDX-License-Identifier: BSD-3-Clause
"""What one peer may cost the others, and the supervisor."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from unit.fakecore import run

from dpsup.bus import messages, sockets
from dpsup.bus.messages import Limiter, ProtocolError, Request, want
from dpsup.bus.sockets import Publisher, Responder, Server
from dpsup.errors import DpsupError

PATIENCE = 60


def dealer(path: Path) -> Any:
    peer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    peer.connect(f"ipc://{path}")
    return peer


def encoded(verb: str, id_: str) -> bytes:
    return messages.encode_request(Request(verb, id_))


def test_a_flood_leaves_the_event_loop_its_turns(tmp_path: Path) -> None:
    """Deaths are heard of between its messages, not after them."""
    turns = taken = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> None:
        nonlocal taken
        path = tmp_path / "s"
        server = Server(str(path), asyncio.sleep)  # type: ignore[arg-type]
        server._door.limiter = Limiter(rate=0.0, burst=0.0)
        peer = dealer(path)
        for n in range(sockets.HIGH_WATER):
            await peer.send_multipart([b"", encoded("ping", str(n))])
        while not await server._socket.poll(10):
            pass
        await asyncio.sleep(0.1)  # for as many as may come to be there
        ticking, serve = asyncio.create_task(tick()), asyncio.create_task(server.serve())
        async with asyncio.timeout(PATIENCE):
            while server.refused < sockets.HIGH_WATER:
                await asyncio.sleep(0)
        taken = server.refused
        for task in (ticking, serve):
            task.cancel()
        await server.close()
        peer.close()

    run(main())
    assert turns >= taken / sockets.TAKEN_MOST / 2


def test_a_request_that_two_connections_bring_runs_once(tmp_path: Path) -> None:
    """A client that lost its connection repeats the request over a new one."""
    ran = 0
    go = asyncio.Event()

    async def handle(_: Request) -> int:
        nonlocal ran
        ran += 1
        await go.wait()
        return ran

    async def main() -> None:
        path = tmp_path / "s"
        server = Server(str(path), handle)
        serve = asyncio.create_task(server.serve())
        peers = [dealer(path) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            for peer in (*peers, peers[0]):
                await peer.send_multipart([b"", encoded("stop", "same")])
            while len(server._running.get("same", [])) < len(peers):
                await asyncio.sleep(0.001)
            go.set()
            replies = [messages.decode_reply((await p.recv_multipart())[-1]) for p in peers]
        assert [r.value() for r in replies] == [1, 1, 1]
        assert not server._running and not server._busy
        serve.cancel()
        await server.close()
        for peer in peers:
            peer.close()

    run(main())
    assert ran == 1


def test_the_requests_in_progress_of_a_peer_are_bounded(tmp_path: Path) -> None:
    go = asyncio.Event()
    most = sockets.IN_PROGRESS_MOST

    async def handle(request: Request) -> None:
        if request.verb == "slow":
            await go.wait()

    async def main() -> None:
        path = tmp_path / "s"
        server = Server(str(path), handle)
        serve = asyncio.create_task(server.serve())
        peer, other = dealer(path), dealer(path)
        async with asyncio.timeout(PATIENCE):
            for n in range(most + 1):
                await peer.send_multipart([b"", encoded("slow", str(n))])
            refusal = messages.decode_reply((await peer.recv_multipart())[-1])
            assert refusal.id == str(most)
            with pytest.raises(DpsupError, match="in progress"):
                refusal.value()
            await other.send_multipart([b"", encoded("quick", "o")])
            assert messages.decode_reply((await other.recv_multipart())[-1]).id == "o"
            go.set()
            for _ in range(most):
                await peer.recv_multipart()
            await peer.send_multipart([b"", encoded("slow", "again")])
            assert messages.decode_reply((await peer.recv_multipart())[-1]).id == "again"
        serve.cancel()
        await server.close()
        peer.close()
        other.close()

    run(main())


def test_a_message_of_many_frames_is_refused(tmp_path: Path) -> None:
    async def handle(_: Request) -> None:
        raise AssertionError

    async def main() -> None:
        path = tmp_path / "s"
        server = Server(str(path), handle)
        serve = asyncio.create_task(server.serve())
        peer = dealer(path)
        async with asyncio.timeout(PATIENCE):
            await peer.send_multipart([b"", *[b"x" * 60] * 50, encoded("stop", "1")])
            reply = messages.decode_reply((await peer.recv_multipart())[-1])
            with pytest.raises(DpsupError, match="one frame, not 52"):
                reply.value()
        serve.cancel()
        await server.close()
        peer.close()

    run(main())


@pytest.mark.parametrize("kind", ["directory", "missing"])
def test_a_socket_that_cannot_be_created_is_an_error_with_a_reason(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "s" if kind == "directory" else tmp_path / "no" / "s"
    if kind == "directory":
        path.mkdir()
        (path / "file").write_text("")

    async def nothing(_: Request) -> None: ...

    async def main() -> None:
        for create in (
            lambda: Server(str(path), nothing),
            lambda: Publisher(str(path)),
            lambda: Responder(str(path), print),
        ):
            with pytest.raises(DpsupError, match="cannot create the socket") as caught:
                create()
            assert caught.value.code == "E0617" and str(path) in caught.value.message

    run(main())


def test_a_whole_number_is_a_number() -> None:
    """JSON of other languages writes 5.0 as 5."""
    assert want({"drain": 5}, "drain", float) == 5.0
    assert isinstance(want({"drain": 5}, "drain", float), float)
    for wrong in (True, "5", None, 10**400):
        with pytest.raises(ProtocolError):
            want({"drain": wrong}, "drain", float)
