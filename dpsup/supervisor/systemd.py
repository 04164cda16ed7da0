# SPDX-License-Identifier: BSD-3-Clause
"""What systemd wants to hear: sd_notify(3), and the watchdog of sd_watchdog_enabled(3).
A word is one datagram: no library is needed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

BEATS = 4  # in the time after which systemd ends what is silent


def notify(word: str) -> None:
    """A datagram to $NOTIFY_SOCKET, where there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        # It must not wait: where systemd does not read, the supervisor goes on.
        s.setblocking(False)
        s.sendto(word.encode(), address)


def watchdog_s() -> float | None:
    """After how many seconds of silence systemd replaces this process; None: it does not look."""
    try:
        wanted = int(os.environ["WATCHDOG_USEC"]) / 1e6
        pid = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return wanted if wanted > 0 and pid == os.getpid() else None


async def beat() -> None:
    """Tells systemd that this event loop turns, for as long as it does."""
    limit = watchdog_s()
    while limit is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(limit / BEATS)
