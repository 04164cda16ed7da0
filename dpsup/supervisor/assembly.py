# SPDX-License-Identifier: BSD-3-Clause
"""The supervisor, put together: engine, model and parts; and its life from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any

from dpsup.bus.guests import Guests
from dpsup.bus.messages import Peer, ProtocolError, Request
from dpsup.bus.sockets import Publisher, Server
from dpsup.documents.counters import Counters
from dpsup.errors import DpsupError, Exit
from dpsup.host import process
from dpsup.instance import status
from dpsup.instance.quarantine import Folder
from dpsup.instance.runtime_dir import CONTROL, EVENTS
from dpsup.plan.copies import PLUGINS
from dpsup.supervisor import (
    fsm,
    gate_process,
    group_process,
    health,
    journal,
    metrics_process,
    snapshot,
)
from dpsup.supervisor.adopt import Found
from dpsup.supervisor.buckets import Buckets
from dpsup.supervisor.children import Children
from dpsup.supervisor.core import QUIT_S
from dpsup.supervisor.deaths import Deaths
from dpsup.supervisor.engine import Engine
from dpsup.supervisor.evidence import Keeper, loaded
from dpsup.supervisor.kernel import KernelPaths
from dpsup.supervisor.life import Life
from dpsup.supervisor.model import Model
from dpsup.supervisor.monitor import Monitor
from dpsup.supervisor.notices import BadVerdicts, Notices, UndeclaredWrites
from dpsup.supervisor.outputs import Outputs
from dpsup.supervisor.pinning import Pinning
from dpsup.supervisor.plugin_files import PluginFiles
from dpsup.supervisor.ports import Ports
from dpsup.supervisor.primary import Generation
from dpsup.supervisor.rejoin import Rejoin
from dpsup.supervisor.reload import Reload
from dpsup.supervisor.rollouts import Rollouts
from dpsup.supervisor.scale import Follower, Scaler
from dpsup.supervisor.seed import Attach
from dpsup.supervisor.sitters import Sitters
from dpsup.supervisor.snapshot import Numbers, Past
from dpsup.supervisor.spares import Spares
from dpsup.supervisor.stall import Stall
from dpsup.supervisor.tables import Tables
from dpsup.supervisor.watch import Watch
from dpsup.supervisor.workers import Workers

FAULT_S = 1.0  # after a fault of a feature, until it begins again
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)  # a person, or systemd, wants the end

Handle = Callable[["Supervisor", Request], Coroutine[Any, Any, Any]]


class Supervisor:
    """One instance. `handle` carries out what the bus asks; the verbs `reads` change nothing."""

    def __init__(self, model: Model, handle: Handle, reads: Collection[str] = ()) -> None:
        self.model, self.reads = model, reads
        self._handle = handle
        self._publisher = Publisher(model.runtime.file(EVENTS))
        self._numbers = Numbers(self._publisher)
        self.core = core = Engine(model, self._publisher, self._write_state)
        journal.keep(model.runtime.path, self._publisher, {"event": core.events, "log": core.log})
        core.events.listeners.append(model.failovers.hear)
        core.events.listeners.append(lambda _: core.remember())
        core.log.listeners.append(lambda _: self._renumber())

        self.sitters = Sitters(core, model)
        self.children = Children(core, model, self.sitters.says)
        self.buckets = Buckets(core, model)
        self.spares = Spares(core, model, self.sitters)
        self.workers = Workers(core, model, self.sitters, self.buckets, self.spares)
        self.deaths = Deaths(core, model, self.sitters, self.buckets, self.spares, self.workers)
        self.attach = Attach(core, model, self.children, self.sitters, self.workers)
        self.tables = Tables(core, model, self.children)
        self.generation = Generation(core, model, self.children, self.sitters)
        self.generation.laid_out = self.attach.laid_out = self.tables.laid_out
        self.scaler = Scaler(core, model, self.buckets)
        self.rollouts = Rollouts(core, model, self.sitters, self.spares, self.workers)
        self.reload = Reload(core, model, self.buckets, self.spares, self.scaler, self.rollouts)
        self.reload.tables = self.tables
        self._evidence = Keeper(
            Folder(model.plan.quarantine_dir), core.events.add,
            lambda death: loaded(death, model.runtime.path / PLUGINS, self.attach.pid),
        )  # fmt: skip
        self.life = Life(
            core, model, self.buckets, self.spares, self.generation,
            self._keep_evidence, core.gone.set,
        )  # fmt: skip
        self.rejoin = Rejoin(
            core, model, self.children, self.sitters, self.buckets, self.spares,
            self.deaths, self.attach, self.rollouts,
        )  # fmt: skip
        self.monitor = Monitor(
            core, model, self.attach, self.buckets, self.spares, self.workers, self.deaths,
            self.stop,
        )  # fmt: skip
        self.deaths.on_report = self.rollouts.note_death
        self.attach.after_fill = core.after_worker = self.life.judge
        self._connect()
        self._watch()

    def _connect(self) -> None:
        """Each action of the table has one method, and each method is an action of the table."""
        connect = self.core.connect
        connect("topology", self.life.actions())
        connect("primary", self.generation.actions())
        connect("seed", self.attach.actions())
        connect("worker", {**self.workers.actions(), "repair": self.deaths.repair})
        wanted = {(kind, name) for kind, names in fsm.ACTIONS.items() for name in names}
        if self.core.actions.keys() != wanted:
            raise AssertionError(sorted(self.core.actions.keys() ^ wanted))

    def _watch(self) -> None:
        """What looks at each reading of the counters."""
        model, watchers = self.model, self.monitor.watchers
        watchers["failover"] = self.note_first_packets
        watchers["statistics"] = self._publish
        watchers["outputs"] = Outputs(self.core, model, self.life.judge).observe
        watchers["ports"] = Ports(self.core, model, self.life.judge).observe
        watchers["kernel"] = KernelPaths(self.core, model).observe
        for group in model.groups:
            follower = Follower(self.core, model, self.scaler, group)
            watchers[f"autoscale of {group.plan.name}"] = follower.observe
        notices = Notices(
            model.name,
            [p.name for p in model.plan.pools],
            [(g.name, range(g.first_slot, g.first_slot + g.max)) for g in model.plan.groups],
        )
        watchers["notices"] = partial(self._notice, notices)
        stall = Stall(
            model.name,
            [
                (pool.name, [p.name for p in model.plan.ports if p.pool == i])
                for i, pool in enumerate(model.plan.pools)
            ],
            [w.name for w in model.workers()],
            [g.name for g in model.plan.groups],
        )
        watchers["stall"] = partial(self._note_stall, stall)
        verdicts = BadVerdicts(
            [w.name for w in model.workers()], len(model.plan.ports), len(model.groups)
        )
        watchers["verdicts"] = partial(self._notice_verdicts, verdicts)
        watchers["cpus"] = partial(self._keep_pinned, Pinning())
        undeclared = UndeclaredWrites(
            [w.name for w in model.workers()], [p.name for p in model.plan.ports]
        )
        watchers["undeclared"] = partial(self._notice_undeclared, undeclared)
        watchers["quarantine"] = self._look_for_evidence

    def _publish(self, counters: Counters) -> None:
        self._publisher.publish("stat", status.account(counters))

    def _notice(self, notices: Notices, counters: Counters) -> None:
        for notice in notices.observe(counters, asyncio.get_running_loop().time()):
            self.core.events.add(type="advice", name=notice["name"], message=notice["message"])

    def _note_stall(self, stall: Stall, counters: Counters) -> None:
        for notice in stall.observe(counters, asyncio.get_running_loop().time()):
            self.core.events.add(type="stall", name=notice["name"], message=notice["message"])

    def _keep_pinned(self, pinning: Pinning, _: Counters) -> None:
        model = self.model
        if not pinning.is_due(asyncio.get_running_loop().time()):
            return
        ours = [(w.name, w.pid, w.core) for w in model.workers() if w.pid]
        lcores = process.io_threads(model.primary.identity.pid) if model.primary.identity else {}
        ours += [
            (f"io core {one.index}", lcores[one.lcore], one.core)
            for one in model.plan.io
            if one.lcore in lcores
        ]
        for notice in pinning.observe(ours):
            self.core.events.add(type="cpu", name=notice["name"], message=notice["message"])

    def _notice_verdicts(self, verdicts: BadVerdicts, counters: Counters) -> None:
        model, workers = self.model, self.model.workers()
        for slot, one in verdicts.observe(counters, asyncio.get_running_loop().time()):
            ledger = model.ledgers[workers[slot].group]
            plugin = ledger.plugin_of(counters["slots"][slot]["bad_version"])
            self.core.events.add(type="verdict", plugin=plugin, **one)

    def _notice_undeclared(self, writes: UndeclaredWrites, counters: Counters) -> None:
        model, workers = self.model, self.model.workers()
        for slot, one in writes.observe(counters, asyncio.get_running_loop().time()):
            ledger = model.ledgers[workers[slot].group]
            plugin = ledger.plugin_of(counters["slots"][slot]["version"])
            self.core.events.add(type="undeclared", plugin=plugin, **one)

    def note_first_packets(self, counters: Counters) -> None:
        # Before it is told to anybody: what was told never shrinks, whatever dies.
        if self.model.note_first_packets(counters):
            self.core.record()

    def _look_for_evidence(self, counters: Counters) -> None:
        if any(io["quarantine"] for io in counters["io"]) and not self._evidence.busy:
            self.core.spawn(self._keep_evidence(), feature="quarantine")

    async def _keep_evidence(self) -> None:
        await self._evidence.collect(self.model.plan, self.core.ask)

    # --- state.json ------------------------------------------------------------------------------

    def _write_state(self) -> None:
        state = snapshot.state_of(self.model, self._numbers.reserve())
        self.model.runtime.write_state(state)

    def _renumber(self) -> None:
        if self._numbers.run_short:
            self.core.remember()

    # --- life ------------------------------------------------------------------------------------

    def adopt(self, found: Found) -> None:
        """Continue with that data plane, once `run` is called."""
        past = Past()
        try:
            past = snapshot.recall(self.model, found.state.memory)
        except Exception as e:  # half of it is better than nothing
            self.core.fault("snapshot", e)
        self._numbers.resume(past.seq)
        self.model.adopted = True
        # As far as is known: should this supervisor crash before it has asked, it ends nothing.
        self.model.rx_on = True
        self.life.rejoin = partial(self.rejoin.begin, found, past)

    def _skip(self, sender: Peer | None, error: ProtocolError) -> None:
        self.core.skip("bus", "a message", error.message, sender)

    async def run(self) -> int:
        """Until the instance has ended, or this supervisor has crashed; the exit code."""
        core, model = self.core, self.model
        loop = asyncio.get_running_loop()
        process.become_subreaper()
        loop.set_exception_handler(core.broken)
        loop.add_signal_handler(signal.SIGCHLD, core.guard, self.children.reap)
        for sig in ENDING:
            loop.add_signal_handler(sig, core.guard, self._interrupted)
        loop.add_signal_handler(signal.SIGHUP, core.guard, self._hung_up, process.has_terminal())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, process.ORDERS)
        server = Server(
            model.runtime.file(CONTROL), partial(self._handle, self), self._skip,
            lambda: model.gate_pid, lambda verb: verb not in self.reads,
        )  # fmt: skip
        serving = asyncio.create_task(server.serve())
        core.spawn(self.monitor.run())  # a look may fail; without its loop nothing watches
        self._keep("plugin files", PluginFiles(core, model).run)
        self._keep("tables", self.tables.run)
        self._keep("tables", self.tables.watch)
        self._keep("health", partial(health.serve, model))
        self._keep("watch", Watch(core, model, self.rollouts, partial(self._reload, "watch")).run)
        guests = Guests(model.runtime.file(CONTROL), model.runtime.file(EVENTS))
        self._keep("clients", partial(guests.keep, self._warn))
        if model.plan.metrics_listen:
            self._keep("metrics", partial(metrics_process.keep, core, model, self.children))
        if gate_process.is_wanted(model.plan):
            self._keep(
                "gate",
                partial(gate_process.keep, core, model, self.children, self.reads),
            )
        for group in model.plan.groups:
            for kind, is_wanted in (
                (group_process.FOLLOW, bool(group.follow)),
                (group_process.PROBE, group.probe is not None),
            ):
                if is_wanted:
                    keep = partial(group_process.keep, kind, core, model, self.children)
                    self._keep(kind.name(group.name), partial(keep, group.name))
        try:
            # One more turn: what an adopted primary's socket needs is there.
            core.guard(core.fire, model, "adopt" if model.adopted else "start")
            await core.gone.wait()
        finally:
            # An order that comes now finds nothing to end; or it is the next supervisor's, in this
            # same process: exec(2) keeps what is blocked and pending, and `run` takes it up.
            signal.pthread_sigmask(signal.SIG_BLOCK, process.ORDERS)
            if not self.leaves_alone:
                self.children.kill_all()
            core.close()
            with contextlib.suppress(Exception):
                await server.close()
            serving.cancel()
            self._publisher.close()
        if core.crashed:
            return int(Exit.FAILED)
        if model.failure is not None:
            return int(model.failure.exit_code)
        return int(Exit.FAILED) if model.primary_deaths and model.idle_limit is not None else 0

    def _keep(self, feature: str, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a feature as long as the supervisor runs: after an unforeseen exception it begins
        again."""

        async def begun() -> None:
            while True:
                try:
                    await begin()
                    return
                except Exception as e:
                    self.core.fault(feature, e)
                await asyncio.sleep(FAULT_S)

        self.core.spawn(begun(), feature=feature)

    @property
    def leaves_alone(self) -> bool:
        """Has it crashed, without a person's order to stop? The data plane continues without it."""
        return self.core.crashed is not None and self.model.state not in ("stopping", "stopped")

    def stop(self, drain: float | None = None) -> None:
        """Wind down in reverse order; asked again, at once."""
        if drain is not None:
            self.model.drain_s = drain
        if self.model.state == "stopping":
            self.children.kill_all()
            asyncio.get_running_loop().call_later(QUIT_S, self.core.gone.set)
        self.core.fire(self.model, "stop")

    def _interrupted(self) -> None:
        self.model.interrupted = True
        again = self.model.state == "stopping"
        self.model.progress("stopping at once" if again else "stopping")
        self.stop()

    def _warn(self, text: str) -> None:
        self.core.events.add(type="warning", name=self.model.name, message=text)

    def _hung_up(self, had_terminal: bool) -> None:
        """SIGHUP: reload, as other services do; but a terminal that was closed asks for nothing."""
        if had_terminal and not process.has_terminal():
            self._warn("the terminal was closed: the instance goes on, `dpsup stop` ends it")
            return
        self.core.spawn(self._reload("SIGHUP"), feature="reload")

    async def _reload(self, by: str) -> None:
        """Its outcome is an event: no one waits for an answer."""
        try:
            doc = await self.reload.reload("", dry_run=False, partial=False)
        except DpsupError as e:
            self.core.events.add(type="error", message=f"{by}: {e.message}")
            return
        if doc["restart_needed"]:
            self.core.events.add(
                type="warning",
                name=self.model.name,
                message=f"{by}: nothing was applied, as some changes need a restart: "
                f"`dpsup -n {self.model.name} reload --dry-run` lists them",
            )
