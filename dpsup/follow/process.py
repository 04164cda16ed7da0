# SPDX-License-Identifier: BSD-3-Clause
"""Reads the kernel's routes, neighbours and links as often as they change, and has the builder
change the tables of one group.

It holds nothing that outlives it: its successor reads the kernel and the tables, and changes what
differs. So it may die at any moment; the tables are then what the kernel had a moment before.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpsup.errors import DpsupError
from dpsup.follow import kernel
from dpsup.follow.wanted import Follower, State, Step, Tables, Text, unresolved
from dpsup.host import process, tap
from dpsup.host.routing import Routing
from dpsup.instance.client import TABLE_BYTES, Instance, read_plan
from dpsup.instance.runtime_dir import TABLES, Runtime

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
        self._instance, self._group, self._file = instance, group, file
        self._there: Tables = {}
        self._versions: dict[str, int] = {}
        self._most = {
            row["table"]: row["most"]
            for row in instance.tables()["tables"]
            if row["group"] == group and row["table"] in NAMES
        }
        self.follower = Follower(self._most)

    def refresh(self) -> bool:
        """Read what another hand has changed. False: nothing."""
        found = False
        for row in self._instance.tables()["tables"]:
            name = row["table"]
            if row["group"] != self._group or name not in self._most:
                continue
            if self._versions.get(name) != row["version"]:
                self._read(name)
                found = True
        return found

    def _read(self, name: str) -> None:
        entries: Text = {}
        version = 0
        for page in self._instance.table_pages(f"{self._group}/{name}"):
            version = page["version"]
            for line in page["text"].splitlines():
                key, value = line.split("  # ")[0].split(maxsplit=1)
                entries[key] = value
        self._there[name], self._versions[name] = entries, version

    def follow(self, state: State) -> int:
        """Returns the number of operations. Raises: DpsupError; the tables are then read again."""
        steps = self.follower.steps(self._there, state)
        try:
            for step in steps:
                self._carry_out(step)
        except BaseException:
            self._versions.clear()
            raise
        return sum(len(step.lines) for step in steps)

    def _carry_out(self, step: Step) -> None:
        """Whole: packets see all of it, or nothing."""
        name, entries = f"{self._group}/{step.table}", self._there[step.table]
        text = "".join(f"{line}\n" for line in step.lines)
        if len(text) <= TABLE_BYTES:
            doc = self._instance.table_change(name, text)
        else:
            self._file.write_text(text)
            try:
                doc = self._instance.table_batch(name, str(self._file))
            finally:
                self._file.unlink(missing_ok=True)
        if doc["version"] == self._versions[step.table] + 1:
            self._versions[step.table] += 1  # else `refresh` finds what another hand has done
        for line in step.lines:
            verb, key, *value = line.split()
            if verb == "del":
                del entries[key]
            else:
                entries[key] = value[0]


class Said:
    """A trouble is told once, until there is another one or none."""

    def __init__(self, notify: int) -> None:
        self._notify, self._last = notify, ""

    def __call__(self, what: str) -> None:
        if what != self._last:
            self._last = what
            if what:
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._notify, f"WARNING {what[:3000]}\n".encode())
            else:
                print("the tables are as the kernel has it", flush=True)


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
    path, name, group, _, notify_fd = argv
    notify = int(notify_fd)
    process.die_with_parent(yes=True)
    if not process.is_read(notify):
        return 1
    process.ignore_accidents()
    process.ignore_terminal()
    where = Runtime(path, name)
    plan = json.loads(json.dumps(read_plan(where)))
    process.pin(tuple(plan["supervisor_cores"]))
    with contextlib.suppress(BrokenPipeError):
        os.write(notify, b"READY\n")
    said = Said(notify)
    netns = next((p["kernel_netns"] for p in plan["ports"] if p["kernel_tap"]), "")
    while True:
        try:
            with Instance(where) as instance, Routing(netns) as routing:
                file = Path(where.file(TABLES), f"{group}:follow")
                _turns(Kernel(routing, name, plan), Group(instance, group, file), said)
        except (DpsupError, OSError) as e:
            said(e.message if isinstance(e, DpsupError) else f"the kernel's routes: {e}")
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
