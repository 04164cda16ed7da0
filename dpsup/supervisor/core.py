# SPDX-License-Identifier: BSD-3-Clause
"""What the parts of the supervisor see of its engine: a few verbs, and the two journals.

A part is a class that takes a `Core` and the `Model`; it decides nothing that a pure module can
decide, and knows other parts only where its constructor names them. A part that needs more of the
engine takes a protocol that says so: `Link`, or one of its own. tests/unit/fakecore.py is a fake of
all of them, with which each part is tested alone.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from dpsup.bus.messages import Peer
from dpsup.documents.events import Event
from dpsup.documents.printed import LogLine
from dpsup.supervisor.journal import Journal
from dpsup.supervisor.model import StateMachine

# Deadlines, far above what is measured: they catch what hangs.
WORKER_READY_S = 15.0  # 3 ms and the plugin's init
HALT_S = 2.0
AUDIT_S = 60.0  # each mbuf of millions may have to be looked for, beside all other requests
QUIT_S = 10.0
AGAIN_S = 0.1  # before the next try
LOOK_S = 0.02  # between two looks at whether a process of another parent is ready

# Of one machine of the table: by name, what carries an action out.
Actions = Mapping[str, Callable[[Any], None]]


class Core(Protocol):
    """The engine, as the parts use it."""

    events: Journal[Event]
    log: Journal[LogLine]
    crashed: BaseException | None  # nothing more is done

    async def ask(self, verb: str, timeout: float = 5.0, **args: Any) -> Any:
        """A request to the primary. Raises: Gone, TimedOut, ShimError (the primary refuses)."""

    async def insist(self, verb: str, **args: Any) -> Any:
        """A request that must be carried out: asked again where no answer comes. All verbs of the
        primary may be asked twice. Raises: Gone where the primary ends, ShimError where it
        refuses three times."""

    def fire(self, machine: StateMachine, event: str) -> None:
        """Look `event` up in the table of the state machine, change the state, run the actions."""

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition that some event makes true; False after `timeout` seconds."""

    def spawn(self, work: Coroutine[Any, Any, Any], *, feature: str = "") -> None:
        """Run a task. An unforeseen exception in it is a fault of the core, and the supervisor
        leaves; in a `feature` (its name) it is an event, and the instance runs on."""

    def deadline(self, machine: StateMachine, seconds: float, event: str) -> None:
        """Fire `event` unless `machine.met()` is called within so many seconds."""

    def later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call a function after so many seconds."""

    def guard(self, call: Callable[..., object], *args: Any) -> None:
        """Call a function now; an unforeseen exception in it is a fault of the core."""

    def skip(self, name: str, what: str, why: str, sender: Peer | None = None) -> None:
        """Say that `what` came from `name`, or from the process `sender`, could not be read, and
        was skipped. Of many alike the first is said, then one in some minutes."""

    def fault(self, feature: str, error: BaseException) -> None:
        """Report an unforeseen exception in a feature, with its traceback in the log."""

    def wake(self) -> None:
        """Wake `until`: a condition that it waits for may have changed."""

    def record(self) -> None:
        """Write state.json now. A full disk is an event, not an error."""

    def fail(self, error: Exception) -> None:
        """End the instance in order, for a reason that a person must correct. The first counts."""


class Link(Core, Protocol):
    """The core, as the parts use it that follow a primary from its start to its end."""

    def open_asks(self) -> None:
        """The primary answers from now on."""

    def close_asks(self) -> bool:
        """It answers no more. Whether it answered before."""

    async def end_if_dead(self, what: str) -> bool:
        """End a silent primary, if its io cores stand still too; whether they do."""


async def at_once() -> None:
    """Nothing is waited for."""
