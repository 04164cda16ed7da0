# SPDX-License-Identifier: BSD-3-Clause
"""The instance that chaos hurts: its processes, and what its primary counts and reports."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dpsup._abi import DPS_NO_SLOT, DPS_STORY_DEATH
from dpsup.bus.client import Client
from dpsup.chaos.report import Found
from dpsup.errors import DpsupError, TimedOut
from dpsup.host.process import Identity
from dpsup.instance import runtime_dir, status
from dpsup.instance.client import Instance
from dpsup.instance.runtime_dir import PLAN, PRIMARY, Runtime, State

if TYPE_CHECKING:
    from dpsup.documents.counters import Counters
    from dpsup.documents.plan import Group, Running
    from dpsup.documents.state import WorkerMemory
    from dpsup.documents.story import Story

ASK_S = 2.0
BACK_S = 60.0  # for all to be as declared again
STORIES = 500  # that a primary keeps, and a few less


class Target:
    """Asks the primary, which answers with or without a supervisor."""

    def __init__(self, name: str, found: Found, clock: Callable[[], float]) -> None:
        self.name = name
        self.found = found
        self.clock = clock  # seconds of traffic
        self._client: Client | None = None
        self._of: Identity | None = None
        self._stories: dict[int, Story] = {}
        self._seen = 0
        self._last: tuple[int, int] | None = None  # ns, packets sent
        self.counters: Counters | None = None

    @property
    def where(self) -> Runtime:
        found = runtime_dir.instances().get(self.name)
        if found is None:
            raise DpsupError(f'instance "{self.name}" is gone')
        return found

    def state(self) -> State | None:
        with contextlib.suppress(DpsupError, OSError):
            return self.where.read_state()
        return None

    def primary(self) -> Identity | None:
        state = self.state()
        return state.primary if state and state.primary and state.primary.alive else None

    def connect(self) -> Instance:
        return Instance(self.where)

    def policies(self) -> tuple[Sequence[Group], Mapping[str, WorkerMemory]]:
        """The groups as they are planned now, and what the supervisor noted of each worker."""
        state = self.state()
        memory = state.memory.get("workers", {}) if state else {}
        try:
            plan: Running = json.loads(self.where.read(PLAN))
            return plan["groups"], memory
        except (DpsupError, OSError, ValueError):
            return [], memory

    # --- what the primary reports ----------------------------------------------------------------

    def _ask(self, verb: str, **args: Any) -> Any:
        primary = self.primary()
        if primary is None:
            raise DpsupError("no primary")
        if primary != self._of or self._client is None:
            self.forget()
            self._of = primary
            self._client = Client(self.where.file(PRIMARY), lambda: primary.alive)
            self.found.generations += 1
        return self._client.ask(verb, ASK_S, **args)

    def forget(self) -> None:
        """The primary has ended, or is about to: what it reported is complete."""
        if self._client is not None:
            self._client.close()
        self._client = self._of = self._last = None
        self.found.deaths += [s for _, s in sorted(self._stories.items())]
        self._stories.clear()
        self._seen = 0

    def sample(self) -> None:
        """Counters, stories of deaths, throughput since the last time. None without a primary."""
        t = self.clock()
        try:
            counters = self._ask("counters")
            self._hear(counters)
        except DpsupError:
            self.found.rate.append((t, 0.0))
            self._last = None
            return
        self.counters = counters
        sent = sum(int(p["tx_packets"]) for p in counters["ports"])
        at = int(counters["at_ns"])
        if self._last is not None and at > self._last[0]:
            self.found.rate.append((t, (sent - self._last[1]) * 1e9 / (at - self._last[0])))
        self._last = at, sent

    def _hear(self, counters: Counters) -> None:
        # A story's end, the first packet of the successor, is written at the next death there.
        seated = {q: s for q, s in self._stories.items() if s["slot"] != DPS_NO_SLOT}
        open_ = [q for q, s in seated.items() if not s["first_ns"]]
        since = max(min([*open_, self._seen + 1]) - 1, self._seen - STORIES, 0)
        for story in self._ask("stories", since=since):
            self._seen = max(self._seen, story["seq"])
            if story["kind"] == DPS_STORY_DEATH:
                known = self._stories.get(story["seq"])
                if known is not None and known["first_ns"]:
                    story["first_ns"] = known["first_ns"]
                self._stories[story["seq"]] = story
        last: dict[int, Story] = {}
        for _, story in sorted(self._stories.items()):
            last[story["slot"]] = story
        for slot, story in last.items():
            first = int(counters["slots"][slot]["first_ns"]) if slot != DPS_NO_SLOT else 0
            if not story["first_ns"] and first > story["noticed_ns"]:
                story["first_ns"] = first

    def audit(self) -> None:
        """Account for every mbuf, while packets flow. A primary that has ended does not answer."""
        with contextlib.suppress(DpsupError):
            self.found.note_audit(self._ask("audit"))

    def seed_ready_ns(self, since_ns: int) -> int:
        """When a seed became ready after that time; 0: none did yet."""
        try:
            with self.connect() as instance:
                events = [] if instance.headless else instance.events()
        except DpsupError:
            return 0
        ready = (
            int(e["at_ns"])
            for e in events
            if e["type"] == "state" and e["kind"] == "seed" and e["new"] == "running"
        )
        return next((at for at in ready if at > since_ns), 0)

    def in_flight(self) -> int:
        return status.in_flight(self.counters) if self.counters else 0

    # --- as declared -----------------------------------------------------------------------------

    def is_whole(self) -> bool:
        try:
            with self.connect() as instance:
                if instance.headless:
                    return False
                doc = instance.status()
        except DpsupError:
            return False
        return (
            doc["state"] == "running"
            and doc["seed"] is not None
            and doc["seed"]["state"] == "running"
            and all(g["ready"] == g["desired"] for g in doc["groups"])
        )

    def _who_is_not(self) -> str:
        with contextlib.suppress(DpsupError), self.connect() as instance:
            workers = [w for g in instance.status()["groups"] for w in g["workers"]]
            found = [f"{w['id']} is {w['state']}, pid {w['pid']}" for w in workers]
            return ": " + ", ".join(found)
        return ""

    def until_whole(self) -> float:
        """Seconds until the instance is as its file says. Raises: TimedOut."""
        begun = time.monotonic()
        while not self.is_whole():
            if time.monotonic() - begun > BACK_S:
                raise TimedOut(
                    f"{self.name} is not as declared {BACK_S:g} s after the last fault"
                    f"{self._who_is_not()}"
                )
            self.sample()
            time.sleep(0.05)
        return time.monotonic() - begun
