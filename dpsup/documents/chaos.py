# SPDX-License-Identifier: BSD-3-Clause
"""What `dpsup chaos -o json` prints. Times of phases are microseconds."""

from __future__ import annotations

from typing import TypedDict

from dpsup.documents.audit import Stray
from dpsup.documents.status import Named


class Percentiles(TypedDict):
    n: int
    p50: float
    p99: float
    max: float


class Asked(TypedDict):
    faults: list[str]
    rate: float
    seed: int
    seconds: float


class Host(TypedDict):
    cpus: int | None
    load: float


class Traffic(TypedDict):
    """None: the traffic is not chaos's own, so that sequence numbers were not checked."""

    sequences_checked: bool
    sent: int
    arrived: int | None
    lost: int | None
    duplicated: int | None
    reordered: int | None
    damaged: int | None
    lost_with_primary: int
    dropped: dict[str, int]


class Audit(TypedDict):
    times: int
    leaked: int
    strays: list[Stray]


class Chaos(Named):
    ok: bool
    problems: list[str]
    asked: Asked
    host: Host
    seconds: float
    generations: int
    injected: dict[str, int]
    no_victim: dict[str, int]
    held_back: dict[str, int]
    deaths: int
    left_to_supervisor: int
    recovery_us: dict[str, dict[str, Percentiles]]
    outage_us: dict[str, Percentiles]
    traffic: Traffic
    audit: Audit
    throughput: list[tuple[float, float]]
    faults: list[tuple[float, str]]
