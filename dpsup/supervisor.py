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
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsup import machine, process, status, steering
from dpsup.bus import AsyncClient, Gone, Publisher, Server
from dpsup.errors import DpsupError, Exit, ShimError, TimedOut
from dpsup.output import Journal, Lines
from dpsup.plan import GroupPlan, Plan
from dpsup.policy import Ending, History, Policy, Verdict, decide
from dpsup.process import Identity, Spawned
from dpsup.runtime import CONTROL, EVENTS, PLAN, PRIMARY, SEED, Runtime, State
from dpsup.seed import Seed, SeedError

WORKER_PROGRAM = Path(__file__).with_name("dpsup-worker")
SEED_LCORE = 127  # RTE_MAX_LCORE - 1: no io core's

# Deadlines, far above what is measured: they catch what hangs.
PRIMARY_READY_S = 120.0  # zeroing hugepages: 7 s for 32 GB
SEED_READY_S = 15.0  # 20-60 ms; above EAL's own 5 s
WORKER_READY_S = 15.0  # 3 ms and the plugin's init
HALT_S = 2.0
QUIT_S = 10.0
DRAIN_S = 5.0
UNBORN_S = 0.1  # before the next try, where nobody was forked
INSIST = 3
LAST_WORDS = 6  # lines of a primary that did not start
STATUS_WAIT_S = 0.2  # for the seed's word on how a worker ended

# Exit codes of the worker program that trying again does not change: shim/abi.h, 100 to 109.
PERMANENT = range(100, 110)
PRIMARY_POLICY = Policy(intensity=5, period=60, initial=0.1, factor=2, most=5)
SEED_POLICY = Policy(intensity=10, period=60, initial=0.05, factor=2, most=5)


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
    asked: bool = False  # told to end
    pid: int | None = None
    pidfd: int = -1
    forking: bool = False
    restarts: int = -1
    last_exit: dict[str, Any] | None = None
    exited: dict[int, int] = field(default_factory=dict)  # pid -> status, as heard
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    refused: tuple[int, str] | None = None
    history: History = field(default_factory=History)
    died_ns: int = 0
    failed_ns: int = 0  # the death whose successor has not handled a packet yet
    since_ns: int = 0
    due_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Group:
    plan: GroupPlan
    index: int
    workers: list[Worker]
    policy: Policy
    desired: int
    map: steering.Map = steering.EMPTY
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


