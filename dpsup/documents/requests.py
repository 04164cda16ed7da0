# SPDX-License-Identifier: BSD-3-Clause
"""Answers of the supervisor that no command prints as they are."""

from __future__ import annotations

from typing import TypedDict

from dpsup.documents.events import Event
from dpsup.documents.printed import BucketState, LogLine, WorkerState


class Ping(TypedDict):
    name: str
    state: str


class StatePart(TypedDict):
    group: str
    workers: list[WorkerState]
    buckets: list[BucketState]
    next: int | None  # the first bucket of the next part


class Killed(TypedDict):
    worker: str
    pid: int | None
    signal: int


class Stopping(TypedDict):
    pid: int  # the supervisor's


class BadVerdict(TypedDict):
    """An event of type "verdict"."""

    name: str
    message: str
    verdict: str
    length: int
    packets: int


class Undeclared(TypedDict):
    """An event of type "undeclared"."""

    name: str
    message: str
    port: str
    length: int
    packets: int


class Notice(TypedDict):
    """An event of type "advice"."""

    name: str
    message: str


class Events(TypedDict):
    events: list[Event]


class Lines(TypedDict):
    lines: list[LogLine]
