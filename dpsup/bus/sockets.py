# SPDX-License-Identifier: BSD-3-Clause
"""ZeroMQ: the sockets of the bus that the supervisor and the primary have.

`Server` answers requests in an event loop (the supervisor), `Responder` in a loop of its own (the
primary), `Publisher` publishes, `AsyncClient` asks a `Responder`. Nothing here waits without a
bound, and nothing on the bus can reach the data plane.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import zmq
import zmq.asyncio

from dpsup.bus import messages
from dpsup.bus.aside import Aside
from dpsup.bus.guests import LOOK_S, Guests
from dpsup.bus.messages import (
    Answered,
    Limiter,
    Peer,
    ProtocolError,
    Publication,
    Reply,
    Request,
    Sparing,
)
from dpsup.errors import DpsupError, TimedOut
from dpsup.text import plural

HIGH_WATER = 1000  # messages queued for a slow peer, then dropped
LINGER_MS = 500
IN_PROGRESS_MOST = 32  # requests of one peer at a time
TAKEN_MOST = 16  # messages, before the event loop has its turn

# Hears of a message that is no request, or comes too fast, and of the process that sent it.
OnSkip = Callable[["Peer | None", ProtocolError], None]


class Gone(DpsupError):
    """The other side ended before it answered."""

    code = "E0807"


def bind(socket: Any, path: str, limit: int, mode: int = 0o600) -> None:
    """Raises: DpsupError."""
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.MAXMSGSIZE, limit)
    mask = os.umask(0o777 & ~mode)
    try:
        socket.bind(f"ipc://{path}")
    except zmq.ZMQError as e:
        socket.close()
        raise DpsupError(
            f"cannot create the socket {path}: {e.strerror}",
            code="E0617",
            why="commands and dpsup's own processes talk over it",
            help="free some space in its directory, and remove what stands in its place",
        ) from e
    finally:
        os.umask(mask)


def requested(received: list[Any]) -> list[bytes]:
    """Its frames. Of more than a request has, only the number matters."""
    most = messages.FRAMES_MOST
    return [frame.bytes for frame in received[:most]] + [b""] * len(received[most:])


def _peer(frame: Any) -> Peer | None:
    """The process that this frame came from."""
    try:
        return messages.peer_of(frame.get("Peer-Address"))
    except (zmq.ZMQError, AttributeError):  # a libzmq without it
        return None


def _refusal(request_id: str, error: DpsupError) -> bytes:
    return messages.encode_reply(Reply(request_id, error=messages.as_error(error)))


def _tell_log() -> OnSkip:
    """For a process whose error output is its log."""
    sparing = Sparing()

    def skip(sender: Peer | None, error: ProtocolError) -> None:
        count = sparing.count((sender, error.code), time.monotonic())
        if count:
            print(
                f"skipped {plural(count, 'message')} of {sender_name(sender)}: {error.message}",
                file=sys.stderr,
                flush=True,
            )

    return skip


def sender_name(sender: Peer | None) -> str:
    return f"pid {sender.pid} (uid {sender.uid})" if sender else "an unknown process"


_FLOOD = ProtocolError("too many requests", code="E0902", help="send fewer requests")
_TOO_MANY = _refusal("", _FLOOD)


class _Door:
    """Checks each request before it is carried out: its rate, its form, and whether it is new."""

    def __init__(self, on_skip: OnSkip) -> None:
        self.limiter = Limiter()
        self.answered = Answered()
        self.refused = 0
        self._on_skip = on_skip

    def refuse(self, who: Peer | None, error: ProtocolError, request_id: str = "") -> bytes:
        self.refused += 1
        self._on_skip(who, error)
        return _TOO_MANY if error is _FLOOD else _refusal(request_id, error)

    def open(
        self, frames: list[bytes], who: Peer | None, *, is_gate: bool = False
    ) -> Request | bytes:
        """The request of a message, or the answer to it."""
        if not is_gate and not self.limiter.allows(frames[0], time.monotonic()):
            return self.refuse(who, _FLOOD)
        try:
            if len(frames) > messages.FRAMES_MOST:
                raise ProtocolError(f"a request has one frame, not {len(frames) - 1}")
            request = messages.decode_request(frames[-1])
            if (request.origin is not None) != is_gate:
                raise ProtocolError("origin: the gate says it, and no other process may")
        except ProtocolError as e:
            return self.refuse(who, e)
        return self.answered.get(request.id) or request


class Server:
    """A control socket in an event loop. Each request is a task; `handle` returns the result.
    `gate`: the pid of the gate, which alone may pass on requests of others; it limits them itself.
    `keeps`: is the answer to a verb kept, so that a repeated request is carried out once? Those
    that only read would push out the others."""

    def __init__(
        self,
        path: str,
        handle: Callable[[Request], Awaitable[Any]],
        on_skip: OnSkip = lambda *_: None,
        gate: Callable[[], int] = lambda: 0,
        keeps: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._context = zmq.asyncio.Context.instance()
        self._socket = self._context.socket(zmq.ROUTER)
        bind(self._socket, path, messages.MAX_REQUEST + messages.MAX_ORIGIN)
        self._handle, self._gate, self._keeps = handle, gate, keeps
        self._door = _Door(on_skip)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, list[bytes]] = {}  # by request: the peers that wait for it
        self._busy: Counter[bytes] = Counter()  # requests in progress, by the peer that came first

    @property
    def refused(self) -> int:
        return self._door.refused

    async def serve(self) -> None:
        """While messages wait, no `await` of pyzmq's gives the loop a turn: without one of our own
        a peer that floods would keep deaths from being heard of."""
        taken = 0
        while True:
            received = await self._socket.recv_multipart(copy=False)
            frames = requested(received)
            answer = self._open(frames, _peer(received[-1]))
            del received
            if answer is not None:
                await self._socket.send_multipart([frames[0], answer])
            taken += 1
            if taken % TAKEN_MOST == 0:
                await asyncio.sleep(0)

    def _open(self, frames: list[bytes], who: Peer | None) -> bytes | None:
        """Begin to carry out a request; the answer, where there is one already."""
        is_gate = who is not None and 0 < who.pid == self._gate()
        peer, opened = frames[0], self._door.open(frames, who, is_gate=is_gate)
        if isinstance(opened, bytes):
            return opened
        peers = self._running.get(opened.id)
        if peers is not None:  # repeated, over another connection perhaps: it is carried out once
            if peer not in peers:
                peers.append(peer)
            return None
        if self._busy[peer] >= IN_PROGRESS_MOST and not is_gate:
            error = ProtocolError(
                f"{IN_PROGRESS_MOST} requests of this connection are in progress",
                code="E0902",
                help="wait for their answers",
            )
            return self._door.refuse(who, error, opened.id)
        self._busy[peer] += 1
        self._running[opened.id] = [peer]
        task = asyncio.create_task(self._answer(replace(opened, peer=who)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _answer(self, request: Request) -> None:
        peers = self._running[request.id]
        try:
            reply = messages.encode_reply(Reply(request.id, result=await self._handle(request)))
        except DpsupError as e:
            reply = _refusal(request.id, e)
        except asyncio.CancelledError:
            raise
        except Exception as e:  # a bug must not end the supervisor
            reply = _refusal(request.id, DpsupError(f"internal error: {e!r}", code="E0001"))
        finally:
            del self._running[request.id]
            self._busy[peers[0]] -= 1
            if not self._busy[peers[0]]:
                del self._busy[peers[0]]
        if self._keeps(request.verb):
            self._door.answered.put(request.id, reply)
        for peer in peers:
            await self._socket.send_multipart([peer, reply])

    async def close(self) -> None:
        """Wait up to 1 s for the requests in progress, then close."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        self._socket.close()