def _group(index: int, plan: GroupPlan) -> Group:
    workers = [
        Worker(f"{plan.name}/{m}", index, m, plan.first_slot + m, plan.cores[m])
        for m in range(plan.max)
    ]
    policy = Policy(
        plan.restart_policy,
        plan.intensity,
        plan.period,
        plan.backoff_initial,
        plan.backoff_factor,
        plan.backoff_max,
    )
    return Group(plan, index, workers, policy, plan.count)


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
        self.hello: dict[str, Any] = {}
        self.failure: DpsupError | None = None
        self.drain_s = DRAIN_S
        self.deaths = 0
        self.lost = 0
        self.primary_deaths = 0
        self.interrupted = False
        self.last_failover_us: float | None = None
        self.summary: dict[str, Any] | None = None
        self.on_running: Callable[[], None] = lambda: None
        self.on_stopping: Callable[[], None] = lambda: None
        self._asks: AsyncClient | None = None
        self._orders: Seed | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._children: dict[int, Child] = {}
        self._changed = asyncio.Event()
        self._gone = asyncio.Event()
        self._rx_on = False
        self._opening = False
        self._last_counters: dict[str, Any] | None = None
        self._last_first_ns = 0
        self._publisher = Publisher(runtime.file(EVENTS))
        self.events = Journal("event", self._publisher.publish)
        self.log = Journal("log", self._publisher.publish)

    # --- life ------------------------------------------------------------------------------------

    async def run(self, handle: Callable[[Supervisor, Any], Coroutine[Any, Any, Any]]) -> int:
        """Until the instance has ended; the exit code. `handle` carries out bus requests."""
        loop = asyncio.get_running_loop()
        process.become_subreaper()
        loop.set_exception_handler(self._broken)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self._interrupted)
        server = Server(self.runtime.file(CONTROL), lambda request: handle(self, request))
        serving = asyncio.create_task(server.serve())
        self._task(self._monitor())
        try:
            self.fire("topology", self, "start")
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
        self._fail(DpsupError(f"internal error: {cause!r}"))

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
        step = machine.step(kind, who.state, event)
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

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await coroutine
            except (Gone, ShimError, TimedOut, SeedError, OSError) as e:
                # The process on the other side is dying; its pidfd says so in a moment.
                self.events.add(type="error", message=str(e))
            except DpsupError as e:
                self._fail(e)
            except Exception as e:  # a fault of ours: end in order, and say so
                self._fail(DpsupError(f"internal error: {e!r}"))

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

    def workers(self) -> list[Worker]:
        return [w for g in self.groups for w in g.workers]

    def _judge(self) -> None:
        whole = all(g.ready == g.desired for g in self.groups)
        if self.state == "starting" and self.plan.generation > 1:
            # A generation that follows starts with whoever can; the rest is held, and said.
            whole = all(w.state in ("running", "held") for w in self.workers() if w.wanted)
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
            raise Gone("no primary is running", help="`dpsup status` shows what is going on")
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
        raise Gone("the primary does not answer")

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
            workers={w.name: process.identify(w.pid) for w in self.workers() if w.pid is not None},
        )
        try:
            self.runtime.write_state(state)
        except OSError as e:
            self.events.add(type="error", message=f"cannot write {self.runtime.path}: {e}")

    # --- children --------------------------------------------------------------------------------

    def _spawn(self, child: Child, kind: str, argv: list[str], ready_s: float) -> None:
        spawned = process.spawn(argv)
        child.identity = process.identify(spawned.pid)
        child.pidfd = spawned.pidfd
        child.refused = ""
        self._children[spawned.pid] = child
        loop = asyncio.get_running_loop()
        loop.add_reader(spawned.pidfd, lambda: self._child_died(child, kind))
        self._deadline(child, ready_s, kind, "late")
        self._read_child(child, kind, spawned)
        self.write_state()

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
                for worker in self.workers():
                    if worker.pid == pid:
                        self._heard_exit(worker, pid, ended)

    async def _kill_all(self) -> None:
        for child in (self.seed, self.primary):
            if child.pidfd >= 0:
                process.signal_pidfd(child.pidfd, signal.SIGKILL)
        for worker in self.workers():
            if worker.pidfd >= 0:
                process.signal_pidfd(worker.pidfd, signal.SIGKILL)

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
            short = [f"{g.plan.name} {g.ready}/{g.desired}" for g in self.groups]
            self.progress(f"{self.plan.name} is degraded: {', '.join(short)} ready")

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
        counters = await self.ask("counters")
        self.summary = {
            **status.account(counters),
            "deaths": self.deaths,
            "audit": await self.ask("audit"),
        }

    def _topology_again(self) -> None:
        self._rx_on = self._opening = False
        decision = decide(
            PRIMARY_POLICY, self.primary.history, Ending(), wanted=True, now=time.monotonic()
        )
        self.primary.history = decision.history
        if decision.verdict is Verdict.GIVE_UP:
            self._fail(DpsupError(f"the primary died again and again: {decision.reason}"))
            return
        asyncio.get_running_loop().call_later(decision.delay, self._next_generation)

    def _next_generation(self) -> None:
        if self.state != "starting":
            return
        self.plan = self.replan(self.plan.generation + 1)
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
        left = [process.identify(w.pid) for w in self.workers() if w.pid is not None]
        if self.seed.identity is not None:
            left.append(self.seed.identity)
        if not await asyncio.to_thread(process.wait_gone, left, 1.0):
            for one in left:
                process.kill(one)
            await asyncio.to_thread(process.wait_gone, left, 5.0)
        for worker in self.workers():
            self.fire("worker", worker, "lost")
        await self.until(lambda: self.seed.state == "absent", QUIT_S)
        primary.identity = None
        self.runtime.sweep()
        self.fire("primary", primary, "swept")

    def _primary_report(self, primary: Child) -> None:
        if self.state == "stopping":
            self.fire("topology", self, "gone")
        elif primary.refused or self.primary_deaths == 0:
            error = DpsupError("the primary ended before it was ready")
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
        self._spawn(seed, "seed", argv, SEED_READY_S)

    def _seed_fill(self, _: Child) -> None:
        if self.state == "stopping":
            return
        self._orders = Seed(self.runtime.file(SEED), self._seed_says)
        for group in self.groups:
            for worker in group.workers:
                worker.wanted = worker.member < group.desired
                if worker.state == "starting" and worker.pid is None:
                    self._worker_fork(worker)
                elif worker.wanted:
                    self.fire("worker", worker, "start")
        self._judge()

    def _seed_says(self, slot: int, pid: int, ended: int) -> None:
        for worker in self.workers():
            if worker.slot == slot:
                self._heard_exit(worker, pid, ended)

    def _drop_orders(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None

    def _seed_replace(self, seed: Child) -> None:
        self._drop_orders()
        refused, seed.identity = seed.refused, None
        if self.primary.state != "running" or self.state == "stopping":
            return
        if refused:
            code, _, text = refused.partition(" ")
            if int(code) in PERMANENT:
                self._fail(DpsupError(f"the seed refused: {text}"))
                return
        decision = decide(SEED_POLICY, seed.history, Ending(), wanted=True, now=time.monotonic())
        seed.history = decision.history
        if decision.verdict is Verdict.GIVE_UP:
            self._fail(DpsupError(f"the seed died again and again: {decision.reason}"))
            return
        asyncio.get_running_loop().call_later(decision.delay, self._seed_anew)

    def _seed_anew(self) -> None:
        if self.primary.state == "running" and self.state != "stopping":
            self.fire("seed", self.seed, "start")

    def _seed_report(self, seed: Child) -> None:
        self._drop_orders()
        seed.identity = None

    def _seed_kill(self, seed: Child) -> None:
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
        fds: list[int] = []
        worker.refused = None
        worker.asked = False
        worker.exited.clear()
        worker.heard.clear()
        try:
            fds += [*os.pipe(), *os.pipe()]
            log_r, log_w, note_r, note_w = fds
            # A worker never waits for whoever reads its log.
            for fd in (log_r, note_r, log_w):
                os.set_blocking(fd, False)
            ticket = await self._open_slot(worker)
            if self._orders is None:
                raise SeedError("the seed is gone")
            worker.pid, worker.pidfd = await self._orders.fork(worker.slot, ticket, log_w, note_w)
        except (DpsupError, OSError):
            for fd in fds:
                os.close(fd)
            asyncio.get_running_loop().call_later(UNBORN_S, self._unborn, worker)
            raise
        finally:
            worker.forking = False
        os.close(log_w)
        os.close(note_w)
        worker.restarts += 1
        self._read_worker(worker, log_r, note_r)
        self._deadline(worker, WORKER_READY_S, "worker", "late")
        loop = asyncio.get_running_loop()
        loop.add_reader(worker.pidfd, lambda: self._worker_died(worker))
        self.write_state()
        if worker.state == "draining":
            # Told to stop between the order and the fork.
            self._worker_kill(worker)

    async def _open_slot(self, worker: Worker) -> int:
        """A ticket for the slot. A worker that nobody knows of, as the seed died on it, may have
        sat down meanwhile: it is ended, and its lanes are repaired."""
        found = await self.insist("prepare", slot=worker.slot, core=worker.core)
        if "sitter" in found:
            stranger = process.identify(found["sitter"])
            self.events.add(type="stranger", name=worker.name, pid=stranger.pid)
            process.kill(stranger)
            await asyncio.to_thread(process.wait_gone, [stranger], HALT_S)
            await self._recover(worker)
            found = await self.insist("prepare", slot=worker.slot, core=worker.core)
        if "ticket" not in found:
            raise SeedError(f"pid {found['sitter']} sits in {worker.name}")
        return int(found["ticket"])

    def _unborn(self, worker: Worker) -> None:
        if worker.pid is None and not worker.forking:
            self.fire("worker", worker, "unborn")

    def _read_worker(self, worker: Worker, log: int, notify: int) -> None:
        def noted(line: str) -> None:
            if line == "READY":
                self._met(worker)
                self.fire("worker", worker, "ready")
            elif line.startswith("REFUSED "):
                code, _, text = line.removeprefix("REFUSED ").partition(" ")
                worker.refused = (int(code), text)

        Lines(log, lambda line: self.log.add(name=worker.name, line=line))
        Lines(notify, noted)

    def _worker_died(self, worker: Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.pidfd)
        os.close(worker.pidfd)
        worker.pidfd = -1
        worker.died_ns = time.monotonic_ns()
        self._met(worker)
        self.fire("worker", worker, "died")

    def _heard_exit(self, worker: Worker, pid: int, ended: int) -> None:
        worker.exited[pid] = ended
        worker.heard.set()

    def _worker_feed(self, worker: Worker) -> None:
        self._task(self._feed(worker))

    async def _feed(self, worker: Worker) -> None:
        await self.insist("lane", slot=worker.slot)
        if worker.state == "running":
            worker.fed = True
            worker.left = False
            self._changed.set()
            await self._steer(self.groups[worker.group])

    async def _steer(self, group: Group) -> None:
        """Bring the io cores' map in line with who is fed, and have them steer anew what waits in
        the lanes of those who are down. With nobody left, buckets stay with their slots if one of
        them will come back: its lane keeps the packets until then."""
        async with group.lock:
            members = {w.member for w in group.workers if w.fed}
            new = steering.balance(group.map, members)
            if not members and any(w.wanted for w in group.workers):
                return
            if new != group.map:
                await self.insist("map", group=group.index, map=bytes(new).hex())
                moved = steering.moved(group.map, new)
                group.map = new
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
            worker.asked = True
            await self.insist("command", slot=worker.slot, command="stop")

        self._deadline(worker, HALT_S, "worker", "late")
        self._task(halt())

    def _worker_kill(self, worker: Worker) -> None:
        worker.asked = worker.asked or worker.state == "draining"
        if worker.pidfd >= 0:
            process.signal_pidfd(worker.pidfd, signal.SIGKILL)
        else:
            asyncio.get_running_loop().call_soon(self._unborn, worker)

    async def _recover(self, worker: Worker) -> dict[str, Any]:
        """Repair the lanes of a dead worker; what recovery found."""
        found: dict[str, Any] = await self.insist("recover", slot=worker.slot)
        if found["corrupt"]:
            self.events.add(
                type="corrupt",
                name=worker.name,
                message="the slot's shared memory was found corrupt; what it had is given up",
            )
            await self.insist("reset", slot=worker.slot)
        return found

    def _worker_repair(self, worker: Worker) -> None:
        self._task(self._repair(worker))

    async def _repair(self, worker: Worker) -> None:
        pid = worker.pid or 0
        found = await self._recover(worker)
        # What is left in IN now, and what still comes until its buckets are lent out.
        worker.left = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.heard.wait(), STATUS_WAIT_S)
        ended = worker.exited.get(pid)
        how = "unknown" if ended is None else process.describe_status(ended)
        code = os.waitstatus_to_exitcode(ended) if ended is not None else None
        unasked = not worker.asked
        worker.pid = None
        worker.last_exit = {
            "pid": pid,
            "how": how,
            "code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "asked": worker.asked,
            "reason": worker.refused[1] if worker.refused else "",
            "at_ns": worker.died_ns,
        }
        if unasked:
            self.deaths += 1
            worker.failed_ns = worker.died_ns
            self.events.add(type="death", name=worker.name, pid=pid, how=how, repaired=found)
        if worker.state != "recovering":
            return  # the primary went meanwhile, and the slot with it
        self._decide(worker, code)
        self.write_state()

    def _decide(self, worker: Worker, code: int | None) -> None:
        permanent = code is not None and code in PERMANENT
        if permanent and self.state == "starting" and worker.refused:
            error = DpsupError(
                f"worker {worker.name} refused to start: {worker.refused[1]}",
                help=f"`plugin` and `args` of group {self.groups[worker.group].plan.name} "
                f"in {self.plan.topology_file}",
            )
            error.exit_code = Exit.BAD_TOPOLOGY
            worker.wanted = False
            self._fail(error)
        group = self.groups[worker.group]
        ending = Ending(asked=worker.asked, permanent=permanent, failed=code != 0)
        decision = decide(group.policy, worker.history, ending, worker.wanted, time.monotonic())
        worker.history = decision.history
        worker.due_at = time.monotonic() + decision.delay
        if decision.verdict is Verdict.GIVE_UP:
            self.events.add(type="held", name=worker.name, message=decision.reason)
            if self.state == "starting" and self.plan.generation == 1:
                how = (worker.last_exit or {}).get("how", "its end")
                self._fail(
                    DpsupError(
                        f"worker {worker.name} does not become ready: {how}, {decision.reason}",
                        help=f"`plugin` and `args` of its group in {self.plan.topology_file}",
                    )
                )
        self.fire("worker", worker, decision.verdict.value)

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
            f"`dpsup -n {self.plan.name} restart {worker.name}` tries again"
        )

    def _worker_forget(self, worker: Worker) -> None:
        self._met(worker)
        if worker.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(worker.pidfd)
            os.close(worker.pidfd)
            worker.pidfd = -1
        worker.pid = None
        worker.fed = False
        worker.left = False
        self.groups[worker.group].map = steering.EMPTY

    # --- watching --------------------------------------------------------------------------------

    async def _monitor(self) -> None:
        """Looks at the counters: statistics, corrupt lanes, idle input."""
        quiet_since = time.monotonic()
        received = -1
        while True:
            await asyncio.sleep(0.1 if self.idle_limit is not None else 0.5)
            if self.state not in ("running", "degraded") or not self._rx_on:
                quiet_since = time.monotonic()
                continue
            try:
                counters = await self.ask("counters")
            except DpsupError:
                continue
            self._last_counters = counters
            self.note_failover(counters)
            self._publisher.publish("stat", status.account(counters))
            for worker in self.workers():
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
            "pid": os.getpid(),
            "state": self.state,
            "primary": child(self.primary),
            "seed": child(self.seed),
            "groups": [
                {
                    "desired": g.desired,
                    "workers": [
                        {
                            "pid": w.pid,
                            "state": w.state,
                            "restarts": max(w.restarts, 0),
                            "last_exit": w.last_exit,
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
            },
        }


def _refusal(text: str) -> DpsupError:
    from dpsup.messages import as_exception

    try:
        return as_exception(json.loads(text))
    except ValueError:
        return DpsupError(f"the primary refused: {text}")
