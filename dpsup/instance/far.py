# SPDX-License-Identifier: BSD-3-Clause
"""An instance of which a client has the gate's sockets and no directory: another user's on this
machine, or one on another host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from dpsup.bus.client import Client, Subscriber
from dpsup.bus.curve import Identity
from dpsup.errors import DpsupError, NotPermitted
from dpsup.host.process import Identity as Process
from dpsup.instance import runtime_dir
from dpsup.instance.runtime_dir import CONTROL, EVENTS, Runtime, State


class Far(Runtime):
    """What has no directory here: every look at a file of it is refused, with the reason."""

    def __init__(
        self, name: str, control: str, events: str, identity: Identity | None = None
    ) -> None:
        super().__init__("/nonexistent", name)
        self._control, self._events, self._identity = control, events, identity

    def control(self, ended: Callable[[], DpsupError]) -> Client:
        return Client(self._control, lambda: True, ended, self._identity)

    def subscriber(self, topics: tuple[str, ...]) -> Subscriber:
        return Subscriber(self._events, topics, self._identity)

    @property
    def is_network(self) -> bool:
        return self._identity is not None

    def file(self, name: str) -> str:
        raise self._no_files()

    @contextlib.contextmanager
    def at(self) -> Iterator[int]:
        yield self._descriptor()

    def _descriptor(self) -> int:
        raise self._no_files()

    def _no_files(self) -> NotPermitted:
        return NotPermitted(
            f'this works for the owner of "{self.name}", on its host',
            code="E0478",
            why="it reads files of the instance, or asks its primary, beside the bus",
            help="run it there, as the user that runs the instance, or as root",
        )

    def demand_access(self) -> None:
        """The gate decides."""

    def is_supervised(self) -> bool:
        return True

    def is_held(self) -> bool:
        return False

    def primary(self) -> Process | None:
        return None

    def read_state(self) -> State | None:
        return None


def local(where: Runtime) -> Far | None:
    """Another user's instance on this machine, if it has a gate for local users."""
    directory = where.path / runtime_dir.BUS
    with contextlib.suppress(OSError):
        if not os.access(where.path, os.W_OK) and (directory / CONTROL).is_socket():
            return Far(where.name, str(directory / CONTROL), str(directory / EVENTS))
    return None


def network(name: str, endpoint: str, identity: Identity) -> Far:
    head, _, port = endpoint.rpartition(":")
    return Far(name, endpoint, f"{head}:{int(port) + 1}", identity)
