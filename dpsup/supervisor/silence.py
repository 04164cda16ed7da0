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


async def forwards(pid: int) -> bool:
    """Do the io cores of this primary run?"""
    before = process.pulse(pid)
    await asyncio.sleep(PULSE_S)
    return _ran(before, pid)


def forwards_now(pid: int) -> bool:
    """The same, without an event loop."""
    before = process.pulse(pid)
    time.sleep(PULSE_S)
    return _ran(before, pid)


def _ran(before: dict[int, str], pid: int) -> bool:
    return bool(before) and process.pulse(pid) != before
