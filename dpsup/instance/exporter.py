# SPDX-License-Identifier: BSD-3-Clause
"""Metrics of an instance, served by a process that is not one of its own: beside it in a pod, say,
with the client alone. It stays while the instance ends and starts again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dpsup.errors import DpsupError, HostError, UsageError
from dpsup.instance.client import connect
from dpsup.instance.openmetrics import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpsup.documents.rates import Look


def looker(name: str | None) -> Callable[[], Look | None]:
    """Looks for the instance each time: it may be another one's process by now."""

    def look() -> Look | None:
        try:
            with connect(name) as instance:
                return instance.look()
        except DpsupError:
            return None

    return look


def serve(name: str | None, listen: str) -> None:
    """Until a signal ends the process. Raises: UsageError, HostError."""
    port = re.fullmatch(r".+:(\d{1,5})", listen)
    if not port or int(port[1]) > 65535:
        raise UsageError(
            f"`{listen}` is no address to listen at",
            code="E0486",
            why="it has an address or a name, a colon, and a port",
            help="as in --listen 127.0.0.1:9464",
        )
    try:
        server = Server(listen, looker(name))
    except OSError as e:
        raise HostError(
            f"cannot serve metrics at {listen}: {e.strerror or e}",
            code="E0486",
            why="nothing would scrape this instance",
            help="choose a free port, and an address of this machine",
        ) from None
    with server:
        server.serve_forever()
