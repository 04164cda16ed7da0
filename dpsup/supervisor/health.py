# SPDX-License-Identifier: BSD-3-Clause
"""Answers `dpsup health`: a socket that says one line to each process that connects.

The event loop itself answers: a supervisor that hangs does not. Nothing is read, so that a client
can cost no more than its connection.
"""

from __future__ import annotations

import asyncio
import os

from dpsup.instance.health import encode
from dpsup.instance.places import HEALTH
from dpsup.supervisor.model import Model

BACKLOG = 64


def trouble(model: Model) -> str:
    """Why traffic should not be sent here; "": packets come in, and every group has a worker.

    A group with fewer workers than it should have forwards: that is degraded, not unready.
    """
    if not model.is_open or not model.rx_on:
        return f"it is {model.state}, and takes no packets"
    empty = [g.plan.name for g in model.groups if g.desired and not g.ready]
    if empty:
        return f"no worker of group {', '.join(empty)} is ready"
    wrong = {**dict.fromkeys(model.absent, "it is not there"), **model.troubles}
    required = {port.name for port in model.plan.ports if port.required}
    said = [f"port {name}: {why}" for name, why in wrong.items() if name in required]
    return "; ".join(said)


class _Visit(asyncio.Protocol):
    def __init__(self, model: Model) -> None:
        self._model = model

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        why = trouble(self._model)
        transport.write(encode(self._model.state, why, ready=not why))
        transport.close()


async def serve(model: Model) -> None:
    """Until it is cancelled."""
    path = model.runtime.file(HEALTH)
    mask = os.umask(0o077)
    try:
        server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Visit(model), path, backlog=BACKLOG
        )
    finally:
        os.umask(mask)
    async with server:
        await server.serve_forever()
