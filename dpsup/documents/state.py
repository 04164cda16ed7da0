# SPDX-License-Identifier: BSD-3-Clause
"""`state.json`, and in it what only the supervisor knows; `rollout.json`. Written at every event,
and read by the next supervisor, which takes what it finds. Times are CLOCK_MONOTONIC."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from dpsup.documents.printed import Revision
from dpsup.documents.status import Histogram, LastExit

History = list[float]  # of restarts: level, and seconds when that held


class GroupMemory(TypedDict, total=False):
    desired: int
    spare_history: History
    spare_due_at: float  # seconds
    home: str  # hex: a slot for each bucket


class WorkerMemory(TypedDict, total=False):
    state: str
    restarts: int
    last_exit: LastExit | None
    history: History
    due_at: float  # seconds
    retry_at: float  # seconds
    held_for: str
    failed_ns: int


class Memory(TypedDict, total=False):
    """An older dpsup may have written less."""

    deaths: int
    refused_calls: int
    lost: int
    primary_deaths: int
    last_failover_us: float | None
    failovers: dict[str, Histogram]
    told: int  # the last story that is accounted for
    seq: dict[str, int]  # numbers of publications that are reserved, by topic
    primary: History
    seed: History
    groups: dict[str, GroupMemory]
    workers: dict[str, WorkerMemory]
    asked: list[int]  # pids that were told to end
    loaded: dict[str, str]  # by path, digests of the files that the topology hands to plugins


class Left(TypedDict):
    """What is known of an instance whose supervisor is dead: what it noted, and what the primary
    says that happened since."""

    memory: Memory
    deaths: dict[int, int]  # by slot, since it was noted
    takeovers: dict[int, int]  # of those, the ones that a spare followed
    spares: dict[int, int]  # parked and alive, by group


class Identity(TypedDict):
    pid: int
    start: int  # clock ticks since boot


class State(TypedDict):
    name: str
    generation: int
    file_prefix: str
    hugepage_dir: str
    topology_file: str
    supervisor: Identity | None
    primary: Identity | None
    seed: Identity | None
    workers: dict[str, Identity]
    memory: Memory


# --- rollout.json ---------------------------------------------------------------------------------


class Margins(TypedDict):
    drops: float
    lane_full: float
    cycles: float


class Options(TypedDict):
    canary: int
    max_unavailable: int
    judge: float  # seconds
    margins: Margins
    forget_state: NotRequired[bool]


class Rollout(TypedDict):
    """A rollout under way."""

    to: int  # revision
    old: int  # versions
    new: int
    phase: str
    why: str
    options: Options


class GroupRollouts(TypedDict):
    version: int  # the one that is started, and takes over
    slots: list[int]  # of each version, its revision
    revisions: list[Revision]
    rollout: Rollout | None


class Rollouts(TypedDict):
    generation: int
    groups: dict[str, GroupRollouts]
