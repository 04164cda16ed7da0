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


def start_detached(
    file: str, idle_limit: float | None, say: Callable[[str], None], *, watch: bool = False
) -> None:
    """Start an instance that outlives us and keeps none of our descriptors; return when ready."""
    ready_r, ready_w = os.pipe()
    argv = [sys.executable, "-P", "-m", "dpsup", "start", file, "--ready-fd", str(ready_w)]
    if idle_limit is not None:
        argv += ["--exit-when-idle", f"{idle_limit:f}s"]
    argv += ["--watch"] * watch
    child: subprocess.Popen[bytes] | None = None
    orders: list[int] = []
    early: list[int] = []  # of them, those from before there was a child

    def pass_on(order: int, _: object) -> None:
        """An order to this command is for the start; it ends by it, and this command thereafter."""
        orders.append(order)
        if child is None:
            early.append(order)
        else:
            child.send_signal(order)

    # Where a shell has it ignored, as in the background, it stays so.
    heard = [
        sig for sig in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(sig) != signal.SIG_IGN
    ]
    before = {sig: signal.signal(sig, pass_on) for sig in heard}
    try:
        with os.fdopen(ready_r) as ready:
            try:
                # What it says until it is ready is for the command that waits here; later it has
                # no terminal.
                with open(os.devnull, "r+b") as null:  # noqa: PTH123
                    child = subprocess.Popen(
                        argv,
                        stdin=null,
                        stdout=null,
                        stderr=null,
                        pass_fds=(ready_w,),
                        start_new_session=True,
                    )
            finally:
                os.close(ready_w)
            if early:  # no more than once: a second order ends an instance without a drain
                child.send_signal(early[0])
            line = ready.readline()
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
    if orders:
        child.wait()
        raise KeyboardInterrupt
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
