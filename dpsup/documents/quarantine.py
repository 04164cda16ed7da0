# SPDX-License-Identifier: BSD-3-Clause
"""The story of a packet in quarantine: a file beside its pcap."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from dpsup.documents.status import Head


class Death(TypedDict):
    at: Annotated[float, "when a worker died with it in hand"]
    at_ns: Annotated[int, "the same, in CLOCK_MONOTONIC"]
    group: Annotated[str, "the worker's group"]
    worker: Annotated[str, "the worker"]
    slot: Annotated[int, "index of its slot"]
    plugin: Annotated[str, "the plugin that it ran"]
    pid: Annotated[int, "the process"]
    hung: Annotated[bool, "ended because it was stuck"]
    signal: Annotated[str | None, "the signal, null: none"]
    code: Annotated[int | None, "the signal's code, null: none"]
    address: Annotated[str | None, "the faulting address, null: none"]
    backtrace: Annotated[list[str], "frames, the innermost first"]
    program_base: NotRequired[Annotated[str, "where the worker program was mapped, 0x0: not known"]]
    plugin_base: NotRequired[Annotated[str, "where the plugin's file was, 0x0: built in"]]
    plugin_digest: NotRequired[
        Annotated[str, "digest of the plugin's file, empty: built in, or loaded from its own place"]
    ]
    symbols: NotRequired[Annotated[list[str], "what each frame is, as far as it is known"]]
    undone: Annotated[bool, "its changes of the packet were put back"]


class Story(Head):
    instance: Annotated[str, "the instance"]
    generation: Annotated[int, "starts of the primary until then"]
    at: Annotated[float, "when it was written"]
    why: Annotated[str, "`poison`, `asked`"]
    group: Annotated[str, "the group that had it"]
    worker: Annotated[str, "the worker that had it last"]
    plugin: Annotated[str, "its plugin"]
    port: Annotated[str, "the port that received it, or empty"]
    length: Annotated[int, "bytes"]
    flow_hash: Annotated[str, "the hash of its flow"]
    deaths: list[Death]


class Kept(Story):
    number: Annotated[int, "its number"]


class Packet(Kept):
    file: Annotated[str, "its pcap"]
