# SPDX-License-Identifier: BSD-3-Clause
"""The engine of the supervisor: events in, actions out. It implements the protocols of core.py,
which are all that the parts know of it; assembly.py alone knows both.

It may crash alone (law 10). An unforeseen exception in an action, a task or a callback of the core
leaves the model in a state that cannot be relied on. The engine does not go on with it: it writes
the traceback to the log and leaves. Nothing is ended and nothing more is written: the data plane
forwards, state.json is that of the last event, and the next supervisor adopts, as after a SIGKILL.
An exception in a feature (statistics, a notice, a rollout, the metrics process) is an event, and
the instance runs on. Only `fail`, for a reason that a person must correct, ends the instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
import traceback
import uuid
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from dpsup.bus.messages import Peer, Sparing
from dpsup.bus.sockets import AsyncClient, Gone, Publisher
from dpsup.documents.events import Event
from dpsup.documents.printed import LogLine
from dpsup.errors import DpsupError, TimedOut
from dpsup.host import process
from dpsup.instance.runtime_dir import PRIMARY
from dpsup.supervisor import fsm, silence
from dpsup.supervisor.core import AGAIN_S, Actions
from dpsup.supervisor.journal import Journal
from dpsup.supervisor.model import Model, StateMachine

SLOW_S = 3.0  # after which a start is said to be slow
SLOW = {  # what it mostly waits for
    "primary": "it zeroes hugepages, or opens a port: a FIFO waits for its other end",
    "seed": "it attaches to the primary",
    "worker": "the plugin's init runs",
}
WHY_MOST = 200  # characters: the sender chose them, perhaps
FAULT_QUIET_S = 60.0  # between two events about the same fault of a feature


class Engine:
    """`snapshot` writes down what the next supervisor must know."""

    def __init__(self, model: Model, publisher: Publisher, snapshot: Callable[[], None]) -> None:
        self.model = model
        self._faults: dict[str, float] = {}  # by feature: when it was said
        self.events: Journal[Event] = Journal("event", publisher.publish)
        self.log: Journal[LogLine] = Journal("log", publisher.publish)
        self.events.on_fault = self.log.on_fault = partial(self.fault, "journal")
        self.actions: dict[tuple[str, str], Callable[[Any], None]] = {}
        self.after_worker: Callable[[], None] = lambda: None
        self.crashed: BaseException | None = None
        self.gone = asyncio.Event()
        self._snapshot = snapshot
        self._asks: AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._writing = False
        self._unwritable = False
        self._sparing = Sparing()  # of what is skipped

    def connect(self, kind: str, actions: Actions) -> None:
        """Register a part's methods for the actions of one machine of the table."""
        self.actions.update({(kind, name): action for name, action in actions.items()})

    # --- events and actions ----------------------------------------------------------------------

    def fire(self, machine: StateMachine, event: str) -> None:
        if self.crashed:
            return  # what follows is up to the next supervisor
        step = fsm.step(machine.kind, machine.state, event)
        old, machine.state = machine.state, step.state
        if old != step.state:
            self.events.add(
                type="state",
                kind=machine.kind,
                name=machine.name,
                old=old,
                new=step.state,
                why="ended" if event == "died" and machine.was_asked else event,
            )
            machine.since_ns = time.monotonic_ns()
        try:
            for action in step.actions:
                self.actions[machine.kind, action](machine)
                if self.crashed:
                    return
            if machine.kind == "worker":
                self.after_worker()
        except Exception as e:
            # Also where a request, a rollout or a watcher fires: the state has changed, and what
            # belongs to the change was not done.
            self.crash(e)
            raise
        self.wake()

    def spawn(self, work: Coroutine[Any, Any, Any], *, feature: str = "") -> None:
        async def guarded() -> None:
            try:
                await work
            except (DpsupError, OSError) as e:
                # The process on the other side is dying, and its pidfd says so in a moment; or it
                # refuses, which the monitor comes back to.
                self.events.add(type="error", message=str(e))
            except Exception as e:
                self.fault(feature, e) if feature else self.crash(e)

        if self.crashed:
            work.close()
            return
        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def skip(self, name: str, what: str, why: str, sender: Peer | None = None) -> None:
        count = self._sparing.count((name, what, sender), time.monotonic())
        if not count:
            return
        self.events.add(
            type="skipped",
            name=name,
            pid=sender.pid if sender else 0,
            uid=sender.uid if sender else None,
            count=count,
            message=f"{what} is skipped: {why[:WHY_MOST]}",
        )

    def deadline(self, machine: StateMachine, seconds: float, event: str) -> None:
        machine.met()
        loop = asyncio.get_running_loop()
        machine.timer = loop.call_later(seconds, self.guard, self.fire, machine, event)
        if machine.kind in SLOW and seconds > SLOW_S:
            loop.call_later(SLOW_S, self.guard, self._say_slow, machine, machine.timer, seconds)

    def _say_slow(self, machine: StateMachine, timer: asyncio.TimerHandle, most: float) -> None:
        """A start that takes long is not silent: a person waits for it."""
        if machine.timer is timer and machine.state in ("starting", "attaching"):
            self.model.progress(
                f"{machine.name} is not ready after {SLOW_S:g} s ({SLOW[machine.kind]}); it has "
                f"{most:g} s"
            )

    def later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, self.guard, call, *args)

    def guard(self, call: Callable[..., object], *args: Any) -> None:
        """A callback of the event loop."""
        if self.crashed:
            return
        try:
            call(*args)
        except Exception as e:
            self.crash(e)

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 0.5))
        return True

    def wake(self) -> None:
        self._changed.set()

    # --- faults ----------------------------------------------------------------------------------

    def fault(self, feature: str, error: BaseException) -> None:
        """Report an unforeseen exception in a feature, with its traceback in the log."""
        if self.crashed:
            return  # what the crash was is said
        now = time.monotonic()
        if now - self._faults.get(feature, -FAULT_QUIET_S) < FAULT_QUIET_S:
            return
        self._faults[feature] = now
        self._tell_of(error)
        self.events.add(
            type="fault", name=feature, message=f"internal error in {feature}: {error!r}"
        )

    def crash(self, error: BaseException) -> None:
        """An unforeseen exception in the core: leave, and let the next supervisor adopt."""
        if self.crashed:
            return
        with contextlib.suppress(Exception):
            self._tell_of(error)
            self.events.add(
                type="fault",
                name="supervisor",
                message=f"internal error: {error!r}: the supervisor leaves, forwarding goes on",
            )
        self.crashed = error
        self.gone.set()

    def _tell_of(self, error: BaseException) -> None:
        for text in traceback.format_exception(error):
            for line in text.rstrip().split("\n"):
                self.log.add(name="supervisor", line=line)

    def broken(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The event loop's own exception handler."""
        error = context.get("exception")
        self.crash(error or RuntimeError(str(context.get("message"))))

    def fail(self, error: Exception) -> None:
        if not isinstance(error, DpsupError):
            error = DpsupError(f"internal error: {error!r}", code="E0001")
        if self.model.failure is None:
            self.model.failure = error
            self.events.add(type="failed", message=str(error))
        self.fire(self.model, "fail")

    # --- the primary -----------------------------------------------------------------------------

    def open_asks(self) -> None:
        """The primary answers from now on."""
        self.close_asks()
        path = self.model.runtime.file(PRIMARY)
        self._asks = AsyncClient(path, lambda e: self.skip("primary", "an answer", e.message))

    def close_asks(self) -> bool:
        """Whether it answered before."""
        asks, self._asks = self._asks, None
        if asks is not None:
            asks.close()
        return asks is not None

    async def ask(self, verb: str, timeout: float = 5.0, again: str = "", **args: Any) -> Any:
        """`again`: the id of a request that may have been received; it is carried out once."""
        if self._asks is None:
            raise Gone(
                "no primary is running", code="E0807", help="`dpsup status` shows what is going on"
            )
        return await self._asks.ask(verb, timeout, again, **args)

    async def insist(self, verb: str, **args: Any) -> Any:
        refusals = silences = 0
        request = uuid.uuid4().hex
        while True:
            try:
                return await self.ask(verb, again=request, **args)
            except Gone:
                raise
            except TimedOut as e:
                silences += 1
                self.events.add(type="error", message=str(e))
                if silences >= silence.INSIST and await self.end_if_dead("does not answer"):
                    raise Gone("the primary does not answer", code="E0807") from None
            except DpsupError as e:
                # A refusal is an answer: the primary lives, and the caller must do without.
                refusals += 1
                if refusals >= silence.INSIST:
                    raise
                request = uuid.uuid4().hex
                self.events.add(type="error", message=str(e))
            await asyncio.sleep(AGAIN_S)

    async def end_if_dead(self, what: str) -> bool:
        """End a primary that is silent, if its io cores do not run either: one whose io cores run
        forwards, whatever became of its Python."""
        primary = self.model.primary
        if primary.identity is None or primary.pidfd < 0:
            return True
        if await silence.forwards(primary.identity.pid):
            return False
        self.events.add(
            type="error", message=f"the primary {what}, and its io cores stand still: it is ended"
        )
        if primary.pidfd >= 0:
            process.signal_pidfd(primary.pidfd, signal.SIGKILL)
        return True

    # --- state.json ------------------------------------------------------------------------------

    def record(self) -> None:
        if self.crashed:
            return
        try:
            self._snapshot()
            self._unwritable = False
        except OSError as e:
            if not self._unwritable:
                self._unwritable = True
                where = self.model.runtime.path
                self.events.add(type="error", message=f"cannot write {where}: {e}")

    def remember(self) -> None:
        """Write the state before the loop's next turn: something in it has changed."""
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self.guard, self._written)

    def _written(self) -> None:
        self._writing = False
        if self.model.primary.identity is not None:
            self.record()

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        self.close_asks()
