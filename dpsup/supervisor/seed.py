# SPDX-License-Identifier: BSD-3-Clause
"""The seed's life: the actions of its machine in the table; and EAL's locks before it attaches.

Workers forward without a seed, so nothing here ends the instance: a seed that dies is replaced
until one is ready. The last resort, a new generation, is for an EAL to which no process can attach
any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from dpsup._build import MAX_LCORE
from dpsup.documents.story import Locks
from dpsup.errors import DpsupError
from dpsup.host import process, python
from dpsup.instance.runtime_dir import SEED
from dpsup.plan import rights as of
from dpsup.plan.model import document
from dpsup.supervisor.children import Children, refusal
from dpsup.supervisor.core import QUIT_S, Actions, Core, at_once
from dpsup.supervisor.model import Child, Model
from dpsup.supervisor.policy import PERMANENT, Ending, Pace, Policy, Verdict, decide
from dpsup.supervisor.sitters import Sitters
from dpsup.supervisor.workers import Workers

WORKER_PROGRAM = Path(__file__).parents[1] / "dpsup-worker"
SEED_LCORE = MAX_LCORE - 1  # no io core's
# A seed that dies is always replaced; an attach costs 40 ms of a core.
POLICY = Policy(intensity=20, period=60, initial=0.02, factor=1.5, most=0.25)
REFUSED_S = 5.0  # before the next try, where trying again is unlikely to help
STEP_S = 0.05  # between two looks while a process that lives holds a lock
STUCK_MOST = 5  # attaches in a row that met their deadline


class Attach:
    """`laid_out` returns once what workers map beside the primary's memory is there."""

    def __init__(
        self, core: Core, model: Model, children: Children, sitters: Sitters, workers: Workers
    ) -> None:
        self._core, self._model = core, model
        self._children, self._sitters, self._workers = children, sitters, workers
        self.pace = Pace()
        self.pid = 0  # of the last seed
        self.said: tuple[str, ...] = ()  # locks that were reported as left
        self._began = 0.0
        self.after_fill: Callable[[], None] = lambda: None
        self.laid_out: Callable[[], Awaitable[None]] = at_once
        sitters.on_orders = self._fork_those_that_wait

    def actions(self) -> Actions:
        return {
            "spawn": self.spawn,
            "fill": self.fill,
            "replace": self.replace,
            "report": self.report,
            "kill": self.kill,
            "quit": self.quit,
        }

    # --- the seed --------------------------------------------------------------------------------

    def spawn(self, seed: Child) -> None:
        hello, plan = self._model.hello, self._model.plan
        options = {
            "--socket": self._model.runtime.file(SEED),
            "--file-prefix": plan.file_prefix,
            "--lcores": f"{SEED_LCORE}@{plan.supervisor_cores[0]}",
            "--huge-dir": plan.hugepage_dir,
            "--name": plan.name,
            "--dpdk": hello["dpdk"],
            "--generation": str(hello["generation"]),
            "--primary": str(hello["pid"]),
            "--primary-start": str(hello["start"]),
            "--abi": str(hello["abi"]),
            "--capabilities": f"{of.mask(of.seed(document(plan))):x}",
            "--python": sys.executable,
            "--libpython": python.library(),
        }
        argv = [str(WORKER_PROGRAM), *(word for pair in options.items() for word in pair)]
        try:
            identity = self._children.spawn(seed, argv, self.pace.deadline())
        except OSError as e:  # no process, no descriptor to be had
            self._core.events.add(type="error", message=f"no seed: {e}")
            self._core.later(REFUSED_S, self._core.fire, seed, "died")
            return
        self.begins(identity.pid)

    def fill(self, seed: Child) -> None:
        self.pace = self.pace.ready(time.monotonic() - self._began)
        if self._model.state == "stopping":
            return
        try:
            self._sitters.open_orders()
        except OSError as e:
            # It died right after its last word. One that lives and does not listen cannot serve.
            self._core.events.add(type="seed", name="seed", message=f"takes no orders: {e}")
            if seed.pidfd >= 0:
                process.signal_pidfd(seed.pidfd, signal.SIGKILL)
            return
        self._core.spawn(self._note_attach())
        for group in self._model.groups:
            for worker in group.workers:
                worker.wanted = worker.member < group.desired
                if worker.wanted and worker.state != "starting":
                    self._core.fire(worker, "start")
        self._fork_those_that_wait()
        self.after_fill()

    def _fork_those_that_wait(self) -> None:
        for worker in self._model.workers():
            if worker.state == "starting" and worker.pid is None:
                self._workers.fork(worker)

    def replace(self, seed: Child) -> None:
        self._sitters.drop_orders()
        refused, seed.identity = seed.refused, None
        if not self._may_attach():
            return
        code, text = refusal(refused)
        permanent = code in PERMANENT
        decision = decide(POLICY, seed.history, Ending(), wanted=True, now=time.monotonic())
        seed.history = decision.history
        delay = decision.delay or POLICY.most
        if self._model.is_first:
            # A person waits for the start, and no packet is under way.
            if permanent:
                self._core.fail(DpsupError(f"the seed refused: {text}", code="E0803"))
                return
            if decision.verdict is Verdict.GIVE_UP:
                self._core.fail(
                    DpsupError(f"the seed died again and again: {decision.reason}", code="E0804")
                )
                return
        if refused:
            delay = REFUSED_S if permanent else delay
            self._core.events.add(type="seed", name="seed", message=f"refused: {text}")
        self._core.later(delay, self.start_anew)

    def _may_attach(self) -> bool:
        return self._model.primary.state == "running" and self._model.state != "stopping"

    def start_anew(self) -> None:
        """Start a seed once no lock that a dead one may have left is in its way."""
        if self._may_attach() and self._model.seed.state == "absent":
            self._core.spawn(self._start_anew())

    async def _start_anew(self) -> None:
        # Whatever goes wrong on the way, it is tried again: no process forks without a seed.
        try:
            await self.laid_out()
            if await self._clear_way() and self._may_attach():
                self._core.fire(self._model.seed, "start")
        except (DpsupError, OSError) as e:
            self._core.events.add(type="error", message=str(e))
            self._core.later(POLICY.most, self.start_anew)

    def report(self, seed: Child) -> None:
        self._sitters.drop_orders()
        seed.identity = None

    def kill(self, seed: Child) -> None:
        if seed.state == "attaching":
            # It is stuck, or the machine is very slow: the next one gets longer.
            self._core.events.add(
                type="seed",
                name="seed",
                pid=self.pid,
                message=f"attach not done after {self.pace.deadline():g} s: ended",
            )
            self.pace = self.pace.missed()
        if seed.pidfd >= 0:
            process.signal_pidfd(seed.pidfd, signal.SIGKILL)

    def quit(self, seed: Child) -> None:
        self._core.deadline(seed, QUIT_S, "late")
        if not self._sitters.can_fork:
            # It was ready during the stop, and no supervisor has connected to it: it hears no word.
            self.kill(seed)
        self._sitters.quit_seed()

    # --- the locks -------------------------------------------------------------------------------

    def begins(self, pid: int) -> None:
        """A seed attaches from now on."""
        self.pid = pid
        self._began = time.monotonic()

    async def _clear_way(self) -> bool:
        """Until no lock of EAL's that an attach needs is held. False: that cannot be had, and the
        generation ends."""
        waits = False
        if self.pace.late >= STUCK_MOST:
            self._end_generation(f"{self.pace.late} attaches in a row were stuck")
            return False
        while True:
            found = await self._core.insist("locks", seed=self.pid, attach=True)
            if found is None:
                return True
            self._say(found)
            needed = [n for n in found["blocked"] if n in found["left"]]
            if needed:
                self._end_generation(
                    f"pid {found['strangers']} died holding EAL's {' and '.join(needed)} lock as a "
                    "writer, and what that guards may be half changed"
                )
                return False
            if not found["blocked"]:
                return True
            if not waits:
                waits = True
                self._core.events.add(
                    type="locks",
                    message="a new seed waits: locks of EAL's are held, and may be rightly",
                    held=found["held"],
                    alive=found["alive"],
                )
            await asyncio.sleep(STEP_S)

    async def _note_attach(self) -> None:
        """The primary notes what the locks guard, now that the seed has attached: an outsider may
        come, and die, before the first look of the monitor's."""
        with contextlib.suppress(DpsupError):
            await self.read_locks()

    async def read_locks(self) -> None:
        """Now and then, while the seed is ready: another process that attaches may die too."""
        found = await self._core.ask("locks", seed=self.pid, attach=False)
        if found is not None:
            self._say(found)

    def _say(self, found: Locks) -> None:
        if found["released"]:
            names = ", ".join(found["released"])
            self._core.events.add(
                type="locks",
                message=f"locks of EAL's that the dead held were given back: {names}",
                released=found["released"],
                strangers=found["strangers"],
            )
        left = tuple(found["left"])
        if left and left != self.said:
            self._core.events.add(
                type="locks",
                message="an outsider died with locks of EAL's: DPDK's tools may hang on them until "
                "the instance is restarted",
                left=found["left"],
                strangers=found["strangers"],
            )
        self.said = left

    def _end_generation(self, why: str) -> None:
        """End the generation: packets under way are lost and reported, but otherwise all else would
        wait without end."""
        model = self._model
        self.pace = Pace()
        self._core.events.add(type="locks", message=f"last resort, the generation ends: {why}")
        model.progress(f"no seed can attach to generation {model.plan.generation}: {why}")
        if model.primary.pidfd >= 0:
            process.signal_pidfd(model.primary.pidfd, signal.SIGKILL)
