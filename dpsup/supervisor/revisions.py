# SPDX-License-Identifier: BSD-3-Clause
"""The versions of a group's plugin: what it runs, what it ran before, what is under way."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol

from dpsup.documents.state import Rollout as RolloutRecord
from dpsup.documents.status import Rollout
from dpsup.instance.plugins import digest_of
from dpsup.limits import FILE
from dpsup.plan.model import GroupPlan

KEPT = 20  # revisions


@dataclass(slots=True)
class Revision:
    """What a group ran, runs, or was to run."""

    number: int
    plugin: str
    plugin_path: str  # "" for a built-in one
    args: tuple[tuple[str, str], ...]
    digest: str  # of the file
    at: float  # time, seconds
    state: str  # "current" | "replaced" | "rolling" | "undone"
    why: str = ""
    plugin_copy: str = ""  # the file to load: instance.plugins

    def is_same(self, other: Revision) -> bool:
        return (self.plugin, self.plugin_path, self.args, self.digest) == (
            other.plugin,
            other.plugin_path,
            other.args,
            other.digest,
        )


class UnderWay(Protocol):
    """A rollout, as its group's ledger knows it."""

    phase: str
    failed: str  # why it goes back
    target: Revision
    old: int  # versions
    new: int
    done: asyncio.Event
    patience: float  # seconds until it is done, at the most

    def blame(self, why: str) -> None: ...

    def describe(self) -> RolloutRecord:
        """What rollout.json says of it."""


@dataclass(slots=True, eq=False)
class Ledger:
    """The versions of one group."""

    revisions: list[Revision]
    slots: list[int] = field(default_factory=lambda: [1, 0])  # of each version, its revision
    running: UnderWay | None = None

    @classmethod
    def begin(cls, plan: GroupPlan) -> Ledger:
        return cls(
            [
                Revision(
                    1, plan.plugin, plan.plugin_path, plan.args,
                    digest_of(plan.plugin_path, plan.plugin_copy), time.time(), "current",
                    plugin_copy=plan.plugin_copy,
                )
            ]
        )  # fmt: skip

    @property
    def current(self) -> Revision:
        return next(r for r in reversed(self.revisions) if r.state == "current")

    def plugin_of(self, version: int) -> str:
        """The plugin of a version that workers run."""
        number = self.slots[version] if 0 <= version < len(self.slots) else 0
        found = next((r for r in self.revisions if r.number == number), self.current)
        return found.plugin

    def add(self, revision: Revision) -> None:
        self.revisions.append(revision)
        while len(self.revisions) > KEPT:
            self.revisions.remove(next(r for r in self.revisions if r.state != "current"))

    def copies(self) -> list[str]:
        """The copies that may be loaded again: of what runs, what is under way, what an undo
        goes back to."""
        wanted = (self.current, self.previous(), self.running and self.running.target)
        return [
            copy
            for one in wanted
            if one
            for copy in (one.plugin_copy, *(v for k, v in one.args if k.startswith(FILE)))
        ]

    def previous(self) -> Revision | None:
        """What ran before the current one."""
        before = [r for r in self.revisions if r.state == "replaced"]
        return before[-1] if before else None

    def view(self, group: str, workers: dict[str, int]) -> Rollout:
        """What `dpsup rollout status` shows of a group; `workers`: the version that each runs."""
        now = self.running
        return {
            "group": group,
            "revision": self.current.number,
            "plugin": self.current.plugin,
            "args": [list(pair) for pair in self.current.args],
            "phase": now.phase if now else "idle",
            "to": now.target.number if now else None,
            "to_plugin": now.target.plugin if now else None,
            "why": now.failed if now else "",
            "workers": {name: self.slots[version] for name, version in workers.items()},
        }
