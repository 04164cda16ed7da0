# SPDX-License-Identifier: BSD-3-Clause
"""The document of `dpsup where`."""

from __future__ import annotations

from typing import Annotated, TypedDict

from dpsup.documents.status import Named


class Stop(TypedDict):
    group: Annotated[str, "a group that its packets come to"]
    certain: Annotated[bool, "false: a plugin before it decides whether they do"]
    worker: Annotated[
        str | None,
        "the worker that has the bucket, null: none has it now, or a topology file does not tell",
    ]
    state: Annotated[str | None, "the worker's state, null: not known"]
    core: Annotated[int | None, "its CPU"]
    then: Annotated[
        str, "where they go on: a group, a port, or empty: the plugin decides, packet by packet"
    ]


class Arrival(TypedDict):
    port: Annotated[str, "a port that the packets may arrive at"]
    hashed_by: Annotated[str, "`software` or `nic`"]
    queue: Annotated[int | None, "its rx queue, null: the driver or the kernel chooses it"]
    io: Annotated[str | None, "the io core that polls that queue: `io/0`"]
    io_core: Annotated[int | None, "its CPU"]
    path: list[Stop]


class Where(Named):
    flow: Annotated[str, "the flow as it was understood"]
    source: Annotated[str, "`running`: the tables of a running instance; `file`: a topology file"]
    generation: Annotated[int | None, "starts of the primary so far, null: not running"]
    hash: Annotated[int, "the hash of its packets"]
    bucket: Annotated[int, "the bucket, in every group"]
    by: Annotated[
        str, "what is hashed: `addresses and ports`, `addresses`, `MAC addresses and EtherType`"
    ]
    notes: Annotated[list[str], "what else there is to know, in words"]
    arrivals: list[Arrival]
