# SPDX-License-Identifier: BSD-3-Clause
"""The supervisor's side of an attach: the way is cleared before it, and it has a deadline.

Workers forward without a seed, so nothing here ends the instance: a seed that dies is replaced for
as long as it takes. The one last resort, a new generation, is for an EAL past which nobody can
attach.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

from dpsup.host import process
from dpsup.supervisor.policy import Pace

if TYPE_CHECKING:
    from dpsup.supervisor.core import Supervisor

STEP_S = 0.05  # between two looks while somebody who lives holds a lock
STUCK_MOST = 5  # attaches in a row that met their deadline


class Reattach:
    """What is remembered from attach to attach."""

    def __init__(self, sup: Supervisor) -> None:
        self._sup = sup
        self.pace = Pace()
        self.pid = 0  # of the last seed
        self.said: tuple[str, ...] = ()  # locks that were reported as left
        self._began = 0.0

    def begins(self, pid: int) -> None:
        self.pid = pid
        self._began = time.monotonic()

    def is_ready(self) -> None:
        self.pace = self.pace.ready(time.monotonic() - self._began)

    def is_late(self) -> None:
        """It is stuck, or the machine is very slow: the next one gets longer."""
        self._sup.events.add(
            type="seed",
            name="seed",
            pid=self.pid,
            message=f"attach not done after {self.pace.deadline():g} s: ended",
        )
        self.pace = self.pace.missed()

    async def clear_way(self) -> bool:
        """Until no lock of EAL's that an attach needs is held. False: that cannot be had, and the
        generation ends."""
        sup, waits = self._sup, False
        if self.pace.late >= STUCK_MOST:
            self._end_generation(f"{self.pace.late} attaches in a row were stuck")
            return False
        while True:
            found = await sup.insist("locks", seed=self.pid, attach=True)
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
                sup.events.add(
                    type="locks",
                    message="a new seed waits: locks of EAL's are held, and may be rightly",
                    held=found["held"],
                    alive=found["alive"],
                )
            await asyncio.sleep(STEP_S)

    async def look(self) -> None:
        """Now and then, while the seed is ready: whoever else attaches may die too."""
        found = await self._sup.ask("locks", seed=self.pid, attach=False)
        if found is not None:
            self._say(found)

    def _say(self, found: dict[str, Any]) -> None:
        if found["released"]:
            names = ", ".join(found["released"])
            self._sup.events.add(
                type="locks",
                message=f"locks of EAL's that the dead held were given back: {names}",
                released=found["released"],
                strangers=found["strangers"],
            )
        left = tuple(found["left"])
        if left and left != self.said:
            self._sup.events.add(
                type="locks",
                message="an outsider died with locks of EAL's: DPDK's tools may hang on them until "
                "the instance is restarted",
                left=found["left"],
                strangers=found["strangers"],
            )
        self.said = left

    def _end_generation(self, why: str) -> None:
        """Packets under way are lost, and said; all else would wait for ever."""
        sup = self._sup
        self.pace = Pace()
        sup.events.add(type="locks", message=f"last resort, the generation ends: {why}")
        sup.progress(f"no seed can attach to generation {sup.plan.generation}: {why}")
        if sup.primary.pidfd >= 0:
            process.signal_pidfd(sup.primary.pidfd, signal.SIGKILL)
