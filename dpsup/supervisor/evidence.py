# SPDX-License-Identifier: BSD-3-Clause
"""Writes down the packets in quarantine that wait in the primary, on a thread of its own: a disk
that hangs must not stop the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from dpsup.documents.story import Evidence
from dpsup.instance.quarantine import Folder, describe
from dpsup.plan.model import Plan

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """Run it on a thread that the exit does not wait for: a disk may hang forever."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def give(result: T) -> None:
        if not done.cancelled():
            done.set_result(result)

    def fail(error: OSError) -> None:
        if not done.cancelled():
            done.set_exception(error)

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            try:
                loop.call_soon_threadsafe(give, work())
            except OSError as e:
                loop.call_soon_threadsafe(fail, e)

    threading.Thread(target=run, daemon=True).start()
    return await done


class Keeper:
    """Writes down what waits in the primary; `say` gets an event about each."""

    def __init__(self, directory: Folder, say: Callable[..., None]) -> None:
        self.directory = directory
        self._say = say
        self._lock = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    async def collect(self, plan: Plan, ask: Callable[..., Awaitable[Any]]) -> None:
        """Write them down until none waits. Raises: DpsupError of `ask`."""
        async with self._lock:
            while packets := await ask("quarantine"):
                for packet in packets:
                    await self._keep(plan, packet)
                    await ask("release", io=packet["io"], n=1)

    async def _keep(self, plan: Plan, packet: Evidence) -> None:
        story = describe(plan, packet, time.time(), time.monotonic_ns())
        frame = bytes.fromhex(packet["bytes"])
        event = {k: story[k] for k in ("why", "port", "length", "flow_hash")}
        try:
            number = await aside(lambda: self.directory.keep(frame, story))
        except OSError as e:
            lost = f"not written down: {e}"
            self._say(type="quarantine", name=story["worker"], **event, number=None, message=lost)
            return
        file = self.directory.pcap(number)
        self._say(type="quarantine", name=story["worker"], **event, number=number, file=file)
