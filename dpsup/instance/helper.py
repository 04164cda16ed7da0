# SPDX-License-Identifier: BSD-3-Clause
"""A process that the supervisor keeps for a group (dpsup.follow, dpsup.probe): how it begins, and
what it says, as lines in a pipe."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, NamedTuple

from dpsup.host import process
from dpsup.instance.client import read_plan
from dpsup.instance.runtime_dir import Runtime


class Begun(NamedTuple):
    where: Runtime
    group: str
    plan: Any
    notify: int


def begin(argv: list[str]) -> Begun | None:
    """With `RUNTIME_DIR NAME GROUP --notify FD`. None: the supervisor is no more."""
    path, name, group, _, notify_fd = argv
    notify = int(notify_fd)
    process.die_with_parent(yes=True)
    if not process.is_read(notify):
        return None
    process.ignore_accidents()
    process.ignore_terminal()
    where = Runtime(path, name)
    plan = json.loads(json.dumps(read_plan(where)))
    process.pin(tuple(plan["supervisor_cores"]))
    say(notify, "READY")
    return Begun(where, group, plan, notify)


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
