# SPDX-License-Identifier: BSD-3-Clause
"""The bus as a command sees it: ask a control socket, follow publications; synchronous.

Apart from `bus.sockets`, so that a command does not import asyncio, which takes longer than its
request.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from dpsup.bus import curve, messages
from dpsup.bus.curve import Identity
from dpsup.bus.messages import ProtocolError, Publication, Request
from dpsup.errors import DpsupError, NotPermitted, NotRunning, TimedOut, UsageError


def _ended() -> DpsupError:
    return NotRunning("the instance has ended", code="E0906")


def _address(where: str) -> str:
    """A path, or an address of the network."""
    return where if where.startswith("tcp://") else f"ipc://{where}"


class Client:
    """Ask a control socket, synchronously. `alive` says whether the server can still answer,
    `ended` what it means where it cannot.

    Threads may share it: one asks, the others wait for their turn, no longer than their timeouts.
    """

    def __init__(
        self,
        path: str,
        alive: Callable[[], bool] = lambda: True,
        ended: Callable[[], DpsupError] = _ended,
        identity: Identity | None = None,
    ) -> None:
        self._alive = alive
        self._ended = ended
        self._turn = threading.Lock()
        self._closed = False
        self._where = path
        self.generation: int | None = None  # the only one that requests are meant for
        self._socket: Any = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._monitor: Any = None
        if identity is not None:
            curve.present(self._socket, identity)
            self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._socket.connect(_address(path))

    def ask(self, verb: str, timeout: float = 10.0, **args: Any) -> Any:
        deadline = time.monotonic() + timeout
        if self._turn.acquire(timeout=max(0.0, timeout)):
            try:
                return self._ask(verb, deadline, args)
            finally:
                self._turn.release()
        raise self._late(verb, timeout)

    def _ask(self, verb: str, deadline: float, args: dict[str, Any]) -> Any:
        timeout = deadline - time.monotonic()
        self.demand_open()
        request = Request(verb, uuid.uuid4().hex, args, generation=self.generation)
        raw = messages.encode_request(request)
        try:
            self._socket.send_multipart([b"", raw], zmq.NOBLOCK)
        except zmq.Again:  # a thousand requests wait, unread
            raise self._late(verb, timeout) from None
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(min(200, int(left * 1000) + 1)):
                self.demand_open()
                self._demand_known()
                if not self._alive():
                    raise self._ended()
                continue
            reply = messages.decode_reply(self._socket.recv_multipart()[-1])
            if reply.id in (request.id, ""):
                return reply.value()
        raise self._late(verb, timeout)

    def _demand_known(self) -> None:
        """Raises: NotPermitted where the other side refused this key."""
        if self._monitor is not None and self._monitor.poll(0):
            raise NotPermitted(
                f"{self._where} does not accept this key",
                code="E0471",
                why="it accepts the keys that `dpsup keys list` shows on that host",
                help="have its owner make one: `dpsup keys add NAME`",
            )

    @staticmethod
    def _late(verb: str, timeout: float) -> DpsupError:
        return TimedOut(
            f"no answer to `{verb}` within {max(0.0, round(timeout, 2)):g} s", code="E0904"
        )

    def demand_open(self) -> None:
        if self._closed:
            raise UsageError(
                "this connection to the instance is closed",
                code="E0907",
                help="dpsup.connect() opens another one",
            )

    def close(self) -> None:
        """A request in progress, of another thread, ends with an error."""
        self._closed = True
        with self._turn:
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor = None
            self._socket.close()


class Subscriber:
    """Follow publications of some topics."""

    def __init__(
        self, path: str, topics: tuple[str, ...], identity: Identity | None = None
    ) -> None:
        self._socket: Any = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        if identity is not None:
            curve.present(self._socket, identity)
        self._socket.connect(_address(path))

    def follow(self, alive: Callable[[], bool], step: float = 0.5) -> Iterator[Publication]:
        """Publications until `alive`, called after each `step` seconds of silence, is False."""
        while True:
            if self._socket.poll(int(step * 1000)):
                with contextlib.suppress(ProtocolError):
                    yield messages.decode_publication(self._socket.recv_multipart()[-1])
            elif not alive():
                return

    def close(self) -> None:
        self._socket.close()
