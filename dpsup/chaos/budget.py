# SPDX-License-Identifier: BSD-3-Clause
"""Which workers may die once more: a fault beyond what the restart policy puts up with would only
show that the worker is held then, and end the run's traffic. Pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dpsup.supervisor.policy import Ending, History, Policy, Verdict, decide

if TYPE_CHECKING:
    from dpsup.documents.plan import Group
    from dpsup.documents.state import WorkerMemory

# A death costs a tenth more here: the supervisor hears of two deaths a little closer together.
PRICE = 1.1


class Budget:
    """The supervisor's own account is as old as state.json; this one has the deaths since."""

    def __init__(self) -> None:
        self._policies: dict[str, Policy] = {}
        self._noted: dict[str, History] = {}
        self._spent: dict[str, History] = {}

    def learn(self, groups: Sequence[Group], workers: Mapping[str, WorkerMemory]) -> None:
        self._policies = {
            g["name"]: Policy(g["restart_policy"], g["intensity"], g["period"]) for g in groups
        }
        self._noted = {
            name: History(*noted["history"])
            for name, noted in workers.items()
            if len(noted.get("history", ())) == 2
        }

    def _of(self, worker: str) -> tuple[Policy, list[History]]:
        policy = self._policies.get(worker.rpartition("/")[0], Policy())
        return policy, [of.get(worker, History()) for of in (self._noted, self._spent)]

    def allows(self, worker: str, now: float) -> bool:
        """Is it started again if it dies now?"""
        policy, histories = self._of(worker)
        return all(
            decide(policy, history, Ending(), wanted=True, now=now).verdict is not Verdict.GIVE_UP
            for history in histories
        )

    def spend(self, worker: str, now: float) -> None:
        policy, histories = self._of(worker)
        level = max(history.leaked(policy, now) for history in histories)
        self._spent[worker] = History(level + PRICE, now)
