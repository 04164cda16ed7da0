# SPDX-License-Identifier: BSD-3-Clause
"""Long readings, beside the loop that answers all other requests: one thread, one at a time.

Requests for a reading that has not begun share it. One that has begun is too old for what is asked
now. So a request waits for two readings at most, however many clients there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dpsup import threads
from dpsup.bus import messages
from dpsup.bus.messages import Request

# The primary looks whether its threads are in a call of EAL's (primary/eal_locks); by this name it
# knows that this one takes none of EAL's locks.
THREAD = "dpsup-aside"
END_S = 60.0  # above the longest reading


class Asked(NamedTuple):
    peer: bytes
    id: str


class Aside:
    """`fd` is readable once `taken` has answers."""

    def __init__(self, handle: Callable[[Request], Any]) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._handle = handle
        self._thread: threading.Event | None = None  # that its end sets
        self._changed = threading.Condition()
        # Guarded by it:
        self._waiting: dict[str, tuple[Request, list[Asked]]] = {}  # by what is asked
        self._answers: list[tuple[Asked, bytes]] = []
        self._ending = False

    def put(self, peer: bytes, request: Request) -> None:
        if self._thread is None:
            self._thread = threading.Event()
            threads.begin(partial(self._main, self._thread))
        key = json.dumps([request.verb, request.args], sort_keys=True)
        with self._changed:
            _, asked = self._waiting.setdefault(key, (request, []))
            asked.append(Asked(peer, request.id))
            self._changed.notify()

    def taken(self) -> list[tuple[Asked, bytes]]:
        """The answers since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        with self._changed:
            answers, self._answers = self._answers, []
        return answers

    def _main(self, ended: threading.Event) -> None:
        try:
            self._run()
        finally:
            ended.set()

    def _run(self) -> None:
        Path("/proc/thread-self/comm").write_text(THREAD)
        while True:
            with self._changed:
                while not self._waiting and not self._ending:
                    self._changed.wait()
                if self._ending:
                    return
                request, asked = self._waiting.pop(next(iter(self._waiting)))
            work = self._done(request)
            answers = [(one, messages.answer(one.id, work)) for one in asked]
            with self._changed:
                self._answers += answers
            os.eventfd_write(self.fd, 1)

    def _done(self, request: Request) -> Callable[[], Any]:
        """Carries it out once; what is returned gives the result, or raises, as often as asked."""
        try:
            result = self._handle(request)
        except Exception as e:
            error = e

            def fail() -> Any:
                raise error

            return fail
        return lambda: result

    def close(self) -> None:
        """Returns once no request is being carried out; those that wait get no answer."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.wait(END_S)  # one that never began sets nothing
        os.close(self.fd)
