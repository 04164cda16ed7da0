# SPDX-License-Identifier: BSD-3-Clause
"""What the supervisor does for the ports' ways to the kernel: it keeps the carrier of their TAPs
while no primary lives, and says what is wrong with them. launch.py removes them at the end.

It holds a queue of each TAP that is detached: no packet goes there, and the kernel counts it as a
reason to leave the carrier on. So a primary's death is no lost link for the routes, and the routing
daemons, of the kernel.
"""

from __future__ import annotations

import os

from dpsup.documents.counters import Counters
from dpsup.host import tap
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Model


class KernelPaths:
    def __init__(self, core: Core, model: Model) -> None:
        self._core, self._model = core, model
        self._held: dict[str, int] = {}  # descriptors, by port
        self._troubles: dict[str, str] = {}
        self._told: set[str] = set()  # ports without a way whose plugins punt

    def observe(self, counters: Counters) -> None:
        for port in counters["ports"]:
            name, path = port["name"], port.get("kernel")
            if path is None:
                if port["drops"].get("no_kernel") and name not in self._told:
                    self._told.add(name)
                    self._core.events.add(
                        type="advice",
                        name=name,
                        message="a plugin hands its packets to the kernel, and it has no way there"
                        ' (no_kernel): write kernel = "tap" in its [[ports]]',
                    )
                continue
            trouble = path["trouble"]
            if trouble != self._troubles.get(name, ""):
                message = f"no way to the kernel: {trouble}" if trouble else "it has its TAP again"
                self._core.events.add(type="port", name=name, message=message)
            self._troubles[name] = trouble
            if trouble:
                self._let_go(name)
            elif name not in self._held:
                self._hold(name, path["tap"], path["netns"])

    def _hold(self, port: str, name: str, netns: str) -> None:
        try:
            self._held[port] = tap.hold(name, netns, tap.mark_of(self._model.name, port))
        except (tap.Taken, OSError):
            return  # tried again at the next look

    def _let_go(self, port: str) -> None:
        if port in self._held:
            os.close(self._held.pop(port))
