# SPDX-License-Identifier: BSD-3-Clause
"""Where the mbufs of the pools are."""

from __future__ import annotations

from typing import Annotated, TypedDict


class Place(TypedDict):
    io: Annotated[int, "index of the io core"]
    place: Annotated[str, "what holds the mbufs there: `cache`, `lent`, ..."]
    of: Annotated[str | None, "the worker, port or group, null: the io core itself"]
    mbufs: Annotated[int, "number of mbufs there"]


class Stray(TypedDict):
    """An unexplained mbuf."""

    address: Annotated[str, "the unexplained mbuf"]
    holder: Annotated[str | None, "the worker that had it last, null: not known"]
    holder_by: Annotated[str | None, "what says so: `lane`, `bucket`"]
    port: Annotated[str | None, "the port that received it"]
    io: Annotated[int, "index of the io core that received it"]
    packets_since: Annotated[int | None, "packets that went through the lane since"]
    length: Annotated[int, "bytes of the packet"]
    refcnt: Annotated[int, "its reference count"]
    bytes: Annotated[str, "its first bytes, hex"]
    certain: Annotated[bool, "false: a driver may hold it"]


class AuditPool(TypedDict):
    name: Annotated[str, "the mempool"]
    size: Annotated[int, "its mbufs"]
    free: Annotated[int, "in the pool"]
    cached: Annotated[int, "in the caches of io cores"]
    rx_rings: Annotated[int, "in rx queues"]
    tx_rings: Annotated[int, "in tx queues"]
    lanes: Annotated[int, "lent to workers"]
    io: Annotated[int, "held, or on their way, in io cores"]
    quarantine: Annotated[int, "waiting to be written to quarantine"]
    unexplained: Annotated[
        int, "mbufs that were not found: a leak, if it stays on a settled instance"
    ]
    moving: Annotated[int, "mbufs that changed place while they were counted"]
    strays: list[Stray]
    places: list[Place]
