# SPDX-License-Identifier: BSD-3-Clause
"""What the supervisor knows: the instance, its groups, workers, spares, primary and seed. Data.

The parts change it; `fsm` alone says which state follows which. Times are seconds of
CLOCK_MONOTONIC, or nanoseconds where a name ends in `_ns`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

from dpsup.bus.messages import Request
from dpsup.documents.counters import Counters
from dpsup.documents.status import LastExit, Learned, Summary
from dpsup.documents.story import Hello, Story
from dpsup.errors import DpsupError
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import Runtime
from dpsup.plan.model import GroupPlan, Plan
from dpsup.supervisor import steering
from dpsup.supervisor.histograms import Failovers
from dpsup.supervisor.policy import History, Policy
from dpsup.supervisor.revisions import Ledger
from dpsup.topology.model import Topology

Kind = Literal["topology", "primary", "seed", "worker"]
DRAIN_S = 5.0


@dataclass(slots=True, eq=False, kw_only=True)
class StateMachine:
    """What has a state of the table of `fsm`, and one deadline at a time."""

    kind: ClassVar[Kind]
    name: str
    state: str = "stopped"
    since_ns: int = 0  # CLOCK_MONOTONIC, of the last change of state
    timer: asyncio.TimerHandle | None = None

    @property
    def was_asked(self) -> bool:
        """Is its end one that dpsup asked for?"""
        return False

    def met(self) -> None:
        """The deadline was met."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True, eq=False)
class Sitter:
    """A process that the seed forked: a worker, or a spare that may become one."""

    name: str  # of the lines that it prints
    berth: int
    pid: int
    pidfd: int
    start: int = 0  # clock ticks since boot
    ready: bool = False
    is_read: bool = False  # what it prints
    asked: bool = False  # told to end
    version: int = 0  # of its group's plugin
    status: int | None = None  # how it ended, as waitpid gives it
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, status: int) -> None:
        self.status = status
        self.heard.set()


@dataclass(slots=True, eq=False, kw_only=True)
class Worker(StateMachine):
    """A slot, and the process that sits in it."""

    kind: ClassVar[Kind] = "worker"
    group: int
    member: int
    slot: int
    core: int
    wanted: bool = False
    fed: bool = False  # owns buckets
    growing: bool = False  # started by a change of the group's size
    left: bool = False  # died, and its lanes hold packets that no other worker has taken over
    unfed: bool = False  # the primary refused to feed it: the monitor tries again
    sitter: Sitter | None = None
    forking: bool = False
    restarts: int = -1
    takeovers: int = 0  # by spares, granted to the slot's warden
    health: str = "ok"  # ok | stuck | stopped | starved
    story: Story | None = None  # of the last death
    last_exit: LastExit | None = None
    refused: tuple[int | None, str] | None = None  # exit code and reason that it named
    held_for: str = ""  # why it is not started again
    history: History = field(default_factory=History)
    failed_ns: int = 0  # the death whose successor has not handled a packet yet
    due_at: float = 0.0
    retry_at: float = 0.0  # held: when it is tried once more, 0: never

    @property
    def was_asked(self) -> bool:
        return self.sitter is not None and self.sitter.asked

    @property
    def pid(self) -> int | None:
        return self.sitter.pid if self.sitter else None

    @property
    def pidfd(self) -> int:
        return self.sitter.pidfd if self.sitter else -1

    @property
    def awaits_buckets(self) -> bool:
        """It runs, and is about to be fed."""
        given = self.fed or self.unfed or self.health == "stopped"
        return self.state == "running" and not given


@dataclass(slots=True)
class Group:
    """Workers with the same plugin."""

    plan: GroupPlan
    index: int
    workers: list[Worker]
    policy: Policy
    desired: int
    version: int = 0  # of its plugin: the one that is started, and takes over
    spares: list[Sitter] = field(default_factory=list)
    filling: bool = False
    spare_history: History = field(default_factory=History)
    spare_due_at: float = 0.0
    spares_held: str = ""  # why no spare is forked any more
    spares_retry_at: float = 0.0  # held: when one is tried once more, 0: never
    map: steering.Map = steering.EMPTY
    home: steering.Map = steering.EMPTY  # the map of when none of its workers was down
    when_empty: str = "hold"  # what the io cores were told with it
    given_up: bool | None = False  # what the primary was told: all are held; None: not known
    loads: steering.Loads = steering.EVEN  # by bucket, as last measured on request
    unsettled: bool = False  # the primary refused its map: the monitor tries again
    on_disk: str = ""  # is the plugin's file what runs: instance.plugins.on_disk
    scaling: asyncio.Lock = field(default_factory=asyncio.Lock)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ready(self) -> int:
        return sum(w.wanted and w.state == "running" for w in self.workers)

    def is_one(self, slot: int) -> bool:
        return self.plan.first_slot <= slot < self.plan.first_slot + self.plan.max


@dataclass(slots=True, eq=False, kw_only=True)
class Child(StateMachine):
    """The primary, or the seed."""

    state: str = "absent"
    identity: Identity | None = None
    pidfd: int = -1
    refused: str = ""
    history: History = field(default_factory=History)


