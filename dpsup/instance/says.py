# SPDX-License-Identifier: BSD-3-Clause
"""What a process of the supervisor's says to it: lines in a pipe."""

from __future__ import annotations

import contextlib
import os


def say(notify: int, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(notify, f"{line[:3000]}\n".encode())


class Said:
    """A trouble is told once, until there is another one or none."""

    def __init__(self, notify: int, is_well: str) -> None:
        self._notify, self._is_well, self._last = notify, is_well, ""

    def __call__(self, what: str) -> None:
        if what != self._last:
            self._last = what
            if what:
                say(self._notify, f"WARNING {what}")
            else:
                print(self._is_well, flush=True)
