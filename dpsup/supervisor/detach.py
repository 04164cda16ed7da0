# SPDX-License-Identifier: BSD-3-Clause
"""Start an instance that outlives the command. A module of its own, and a light one: the process
that waits needs nothing of what the one that it starts imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from dpsup.bus.messages import as_exception
from dpsup.errors import DpsupError


def start_detached(file: str, idle_limit: float | None, say: Callable[[str], None]) -> None:
    """Start an instance that outlives us and keeps none of our descriptors; return when ready."""
    ready_r, ready_w = os.pipe()
    argv = [sys.executable, "-P", "-m", "dpsup", "start", file, "--ready-fd", str(ready_w)]
    if idle_limit is not None:
        argv += ["--exit-when-idle", f"{idle_limit:f}s"]
    # What it says until it is ready is for the command that waits here; later it has no terminal.
    with open(os.devnull, "r+b") as null:  # noqa: PTH123
        child = subprocess.Popen(
            argv,
            stdin=null,
            stdout=null,
            stderr=null,
            pass_fds=(ready_w,),
            start_new_session=True,
        )
    os.close(ready_w)
    with os.fdopen(ready_r) as ready:
        try:
            line = ready.readline()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    if not line:
        raise DpsupError(
            f"the supervisor ended with exit code {child.wait()} before it was ready", code="E0611"
        )
    word = json.loads(line)
    if not word["ok"]:
        child.wait()
        raise as_exception(word["error"])
    child.returncode = 0  # it is on its own from here
    say(f"{word['name']} is running, supervisor pid {word['pid']}")
