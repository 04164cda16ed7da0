# SPDX-License-Identifier: BSD-3-Clause
"""The document of what was counted since a mark, and the mark as it is kept."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from dpsup.documents.counters import (
    GroupCounters,
    Io,
    Lane,
    PoolCounters,
    PortCounters,
    SlotCounters,
)
from dpsup.documents.rates import Look
from dpsup.documents.status import Fates, Named


class Marked(TypedDict):
    """`mark.json`."""

    at: float
    look: Look


class Mark(TypedDict):
    at: Annotated[float, "when it was set, in seconds since 1970"]
    at_ns: Annotated[int, "when its counters were read"]
    generation: Annotated[int, "starts of the primary until then"]


class Account(Fates):
    """Every packet received since, by what became of it."""

    in_flight_before: Annotated[int, "packets that were in flight at the mark"]
    lost: Annotated[
        int | None,
        "packets received and not found; null: packets were in flight at the mark, or are now",
    ]


class SinceSlot(SlotCounters):
    id: Annotated[str, "the worker's slot: `fw/0`"]
    state_name: NotRequired[Annotated[str, "the worker's state, where a supervisor tells it"]]


class Since(Named):
    at_ns: Annotated[int, "when the counters were read"]
    generation: Annotated[int, "starts of the primary so far"]
    since: Annotated[
        str,
        "`mark`; or `generation`: the primary was started again after the mark, and all that it"
        " counts is since then",
    ]
    window_s: Annotated[float | None, "seconds since the mark, null: another generation"]
    mark: Mark
    deaths: Annotated[int, "workers that died unasked since the mark"]
    primary_deaths: Annotated[int, "primaries that died unasked since the mark"]
    account: Account
    ports: list[PortCounters]
    pools: list[PoolCounters]
    io: list[Io]
    groups: list[GroupCounters]
    slots: list[SinceSlot]
    lanes: list[Lane]
