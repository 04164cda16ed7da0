# SPDX-License-Identifier: BSD-3-Clause
"""The sockets of the bus: each request is answered once, and nothing waits without a bound."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from unit.fakecore import run

from dpsup.bus import messages, sockets
from dpsup.bus.client import Client, Subscriber
from dpsup.bus.messages import Limiter, Reply, Request
from dpsup.bus.sockets import AsyncClient, Gone, Publisher, Responder, Server
from dpsup.errors import DpsupError, NotRunning, ShimError, TimedOut


def ask(request: Request) -> Any:
    """What the other side does."""
    match request.verb:
        case "echo":
            return request.args
        case "refuse":
            raise ShimError("map", 22, "not that way", help="another")
        case "bug":
            raise ZeroDivisionError
        case "set":
            return {1, 2}  # no JSON
    return None


@contextmanager
def responding(path: Path, handle: Callable[[Request], Any] = ask) -> Iterator[Responder]:
    """A primary's loop, in a thread."""
    one, ends = Responder(str(path), handle), threading.Event()

    def loop() -> None:
        while not ends.is_set():
            one.poll(0.01)
        one.close()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield one
    finally:
        ends.set()
        thread.join()


def serving(
    path: Path,
    handle: Callable[[Request], Awaitable[Any]],
    work: Callable[[Server, Any], Coroutine[Any, Any, None]],
) -> None:
    async def both() -> None:
        server = Server(str(path), handle)
        serve = asyncio.create_task(server.serve())
        peer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        peer.setsockopt(zmq.LINGER, 0)
        peer.connect(f"ipc://{path}")
        try:
            async with asyncio.timeout(60):
                await work(server, peer)
        finally:
            await server.close()
            serve.cancel()
            peer.close()

    run(both())


async def says(peer: Any, raw: bytes) -> Reply:
    await peer.send_multipart([b"", raw])
    return messages.decode_reply((await peer.recv_multipart())[-1])


def encoded(verb: str, id_: str = "1", **args: Any) -> bytes:
    return messages.encode_request(Request(verb, id_, args))


# --- the supervisor's socket ----------------------------------------------------------------------


def test_what_goes_wrong_in_one_request_is_its_answer(tmp_path: Path) -> None:
    async def handle(request: Request) -> Any:
        return ask(request)

    async def work(server: Server, peer: Any) -> None:
        assert (await says(peer, encoded("echo", a=1))).result == {"a": 1}
        refused = await says(peer, encoded("refuse", "2"))
        with pytest.raises(ShimError, match="not that way"):
            refused.value()
        for id_, verb in (("3", "bug"), ("4", "set")):
            reply = await says(peer, encoded(verb, id_))
            assert reply.error is not None and "internal error" in reply.error["message"]
        assert server.refused == 0
        for raw in (b"", b"{", b"[]", b"\xff", b'{"v": 1}', b'{"v": 9}', b"[" * 4000):
            assert (await says(peer, raw)).error is not None
        assert server.refused == 7
        assert (await says(peer, encoded("echo", "9", b=2))).result == {"b": 2}

    serving(tmp_path / "s", handle, work)


def test_a_request_that_is_repeated_is_carried_out_once(tmp_path: Path) -> None:
    done: list[str] = []
    go = asyncio.Event()

    async def handle(request: Request) -> int:
        done.append(request.id)
        await go.wait()
        return len(done)

    async def work(_: Server, peer: Any) -> None:
        for id_ in ("a", "a", "b"):
            await peer.send_multipart([b"", encoded("scale", id_)])
        while len(done) < 2:
            await asyncio.sleep(0.001)
        go.set()
        replies = [messages.decode_reply((await peer.recv_multipart())[-1]) for _ in range(2)]
        assert sorted(r.id for r in replies) == ["a", "b"]
        assert (await says(peer, encoded("scale", "a"))).result == 2
        assert done == ["a", "b"]

    serving(tmp_path / "s", handle, work)


def test_what_only_reads_pushes_no_answer_out(tmp_path: Path) -> None:
    done: list[str] = []

    async def handle(request: Request) -> int:
        done.append(request.verb)
        return len(done)

    async def work(server: Server, peer: Any) -> None:
        server._keeps = lambda verb: verb == "scale"
        server._door.answered.most = 2
        first = await says(peer, encoded("scale", "a"))
        for n in range(5):
            await says(peer, encoded("status", f"r{n}"))
        assert (await says(peer, encoded("scale", "a"))).result == first.result
        assert done.count("scale") == 1

    serving(tmp_path / "s", handle, work)


def test_only_the_gate_says_whose_a_request_is(tmp_path: Path) -> None:
    async def handle(request: Request) -> Any:
        return request.origin is not None

    async def work(server: Server, peer: Any) -> None:
        named = messages.encode_request(Request("echo", "1", origin=messages.Origin("admin")))
        refused = await says(peer, named)
        assert refused.error is not None and "origin" in refused.error["message"]
        assert (await says(peer, encoded("echo", "2"))).result is False
        server._gate = os.getpid
        assert (await says(peer, named)).result is True
        unnamed = await says(peer, encoded("echo", "3"))
        assert unnamed.error is not None and "origin" in unnamed.error["message"]

    serving(tmp_path / "s", handle, work)


def test_requests_overlap(tmp_path: Path) -> None:
    """One that waits keeps nobody waiting."""
    go = asyncio.Event()

    async def handle(request: Request) -> str:
        if request.verb == "wait":
            await go.wait()
        return request.verb

    async def work(_: Server, peer: Any) -> None:
        await peer.send_multipart([b"", encoded("wait", "1")])
        assert (await says(peer, encoded("ping", "2"))).result == "ping"
        go.set()
        assert messages.decode_reply((await peer.recv_multipart())[-1]).result == "wait"

    serving(tmp_path / "s", handle, work)


