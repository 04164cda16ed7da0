# SPDX-License-Identifier: BSD-3-Clause
"""Reads the kernel's routes, neighbours and links as often as they change, and has the builder
change the tables of one group.

It holds nothing that outlives it: its successor reads the kernel and the tables, and changes what
differs. So it may die at any moment; the tables are then what the kernel had a moment before.
"""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpsup.errors import DpsupError
from dpsup.follow import kernel
from dpsup.follow.wanted import Follower, State, Step, unresolved
from dpsup.host import tap
from dpsup.host.routing import Routing
from dpsup.instance.client import Instance
from dpsup.instance.entries import Entries
from dpsup.instance.helper import Said, begin
from dpsup.instance.runtime_dir import TABLES
from dpsup.plan import rights

NAMES = ("neighbours", "neighbours6", "hops", "ecmp", "routes", "routes6")
SETTLE_S = 0.02  # changes come in swarms
LOOK_S = 2.0  # between two looks whether another hand has changed a table
FULL_S = 60.0  # between two looks without a cause
AGAIN_S = 0.3  # after a failure
USE_S, USE_STALE_S = 1.0, 30.0  # between two requests to the kernel to find out addresses
USES = 1000  # at once

_LINK_KINDS = {0, 16, 17}
_NEIGHBOUR_KINDS = {0, 16, 17, 28, 29}
_ROUTE_KINDS = {0, 16, 17, 20, 21, 24, 25, 104, 105}  # links, addresses, routes, next hop objects


class Kernel:
    """What the kernel has; read again is what the news touch."""

    def __init__(self, socket: Routing, name: str, plan: Any) -> None:
        self.socket = socket
        self._marks = {
            tap.mark_of(name, port["name"]): port["name"]
            for port in plan["ports"]
            if port["kernel_tap"]
        }
        self._ports: dict[int, str] = {}
        self._routes: kernel.Routes = {}
        self._neighbours: kernel.Neighbours = {}
        self._used: dict[str, float] = {}

    def read(self, kinds: set[int]) -> State:
        if kinds & _LINK_KINDS:
            found = self.socket.links()
            self._ports = {found[m]: port for m, port in self._marks.items() if m in found}
        if kinds & _ROUTE_KINDS:
            routes: kernel.Routes = {}
            for family in (kernel.V4, kernel.V6):
                with contextlib.suppress(OSError) if family == kernel.V6 else _nothing():
                    routes |= kernel.routes(self.socket.routes(family), family)
            self._routes = routes
        if kinds & _NEIGHBOUR_KINDS:
            self._neighbours = kernel.neighbours(self.socket.neighbours())
        return State(self._ports, self._routes, self._neighbours)

    def find_out(self, state: State) -> None:
        """Packets that `route` forwards do not show the kernel that a neighbour is used."""
        now = time.monotonic()
        if now - self._used.get("new", -USE_S) >= USE_S:
            self._used["new"] = now
            for link, address in sorted(unresolved(state))[:USES]:
                self.socket.use(link, address)
        if now - self._used.setdefault("stale", now) >= USE_STALE_S:
            self._used["stale"] = now
            stale = [key for key, one in state.neighbours.items() if one.mac and one.is_stale]
            for link, address in [key for key in stale if key[0] in state.ports][:USES]:
                self.socket.use(link, address)


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


class Group:
    """The tables of the group, as they are and as they shall be."""

    def __init__(self, instance: Instance, group: str, file: Path) -> None:
        """`file`: that it may write, for the builder to read."""
        self._tables = Entries(instance, group, NAMES, file)
        self.refresh = self._tables.refresh
        self.follower = Follower(self._tables.most)

    def follow(self, state: State) -> int:
        """Returns the number of operations. Raises: DpsupError; the tables are then read again."""
        steps = self.follower.steps(self._tables.there, state)
        try:
            for step in steps:
                self._carry_out(step)
        except BaseException:
            self._tables.versions.clear()
            raise
        return sum(len(step.lines) for step in steps)

    def _carry_out(self, step: Step) -> None:
        """Whole: packets see all of it, or nothing."""
        self._tables.change(step.table, step.lines)


def _turns(known: Kernel, group: Group, said: Said) -> None:
    """Until something fails."""
    kinds, looked, full = {0}, 0.0, 0.0
    while True:
        began = time.monotonic()
        if began - full >= FULL_S:
            kinds, full = {0}, began
        if kinds or began - looked >= LOOK_S:
            changed = bool(kinds)
            if began - looked >= LOOK_S or 0 in kinds:
                changed |= group.refresh()
                looked = began
            state = known.read(kinds)
            known.find_out(state)
            if not state.ports:
                said("none of the ports' TAPs is there: the tables stay as they are")
            elif changed:
                number = group.follow(state)
                said("; ".join(group.follower.troubles))
                if number:
                    took = time.monotonic() - began
                    count = f"{number} operation{'s' * (number != 1)}"
                    print(f"{count}, {len(state.routes)} prefixes, {took:.3f} s", flush=True)
        # However fast the kernel changes, it takes half of a CPU at most.
        pause = max(SETTLE_S, min(5.0, time.monotonic() - began))
        select.select([known.socket.news], [], [], LOOK_S)
        time.sleep(pause)
        kinds = known.socket.drain()


def main(argv: list[str]) -> int:
    if (begun := begin(argv, rights.follow)) is None:
        return 1
    where, group, plan, notify = begun
    said = Said(notify, "the tables are as the kernel has it")
    netns = next((p["kernel_netns"] for p in plan["ports"] if p["kernel_tap"]), "")
    while True:
        try:
            with Instance(where) as instance, Routing(netns) as routing:
                file = Path(where.file(TABLES), f"{group}:follow")
                _turns(Kernel(routing, where.name, plan), Group(instance, group, file), said)
        except (DpsupError, OSError) as e:
            said(e.message if isinstance(e, DpsupError) else f"the kernel's routes: {e}")
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
