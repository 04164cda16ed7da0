# SPDX-License-Identifier: BSD-3-Clause
"""The bus as a command sees it: ask a control socket, follow publications; synchronous.

Apart from `bus.sockets`, so that a command does not import asyncio, which takes longer than its
request.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from dpsup.bus import messages
from dpsup.bus.messages import ProtocolError, Publication, Request
from dpsup.errors import NotRunning, TimedOut


class Client:
    """Ask a control socket, synchronously. `alive` says whether the server can still answer."""

    def __init__(self, path: str, alive: Callable[[], bool] = lambda: True) -> None:
        self._alive = alive
        self._socket: Any = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")

    def ask(self, verb: str, timeout: float = 10.0, **args: Any) -> Any:
        request = Request(verb, uuid.uuid4().hex, args)
        self._socket.send_multipart([b"", messages.encode_request(request)])
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(min(200, int(left * 1000) + 1)):
                if not self._alive():
                    raise NotRunning("the instance has ended", code="E0906")
                continue
            reply = messages.decode_reply(self._socket.recv_multipart()[-1])
            if reply.id in (request.id, ""):
                return reply.value()
        raise TimedOut(f"no answer to `{verb}` within {timeout:g} s", code="E0904")

    def close(self) -> None:
        self._socket.close()


class Subscriber:
    """Follow publications of some topics."""

    def __init__(self, path: str, topics: tuple[str, ...]) -> None:
        self._socket: Any = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        self._socket.connect(f"ipc://{path}")

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
