# SPDX-License-Identifier: BSD-3-Clause
"""Work on files, on a thread of its own: a disk that hangs must not stop the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from dpsup.errors import TimedOut

T = TypeVar("T")
PATIENCE_S = 20.0  # a person waits for what is read


async def aside(work: Callable[[], T]) -> T:
    """Run it on a thread that the exit does not wait for: a disk may hang forever."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def give(result: T) -> None:
        if not done.cancelled():
            done.set_result(result)

    def fail(error: Exception) -> None:
        if not done.cancelled():
            done.set_exception(error)

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            try:
                loop.call_soon_threadsafe(give, work())
            except Exception as e:  # whatever it is: the caller waits for an answer
                loop.call_soon_threadsafe(fail, e)

    threading.Thread(target=run, daemon=True).start()
    return await done


async def read(work: Callable[[], T], what: str) -> T:
    """For a person who waits. Raises: TimedOut, and what `work` raises."""
    try:
        return await asyncio.wait_for(aside(work), PATIENCE_S)
    except TimeoutError:
        raise TimedOut(
            f"{what} takes more than {PATIENCE_S:g} s",
            code="E0728",
            why="its file system hangs; the instance runs on as it was",
            help="look at what is mounted there, then try again",
        ) from None