def test_a_peer_that_asks_too_often_hears_so(tmp_path: Path) -> None:
    async def handle(_: Request) -> None:
        return None

    async def work(server: Server, peer: Any) -> None:
        server._door.limiter = Limiter(rate=0.0, burst=2.0)
        replies = [await says(peer, encoded("ping", str(i))) for i in range(3)]
        assert [r.error is None for r in replies] == [True, True, False]
        assert replies[2].error is not None and replies[2].error["id"] == "E0902"

    serving(tmp_path / "s", handle, work)


def test_a_socket_is_its_owner_s_alone(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path / "p"))
    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) & 0o077 == 0
    publisher.close()


# --- the primary's socket -------------------------------------------------------------------------


def test_a_primary_answers_requests_that_overlap(tmp_path: Path) -> None:
    async def work() -> None:
        client = AsyncClient(str(tmp_path / "r"))
        found = await asyncio.gather(*(client.ask("echo", 60, n=n) for n in range(20)))
        assert found == [{"n": n} for n in range(20)]
        with pytest.raises(ShimError) as caught:
            await client.ask("refuse", 60)
        assert (caught.value.errno, caught.value.help) == (22, "another")
        for verb in ("bug", "set"):
            with pytest.raises(DpsupError, match="internal error"):
                await client.ask(verb, 60)
        assert not client._waiting
        client.close()

    with responding(tmp_path / "r"):
        run(work())


def test_a_silent_primary_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    async def work() -> None:
        client = AsyncClient(str(tmp_path / "nobody"))
        with pytest.raises(TimedOut, match="hello"):
            await client.ask("hello", 0.01)
        waits = asyncio.create_task(client.ask("hello", 60))
        await asyncio.sleep(0)
        client.close()
        with pytest.raises(Gone):
            await waits
        assert not client._waiting

    run(work())


def test_a_queue_that_is_full_is_waited_for_no_longer(tmp_path: Path) -> None:
    async def work() -> None:
        client = AsyncClient(str(tmp_path / "nobody"))
        client._socket.setsockopt(zmq.SNDHWM, 1)
        client._socket.connect(f"ipc://{tmp_path}/nobody")
        async with asyncio.timeout(60):
            for _ in range(5000):
                with pytest.raises(TimedOut):
                    await client.ask("hello", 0.0)
        assert not client._waiting
        client.close()

    run(work())


def test_an_answer_that_is_none_is_passed_over(tmp_path: Path) -> None:
    async def work() -> None:
        primary = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        primary.bind(f"ipc://{tmp_path}/r")
        client = AsyncClient(str(tmp_path / "r"))
        asks = asyncio.create_task(client.ask("hello", 60))
        peer, _, raw = await primary.recv_multipart()
        id_ = messages.decode_request(raw).id
        for answer in (b"", b"\xff", b"[]", messages.encode_reply(Reply("other", 1))):
            await primary.send_multipart([peer, answer])
        await primary.send_multipart([peer, messages.encode_reply(Reply(id_, 2))])
        assert await asks == 2
        client.close()
        primary.close(0)

    run(work())


def test_a_responder_watches_descriptors_too(tmp_path: Path) -> None:
    import os

    read, write = os.pipe()
    one = Responder(str(tmp_path / "r"), ask)
    one.watch(read)
    assert one.poll(0.0) == set()
    os.write(write, b"x")
    assert one.poll(60.0) == {read}
    one.close()
    os.close(read)
    os.close(write)


# --- a command's socket ---------------------------------------------------------------------------


def test_a_command_asks_and_hears_errors(tmp_path: Path) -> None:
    with responding(tmp_path / "r"):
        client = Client(str(tmp_path / "r"))
        assert client.ask("echo", 60, n=1) == {"n": 1}
        with pytest.raises(ShimError):
            client.ask("refuse", 60)
        client.close()


def test_a_command_waits_for_no_instance_that_has_ended(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "nobody"), lambda: False)
    with pytest.raises(NotRunning):
        client.ask("status", 60)
    client.close()
    client = Client(str(tmp_path / "nobody"))
    with pytest.raises(TimedOut):
        client.ask("status", 0.01)
    client.close()


# --- publications ---------------------------------------------------------------------------------


def test_publications_are_numbered_and_followed(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path / "p"))
    subscriber = Subscriber(str(tmp_path / "p"), ("event",))
    ended = threading.Event()

    def publish() -> None:
        """Until one was heard: a subscriber misses what was published before it was there."""
        while not ended.wait(0.01):
            publisher.publish("log", {"line": "x"})
            publisher._socket.send_multipart([b"event", b"garbage"])
            publisher.publish("event", {"type": "state"})

    thread = threading.Thread(target=publish)
    thread.start()
    follow = subscriber.follow(lambda: True)
    first, second = next(follow), next(follow)
    ended.set()
    thread.join()
    assert (first.topic, first.data, second.seq) == ("event", {"type": "state"}, first.seq + 1)
    assert publisher.seq["stat"] == 0
    for _ in subscriber.follow(lambda: False, 0.0):
        pass
    subscriber.close()
    publisher.close()


def test_a_publisher_waits_for_nobody(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path / "p"))
    slow = Subscriber(str(tmp_path / "p"), ("event",))
    for n in range(3 * sockets.HIGH_WATER):
        assert publisher.publish("event", {"n": n}) == n + 1
    slow.close()
    publisher.close()
