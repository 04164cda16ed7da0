# SPDX-License-Identifier: BSD-3-Clause
"""What `dpsup advise` says, and the measurements that it is derived from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from dpsup.documents.rates import Measured


class PoolSeen(TypedDict):
    size: Annotated[int, "its mbufs"]
    free: Annotated[int, "free mbufs at the end"]
    least_free: Annotated[int, "fewest free mbufs in the window"]
    low_water: Annotated[int, "fewest free mbufs since the start"]
    low_water_before: Annotated[int, "the same at the window's begin"]
    alloc_failures_per_s: Annotated[float, "times a second that it was found empty"]
    empty_in_s: Annotated[float | None, "seconds until it is empty, null: it does not shrink"]


class PortSeen(TypedDict):
    rx_pps: Annotated[float, "packets received a second"]
    missed_pps: Annotated[float, "packets missed a second"]
    missed_steps: Annotated[float, "share of the looks with misses"]
    missed_most: Annotated[float, "most packets missed between two looks"]


class IoSeen(TypedDict):
    core: Annotated[int, "its CPU"]
    busy: Annotated[float, "share of the time with packets"]
    cycles_per_packet: Annotated[float | None, "TSC cycles for a packet, null: none"]
    stages: Annotated[dict[str, float | None], "the same by stage"]
    sleeps_per_s: Annotated[float, "times a second that it gave its CPU back"]
    rx_batch: Annotated[float, "packets that a turn received"]


class GroupSeen(TypedDict):
    workers: Annotated[int, "workers that run"]
    pps: Annotated[float, "packets a second"]
    lane_full_pps: Annotated[float, "packets a second that found the lane full"]
    lane_full: Annotated[dict[str, float], "the same by worker"]
    lane_full_most: Annotated[float, "most packets that found one lane full between two looks"]
    busy: Annotated[float, "mean busy share of its workers"]
    busiest: Annotated[float, "the busiest worker's"]
    fill: Annotated[float, "share of the lanes' room in use"]
    imbalance: Annotated[float, "the most loaded worker's share against an even one"]


class CoreSeen(TypedDict):
    load: float | None
    busy: float | None
    roles: list[str]


class Numa(TypedDict):
    crossings: Annotated[int, "pairs on different nodes that exchange packets"]


class Processes(TypedDict):
    cpus: Annotated[float, "CPU seconds a second of all processes"]


class Seen(TypedDict):
    """What predictions are about."""

    mempools: Annotated[dict[str, PoolSeen], "sizes, fewest free mbufs, failures of each mempool"]
    ports: Annotated[dict[str, PortSeen], "packets received and missed by each port"]
    io: Annotated[dict[str, IoSeen], "busy share and cycles of each io core"]
    groups: Annotated[dict[str, GroupSeen], "rates, busy shares and full lanes of each group"]
    cores: Annotated[dict[str, CoreSeen], "load, busy share and roles of each CPU"]
    numa: Numa
    processes: Processes


class Bottleneck(TypedDict):
    kind: Annotated[str, "`io core`, `worker`"]
    who: Annotated[str, "its name"]
    busy: Annotated[float, "share of its time with packets"]
    times_the_load: Annotated[float | None, "what it could take, null: too little is known"]


class Change(TypedDict):
    kind: Annotated[str, "`toml`, `command`"]
    text: Annotated[str, "the change in words"]
    path: NotRequired[Annotated[list[str | int], "of toml: the key"]]
    value: NotRequired[Annotated[Any, "of toml: its new value"]]
    old: NotRequired[Annotated[Any, "of toml: its value now"]]
    argv: NotRequired[Annotated[list[str], "of a command: its words"]]
    command: NotRequired[Annotated[str, "of a command: the line"]]


class Predicted(TypedDict):
    metric: Annotated[list[str], "what changes: a path in `measured`"]
    unit: Annotated[str, "its unit"]
    now: Annotated[Any, "its value in the window"]
    then: Annotated[Any, "its value after the change"]
    text: Annotated[str, "that in words"]


class Piece(TypedDict):
    kind: Annotated[str, "which advice it is"]
    level: Annotated[str, "`losing`, `risk`, `faster`"]
    about: Annotated[str, "the pool, port, io core or group"]
    title: Annotated[str, "in short"]
    seen: Annotated[str, "what was measured"]
    numbers: Annotated[Mapping[str, Any], "the numbers in `seen`"]
    why: Annotated[str, "why the change helps"]
    changes: list[Change]
    predicted: Predicted
    memory_bytes: Annotated[int, "hugepages that the changes take, less than 0: give back"]


class Advice(Measured):
    generation: Annotated[int, "starts of the primary so far"]
    topology_file: Annotated[str, "where the keys of changes are"]
    bottleneck: Annotated[Bottleneck | None, "what has least time left, null: no traffic"]
    lost_pps: Annotated[
        float | None, "packets a second that were missed or found a lane full, null: not measured"
    ]
    advice: list[Piece]  # the worst first
    contents: NotRequired[
        Annotated[
            dict[str, str],
            "by worker that has more than its share, where no move of buckets helps: what most of"
            " its packets are",
        ]
    ]
    measured: Annotated[Seen | None, "what predictions are about, null: no running primary"]
