# SPDX-License-Identifier: BSD-3-Clause
"""Work that may have to wait, on a thread of its own: a disk that hangs, or a process that does not
end, must not stop the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from dpsup import threads
from dpsup.errors import TimedOut

T = TypeVar("T")
PATIENCE_S = 20.0  # a person waits for what is read
BEGIN_S = 30.0  # a machine that swaps may take seconds to begin a thread


async def aside(work: Callable[[], T]) -> T:
    """Run it on a thread that the exit does not wait for: a disk may hang forever. Raises:
    MemoryError or RuntimeError where no thread begins, and what `work` raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def give(result: T) -> None:
        if not done.cancelled():
            done.set_result(result)

    def fail(error: Exception) -> None:
        if not done.cancelled():
            done.set_exception(error)

    begun = False

    def run() -> None:
        nonlocal begun
        begun = True
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            try:
                loop.call_soon_threadsafe(give, work())
            except Exception as e:  # whatever it is: the caller waits for an answer
                loop.call_soon_threadsafe(fail, e)

    threads.begin(run)
    await asyncio.wait([done], timeout=BEGIN_S)
    if not begun:
        raise MemoryError("a thread did not begin")
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