class Publisher:
    """Events, logs and statistics, each topic with a sequence number of its own."""

    def __init__(self, path: str) -> None:
        self._socket: Any = zmq.Context.instance().socket(zmq.PUB)
        bind(self._socket, path, messages.MAX_REQUEST)
        self.seq = dict.fromkeys(messages.TOPICS, 0)

    def publish(self, topic: str, data: Mapping[str, Any]) -> int:
        self.seq[topic] += 1
        publication = Publication(topic, self.seq[topic], data)
        with contextlib.suppress(zmq.ZMQError):  # a subscriber that is slow misses it
            self._socket.send_multipart(
                [topic.encode(), messages.encode_publication(publication)], zmq.NOBLOCK
            )
        return self.seq[topic]

    def close(self) -> None:
        self._socket.close()


class Responder:
    """A control socket in a plain loop: `poll` waits for requests and file descriptors. The verbs
    in `long` only read; a thread carries them out, so that they delay no other request."""

    def __init__(
        self, path: str, handle: Callable[[Request], Any], long: frozenset[str] = frozenset()
    ) -> None:
        self._socket: Any = zmq.Context.instance().socket(zmq.ROUTER)
        bind(self._socket, path, messages.MAX_REQUEST)
        self._handle, self._long = handle, long
        self._aside = Aside(handle)
        self._guests = Guests(path, friend=os.getppid())
        self._door = _Door(_tell_log())
        # The one peer is this instance's supervisor, whose requests are not limited.
        self._door.limiter = Limiter(rate=1e6, burst=1e6)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self.watch(self._aside.fd)

    def watch(self, fd: int) -> None:
        self._poller.register(fd, zmq.POLLIN)

    def poll(self, timeout_s: float) -> set[int]:
        """Answer the requests that arrived; returns the watched descriptors that are readable."""
        ready = dict(self._poller.poll(int(min(timeout_s, LOOK_S) * 1000)))
        self._guests.limit()
        if self._socket in ready:
            self._answer()
        if self._aside.fd in ready:
            for to, reply in self._aside.taken():
                self._door.answered.put(to.id, reply)
                self._send(to.peer, reply)
        return {fd for fd in ready if isinstance(fd, int)}

    def _answer(self) -> None:
        received = self._socket.recv_multipart(copy=False)
        frames = requested(received)
        peer, opened = frames[0], self._door.open(frames, _peer(received[-1]))
        del received
        if isinstance(opened, bytes):
            self._send(peer, opened)
        elif opened.verb in self._long:
            self._aside.put(peer, opened)
        else:
            reply = messages.answer(opened.id, partial(self._handle, opened))
            self._door.answered.put(opened.id, reply)
            self._send(peer, reply)

    def _send(self, peer: bytes, reply: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([peer, reply], zmq.NOBLOCK)

    def finish(self) -> None:
        """Returns once no long request is being carried out; no other one is begun."""
        self._aside.close()

    def close(self) -> None:
        self._socket.close()


class AsyncClient:
    """Ask a `Responder` from an event loop; requests may overlap. `on_skip` hears of an answer that
    cannot be read."""

    def __init__(
        self, path: str, on_skip: Callable[[ProtocolError], None] = lambda _: None
    ) -> None:
        self._on_skip = on_skip
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                reply = messages.decode_reply(frames[-1])
            except ProtocolError as e:
                self._on_skip(e)
                continue
            future = self._waiting.pop(reply.id, None)
            if future is not None and not future.done():
                future.set_result(reply)

    async def ask(self, verb: str, timeout: float = 5.0, again: str = "", **args: Any) -> Any:
        """`again`: the id of a request that was sent before, whose answer was late or lost."""
        request = Request(verb, again or uuid.uuid4().hex, args)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        raw = messages.encode_request(request)
        self._waiting[request.id] = future
        try:
            async with asyncio.timeout(timeout):
                # A full queue takes nothing, for as long as the other side reads nothing.
                await self._socket.send_multipart([b"", raw])
                reply = await future
        except TimeoutError:
            raise TimedOut(
                f"no answer to `{verb}` within {round(timeout, 2):g} s", code="E0904"
            ) from None
        finally:
            self._waiting.pop(request.id, None)
        return reply.value()

    def close(self) -> None:
        """Every request still waiting fails at once: no answer will come."""
        self._reader.cancel()
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Gone("the primary is gone", code="E0807"))
