# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup advise`: looks at an instance for a while, then suggests changes."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from typing import TYPE_CHECKING

from dpsup.advise import lanes, report
from dpsup.advise.window import Window
from dpsup.bus.client import Client
from dpsup.errors import DpsupError, UsageError
from dpsup.instance.client import Instance, connect
from dpsup.instance.runtime_dir import PRIMARY

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.advice import Advice
    from dpsup.documents.rates import Look

STEPS = 40  # looks in a window, at most
STEP_LEAST_S = 0.1  # between two looks: each takes some milliseconds of the instance's Python
SPREAD_S = 0.5  # to measure buckets if workers' shares differ
LEAST_S = 0.2
SAMPLE = 1024  # packets of a worker that has more than its share
SAMPLE_SNAP = 256  # bytes: headers, and those inside of a tunnel
SAMPLE_STEP_S = 0.02


def watch(name: str | None, seconds: float) -> Window:
    """A window over the next `seconds`. Changes nothing. Raises: NotRunning, UsageError."""
    if not LEAST_S <= seconds <= 3600:
        raise UsageError(
            f"a window of {seconds:g} s: give 200ms to 1h",
            code="E0745",
            help="dpsup advise --for 5s",
        )
    step = max(STEP_LEAST_S, seconds / STEPS)
    looks: list[Look] = []
    with connect(name) as instance:
        looks.append(instance.look())
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(step, left))
            looks.append(instance.look())
        looks = _same(looks)
        audits = {}
        if looks[-1]["counters"] is not None:
            with contextlib.suppress(DpsupError):
                audits = {p["name"]: p for p in instance.audit()["pools"]}
        window = Window(looks, audits)
        for group in lanes.uneven(window):
            # A dry run: measures each worker's share, and predicts the effect of moving buckets.
            with contextlib.suppress(DpsupError):
                window.spreads[group] = instance.rebalance(group, SPREAD_S, dry_run=True)
            worker = lanes.elephant(window, group)
            if worker:
                with contextlib.suppress(DpsupError):  # another capture runs, or it has ended
                    window.samples[group] = _sample(instance, worker)
    return window


def _sample(instance: Instance, worker: str) -> list[bytes]:
    """The first bytes of some packets on their way to a worker. Raises: DpsupError."""
    from dpsup.inspect.capture import LENT, parse

    found: list[bytes] = []
    primary = Client(instance.runtime.file(PRIMARY))
    try:
        begun = primary.ask(
            "capture_start", target=worker, filter=[], snap=SAMPLE_SNAP, pid=os.getpid()
        )
        try:
            end = time.monotonic() + SPREAD_S
            while len(found) < SAMPLE and time.monotonic() < end:
                part = primary.ask("capture_read", id=begun["id"], stop=False)
                some = parse(base64.b64decode(part["records"]))
                found += [one.data for one in some if one.what == LENT]
                time.sleep(SAMPLE_STEP_S)
        finally:
            primary.ask("capture_end", id=begun["id"])
    finally:
        primary.close()
    return found[0:SAMPLE]


def _same(looks: list[Look]) -> list[Look]:
    """The looks since the last start of a primary: counters do not compare across a start."""
    last = looks[-1]["counters"]
    if last is None:
        return looks[-1:]
    first = len(looks) - 1
    while first and _generation(looks[first - 1]) == last["generation"]:
        first -= 1
    return looks[first:]


def _generation(look: Look) -> int | None:
    return look["counters"]["generation"] if look["counters"] else None


def carry_out(name: str | None, seconds: float) -> Advice:
    return report.document(watch(name, seconds))
