# SPDX-License-Identifier: BSD-3-Clause
"""When does a primary count as hung? Only if it is silent and its io cores stand still.

A refusal is an answer. Silence alone is none either: io cores are C threads that forward whatever
became of the primary's Python. So a primary is ended after some silences in a row, and only if the
kernel says that none of its io threads ran in between. The other half is in C: an io core that runs
and completes no iteration ends the primary itself (shim/io/watchdog.c).
"""

from __future__ import annotations

import asyncio
import time

from dpsup.host import process

ANSWER_S = 2.5  # for the monitor's questions; milliseconds, unless the primary hangs
SILENCES = 2  # of the monitor's questions in a row; one alone may be our own, after a SIGCONT
INSIST = 3  # silences, or refusals, of a request that must be carried out
PULSE_S = 1.0  # in which an io core that lives runs, if only to look and nap
DISK_S = 10.0  # but one that waits for a disk: as long as watchdog.c grants it (DISK_MS)


async def forwards(pid: int) -> bool:
    """Do the io cores of this primary run?"""
    look = _Look(pid)
    while look.verdict() is None:
        await asyncio.sleep(PULSE_S)
    return look.verdict() is True


def forwards_now(pid: int) -> bool:
    """The same, without an event loop."""
    look = _Look(pid)
    while look.verdict() is None:
        time.sleep(PULSE_S)
    return look.verdict() is True


class _Look:
    def __init__(self, pid: int) -> None:
        self._pid, self._before = pid, process.pulse(pid)
        self._since = time.monotonic()

    def verdict(self) -> bool | None:
        """None: it is too early to say."""
        if not self._before:
            return False
        now = process.pulse(self._pid)
        if now and now != self._before:
            return True
        past = time.monotonic() - self._since
        if past < PULSE_S or (past < DISK_S and process.waits_for_disk(self._pid)):
            return None
        return False