class Primary(Child):
    kind: ClassVar[Kind] = "primary"


class Seed(Child):
    kind: ClassVar[Kind] = "seed"


def policy_of(plan: GroupPlan) -> Policy:
    return Policy(
        plan.restart_policy,
        plan.intensity,
        plan.period,
        plan.backoff_initial,
        plan.backoff_factor,
        plan.backoff_max,
        plan.backoff_jitter,
        plan.strategy,
        plan.held_retry,
    )


def _group(index: int, plan: GroupPlan) -> Group:
    workers = [
        Worker(
            name=f"{plan.name}/{m}",
            group=index,
            member=m,
            slot=plan.first_slot + m,
            core=plan.cores[m],
        )
        for m in range(plan.max)
    ]
    return Group(plan, index, workers, policy_of(plan), plan.count)


@dataclass(slots=True)
class Builder:
    """The builder of live tables, as far as it concerns a person."""

    pid: int | None = None
    state: str = "absent"  # documents.status.BuilderProcess
    trouble: str = ""  # why the last one ended
    failed: int = 0  # builders in a row that ended before they were ready


class Model(StateMachine):
    """One instance. `replan(generation)` makes the plan of the next generation; `progress` hears,
    in words, what a person who waits wants to know."""

    kind: ClassVar[Kind] = "topology"

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        replan: Callable[[int], Plan],
        progress: Callable[[str], None],
        idle_limit: float | None = None,
    ) -> None:
        super().__init__(name=plan.name)
        self.plan = plan
        self.runtime = runtime
        self.replan = replan
        self.progress = progress
        self.idle_limit = idle_limit
        self.topologies: tuple[Topology, Topology] | None = None  # as started, as last loaded
        self.loaded: dict[str, str] = {}  # digests of the files that the last one hands to plugins
        # By user and key: the last of the changes of tables that no event tells yet, and how many.
        self.frequent: dict[tuple[int | None, str], tuple[Request, int]] = {}
        self.gate_pid = 0  # 0: none runs
        self.learned: dict[str, dict[str, Learned]] = {}  # by group and table, as seen last
        self.primary = Primary(name="primary")
        self.seed = Seed(name="seed")
        self.groups = [_group(i, g) for i, g in enumerate(plan.groups)]
        self.ledgers = [Ledger.begin(g) for g in plan.groups]
        self.sitters: dict[int, Sitter] = {}  # by pid, until their end is accounted for
        self.hello = cast(Hello, {})  # what the primary said of itself
        self.builder = Builder()
        self.watch = False  # whether files that change are applied: supervisor.watch
        self.troubles: dict[str, str] = {}  # ports that do not forward, and why
        self.adopted = False  # the data plane is older than this supervisor
        self.rx_on = False
        self.short: list[str] = []  # ports whose output files lack bytes
        self.is_done = False  # a job's input is idle: it ends by itself, not by a person's order
        self.promised: dict[str, int] = {}  # by port, the packets that a job's captures hold
        self.failure: DpsupError | None = None
        self.interrupted = False
        self.drain_s = DRAIN_S
        self.counters: Counters | None = None  # as last read
        self.summary: Summary | None = None  # the final account
        self.started_ns = time.monotonic_ns()
        # What is counted over all generations; snapshot.py carries it to the next supervisor.
        self.deaths = 0
        self.refused_calls = 0  # of these, by a system call that workers may not make
        self.unreported = 0  # deaths that are accounted for, and not counted yet
        self.lost = 0
        self.primary_deaths = 0
        self.told = 0  # the last story that is accounted for
        self.last_failover_us: float | None = None
        self.failovers = Failovers()
        self._last_first_ns = 0

    def workers(self) -> list[Worker]:
        return [w for g in self.groups for w in g.workers]

    def group_of(self, worker: Worker) -> Group:
        return self.groups[worker.group]

    def worker_in(self, slot: int) -> Worker | None:
        return next((w for w in self.workers() if w.slot == slot), None)

    def living(self) -> list[Sitter]:
        return [s for s in self.sitters.values() if s.pidfd >= 0]

    @property
    def is_open(self) -> bool:
        """Do packets come in?"""
        return self.state in ("running", "degraded")

    @property
    def is_first(self) -> bool:
        """Does a person wait for a first start, with no packet under way?"""
        return self.state == "starting" and self.plan.generation == 1 and not self.adopted

    @property
    def absent(self) -> list[str]:
        """Ports that have no device now."""
        return list(self.hello.get("absent", []))

    def note_first_packets(self, counters: Counters) -> bool:
        """From a death's notice to the first packet that the successor handled. True: there was
        such a packet, and the next supervisor must know its time as well."""
        found = False
        for worker in self.workers():
            first = counters["slots"][worker.slot]["first_ns"]
            if worker.failed_ns and first > worker.failed_ns:
                if first > self._last_first_ns:
                    self._last_first_ns = first
                    self.last_failover_us = (first - worker.failed_ns) / 1000
                self.failovers.first_packet((first - worker.failed_ns) / 1e9)
                worker.failed_ns = 0
                found = True
            elif worker.state in ("held", "stopped"):
                worker.failed_ns = 0  # the next one in that slot was asked to sit there
        return found
