# SPDX-License-Identifier: BSD-3-Clause
"""The gate: the sockets that clients other than the owner may connect to, in a process of its own.

It knows each client, a local one from the kernel and one over the network by its key, finds its
role, limits what it asks, and passes requests on to the supervisor with the client's name. What
clients do to ZeroMQ affects this process alone: it may crash, and the next one takes its place.
Requests are limited by user or key, however many connections that has.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import zmq
import zmq.asyncio
from zmq.auth.base import Authenticator

from dpsup.bus import curve, messages, roles
from dpsup.bus.curve import Pair
from dpsup.bus.messages import Limiter, Origin, ProtocolError, Reply, Sparing
from dpsup.bus.sockets import bind, requested
from dpsup.errors import DpsupError

RATE, BURST = 100.0, 200.0  # requests a second of one user or key
IN_PROGRESS_MOST = 8  # requests of one user or key
READING_MOST = 24  # of all that only read, so that an order is not kept waiting by them
NEWS_HIGH_WATER = 256  # publications queued for a slow subscriber, then dropped
TAKEN_MOST = 16  # messages, before the event loop has its turn
LISTEN_S, LISTEN_TRIES = 0.02, 50
LOOK_S = 0.2  # between two looks at the keys


@dataclass(frozen=True, slots=True)
class Known:
    """A key, as the host knows it."""

    name: str
    role: str


@dataclass(slots=True)
class Waiting:
    """A request that was passed on, and who waits for the answer: by socket and connection."""

    who: str
    request_id: str
    peers: list[tuple[Any, bytes]] = field(default_factory=list)
    reads: bool = True


class Gate:
    """`local`: the role of a local user, by uid and gid; `keys`: what is known of public keys now;
    `reads`: does a verb only read? `skip` hears of what is refused."""

    def __init__(
        self,
        control: str,
        local: Callable[[int, int], str],
        keys: Callable[[], dict[str, Known]],
        reads: Callable[[str], bool],
        skip: Callable[[str], None],
    ) -> None:
        self._local, self._keys, self._reads = local, keys, reads
        self._skip, self._sparing = skip, Sparing()
        self._context = zmq.asyncio.Context.instance()
        self._doors: list[Any] = []
        self._news: list[Any] = []  # publishers, one for each way
        self._limiter = Limiter(RATE, BURST)
        self._waiting: dict[str, Waiting] = {}
        self._busy: Counter[str] = Counter()
        self._reading = 0
        self._control: Any = self._context.socket(zmq.DEALER)
        self._control.setsockopt(zmq.LINGER, 0)
        self._control.connect(f"ipc://{control}")
        self.refused = 0

    # --- the doors -------------------------------------------------------------------------------

    def open_local(self, control: str, events: str, uids: set[int], gids: set[int]) -> None:
        """Sockets that every local user may connect to. One without a role is told so, and hears
        of no events: `uids` and `gids` are those that do."""
        door = self._context.socket(zmq.ROUTER)
        bind(door, control, messages.MAX_REQUEST, mode=0o666)
        self._doors.append(door)
        news = self._context.socket(zmq.PUB)
        for uid in uids:
            news.setsockopt(zmq.IPC_FILTER_UID, uid)
        for gid in gids:
            news.setsockopt(zmq.IPC_FILTER_GID, gid)
        self._publishes(news)
        bind(news, events, messages.MAX_REQUEST, mode=0o666)

    def open_network(self, endpoint: str, news_endpoint: str, pair: Pair) -> Authenticator:
        """The returned handler must run (`authenticate`), else no key is let in. Raises:
        DpsupError."""
        handler = Authenticator(self._context)
        handler.configure_curve_callback(curve.DOMAIN.decode(), self)
        handler.start()
        door = self._context.socket(zmq.ROUTER)
        curve.serve(door, pair)
        door.setsockopt(zmq.LINGER, 0)
        door.setsockopt(zmq.MAXMSGSIZE, messages.MAX_REQUEST)
        _listen(door, endpoint)
        self._doors.append(door)
        self._far = news_endpoint, pair
        self._far_news: Any = None
        self.cut_news()
        return handler

    def callback(self, _: str, key: bytes) -> bool:
        """Is that key accepted? The authenticator asks."""
        return key.decode("ascii", "replace") in self._keys()

    def cut_news(self) -> None:
        """Close the publisher of the network, and open it again: a subscriber whose key was
        revoked is not let in again; the others connect again by themselves."""
        if self._far_news is not None:
            self._news.remove(self._far_news)
            self._far_news.close(linger=0)
        endpoint, pair = self._far
        news: Any = self._context.socket(zmq.PUB)
        curve.serve(news, pair)
        self._publishes(news)
        _listen(news, endpoint)
        self._far_news = news

    def _publishes(self, news: Any) -> None:
        news.setsockopt(zmq.LINGER, 0)
        news.setsockopt(zmq.SNDHWM, NEWS_HIGH_WATER)
        news.setsockopt(zmq.RCVHWM, NEWS_HIGH_WATER)  # subscriptions that are not taken yet
        news.setsockopt(zmq.MAXMSGSIZE, 1024)  # a peer sends subscriptions alone
        self._news.append(news)

    # --- life ------------------------------------------------------------------------------------

    async def run(self, events: str, handler: Authenticator | None) -> None:
        """Until one of the tasks fails: then this process is to end, and the next one begins."""
        tasks = [self._answers(), self._publish(events), *map(self._serve, self._doors)]
        if handler is not None:
            tasks += [authenticate(handler), self._look_at_keys()]
        async with asyncio.TaskGroup() as group:
            for one in tasks:
                group.create_task(one)

    async def _look_at_keys(self) -> None:
        before = self._keys()
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._keys()
            if any(key not in now for key in before):
                self.cut_news()
            before = now

    async def _publish(self, events: str) -> None:
        source = self._context.socket(zmq.SUB)
        source.setsockopt(zmq.SUBSCRIBE, b"")
        source.connect(f"ipc://{events}")
        while True:
            frames = await source.recv_multipart()
            for news in self._news:
                with contextlib.suppress(zmq.ZMQError):
                    await news.send_multipart(frames, zmq.NOBLOCK)

    async def _answers(self) -> None:
        while True:
            raw = (await self._control.recv_multipart())[-1]
            id_ = messages.id_of(raw)
            waiting = self._waiting.pop(id_, None)
            if waiting is None:
                continue
            self._busy[waiting.who] -= 1
            if not self._busy[waiting.who]:
                del self._busy[waiting.who]
            self._reading -= waiting.reads
            answer = messages.readdressed(raw, id_, waiting.request_id)
            for door, peer in waiting.peers:
                await self._send(door, peer, answer)

    async def _serve(self, door: Any) -> None:
        taken = 0
        while True:
            received = await door.recv_multipart(copy=False)
            frames = requested(received)
            last = received[-1]
            del received
            try:
                answer = await self._open(door, frames, last)
            except Exception as e:  # a bug in one request must not end the gate
                answer = self._refuse(
                    "a client", DpsupError(f"internal error: {e!r}", code="E0001")
                )
            if answer is not None:
                await self._send(door, frames[0], answer)
            taken += 1
            if taken % TAKEN_MOST == 0:
                await asyncio.sleep(0)

    async def _send(self, door: Any, peer: bytes, answer: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it reads nothing: it misses the answer
            await door.send_multipart([peer, answer], zmq.NOBLOCK)

    # --- a request -------------------------------------------------------------------------------

    def _origin(self, frame: Any) -> tuple[str, Origin]:
        """Who sent it: by what its requests are limited, and what the supervisor hears."""
        address = _property(frame, "Peer-Address")
        public = _property(frame, "User-Id")
        if public:
            known = self._keys().get(public)
            name, role = (known.name, known.role) if known else ("", "")
            return f"key {public}", Origin(role, key=name, address=address[:64])
        who = messages.credentials_of(address)
        if who is None:
            return "", Origin("")
        uid, gid, pid = who
        return f"uid {uid}", Origin(self._local(uid, gid), uid=uid, pid=pid)

    async def _open(self, door: Any, frames: list[bytes], last: Any) -> bytes | None:
        """Pass a request on; the answer, where it is refused."""
        who, origin = self._origin(last)
        if not self._limiter.allows(who.encode(), time.monotonic()):
            return self._refuse(who, ProtocolError("too many requests", code="E0902"))
        if not origin.role:
            return self._refuse(who, roles.nothing(who, has_key=origin.uid is None), _id_in(frames))
        try:
            if len(frames) > messages.FRAMES_MOST:
                raise ProtocolError(f"a request has one frame, not {len(frames) - 1}")
            request = messages.decode_request(frames[-1])
            if request.origin is not None:
                raise ProtocolError("origin: only the gate says it")
        except ProtocolError as e:
            return self._refuse(who, e)
        # One user's id is never another's: the answer that is kept for it is not either.
        id_ = hashlib.sha256(f"{who}\0{request.id}".encode()).hexdigest()[: messages.MAX_ID]
        waiting = self._waiting.get(id_)
        if waiting is not None:  # repeated, over another connection perhaps
            if (door, frames[0]) not in waiting.peers and len(waiting.peers) < IN_PROGRESS_MOST:
                waiting.peers.append((door, frames[0]))
            return None
        reads = self._reads(request.verb)
        if self._busy[who] >= IN_PROGRESS_MOST or (reads and self._reading >= READING_MOST):
            error = ProtocolError(
                "too many requests are in progress", code="E0902", help="wait for their answers"
            )
            return self._refuse(who, error, request.id)
        try:
            passed_on = messages.encode_request(replace(request, id=id_, origin=origin))
            messages.decode_request(passed_on)  # longer than it came, or 1e999: it is not answered
        except DpsupError as e:
            return self._refuse(who, e, request.id)
        self._busy[who] += 1
        self._reading += reads
        self._waiting[id_] = Waiting(who, request.id, [(door, frames[0])], reads)
        await self._control.send_multipart([b"", passed_on])
        return None

    def _refuse(self, who: str, error: DpsupError, id_: str = "") -> bytes:
        self.refused += 1
        count = self._sparing.count((who, error.code), time.monotonic())
        if count:
            self._skip(f"{count} of {who or 'an unknown client'}: {error.message}")
        return messages.encode_reply(Reply(id_, error=messages.as_error(error)))


def _listen(socket: Any, endpoint: str) -> None:
    """Raises: DpsupError."""
    for left in range(LISTEN_TRIES, -1, -1):
        try:
            socket.bind(endpoint)
            return
        except zmq.ZMQError as e:
            if not left or e.errno != zmq.EADDRINUSE:
                raise DpsupError(
                    f"the bus cannot listen at {endpoint}: {e.strerror}",
                    code="E0475",
                    why="clients on other hosts cannot connect; the instance runs on",
                    help="`ss -ltnp` shows which process has the port; the address must be there",
                ) from e
        time.sleep(LISTEN_S)  # ZeroMQ's own thread gives an address back a moment later


async def authenticate(handler: Authenticator) -> None:
    """Answer ZeroMQ's question about each key, until cancelled."""
    poller = zmq.asyncio.Poller()
    poller.register(handler.zap_socket, zmq.POLLIN)
    try:
        while True:
            await poller.poll()
            await handler.handle_zap_message(handler.zap_socket.recv_multipart())
    finally:
        handler.stop()


def _property(frame: Any, name: str) -> str:
    try:
        return str(frame.get(name))
    except (zmq.ZMQError, AttributeError, UnicodeDecodeError):
        return ""


def _id_in(frames: list[bytes]) -> str:
    with contextlib.suppress(ProtocolError):
        return messages.decode_request(frames[-1]).id
    return ""
