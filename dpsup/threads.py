# SPDX-License-Identifier: BSD-3-Clause
"""Threads that are begun where nothing may wait."""

from __future__ import annotations

import _thread
from collections.abc import Callable


def begin(run: Callable[[], None]) -> None:
    """Start a thread, and do not wait for it. `Thread.start` of `threading` waits until the new
    thread says that it runs, and forever where it found no memory to come so far (seen with CPython
    3.11 and RLIMIT_AS). Raises: RuntimeError where the system gives no thread."""
    _thread.start_new_thread(run, ())
