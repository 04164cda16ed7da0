# SPDX-License-Identifier: BSD-3-Clause
"""What the primary says of processes and of deaths: shim/abi.h and shim/shim.h describe the fields
that have the same names there. Times are CLOCK_MONOTONIC in nanoseconds, 0: did not happen."""

from __future__ import annotations

from typing import TypedDict

from dpsup.documents.counters import PortInfo


class Story(TypedDict):
    """What a warden saw and did: struct dps_story."""

    seq: int
    kind: int
    slot: int
    sitter: int
    pid: int
    notice: int
    hung: int
    signal: int
    code: int
    n_frames: int
    successor: int
    successor_sitter: int
    tried: int
    corrupt: int
    published: int
    undone: int
    left: int
    sender: int
    blamed: int
    ticked: int  # 1: what `blamed` is said of is a tick
    call: int  # number of the system call that it may not make, of SIGSYS
    mended: int
    handover: int
    address: int
    died_ns: int
    noticed_ns: int
    repaired_ns: int
    claimed_ns: int
    seated_ns: int
    first_ns: int
    gone_ns: int
    program_base: int  # of a fatal signal: where the worker program is mapped
    plugin_base: int  # where its plugin's file is, 0: none is loaded
    plugin_digest: int  # that begins the name of its private copy, 0: it has none
    frames: list[str]  # return addresses, the innermost first


class Evidence(TypedDict):
    """A packet in quarantine: struct dps_evidence."""

    slot: int
    len: int
    hash: int
    io: int
    port: str  # "": not known
    deaths: list[Story]
    bytes: str  # hex


class Sitter(TypedDict):
    """The process that holds a berth: struct dps_sitter_info."""

    berth: int
    state: int
    pid: int
    group: int
    slot: int
    hand: int
    told: int
    health: int
    exit_pid: int
    exit_status: int


class Sitters(TypedDict):
    """The answer to `sitters`: what a new supervisor must know."""

    sitters: list[Sitter]
    exits: list[tuple[int, int]]  # pid and status of each that ended
    rx: bool
    stories: int  # the last story's number; the rest was read after it


class State(TypedDict):
    """A block of a plugin's state."""

    version: int
    size: int
    hex: str


class StatePart(TypedDict):
    """The answer to `state`: None for a slot or bucket that keeps none."""

    slots: list[State | None]
    buckets: list[State | None]
    next: int | None  # the first bucket of the next part


class Locks(TypedDict):
    """The answer to `locks`: EAL's locks by name and word."""

    released: dict[str, int]
    left: dict[str, int]  # whether what they guard is whole is not known
    held: dict[str, int]  # by processes that may be alive
    blocked: list[str]  # of both, those that a seed would wait for
    alive: list[int]  # pids
    strangers: list[int]  # pids


class Hello(TypedDict):
    """The answer to `hello`."""

    pid: int
    start: int  # clock ticks since boot
    generation: int
    version: str
    abi: int
    dpdk: str
    tsc_hz: int
    notes: list[str]
    absent: list[str]
    ports: list[PortInfo]
