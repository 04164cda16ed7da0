# SPDX-License-Identifier: BSD-3-Clause
"""What is on for as long as a client asks for it: captures and measurements.

The client talks to the primary itself, so that it does not depend on the supervisor. It holds a
lease of seconds that each question renews: a client that was killed leaves nothing on.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass

from dpsup.bus.messages import Args, want
from dpsup.documents.plan import Plan
from dpsup.errors import DpsupError

LEASE_S = 3.0


@dataclass
class Lease:
    """The client that has something turned on, of which there is one."""

    id: str = ""  # "": no client
    holder: str = ""
    until: float = 0.0

    def take(self, holder: str, now: float, refusal: DpsupError) -> str:
        """Raises: `refusal`, which names the holder."""
        if self.id:
            refusal.why = f"{self.holder} has it on"
            raise refusal
        self.id, self.holder = os.urandom(8).hex(), holder
        self.until = now + LEASE_S
        return self.id

    def renew(self, id: str, now: float) -> None:
        """Raises: DpsupError where another client holds the lease by now, or none."""
        if not id or id != self.id:
            raise DpsupError(
                "it was turned off meanwhile",
                code="E0734",
                why=f"no request came for {LEASE_S:g} s, or the primary was restarted",
            )
        self.until = now + LEASE_S

    def end(self) -> None:
        self.id = self.holder = ""

    def has_run_out(self, now: float) -> bool:
        return bool(self.id) and now > self.until


class Leased(ABC):
    """What is on while a client asks for it, and for one client at a time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.lease = Lease()

    def end(self, args: Args, now: float) -> None:
        self.lease.renew(want(args, "id", str), now)
        self._free()

    def expire(self, now: float) -> None:
        if self.lease.has_run_out(now):
            self._free()

    @abstractmethod
    def _free(self) -> None:
        """Turn it off, and end the lease."""


def workers_of(plan: Plan) -> dict[str, int]:
    """Each worker that there may be, and its slot."""
    return {
        f"{g['name']}/{m}": g["first_slot"] + m for g in plan["groups"] for m in range(g["max"])
    }
