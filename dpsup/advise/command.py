# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup advise`: looks at an instance for a while, then suggests changes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from dpsup.advise import lanes, report
from dpsup.advise.window import Window
from dpsup.errors import DpsupError, UsageError
from dpsup.instance.client import connect

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.advice import Advice
    from dpsup.documents.rates import Look

STEPS = 40  # looks in a window, at most
STEP_LEAST_S = 0.1  # between two looks: each takes some milliseconds of the instance's Python
SPREAD_S = 0.5  # to measure buckets if workers' shares differ
LEAST_S = 0.2


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
    return window


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
