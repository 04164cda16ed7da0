# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup perf`: have the primary measure a worker and its lanes for a while."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from dpsup.bus.client import Client
from dpsup.errors import DpsupError
from dpsup.inspect import perf_report
from dpsup.inspect.capture import Signals
from dpsup.instance import client
from dpsup.instance.runtime_dir import PRIMARY

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.inspect import PerfRead, PerfStart

_EVERY_S = 0.5  # the interval of keep-alives, well within the primary's lease
_STEP_S = 0.1  # between two checks for signals


def run(name: str | None, worker: str, seconds: float) -> dict[str, Any]:
    """The Perf document; a signal ends it early. Raises: DpsupError."""
    where = client.find(name)
    where.demand_access()
    primary = Client(where.file(PRIMARY), lambda: where.name in client.running())
    with Signals() as signals:
        try:
            started: PerfStart = primary.ask("perf_start", worker=worker, pid=os.getpid())
            raw, lasted = _measure(primary, started["id"], seconds, signals)
        finally:
            primary.close()
    return perf_report.document(worker, lasted, started["tsc_hz"], raw)


def _measure(primary: Client, id: str, seconds: float, signals: Signals) -> tuple[PerfRead, float]:
    since = time.monotonic()
    asked = since
    try:
        while (left := since + seconds - time.monotonic()) > 0 and not signals.came:
            time.sleep(min(left, _STEP_S))
            if time.monotonic() > asked + _EVERY_S:
                primary.ask("perf_read", id=id)
                asked = time.monotonic()
        lasted = time.monotonic() - since
        return primary.ask("perf_read", id=id, stop=True), lasted
    finally:
        # If the primary has ended it already, or does not answer, the lease expires.
        with contextlib.suppress(DpsupError):
            primary.ask("perf_end", id=id)
