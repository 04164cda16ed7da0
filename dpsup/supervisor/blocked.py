# SPDX-License-Identifier: BSD-3-Clause
"""Ports whose driver put an io core to sleep, which ended a generation. Pure.

Once may be a slow disk. A port that does it again is left out of the generations that follow: its
trouble is not that of all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TWICE = 2
# shim/io/watchdog.c says it before it ends the primary.
_SAID = re.compile(r"primary: io core \d+ is stuck in the driver of port (\S+):")
WHY = "its driver put an io core to sleep twice: left out until the next `dpsup start`"


def port_in(lines: Iterable[str]) -> str:
    """The port that the last words of a primary name, "" if they name none."""
    return next((m[1] for line in lines if (m := _SAID.search(line))), "")
