# SPDX-License-Identifier: BSD-3-Clause
"""The supervisor: carries out what the state machine and the policy decide. No EAL, no packet.

Events come from pidfds, readiness pipes, the seed's socket, timers and the bus; `fire` looks each
up in the table and runs the actions, one method each. It may die at any time: forwarding goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dpsup import _abi
from dpsup._build import MAX_LCORE
from dpsup.bus.sockets import AsyncClient, Gone, Publisher, Server
from dpsup.errors import DpsupError, Exit, ShimError, TimedOut
from dpsup.host import process
from dpsup.host.process import Identity, Spawned
from dpsup.instance import record, status
from dpsup.instance.quarantine import Folder, Keeper
from dpsup.instance.runtime_dir import CONTROL, EVENTS, PLAN, PRIMARY, SEED, Runtime, State
from dpsup.plan.diff import keep
from dpsup.plan.model import GroupPlan, Plan
from dpsup.supervisor import fsm, metrics, rollout, snapshot, steering
from dpsup.supervisor.attach import Reattach
from dpsup.supervisor.histograms import Failovers
from dpsup.supervisor.journal import Journal, Lines
from dpsup.supervisor.notices import Notices
from dpsup.supervisor.policy import Ending, History, Policy, Verdict, allowance, decide, others
from dpsup.supervisor.scale import Follower
from dpsup.supervisor.seed import Seed, SeedError
from dpsup.topology.model import Topology

WORKER_PROGRAM = Path(__file__).parents[1] / "dpsup-worker"
SEED_LCORE = MAX_LCORE - 1  # no io core's

# Deadlines, far above what is measured: they catch what hangs.
PRIMARY_READY_S = 120.0  # zeroing hugepages: 7 s for 32 GB
WORKER_READY_S = 15.0  # 3 ms and the plugin's init
HALT_S = 2.0
QUIT_S = 10.0
DRAIN_S = 5.0
UNBORN_S = 0.1  # before the next try, where nobody was forked
INSIST = 3
LAST_WORDS = 6  # lines of a primary that did not start
STATUS_WAIT_S = 0.2  # for the seed's word on how a worker ended
FATE_S = 0.002  # between two looks at whether a warden is done
FATE_MOST_S = 10.0
ANSWER_S = 2.5  # for a primary that is asked for its counters; milliseconds, unless it hangs
SILENCES = 2  # in a row; one alone may be our own, after a SIGCONT
LOOK_S = 0.02  # between two looks at whether somebody else's child is ready
SPARE_ENDS_S = 5.0
EVIDENCE_S = 2.0

DEATH = _abi.DPS_STORY_DEATH
LENT = _abi.DPS_STORY_LENT
NOTICES = {0: "none", **_abi.DPS_NOTICE_NAMES}
SAID = {
    kind: _abi.DPS_STORY_NAMES[kind]
    for kind in (
        _abi.DPS_STORY_STUCK,
        _abi.DPS_STORY_STOPPED,
        _abi.DPS_STORY_CONTINUED,
        _abi.DPS_STORY_STARVED,
        _abi.DPS_STORY_FED,
    )
}
HEALTH = {**SAID, _abi.DPS_STORY_CONTINUED: "ok", _abi.DPS_STORY_FED: "ok"}
IO_SAID = {
    _abi.DPS_STORY_IO_STUCK: "stuck",
    _abi.DPS_STORY_IO_STARVED: "starved",
    _abi.DPS_STORY_IO_FED: "fed",
}
SEATED = _abi.DPS_HAND_SEATED
STARTING = _abi.DPS_HAND_STARTING

# Exit codes of the worker program that trying again does not change.
PERMANENT = range(_abi.DPS_EXIT_USAGE, _abi.DPS_EXIT_CORE + 1)
PRIMARY_POLICY = Policy(intensity=5, period=60, initial=0.1, factor=2, most=5)
# A seed that dies is replaced for ever; an attach costs 40 ms of a core.
SEED_POLICY = Policy(intensity=20, period=60, initial=0.02, factor=1.5, most=0.25)
SEED_REFUSED_S = 5.0  # before the next try, where trying again is unlikely to help
# Spares that do not come up are forked anew less and less often, but for ever.
SPARE_POLICY = Policy(intensity=12, period=60, initial=0.001, factor=2, most=5)


@dataclass(slots=True, eq=False)
class Sitter:
    """A process that the seed forked: a worker, or a spare that may become one."""

    name: str  # of the lines that it prints
    berth: int
    pid: int
    pidfd: int
    start: int = 0  # clock ticks since boot
    ready: bool = False
    asked: bool = False  # told to end
    version: int = 0  # of its group's plugin
    status: int | None = None  # how it ended, as waitpid gives it
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, status: int) -> None:
        self.status = status
        self.heard.set()


@dataclass(slots=True, eq=False)
class Worker:
    """A slot and whoever sits in it."""

    name: str
    group: int
    member: int
    slot: int
    core: int
    state: str = "stopped"
    wanted: bool = False
    fed: bool = False  # owns buckets
    left: bool = False  # died, and its lanes hold packets that nobody has taken over
    sitter: Sitter | None = None
    forking: bool = False
    restarts: int = -1
    takeovers: int = 0  # by spares, granted to the slot's warden
    health: str = "ok"  # ok | stuck | stopped | starved
    story: dict[str, Any] | None = None  # of the last death
    last_exit: dict[str, Any] | None = None
    refused: tuple[int, str] | None = None
    held_for: str = ""  # why it is not started again
    history: History = field(default_factory=History)
    failed_ns: int = 0  # the death whose successor has not handled a packet yet
    since_ns: int = 0
    due_at: float = 0.0
    timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        return self.sitter.pid if self.sitter else None

    @property
    def pidfd(self) -> int:
        return self.sitter.pidfd if self.sitter else -1


@dataclass(slots=True)
class Group:
    plan: GroupPlan
    index: int
    workers: list[Worker]
    policy: Policy
    desired: int
    version: int = 0  # of its plugin, that is started, and takes over
    spares: list[Sitter] = field(default_factory=list)
    filling: bool = False
    spare_history: History = field(default_factory=History)
    spare_due_at: float = 0.0
    spares_held: str = ""  # why none is forked any more
    map: steering.Map = steering.EMPTY
    home: steering.Map = steering.EMPTY  # the map of when none of its workers was down
    when_empty: str = "hold"  # what the io cores were told with it
    loads: steering.Loads = steering.EVEN  # by bucket, as last measured on request
    scaling: asyncio.Lock = field(default_factory=asyncio.Lock)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ready(self) -> int:
        return sum(w.wanted and w.state == "running" for w in self.workers)


@dataclass(slots=True)
class Child:
    """The primary or the seed."""

    name: str
    state: str = "absent"
    identity: Identity | None = None
    pidfd: int = -1
    refused: str = ""
    history: History = field(default_factory=History)
    timer: asyncio.TimerHandle | None = None


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
    )


def _group(index: int, plan: GroupPlan) -> Group:
    workers = [
        Worker(f"{plan.name}/{m}", index, m, plan.first_slot + m, plan.cores[m])
        for m in range(plan.max)
    ]
    return Group(plan, index, workers, policy_of(plan), plan.count)


class Supervisor:
    """One instance, from its start to its end. `replan(generation)` makes the plan of the next
    generation; `progress` hears, in words, what a person who waits wants to know."""

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        replan: Callable[[int], Plan],
        progress: Callable[[str], None],
        idle_limit: float | None = None,
    ) -> None:
        self.plan = plan
        self.runtime = runtime
        self.replan = replan
        self.progress = progress
        self.idle_limit = idle_limit
        self.state = "stopped"
        self.primary = Child("primary")
        self.seed = Child("seed")
        self.groups = [_group(i, g) for i, g in enumerate(plan.groups)]
        self.rollouts = [rollout.Ledger.begin(g) for g in plan.groups]
        self.topologies: tuple[Topology, Topology] | None = None  # as started, as last loaded
        self.hello: dict[str, Any] = {}
        self.failure: DpsupError | None = None
        self.drain_s = DRAIN_S
        self.deaths = 0
        self.lost = 0
        self.primary_deaths = 0
        self.interrupted = False
        self.adopted = False  # the data plane is older than this supervisor
        self.last_failover_us: float | None = None
        self.summary: dict[str, Any] | None = None
        self.on_running: Callable[[], None] = lambda: None
        self.on_stopping: Callable[[], None] = lambda: None
        self._asks: AsyncClient | None = None
        self._orders: Seed | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._children: dict[int, Child] = {}
        self._sitters: dict[int, Sitter] = {}  # by pid, until their end is accounted for
        self._unheard: dict[int, Sitter] = {}  # by pid, until it is known how they ended
        self._endings: dict[int, int] = {}  # of pids that nobody knows yet
        self.told = 0  # the last story that is accounted for
        self.unreported = 0  # deaths that are accounted for, and not counted yet
        self._resume: Callable[[Supervisor], Coroutine[Any, Any, None]] | None = None
        self._writing = False
        self._unwritable = False
        self.attach = Reattach(self)
        self._reading = asyncio.Lock()
        self._changed = asyncio.Event()
        self._gone = asyncio.Event()
        self._rx_on = False
        self._opening = False
        self._last_counters: dict[str, Any] | None = None
        self._last_first_ns = 0
        self._followers = [Follower(g) for g in self.groups]
        self._notices = Notices(
            plan.name,
            [p.name for p in plan.pools],
            [(g.name, range(g.first_slot, g.first_slot + g.max)) for g in plan.groups],
        )
        self._publisher = Publisher(runtime.file(EVENTS))
        self.events = Journal("event", self._publisher.publish)
        self.log = Journal("log", self._publisher.publish)
        record.keep(runtime.path, self._publisher, {"event": self.events, "log": self.log})
        self.failovers = Failovers()
        self.events.listeners.append(self.failovers.hear)
        self.started_ns = time.monotonic_ns()
        self._evidence = Keeper(Folder(plan.quarantine_dir), self.events.add)
        self._reserved: dict[str, int] = {}
        self.events.listeners.append(lambda _: self.remember())
        self.log.listeners.append(lambda _: self._renumber())

    # --- life ------------------------------------------------------------------------------------

    async def run(
        self,
        handle: Callable[[Supervisor, Any], Coroutine[Any, Any, Any]],
        resume: Callable[[Supervisor], Coroutine[Any, Any, None]] | None = None,
    ) -> int:
        """Until the instance has ended; the exit code. `handle` carries out bus requests;
        `resume`, where there is a data plane already, brings us up to date with it."""
        self._resume = resume
        self.adopted = resume is not None
        loop = asyncio.get_running_loop()
        process.become_subreaper()
        loop.set_exception_handler(self._broken)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self._interrupted)
        server = Server(self.runtime.file(CONTROL), lambda request: handle(self, request))
        serving = asyncio.create_task(server.serve())
        self._task(self._monitor())
        if self.plan.metrics_listen:
            self._task(metrics.keep(self))
        try:
            self.fire("topology", self, "adopt" if self.adopted else "start")
            await self._gone.wait()
        finally:
            # Whatever the reason for leaving: nobody of ours lives on.
            await self._kill_all()
            for task in list(self._tasks):
                task.cancel()
            await server.close()
            serving.cancel()
            self._close_asks()
            self._publisher.close()
        if self.failure is not None:
            return int(self.failure.exit_code)
        return int(Exit.FAILED) if self.primary_deaths and self.idle_limit is not None else 0

    def _broken(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of ours in a callback: end in order, and say so."""
        cause = context.get("exception") or context.get("message")
        self._fail(DpsupError(f"internal error: {cause!r}", code="E0001"))

    def stop(self, drain: float | None = None) -> None:
        """Wind down in reverse order; asked again, at once."""
        if drain is not None:
            self.drain_s = drain
        if self.state == "stopping":
            self._task(self._kill_all())
            asyncio.get_running_loop().call_later(QUIT_S, self._gone.set)
        self.fire("topology", self, "stop")

    def _interrupted(self) -> None:
        self.interrupted = True
        self.progress("stopping at once" if self.state == "stopping" else "stopping")
        self.stop()

    def fire(self, kind: str, who: Any, event: str) -> None:
        """Look the event up, change the state, run the actions."""
        step = fsm.step(kind, who.state, event)
        old, who.state = who.state, step.state
        if old != step.state:
            name = self.plan.name if kind == "topology" else who.name
            self.events.add(type="state", kind=kind, name=name, old=old, new=step.state, why=event)
            if kind == "worker":
                who.since_ns = time.monotonic_ns()
        for action in step.actions:
            method = getattr(self, f"_{kind}_{action}")
            method() if kind == "topology" else method(who)
        if kind == "worker":
            self._judge()
        self._changed.set()

    def _task(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        async def guarded() -> None:
            try:
                await coroutine
            except (Gone, ShimError, TimedOut, SeedError, OSError) as e:
                # The process on the other side is dying; its pidfd says so in a moment.
                self.events.add(type="error", message=str(e))
            except DpsupError as e:
                self._fail(e)
            except Exception as e:  # a fault of ours: end in order, and say so
                self._fail(DpsupError(f"internal error: {e!r}", code="E0001"))

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail(self, error: DpsupError) -> None:
        if self.failure is None:
            self.failure = error
            self.events.add(type="failed", message=str(error))
        self.fire("topology", self, "fail")

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition that some event makes true."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 0.5))
        return True

    def _living(self) -> list[Sitter]:
        return [s for s in self._sitters.values() if s.pidfd >= 0]

    def workers(self) -> list[Worker]:
        return [w for g in self.groups for w in g.workers]

    @property
    def absent(self) -> list[str]:
        """Ports that the instance started without."""
        return list(self.hello.get("absent", []))

    def _judge(self) -> None:
        whole = all(g.ready == g.desired for g in self.groups)
        if self.state == "starting" and (self.plan.generation > 1 or self.adopted):
            # One that follows, or goes on, starts with whoever can; the rest is held, and said.
            whole = all(w.state in ("running", "held") for w in self.workers() if w.wanted)
        elif self.state != "starting":
            whole = whole and not self.absent
        if self.state in ("starting", "running", "degraded"):
            self.fire("topology", self, "whole" if whole else "short")

    def _deadline(self, who: Worker | Child, seconds: float, kind: str, event: str) -> None:
        if who.timer is not None:
            who.timer.cancel()
        loop = asyncio.get_running_loop()
        who.timer = loop.call_later(seconds, lambda: self.fire(kind, who, event))

    @staticmethod
    def _met(who: Worker | Child) -> None:
        if who.timer is not None:
            who.timer.cancel()
            who.timer = None

    async def ask(self, verb: str, timeout: float = 5.0, **args: Any) -> Any:
        """A request to the primary."""
        if self._asks is None:
            raise Gone(
                "no primary is running", code="E0807", help="`dpsup status` shows what is going on"
            )
        return await self._asks.ask(verb, timeout, **args)

    async def insist(self, verb: str, **args: Any) -> Any:
        """A request that must be carried out, asked again where the answer does not come: all of
        the primary's verbs may be. One that never answers is a dead primary."""
        for _ in range(INSIST):
            try:
                return await self.ask(verb, **args)
            except (ShimError, TimedOut) as e:
                self.events.add(type="error", message=str(e))
                await asyncio.sleep(UNBORN_S)
        if self.primary.pidfd >= 0:
            process.signal_pidfd(self.primary.pidfd, signal.SIGKILL)
        raise Gone("the primary does not answer", code="E0807")

    def _close_asks(self) -> None:
        if self._asks is not None:
            self._asks.close()
            self._asks = None

    def write_state(self) -> None:
        """For whoever comes after a crash. A full disk must not stop the supervisor."""
        state = State(
            name=self.plan.name,
            generation=self.plan.generation,
            file_prefix=self.plan.file_prefix,
            hugepage_dir=self.plan.hugepage_dir,
            topology_file=self.plan.topology_file,
            supervisor=process.identify(os.getpid()),
            primary=self.primary.identity,
            seed=self.seed.identity,
            workers={f"{s.name} {s.pid}": Identity(s.pid, s.start) for s in self._living()},
            memory=snapshot.note(self),
        )
        try:
            self.runtime.write_state(state)
            self._unwritable = False
        except OSError as e:
            if not self._unwritable:
                self._unwritable = True
                self.events.add(type="error", message=f"cannot write {self.runtime.path}: {e}")

    def remember(self) -> None:
        """Write the state before the loop's next turn: something in it has changed."""
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._written)

    def _written(self) -> None:
        self._writing = False
        if self.primary.identity is not None:
            self.write_state()

    def asked(self) -> list[int]:
        """Who was told to end and may not have yet."""
        return [s.pid for s in self._sitters.values() if s.asked]

    def reserve(self) -> dict[str, int]:
        """Numbers of publications that whoever comes after us begins behind: no two are alike."""
        self._reserved = {t: n + snapshot.SEQ_BLOCK for t, n in self._publisher.seq.items()}
        return self._reserved

    def resume_seq(self, seq: dict[str, int]) -> None:
        for topic in self._publisher.seq.keys() & seq.keys():
            self._publisher.seq[topic] = max(self._publisher.seq[topic], seq[topic])

    def _renumber(self) -> None:
        if any(n + snapshot.SEQ_BLOCK // 2 > self._reserved.get(t, 0)
               for t, n in self._publisher.seq.items()):  # fmt: skip
            self.remember()

    # --- children --------------------------------------------------------------------------------

    def _spawn(self, child: Child, kind: str, argv: list[str], ready_s: float) -> None:
        spawned = process.spawn(argv)
        self._children[spawned.pid] = child
        self._watch_child(child, kind, process.identify(spawned.pid), spawned.pidfd)
        self._deadline(child, ready_s, kind, "late")
        self._read_child(child, kind, spawned)
        self.write_state()

    def _watch_child(self, child: Child, kind: str, identity: Identity, pidfd: int) -> None:
        child.identity = identity
        child.pidfd = pidfd
        child.refused = ""
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, lambda: self._child_died(child, kind))

    def _read_child(self, child: Child, kind: str, spawned: Spawned) -> None:
        def noted(line: str) -> None:
            if line == "READY":
                self._met(child)
                self.fire(kind, child, "ready")
            elif line.startswith("REFUSED "):
                child.refused = line.removeprefix("REFUSED ")

        Lines(spawned.output, lambda line: self.log.add(name=child.name, line=line))
        Lines(spawned.notify, noted)

    def _child_died(self, child: Child, kind: str) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1
        self._met(child)
        # One more turn, so that its last words have been read.
        asyncio.get_running_loop().call_later(0.01, self.fire, kind, child, "died")

    def _reap(self) -> None:
        """Our own children, and the workers of a dead seed."""
        for pid, ended in process.reap().items():
            if pid in self._children:
                child = self._children.pop(pid)
                self.events.add(
                    type="exit", name=child.name, pid=pid, how=process.describe_status(ended)
                )
            else:
                self._seed_says(pid, ended)

    async def _kill_all(self) -> None:
        for child in (self.seed, self.primary):
            if child.pidfd >= 0:
                process.signal_pidfd(child.pidfd, signal.SIGKILL)
        for sitter in self._living():
            process.signal_pidfd(sitter.pidfd, signal.SIGKILL)

    # --- a data plane that runs already; see adopt.py --------------------------------------------

    def _topology_rejoin(self) -> None:
        self._task(self._rejoin())

    async def _rejoin(self) -> None:
        assert self._resume is not None
        try:
            self._asks = AsyncClient(self.runtime.file(PRIMARY))
            self.fire("primary", self.primary, "adopt")
            await self._resume(self)
        except (DpsupError, OSError) as e:
            # Better a new generation than one that nobody understands.
            self.progress(f"cannot go on with what runs: {e}")
            self.events.add(type="error", message=f"adoption failed: {e}")
            if self.primary.pidfd >= 0:
                self._primary_kill(self.primary)

    def meet_child(self, child: Child, kind: str, identity: Identity) -> bool:
        """Watch a primary or a seed that somebody else has started. False: it is gone."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except OSError:
            return False
        if not identity.alive:
            os.close(pidfd)
            return False
        self._watch_child(child, kind, identity, pidfd)
        self._follow(identity.pid, lambda line: self.log.add(name=child.name, line=line))
        return True

    def meet(self, name: str, berth: int, pid: int) -> Sitter | None:
        """Watch a worker or spare that somebody else has ordered. None: it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if not process.has_words(pid, f"dpsup-worker: {self.plan.name} ", self.runtime.file(SEED)):
            os.close(pidfd)
            return None
        sitter = self._know(Sitter(name, berth, pid, pidfd))
        self._follow(pid, lambda line: self.log.add(name=sitter.name, line=line))
        return sitter

    def _follow(self, pid: int, each: Callable[[str], None]) -> None:
        """Read on what a process prints: also what it has printed while nobody was there."""
        with contextlib.suppress(OSError):
            Lines(process.reopen(pid), each)

    async def recall_maps(self, rx: bool) -> None:
        """What the io cores do: by order of the dead supervisor, or of the primary's lender."""
        self._rx_on = rx
        for group in self.groups:
            group.map = tuple(bytes.fromhex(await self.insist("map_read", group=group.index)))

    def account(
        self, story: dict[str, Any], asked: set[int], exits: dict[int, int]
    ) -> Worker | None:
        """A story from when nobody was there to hear it; whose it is, if a worker's death."""
        worker = next((w for w in self.workers() if w.slot == story["slot"]), None)
        if story["kind"] != DEATH:
            if worker is not None and story["kind"] == LENT:
                self.events.add(type="lent", name=worker.name, requeued=story["left"])
            elif worker is not None:
                said = SAID[story["kind"]]
                self.events.add(type="health", name=worker.name, pid=story["pid"], message=said)
            return None
        sitter = Sitter("", story["sitter"], story["pid"], -1, asked=story["pid"] in asked)
        if worker is None:
            if not sitter.asked:
                self.events.add(type="spare", name="spare", pid=sitter.pid, message="died")
            return None
        sitter.status = exits.get(sitter.pid)
        sitter.heard.set()
        self.unreported += not sitter.asked
        if story["successor"]:
            worker.restarts += 1
            policy, at = self.groups[worker.group].policy, story["noticed_ns"] / 1e9
            worker.history = decide(policy, worker.history, Ending(), wanted=True, now=at).history
        self._task(self._report(worker, sitter, story))
        self._task(self._give_up_lanes(worker, story))
        return None if sitter.asked else worker

    def _worker_await(self, worker: Worker) -> None:
        """It was forked, by order of somebody who is dead; is it in its seat?"""
        sitter = worker.sitter
        assert sitter is not None
        if sitter.ready:
            self.fire("worker", worker, "ready")
            return

        async def look() -> None:
            while worker.sitter is sitter and worker.state == "starting":
                if await self._hand(sitter) == SEATED:
                    self._met(worker)
                    sitter.ready = True
                    self.fire("worker", worker, "ready")
                await asyncio.sleep(LOOK_S)

        self._deadline(worker, WORKER_READY_S, "worker", "late")
        self._task(look())

    def await_spare(self, group: Group, sitter: Sitter) -> None:
        async def look() -> None:
            while not sitter.ready and sitter.pidfd >= 0 and sitter in group.spares:
                sitter.ready = await self._hand(sitter) != STARTING
                await asyncio.sleep(LOOK_S)

        if not sitter.ready:
            asyncio.get_running_loop().call_later(WORKER_READY_S, _late, sitter)
            self._task(look())

    async def _hand(self, sitter: Sitter) -> int:
        """How far it is on its way to a slot, DPS_HAND_*."""
        plane = await self.insist("sitters")
        hands = [s["hand"] for s in plane["sitters"] if s["pid"] == sitter.pid]
        return int(hands[0]) if hands else STARTING

    def seed_answers(self) -> None:
        """Raises: OSError while it does not."""
        self._orders = Seed(self.runtime.file(SEED), self._seed_says)

    async def steer(self, group: Group) -> None:
        await self._steer(group)

    @staticmethod
    def is_permanent(code: int | None) -> bool:
        """Is it of no use to try again after this exit code?"""
        return code is not None and code in PERMANENT

    # --- topology --------------------------------------------------------------------------------

    def _topology_begin(self) -> None:
        self.fire("primary", self.primary, "start")

    def _topology_announce(self) -> None:
        if self.state == "running" and not self._opening:
            self._opening = True
            self._task(self._open())
        elif self.state == "running":
            self.progress(f"{self.plan.name} is running, all workers ready")
        else:
            short = [f"{g.plan.name} {g.ready}/{g.desired} ready" for g in self.groups]
            short += [f"port {name} is not there" for name in self.absent]
            self.progress(f"{self.plan.name} is degraded: {', '.join(short)}")

    async def _open(self) -> None:
        """Input begins once every worker that is ready has its buckets."""
        await self.until(
            lambda: all(w.fed == (w.state == "running") for w in self.workers()), HALT_S
        )
        for group in self.groups:
            await self._steer(group)
        if self.state not in ("running", "degraded"):
            return
        await self.insist("rx", on=True)
        self._rx_on = True
        if self.primary_deaths:
            self.progress(f"{self.plan.name} is running again, generation {self.plan.generation}")
        self.on_running()
        self._changed.set()
        for group in self.groups:
            self._refill(group)
        # A later generation opens with whoever can; if that is not everybody, it is degraded.
        self._judge()

    def _topology_wind_down(self) -> None:
        self.on_stopping()
        self._task(self._wind_down())

    async def _wind_down(self) -> None:
        try:
            await self._end_in_order()
        except Exception:
            await self._kill_all()
            raise

    async def _end_in_order(self) -> None:
        """Reverse order of the start: input, workers, seed, primary."""
        if self.primary.state == "running":
            with contextlib.suppress(DpsupError):
                await self.ask("rx", on=False)
                await self._drained(self.drain_s)
        for worker in self.workers():
            worker.wanted = False
            self.fire("worker", worker, "stop")
        await self.until(
            lambda: all(w.state == "stopped" for w in self.workers()), HALT_S * 2 + WORKER_READY_S
        )
        for group in self.groups:
            self.retire_spares(group)
        await self.until(lambda: not self._living(), SPARE_ENDS_S)
        if self.primary.state == "running":
            with contextlib.suppress(DpsupError):
                await self._settle()
        self.fire("seed", self.seed, "stop")
        await self.until(lambda: self.seed.state == "absent", QUIT_S)
        self.fire("primary", self.primary, "stop")
        if self.primary.state == "absent":
            self.fire("topology", self, "gone")

    async def _drained(self, timeout: float) -> bool:
        """Wait until no packet is under way."""
        deadline = time.monotonic() + timeout
        while True:
            counters = await self.ask("counters")
            if status.in_flight(counters) == 0:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)

    async def _settle(self) -> None:
        """The final account, taken while everything stands still."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._keep_evidence(), EVIDENCE_S)
        counters = await self.ask("counters")
        self.summary = {
            **status.account(counters),
            "deaths": self.deaths,
            "audit": await self.ask("audit"),
        }

    async def _keep_evidence(self) -> None:
        await self._evidence.collect(self.plan, self.ask)

    def _topology_again(self) -> None:
        self._rx_on = self._opening = False
        decision = decide(
            PRIMARY_POLICY, self.primary.history, Ending(), wanted=True, now=time.monotonic()
        )
        self.primary.history = decision.history
        if decision.verdict is Verdict.GIVE_UP:
            self._fail(
                DpsupError(f"the primary died again and again: {decision.reason}", code="E0802")
            )
            return
        asyncio.get_running_loop().call_later(decision.delay, self._next_generation)

    def _next_generation(self) -> None:
        if self.state != "starting":
            return
        # What was changed since the start stays so.
        self.plan = keep(self.replan(self.plan.generation + 1), [g.plan for g in self.groups])
        for group, ledger in zip(self.groups, self.rollouts, strict=True):
            group.version = 0
            ledger.slots[0] = ledger.current.number
        self.progress(f"generation {self.plan.generation} starts")
        self.fire("primary", self.primary, "start")

    def _topology_finish(self) -> None:
        self._gone.set()

    # --- primary ---------------------------------------------------------------------------------

    def _primary_spawn(self, primary: Child) -> None:
        plan_file = self.runtime.path / PLAN
        plan_file.write_text(json.dumps(dataclasses.asdict(self.plan)))
        argv = [sys.executable, "-P", "-m", "dpsup.primary", str(plan_file)]
        self._spawn(primary, "primary", argv, PRIMARY_READY_S)

    def _primary_announce(self, _: Child) -> None:
        self._task(self._meet_primary())

    async def _meet_primary(self) -> None:
        self._asks = AsyncClient(self.runtime.file(PRIMARY))
        self.told = 0
        self.hello = await self.insist("hello")
        ports = self.hello["ports"]
        assert self.primary.identity is not None
        self.progress(
            f"primary    pid {self.primary.identity.pid}, DPDK {self.hello['dpdk']}, "
            f"generation {self.plan.generation}"
        )
        for port in ports:
            speed = f" {port['link_mbps']} Mbit/s" if port["link_mbps"] else ""
            queues = f"{port['rx_queues']} rx, {port['tx_queues']} tx queues"
            link = "up" if port["link_up"] else "down"
            note = f"; {port['note']}" if port["note"] else ""
            self.progress(
                f"port       {port['name']}: {port['driver']}, link {link}{speed}, {queues}{note}"
            )
        for note in self.hello["notes"]:
            self.progress(f"warning    {note}")
            self.events.add(type="warning", message=note)
        self.fire("seed", self.seed, "start")

    def _primary_kill(self, primary: Child) -> None:
        process.signal_pidfd(primary.pidfd, signal.SIGKILL)

    def _primary_quit(self, primary: Child) -> None:
        async def quit_() -> None:
            with contextlib.suppress(DpsupError):
                await self.ask("stop")

        self._deadline(primary, QUIT_S, "primary", "late")
        self._task(quit_())

    def _primary_sweep(self, primary: Child) -> None:
        self._task(self._sweep(primary))

    async def _sweep(self, primary: Child) -> None:
        """After the primary's death: nobody of its generation may live on, nothing may stay."""
        unasked = self._asks is not None and self.state not in ("stopping", "stopped")
        self._close_asks()
        if unasked:
            self.primary_deaths += 1
            if self._last_counters is not None:
                self.lost += max(0, status.in_flight(self._last_counters))
            self.progress("the primary died: its generation ends, the next one starts")
        left = [process.identify(s.pid) for s in self._living()]
        if self.seed.identity is not None:
            left.append(self.seed.identity)
        if not await asyncio.to_thread(process.wait_gone, left, 1.0):
            for one in left:
                process.kill(one)
            await asyncio.to_thread(process.wait_gone, left, 5.0)
        for worker in self.workers():
            self.fire("worker", worker, "lost")
        for group in self.groups:
            group.spares.clear()
        for sitter in list(self._sitters.values()):
            self._forget(sitter)
        self._unheard.clear()
        self._endings.clear()
        await self.until(lambda: self.seed.state == "absent", QUIT_S)
        primary.identity = None
        self.runtime.sweep()
        self.fire("primary", primary, "swept")

    def _primary_report(self, primary: Child) -> None:
        if self.state == "stopping":
            self.fire("topology", self, "gone")
        elif primary.refused or self.primary_deaths == 0:
            error = DpsupError("the primary ended before it was ready", code="E0801")
            if primary.refused:
                error = _refusal(primary.refused)
            # EAL's and the drivers' own words say what an errno cannot.
            words = [e["line"] for e in self.log.since(0) if e["name"] == "primary"]
            error.why = error.why or "\n        ".join(words[-LAST_WORDS:])
            self._fail(error)
            self.fire("topology", self, "gone")
        else:
            self.fire("topology", self, "primary_lost")

    # --- seed ------------------------------------------------------------------------------------

    def _seed_spawn(self, seed: Child) -> None:
        hello = self.hello
        options = {
            "--socket": self.runtime.file(SEED),
            "--file-prefix": self.plan.file_prefix,
            "--lcores": f"{SEED_LCORE}@{self.plan.supervisor_cores[0]}",
            "--huge-dir": self.plan.hugepage_dir,
            "--name": self.plan.name,
            "--dpdk": hello["dpdk"],
            "--generation": str(hello["generation"]),
            "--primary": str(hello["pid"]),
            "--primary-start": str(hello["start"]),
            "--abi": str(hello["abi"]),
        }
        argv = [str(WORKER_PROGRAM), *(word for pair in options.items() for word in pair)]
        try:
            self._spawn(seed, "seed", argv, self.attach.pace.deadline())
        except OSError as e:  # no process, no descriptor to be had
            self.events.add(type="error", message=f"no seed: {e}")
            asyncio.get_running_loop().call_later(SEED_REFUSED_S, self.fire, "seed", seed, "died")
            return
        assert seed.identity is not None
        self.attach.begins(seed.identity.pid)

    def _seed_fill(self, seed: Child) -> None:
        self.attach.is_ready()
        if self.state == "stopping":
            return
        try:
            if self._orders is None:
                self._orders = Seed(self.runtime.file(SEED), self._seed_says)
        except OSError as e:
            # It died right after its last word. One that lives and does not listen is of no use.
            self.events.add(type="seed", name="seed", message=f"takes no orders: {e}")
            if seed.pidfd >= 0:
                process.signal_pidfd(seed.pidfd, signal.SIGKILL)
            return
        for group in self.groups:
            for worker in group.workers:
                worker.wanted = worker.member < group.desired
                if worker.state == "starting" and worker.pid is None:
                    self._worker_fork(worker)
                elif worker.wanted:
                    self.fire("worker", worker, "start")
        self._judge()

    def _seed_says(self, pid: int, ended: int) -> None:
        sitter = self._unheard.pop(pid, None)
        if sitter is not None:
            sitter.hear(ended)
        else:
            self._endings[pid] = ended

    def _drop_orders(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None

    def _seed_replace(self, seed: Child) -> None:
        self._drop_orders()
        refused, seed.identity = seed.refused, None
        if self.primary.state != "running" or self.state == "stopping":
            return
        code, _, text = refused.partition(" ")
        permanent = code.isdigit() and int(code) in PERMANENT
        decision = decide(SEED_POLICY, seed.history, Ending(), wanted=True, now=time.monotonic())
        seed.history = decision.history
        delay = decision.delay or SEED_POLICY.most
        if self.state == "starting" and self.plan.generation == 1:
            # Somebody waits for the start, and no packet is under way.
            if permanent:
                self._fail(DpsupError(f"the seed refused: {text}", code="E0803"))
                return
            if decision.verdict is Verdict.GIVE_UP:
                self._fail(
                    DpsupError(f"the seed died again and again: {decision.reason}", code="E0804")
                )
                return
        if refused:
            delay = SEED_REFUSED_S if permanent else delay
            self.events.add(type="seed", name="seed", message=f"refused: {text}")
        asyncio.get_running_loop().call_later(delay, self._seed_anew)

    def _may_attach(self) -> bool:
        return self.primary.state == "running" and self.state != "stopping"

    def _seed_anew(self) -> None:
        if self._may_attach() and self.seed.state == "absent":
            self._task(self._attach_again())

    async def _attach_again(self) -> None:
        """Whatever goes wrong on the way, it is tried again: nothing forks without a seed."""
        try:
            if await self.attach.clear_way() and self._may_attach():
                self.fire("seed", self.seed, "start")
        except (DpsupError, OSError) as e:
            self.events.add(type="error", message=str(e))
            asyncio.get_running_loop().call_later(SEED_POLICY.most, self._seed_anew)

    def _seed_report(self, seed: Child) -> None:
        self._drop_orders()
        seed.identity = None

    def _seed_kill(self, seed: Child) -> None:
        if seed.state == "attaching":
            self.attach.is_late()
        process.signal_pidfd(seed.pidfd, signal.SIGKILL)

    def _seed_quit(self, seed: Child) -> None:
        self._deadline(seed, QUIT_S, "seed", "late")
        if self._orders is not None:
            self._orders.quit()

    # --- workers ---------------------------------------------------------------------------------

    def _worker_fork(self, worker: Worker) -> None:
        self._met(worker)
        if self._orders is not None and not worker.forking:
            worker.forking = True
            self._task(self._fork(worker))

    async def _fork(self, worker: Worker) -> None:
        """Have the seed fork; if that fails, whoever waits for the worker hears `unborn`."""
        worker.refused = None

        def noted(sitter: Sitter, line: str) -> None:
            if worker.sitter is not sitter:
                return
            if line == "READY":
                self._met(worker)
                self.fire("worker", worker, "ready")
            elif line.startswith("REFUSED "):
                worker.refused = _refused(line)

        try:
            berth = await self._open_slot(worker)
            version = self.groups[worker.group].version
            worker.sitter = await self._fork_for(worker.name, berth, noted, version)
        except (DpsupError, OSError):
            asyncio.get_running_loop().call_later(UNBORN_S, self._unborn, worker)
            raise
        finally:
            worker.forking = False
        worker.restarts += 1
        self._deadline(worker, WORKER_READY_S, "worker", "late")
        self.write_state()
        if worker.state == "draining":
            # Told to stop between the order and the fork.
            self._worker_kill(worker)

    async def _fork_for(
        self,
        name: str,
        berth: dict[str, int],
        noted: Callable[[Sitter, str], None],
        version: int,
    ) -> Sitter:
        """A process for an open berth; `noted` hears what it says of its start."""
        fds: list[int] = []
        try:
            # A worker never waits for whoever reads its log, nor minds its death.
            fds += [*process.lasting_pipe(), *process.lasting_pipe()]
            log_r, log_w, note_r, note_w = fds
            if self._orders is None:
                raise SeedError("the seed is gone", code="E0803")
            pid, pidfd = await self._orders.fork(berth["berth"], berth["ticket"], log_w, note_w)
        except (DpsupError, OSError):
            for fd in fds:
                os.close(fd)
            self._task(self._call_off(**berth))
            raise
        os.close(log_w)
        os.close(note_w)
        sitter = self._know(Sitter(name, berth["berth"], pid, pidfd, version=version))
        Lines(log_r, lambda line: self.log.add(name=sitter.name, line=line))
        Lines(note_r, lambda line: noted(sitter, line))
        return sitter

    async def _call_off(self, berth: int, ticket: int) -> None:
        """The order for a berth failed. Somebody may have come to it all the same, as the seed died
        between the fork and its word on it: nobody whom nobody knows may live on."""
        deadline = time.monotonic() + HALT_S
        while time.monotonic() < deadline:
            pid = await self.insist("call_off", berth=berth, ticket=ticket)
            if pid == 0 or pid in self._sitters:
                return
            if pid > 0:
                self.events.add(type="stranger", name="", pid=pid)
                process.kill(process.identify(pid))
            await asyncio.sleep(UNBORN_S)

    def _know(self, sitter: Sitter) -> Sitter:
        """Watch a process from now on."""
        sitter.start = process.start_ticks(sitter.pid)
        self._sitters[sitter.pid] = self._unheard[sitter.pid] = sitter
        if sitter.pid in self._endings:
            self._seed_says(sitter.pid, self._endings.pop(sitter.pid))
        loop = asyncio.get_running_loop()
        loop.add_reader(sitter.pidfd, lambda: self._sitter_died(sitter))
        self._changed.set()
        return sitter

    def _unwatch(self, sitter: Sitter) -> None:
        if sitter.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(sitter.pidfd)
            os.close(sitter.pidfd)
            sitter.pidfd = -1

    def _forget(self, sitter: Sitter) -> None:
        self._unwatch(sitter)
        self._sitters.pop(sitter.pid, None)

    async def _open_slot(self, worker: Worker) -> dict[str, int]:
        """A berth and ticket for the slot. A worker that nobody knows of, as the seed died on it,
        may have sat down meanwhile: it is ended, and its lanes are repaired."""
        deadline = time.monotonic() + HALT_S
        worker.takeovers = 0
        while True:
            found: dict[str, int] = await self.insist("prepare", slot=worker.slot, core=worker.core)
            if "ticket" in found:
                return found
            if time.monotonic() > deadline:
                raise SeedError(f"pid {found['sitting']} sits in {worker.name}", code="E0803")
            if found["sitting"]:
                stranger = process.identify(found["sitting"])
                process.kill(stranger)
                await asyncio.to_thread(process.wait_gone, [stranger], HALT_S)
            await asyncio.sleep(FATE_S)
            await self._read_stories()

    def _unborn(self, worker: Worker) -> None:
        if worker.pid is None and not worker.forking:
            self.fire("worker", worker, "unborn")

    # --- deaths ----------------------------------------------------------------------------------

    def _sitter_died(self, sitter: Sitter) -> None:
        self._unwatch(sitter)
        self._changed.set()
        if self.primary.state in ("running", "stopping"):
            self._task(self._account_for(sitter))

    async def _account_for(self, sitter: Sitter) -> None:
        """What the wardens did about a death, then what there is to decide about it."""
        deadline = time.monotonic() + FATE_MOST_S
        while not await self.insist("fate", berth=sitter.berth, pid=sitter.pid):
            if time.monotonic() > deadline:
                if self.primary.pidfd >= 0:
                    process.signal_pidfd(self.primary.pidfd, signal.SIGKILL)
                raise Gone(f"no warden has noticed the end of pid {sitter.pid}", code="E0807")
            await asyncio.sleep(FATE_S)
        await self._read_stories()
        if sitter.pid in self._sitters:
            # It had not come far enough for a warden to know it.
            await self._bury(sitter, None)

    async def _read_stories(self, *, must: bool = True) -> None:
        """In the order in which it happened: who succeeded whom follows from that. Who only looks
        for news does not insist."""
        async with self._reading:
            news = self.insist if must else partial(self.ask, timeout=ANSWER_S)
            for story in await news("stories", since=self.told):
                if story["kind"] == DEATH:
                    await self._hear_death(story)
                elif story["kind"] == LENT:
                    await self._hear_lent(story)
                elif story["kind"] in IO_SAID:
                    self._hear_io(story)
                else:
                    self._hear_health(story)
                # Only now: whoever comes after us begins with what we have not dealt with.
                self.told = story["seq"]

    def _hear_io(self, story: dict[str, Any]) -> None:
        core = self.plan.io[story["sitter"]].core
        said = IO_SAID[story["kind"]]
        self.events.add(type="health", name=f"io core {core}", pid=story["pid"], message=said)

    def _hear_health(self, story: dict[str, Any]) -> None:
        """A stopped worker lends its buckets out until it goes on: what comes from now on need not
        wait for it. What it has in its lanes does: nobody may touch that while it lives."""
        for worker in self.workers():
            if worker.pid != story["pid"]:
                continue
            worker.health = HEALTH[story["kind"]]
            said = SAID[story["kind"]]
            self.events.add(type="health", name=worker.name, pid=worker.pid, message=said)
            lends = worker.health == "stopped"
            if worker.state == "running" and worker.fed == lends:
                worker.fed = not lends
                self._task(self._steer(self.groups[worker.group]))

    async def _hear_lent(self, story: dict[str, Any]) -> None:
        """The primary lent a slot's buckets out, as no answer came in time: go on from its map."""
        worker = next(w for w in self.workers() if w.slot == story["slot"])
        group = self.groups[worker.group]
        async with group.lock:
            found = tuple(bytes.fromhex(await self.insist("map_read", group=group.index)))
            moved, group.map = steering.moved(group.map, found), found
        if worker.state != "running":
            worker.fed = False
        self.events.add(type="lent", name=worker.name, buckets_moved=moved, requeued=story["left"])
        # Whoever is back by now, or was stopped, is given its share, or loses it.
        self._task(self._steer(group))

    async def _hear_death(self, story: dict[str, Any]) -> None:
        sitter = self._sitters.get(story["pid"])
        if sitter is not None:
            await self._bury(sitter, story)
            return
        for worker in self.workers():
            if worker.slot == story["slot"]:
                self.events.add(type="stranger", name=worker.name, pid=story["pid"])
                await self._give_up_lanes(worker, story)

    async def _bury(self, sitter: Sitter, story: dict[str, Any] | None) -> None:
        worker = next((w for w in self.workers() if w.sitter is sitter), None)
        successor = await self._successor(story) if story and story["successor"] else None
        self._forget(sitter)
        if worker is None:
            for group in self.groups:
                if sitter in group.spares:
                    group.spares.remove(sitter)
                    self._spare_died(group, sitter)
            return
        worker.story = story
        worker.health = "ok"
        handed_over = bool(story and story["handover"])
        sitter.asked |= handed_over
        if handed_over and successor is not None and story is not None:
            us = (story["seated_ns"] - story["noticed_ns"]) / 1000
            version = self.rollouts[worker.group].slots[successor.version]
            self.events.add(type="handover", name=worker.name, revision=version, seated_us=us)
        self.unreported += not sitter.asked
        self._met(worker)
        if successor is None:
            self.fire("worker", worker, "died")
            return
        for group in self.groups:
            if successor in group.spares:
                group.spares.remove(successor)
        worker.sitter = successor
        worker.since_ns = time.monotonic_ns()
        successor.name = worker.name
        if not handed_over:
            worker.restarts += 1
            worker.takeovers -= 1
        self.fire("worker", worker, "succeeded")
        self._task(self._report(worker, sitter, story))
        self.write_state()

    async def _successor(self, story: dict[str, Any]) -> Sitter | None:
        """The spare that took over. The seed's word on its birth may still be on its way, or may
        never come."""
        pid = story["successor"]
        if await self.until(lambda: pid in self._sitters, STATUS_WAIT_S):
            return self._sitters[pid]
        try:
            sitter = self._know(Sitter("", story["successor_sitter"], pid, os.pidfd_open(pid)))
            slot = (await self.ask("counters"))["slots"][story["slot"]]
            sitter.version = max(0, slot["version"])
            return sitter
        except (DpsupError, OSError):
            return None

    async def _report(
        self, worker: Worker, sitter: Sitter, story: dict[str, Any] | None
    ) -> int | None:
        """Say how a worker ended; its exit code, negative for a signal, None if nobody knows."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sitter.heard.wait(), STATUS_WAIT_S)
        status, found = sitter.status, story or {}
        if found.get("signal"):
            status = found["signal"]
        how = "unknown" if status is None else process.describe_status(status)
        code = os.waitstatus_to_exitcode(status) if status is not None else None
        died_ns = found.get("died_ns") or found.get("noticed_ns") or time.monotonic_ns()
        worker.last_exit = {
            "pid": sitter.pid,
            "how": how,
            "code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "asked": sitter.asked,
            "reason": "stuck with work"
            if found.get("hung")
            else worker.refused[1]
            if worker.refused
            else "",
            "at_ns": died_ns,
        }
        if not sitter.asked:
            self.deaths += 1
            self.unreported -= 1
            worker.failed_ns = died_ns if story is None else story["noticed_ns"]
            self.events.add(
                type="death", name=worker.name, pid=sitter.pid, how=how, **_told_of(found)
            )
            rollout.note_death(self, worker, sitter, story, code)
        return code

    def _worker_feed(self, worker: Worker) -> None:
        self._task(self._feed(worker))

    async def _feed(self, worker: Worker) -> None:
        await self.insist("lane", slot=worker.slot)
        await self._grant(worker)
        if worker.state == "running":
            worker.fed = worker.health != "stopped"
            worker.left = False
            self._changed.set()
            await self._steer(self.groups[worker.group])

    async def _grant(self, worker: Worker) -> None:
        """Let the slot's warden seat spares by itself as often as the policy would say yes."""
        group = self.groups[worker.group]
        n = 0
        if worker.state == "running" and worker.wanted and group.plan.spares:
            n = allowance(group.policy, worker.history, time.monotonic())
        if n != worker.takeovers:
            worker.takeovers = n
            failures = group.policy.policy == "on-failure"
            await self.insist("takeovers", slot=worker.slot, n=n, failures=failures)

    def _worker_adopt(self, worker: Worker) -> None:
        """A spare has taken the place already: keep the books, fork another spare."""
        group = self.groups[worker.group]
        if worker.story and worker.story["handover"]:
            # It was asked to make room: no death. The one that came may need other things.
            self._task(self._feed(worker))
            self._refill(group)
            return
        decision = decide(group.policy, worker.history, Ending(), wanted=True, now=time.monotonic())
        worker.history = decision.history
        self._restart_others(worker)
        group.spare_due_at = max(group.spare_due_at, time.monotonic() + decision.delay)
        # One that was stopped had lent its buckets out.
        self._task(self._grant(worker) if worker.fed else self._feed(worker))
        self._refill(group)

    # --- spares ----------------------------------------------------------------------------------

    def _refill(self, group: Group) -> None:
        wants = group.plan.spares > 0 and not group.spares_held
        if wants and not group.filling and self._lacks_spares(group):
            group.filling = True
            self._task(self._fill(group))

    @staticmethod
    def _lacks_spares(group: Group) -> bool:
        return sum(s.version == group.version for s in group.spares) < group.plan.spares

    async def _fill(self, group: Group) -> None:
        try:
            while self._lacks_spares(group):
                await asyncio.sleep(max(0.0, group.spare_due_at - time.monotonic()))
                running = self.state in ("running", "degraded") and self._orders is not None
                if not running or group.spares_held:
                    return
                await self._fork_spare(group, group.version)
        finally:
            group.filling = False

    async def _fork_spare(self, group: Group, version: int) -> None:
        def noted(sitter: Sitter, line: str) -> None:
            if line == "READY":
                sitter.ready = True
                self._changed.set()
            elif line.startswith("REFUSED "):
                code, why = _refused(line)
                self.events.add(type="spare", name=sitter.name, message=why)
                if code in PERMANENT and not rollout.note_refusal(self, group, sitter, why):
                    self._hold_spares(group, sitter.name, why)

        berth = await self.insist("spare", group=group.index, version=version)
        sitter = await self._fork_for(f"{group.plan.name}/spare", berth, noted, version)
        group.spares.append(sitter)
        asyncio.get_running_loop().call_later(WORKER_READY_S, _late, sitter)
        self.write_state()
        if self.state not in ("running", "degraded"):
            self.retire_spares(group)

    def _spare_died(self, group: Group, sitter: Sitter) -> None:
        if not sitter.asked:
            self.events.add(type="spare", name=sitter.name, pid=sitter.pid, message="died")
        if not sitter.asked and not sitter.ready and sitter.version == group.version:
            now = time.monotonic()
            decision = decide(SPARE_POLICY, group.spare_history, Ending(), wanted=True, now=now)
            group.spare_history = decision.history
            group.spare_due_at = max(
                group.spare_due_at, now + (decision.delay or SPARE_POLICY.most)
            )
        self._refill(group)

    def _hold_spares(self, group: Group, name: str, why: str) -> None:
        """A plugin that refuses will refuse the next spare too: until somebody says otherwise, no
        further one is forked. The workers that run have nothing to do with it."""
        if not group.spares_held:
            group.spares_held = why
            self.events.add(type="held", name=name, message=why)
            self.progress(
                f"{name}s are held: {why}: "
                f"`dpsup -n {self.plan.name} reset-failed {group.plan.name}` tries again"
            )

    def retire_spares(self, group: Group) -> None:
        """End them; new ones are forked while the instance runs."""
        self.retire(group.spares)

    def retire(self, spares: list[Sitter]) -> None:
        for sitter in spares:
            sitter.asked = True
        self.write_state()
        for sitter in spares:
            if sitter.pidfd >= 0:
                process.signal_pidfd(sitter.pidfd, signal.SIGKILL)

    # --- workers, going on -----------------------------------------------------------------------

    async def _steer(self, group: Group) -> None:
        """Bring the io cores' map in line with who is fed, and have them steer anew what waits in
        the lanes of those who are down. Who comes back has its own buckets again. With nobody
        left, buckets stay with their slots if one of them will come back: its lane keeps the
        packets until then."""
        async with group.lock:
            members = {w.member for w in group.workers if w.fed}
            wanted = {w.member for w in group.workers if w.wanted}
            new = steering.spread(group.map, members, group.loads, group.home)
            if members == wanted != set():
                group.home = new
            is_down = bool(wanted)
            rule = group.plan.on_down if is_down else group.plan.at_zero
            if not members and is_down and rule == "hold":
                return
            if new != group.map or (not members and rule != group.when_empty):
                await self.insist("map", group=group.index, map=bytes(new).hex(), when_empty=rule)
                moved = steering.moved(group.map, new)
                group.map, group.when_empty = new, rule
                self.events.add(type="steer", name=group.plan.name, buckets_moved=moved)
            for worker in group.workers if members or group.map == steering.EMPTY else ():
                # Only behind the map: what comes back goes ahead of all that came later.
                down = worker.state in ("backoff", "held", "stopped")
                if worker.left and down and worker.member not in members:
                    worker.left = False
                    await self.insist("requeue", slot=worker.slot)

    def _worker_unfeed(self, worker: Worker) -> None:
        self._deadline(worker, self.drain_s + 1, "worker", "late")
        self._task(self._unfeed(worker))

    async def _unfeed(self, worker: Worker) -> None:
        worker.fed = False
        await self._grant(worker)
        group = self.groups[worker.group]
        if self.state != "stopping":
            await self._steer(group)
        if worker.wanted and not any(w.fed for w in group.workers):
            # A restart with nobody to take over: its lanes wait for itself.
            self.fire("worker", worker, "drained")
            return
        deadline = time.monotonic() + self.drain_s
        while worker.state == "draining" and time.monotonic() < deadline:
            counters = await self.ask("counters")
            if counters["slots"][worker.slot]["outstanding"] == 0:
                break
            await asyncio.sleep(0.005)
        if worker.state == "draining":
            self.fire("worker", worker, "drained")

    def _worker_halt(self, worker: Worker) -> None:
        async def halt() -> None:
            if worker.sitter is not None:
                worker.sitter.asked = True
                self.write_state()
            await self.insist("command", slot=worker.slot, command="stop")

        self._deadline(worker, HALT_S, "worker", "late")
        self._task(halt())

    def _worker_kill(self, worker: Worker) -> None:
        if worker.sitter is not None and worker.state == "draining":
            worker.sitter.asked = True
        if worker.pidfd >= 0:
            process.signal_pidfd(worker.pidfd, signal.SIGKILL)
        else:
            asyncio.get_running_loop().call_soon(self._unborn, worker)

    async def _give_up_lanes(self, worker: Worker, story: dict[str, Any]) -> None:
        """Where the warden found nothing that it could repair."""
        if story["corrupt"]:
            self.events.add(
                type="corrupt",
                name=worker.name,
                message="the slot's shared memory was found corrupt; what it had is given up",
            )
            await self.insist("reset", slot=worker.slot)

    def _worker_repair(self, worker: Worker) -> None:
        self._task(self._repair(worker))

    async def _repair(self, worker: Worker) -> None:
        """The warden has repaired the lanes and had no spare: say so, decide how to go on."""
        sitter, story = worker.sitter, worker.story
        if story is not None:
            await self._give_up_lanes(worker, story)
        # What is left in IN now, and what still comes until its buckets are lent out.
        worker.left = True
        code = None
        if sitter is not None:
            code = await self._report(worker, sitter, story)
        if worker.sitter is sitter:
            worker.sitter = None
        if worker.state != "recovering":
            return  # the primary went meanwhile, and the slot with it
        self._decide(worker, code, sitter is not None and sitter.asked)
        self.write_state()

    def _decide(self, worker: Worker, code: int | None, asked: bool) -> None:
        # What it said on its way out, where nobody knows how it ended: its seed died with it.
        codes = {code, worker.refused[0] if worker.refused else None}
        permanent = not codes.isdisjoint(PERMANENT)
        first = self.state == "starting" and self.plan.generation == 1 and not self.adopted
        if permanent and first and worker.refused:
            error = DpsupError(
                f"worker {worker.name} refused to start: {worker.refused[1]}",
                code="E0805",
                help=f"`plugin` and `args` of group {self.groups[worker.group].plan.name} "
                f"in {self.plan.topology_file}",
            )
            error.exit_code = Exit.BAD_TOPOLOGY
            worker.wanted = False
            self._fail(error)
        group = self.groups[worker.group]
        ending = Ending(asked=asked, permanent=permanent, failed=code != 0)
        now, chance = time.monotonic(), random.random()
        decision = decide(group.policy, worker.history, ending, worker.wanted, now, chance)
        worker.history = decision.history
        worker.due_at = now + decision.delay
        worker.held_for = decision.reason if decision.verdict is Verdict.GIVE_UP else ""
        if decision.verdict is Verdict.GIVE_UP:
            self.events.add(type="held", name=worker.name, message=decision.reason)
            if first:
                how = (worker.last_exit or {}).get("how", "its end")
                self._fail(
                    DpsupError(
                        f"worker {worker.name} does not become ready: {how}, {decision.reason}",
                        code="E0806",
                        help=f"`plugin` and `args` of its group in {self.plan.topology_file}",
                    )
                )
        elif not asked and worker.wanted:
            self._restart_others(worker)
        self.fire("worker", worker, decision.verdict.value)

    def _restart_others(self, worker: Worker) -> None:
        """Those that the strategy restarts with it. Who is down, or on its way, starts afresh
        anyway."""
        strategy = self.groups[worker.group].policy.strategy
        workers = self.workers()
        with_it = [
            workers[i]
            for i in others(strategy, workers.index(worker), [w.group for w in workers])
            if workers[i].state == "running" and workers[i].wanted
        ]
        if with_it and self.state in ("running", "degraded"):
            names = [w.name for w in with_it]
            self.events.add(type="restart", name=worker.name, message=strategy, restarted=names)
            for one in with_it:
                self.fire("worker", one, "restart")

    def reset_failed(self, workers: list[Worker], groups: list[Group]) -> list[Worker]:
        """Forget how often they died, and start those that are held; which these are."""
        for group in groups:
            group.spare_history, group.spare_due_at, group.spares_held = History(), 0.0, ""
            self._refill(group)
        held = [w for w in workers if w.state == "held" and w.wanted]
        for worker in workers:
            worker.history = History()
            worker.held_for = ""
        for worker in held:
            self.fire("worker", worker, "restart")
        return held

    def _worker_lend(self, worker: Worker) -> None:
        """Until it is back, others of its group handle its buckets, and what waits in its lanes."""
        worker.fed = False
        self._task(self._steer(self.groups[worker.group]))

    _worker_handback = _worker_lend

    def _worker_wait(self, worker: Worker) -> None:
        left = max(0.0, worker.due_at - time.monotonic())
        self._deadline(worker, left, "worker", "due")

    def _worker_say(self, worker: Worker) -> None:
        last = worker.last_exit or {}
        reason = f" ({last['reason']})" if last.get("reason") else ""
        self.progress(
            f"{worker.name} is held after {last.get('how', 'its end')}{reason}: "
            f"`dpsup -n {self.plan.name} reset-failed {worker.name}` tries again"
        )

    def _worker_forget(self, worker: Worker) -> None:
        self._met(worker)
        if worker.sitter is not None:
            self._forget(worker.sitter)
        worker.sitter = None
        worker.takeovers = 0
        worker.fed = False
        worker.left = False
        self.groups[worker.group].map = steering.EMPTY

    # --- watching --------------------------------------------------------------------------------

    async def _monitor(self) -> None:
        """Looks at the counters: statistics, corrupt lanes, idle input."""
        quiet_since = time.monotonic()
        received = -1
        silences = 0
        while True:
            await asyncio.sleep(0.1 if self.idle_limit is not None else 0.5)
            if self.state not in ("running", "degraded") or not self._rx_on:
                quiet_since = time.monotonic()
                continue
            try:
                await self._read_stories(must=False)
                counters = await self.ask("counters", ANSWER_S)
                silences = 0
                if self.seed.state == "running":
                    await self.attach.look()
            except TimedOut as e:
                silences += 1
                if silences >= SILENCES and self.primary.pidfd >= 0:
                    self.events.add(type="error", message=f"the primary hangs: {e}")
                    self._primary_kill(self.primary)
                continue
            except DpsupError:
                continue
            self._last_counters = counters
            self.note_failover(counters)
            self._publisher.publish("stat", status.account(counters))
            for follower in self._followers:
                follower.look(self, counters)
            for notice in self._notices.look(counters, time.monotonic()):
                self.events.add(type="advice", name=notice["name"], message=notice["message"])
            if any(io["quarantine"] for io in counters["io"]) and not self._evidence.busy:
                self._task(self._keep_evidence())
            for group in self.groups:
                self._refill(group)
            for worker in self.workers():
                await self._grant(worker)
                slot = counters["slots"][worker.slot]
                if slot["lanes_corrupt"] and worker.state == "running":
                    self.events.add(type="corrupt", name=worker.name, message="lane isolated")
                    self._worker_kill(worker)
            now = sum(p["rx_packets"] for p in counters["ports"])
            if now != received or status.in_flight(counters):
                received = now
                quiet_since = time.monotonic()
            elif self.idle_limit is not None and time.monotonic() - quiet_since >= self.idle_limit:
                self.idle_limit = max(self.idle_limit, 0.0)
                self.progress(f"no packet for {self.idle_limit:g} s: done")
                self.stop()
                return

    def note_failover(self, counters: dict[str, Any]) -> None:
        """From a death's notice to the first packet that the successor handled."""
        for worker in self.workers():
            first = counters["slots"][worker.slot]["first_ns"]
            if worker.failed_ns and first > worker.failed_ns:
                if first > self._last_first_ns:
                    self._last_first_ns = first
                    self.last_failover_us = (first - worker.failed_ns) / 1000
                self.failovers.first_packet((first - worker.failed_ns) / 1e9)
                worker.failed_ns = 0
            elif worker.state in ("held", "stopped"):
                worker.failed_ns = 0  # whoever sits there next was asked to

    def view(self) -> dict[str, Any]:
        """What status.py needs to know beside the counters."""
        now = time.monotonic()

        def child(one: Child) -> dict[str, Any]:
            return {"pid": one.identity.pid if one.identity else None, "state": one.state}

        return {
            "at_ns": time.monotonic_ns(),
            "started_ns": self.started_ns,
            "pid": os.getpid(),
            "state": self.state,
            "primary": child(self.primary),
            "seed": child(self.seed),
            "absent": self.absent,
            "groups": [
                {
                    "desired": g.desired,
                    "spares_ready": sum(s.ready for s in g.spares if s.version == g.version),
                    "rollout": self.rollouts[g.index].view(g),
                    "spares_held": g.spares_held,
                    "workers": [
                        {
                            "pid": w.pid,
                            "state": w.state,
                            "restarts": max(w.restarts, 0),
                            "last_exit": w.last_exit,
                            "health": w.health,
                            "since_ns": w.since_ns,
                            "held_for": w.held_for if w.state == "held" else "",
                            "retry_in_s": max(0.0, w.due_at - now)
                            if w.state == "backoff"
                            else None,
                            "hidden": w.state == "stopped" and w.member >= g.desired,
                        }
                        for w in g.workers
                    ],
                }
                for g in self.groups
            ],
            "recovery": {
                "deaths": self.deaths,
                "lost": self.lost,
                "last_failover_us": self.last_failover_us,
                "histograms": self.failovers.document(),
            },
        }


def _late(sitter: Sitter) -> None:
    """A spare that is not ready in time is of no use."""
    if not sitter.ready and sitter.pidfd >= 0:
        process.signal_pidfd(sitter.pidfd, signal.SIGKILL)


def _refused(line: str) -> tuple[int, str]:
    """Exit code and reason, of what a worker said on its way out."""
    code, _, text = line.removeprefix("REFUSED ").partition(" ")
    return int(code), text


def _told_of(story: dict[str, Any]) -> dict[str, Any]:
    """The part of a death's story that an event shows."""
    keys = ("corrupt", "published", "undone", "left", "mended")
    told = {
        "repaired": {k: story.get(k, 0) for k in keys},
        "successor": story.get("successor") or None,
        "notice": NOTICES[story.get("notice", 0)],
        "tried": story.get("tried", 0),
        "hung": bool(story.get("hung")),
        "times": {k: v for k, v in story.items() if k.endswith("_ns") and v},
    }
    if story.get("signal"):
        told["address"] = f"{story['address']:#x}"
        told["backtrace"] = story["frames"]
    if story.get("blamed"):
        # Of the packet in hand: how many deaths it is to blame for; at two it is in quarantine.
        told["blamed"] = story["blamed"]
    return told


def _refusal(text: str) -> DpsupError:
    from dpsup.bus.messages import as_exception

    try:
        return as_exception(json.loads(text))
    except ValueError:
        return DpsupError(f"the primary refused: {text}", code="E0801")
