# SPDX-License-Identifier: BSD-3-Clause
"""Which worker is fed with which buckets: carries out what `steering` decides."""

from __future__ import annotations

import time

from dpsup.bus.sockets import Gone
from dpsup.errors import DpsupError
from dpsup.supervisor import steering
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Group, Model, Worker
from dpsup.supervisor.policy import allowance


class Buckets:
    def __init__(self, core: Core, model: Model) -> None:
        self._core, self._model = core, model

    async def steer(self, group: Group) -> None:
        """Bring the io cores' map in line with the fed workers, and have the io cores steer anew
        what waits in the lanes of those that are down. A worker that comes back has its own buckets
        again. With no fed worker left, buckets stay with their slots if one of these will come
        back: its lane keeps the packets until then."""
        try:
            async with group.lock:
                await self._steer(group)
            group.unsettled = False
        except Gone:
            raise
        except DpsupError:
            group.unsettled = True
            raise

    async def _steer(self, group: Group) -> None:
        members = {w.member for w in group.workers if w.fed}
        wanted = {w.member for w in group.workers if w.wanted}
        new = steering.spread(group.map, members, group.loads, group.home)
        if members == wanted != set():
            group.home = new
        is_down = bool(wanted)
        given_up = is_down and all(w.state == "held" for w in group.workers if w.wanted)
        if given_up != group.given_up:
            # First: what is dropped from now on has that as its reason.
            await self._core.insist("given_up", group=group.index, on=given_up)
            group.given_up = given_up
        rule = group.plan.on_down if is_down else group.plan.at_zero
        if not members and is_down and rule == "hold":
            return
        if new != group.map or (not members and rule != group.when_empty):
            await self._core.insist("map", group=group.index, map=bytes(new).hex(), when_empty=rule)
            moved = steering.moved(group.map, new)
            group.map, group.when_empty = new, rule
            self._core.events.add(type="steer", name=group.plan.name, buckets_moved=moved)
        for worker in group.workers if members or group.map == steering.EMPTY else ():
            # Only behind the map: what comes back goes ahead of all that came later.
            down = worker.state in ("backoff", "held", "stopped")
            if worker.left and down and worker.member not in members:
                worker.left = False
                await self._core.insist("requeue", slot=worker.slot)

    async def read_maps(self) -> None:
        """What the io cores do: by order of the dead supervisor, or of the primary itself."""
        for group in self._model.groups:
            await self.read_map(group)

    async def read_map(self, group: Group) -> int:
        """How many buckets have moved since the map that was known."""
        found = tuple(bytes.fromhex(await self._core.insist("map_read", group=group.index)))
        moved = steering.moved(group.map, found)
        group.map = found
        return moved

    async def feed(self, worker: Worker) -> None:
        """A worker that is ready gets its lanes and its buckets."""
        try:
            await self._core.insist("lane", slot=worker.slot)
            await self.grant(worker)
            worker.unfed = False
        except Gone:
            raise
        except DpsupError:
            worker.unfed = True
            raise
        if worker.state == "running":
            worker.fed = worker.health != "stopped"
            worker.left = False
            self._core.wake()
            await self.steer(self._model.group_of(worker))

    async def grant(self, worker: Worker) -> None:
        """Let the slot's warden seat spares by itself as often as the policy would say yes."""
        group = self._model.group_of(worker)
        n = 0
        if worker.state == "running" and worker.wanted and group.plan.spares:
            n = allowance(group.policy, worker.history, time.monotonic())
        if n != worker.takeovers:
            worker.takeovers = n
            failures = group.policy.policy == "on-failure"
            try:
                await self._core.insist("takeovers", slot=worker.slot, n=n, failures=failures)
            except DpsupError:
                worker.takeovers = -1  # the next look grants it anew
                raise

    def rebucket(self, worker: Worker) -> None:
        """Until it is back, others of its group handle its buckets, and what is in its lanes."""
        worker.fed = False
        self._core.spawn(self.steer(self._model.group_of(worker)))
