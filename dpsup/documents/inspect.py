# SPDX-License-Identifier: BSD-3-Clause
"""What the primary tells `dpsup capture` and `dpsup perf`. Times are TSC cycles."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class CaptureStart(TypedDict):
    id: str  # of the lease
    tsc: int  # at `at_ns`
    at_ns: int  # since 1970
    tsc_hz: int
    ports: list[str]
    groups: list[str]
    interfaces: str  # what is captured
    workers: NotRequired[dict[str, str]]  # by slot


class CapturePart(TypedDict):
    records: str  # base64: struct dps_record and bytes
    before: int  # when this reading began
    captured: int
    missed: int
    waiting: int


class CaptureRead(CapturePart):
    reasons: dict[int, dict[int, list[str]]]  # by group and version; in JSON the keys are strings


class PerfStart(TypedDict):
    id: str  # of the lease
    tsc_hz: int


class Head(TypedDict):
    len: int
    head: str  # hex


class SlowBurst(TypedDict):
    cycles: int
    tsc: int
    lane: int
    packets: list[Head]


class PerfRead(TypedDict):
    bursts: int
    packets: int
    cycles_most: int
    cycles: list[int]  # bursts by class of cycles
    batch: list[int]  # bursts by class of packets
    delay_packets: int
    delay_most: int
    delay: list[int]  # packets by class of delay
    slow: list[SlowBurst]
