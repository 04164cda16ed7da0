# SPDX-License-Identifier: BSD-3-Clause
"""The document of `dpsup try`."""

from __future__ import annotations

from typing import Annotated, TypedDict

from dpsup.documents.status import Head


class TriedPort(TypedDict):
    packets: Annotated[int, "packets that left there, with those that the plugin originated"]
    bytes: Annotated[int, "their bytes"]
    copies: Annotated[int, "copies that left there (`dps_also`)"]


class TriedState(TypedDict):
    bytes: Annotated[int, "state of the worker's place, 0: it keeps none"]
    digest: Annotated[str, "digest of these bytes"]
    buckets: Annotated[int, "buckets that have state"]
    bucket_digest: Annotated[str, "digest of the buckets' state"]


class TriedFinding(TypedDict):
    kind: Annotated[
        str,
        "`undeclared`, `verdict`, `crash`, `hang`, `corrupt`, `refused`, `burst`; with"
        " `--kill-sweep` also `twice`, `restart`, `own-memory`, `counters`",
    ]
    packet: Annotated[int, "the first packet that has it, from 1 as in the capture; 0: none"]
    packets: Annotated[int, "packets that have it"]
    message: Annotated[str, "what was found"]
    help: Annotated[str, "what to change"]
    backtrace: Annotated[list[str], "where the plugin was, the innermost frame first; or empty"]
    allowed: Annotated[bool, "by `--allow`: it does not change the exit code"]


class Sweep(TypedDict):
    packets: Annotated[int, "packets that were swept"]
    points: Annotated[int, "stores at which the worker died, each in a run of its own"]


class Try(Head):
    plugin: Annotated[str, "the plugin's name for itself, or empty: it was refused"]
    file: Annotated[str, "its file, or the name of a built-in plugin"]
    capture: Annotated[str, "the capture file"]
    ok: Annotated[bool, "nothing was found that `--allow` does not allow"]
    packets: Annotated[int, "packets in the capture"]
    done: Annotated[int, "packets that got a verdict"]
    out: Annotated[dict[str, TriedPort], "by port: `packets`, `bytes`, `copies`"]
    on: Annotated[dict[str, int], "packets that go on to each group"]
    on_hash: Annotated[dict[str, int], "of these, steered by `dps_on_hash`"]
    dropped: Annotated[dict[str, int], "by reason"]
    quarantined: Annotated[int, "packets taken out of traffic"]
    punted: Annotated[int, "packets for the kernel (`dps_punt`)"]
    refused: Annotated[int, "packets whose verdict is none"]
    emitted: Annotated[int, "packets that the plugin originated"]
    no_blank: Annotated[int, "calls of `dps_emit` that gave NULL"]
    ticks: Annotated[int, "ticks that the plugin handled, of the worker and of buckets"]
    ticks_skipped: Annotated[int, "ticks that ended the process twice"]
    counters: Annotated[dict[str, int], "the plugin's counters and gauges"]
    state: TriedState
    digest: Annotated[
        str, "digest of every packet's fate and bytes: the same for the same behaviour"
    ]
    ns_per_packet: Annotated[float, "time of the worker's loop; the only figures that vary"]
    cycles_per_packet: Annotated[float, "likewise, TSC cycles"]
    sweep: Annotated[Sweep | None, "of `--kill-sweep`, null: not asked for"]
    findings: list[TriedFinding]
