# SPDX-License-Identifier: BSD-3-Clause
"""A process that the supervisor keeps for a group (dpsup.follow, dpsup.probe): how it begins, and
what it says, as lines in a pipe."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Set
from typing import Any, NamedTuple

from dpsup.documents.plan import Plan
from dpsup.host import process, rights
from dpsup.instance.client import read_plan
from dpsup.instance.runtime_dir import Runtime
from dpsup.plan import rights as of


class Begun(NamedTuple):
    where: Runtime
    group: str
    plan: Any
    notify: int


def begin(argv: list[str], kept: Callable[[Plan], Set[str]]) -> Begun | None:
    """With `RUNTIME_DIR NAME GROUP --notify FD`. `kept`: the capabilities that it does not give up.
    None: the supervisor is no more."""
    path, name, group, _, notify_fd = argv
    notify = int(notify_fd)
    process.die_with_parent(yes=True)
    if not process.is_read(notify):
        return None
    process.ignore_accidents()
    process.ignore_terminal()
    where = Runtime(path, name)
    plan = json.loads(json.dumps(read_plan(where)))
    rights.keep(of.mask(kept(plan)))
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
