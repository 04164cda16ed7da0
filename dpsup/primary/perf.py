# SPDX-License-Identifier: BSD-3-Clause
"""What the primary does for `dpsup perf`."""

from __future__ import annotations

from typing import Any

from dpsup.bus.messages import Args, want
from dpsup.documents.inspect import Head, PerfRead, PerfStart, SlowBurst
from dpsup.errors import DpsupError, NoSuchObject
from dpsup.primary.lease import Leased, workers_of
from dpsup.primary.shim import check, ffi, lib
from dpsup.text import listing, suggest


class Perf(Leased):
    """Measures one worker at a time."""

    def start(self, args: Args, now: float) -> PerfStart:
        name = want(args, "worker", str)
        workers = workers_of(self._plan)
        if name not in workers:
            close = suggest(name, tuple(workers))
            raise NoSuchObject(
                f'no worker "{name}"',
                code="E0702",
                help=f'did you mean "{close}"?' if close else f"there are: {listing([*workers])}",
            )
        busy = DpsupError(
            "a worker is being measured, and it is one at a time",
            code="E0737",
            help="end that one; it also ends by itself when its process does",
        )
        id = self.lease.take(f"process {want(args, 'pid', int)}, of {name},", now, busy)
        try:
            check("perf_start", lib.dps_perf_start(workers[name]))
        except DpsupError:
            self.lease.end()
            raise
        return {"id": id, "tsc_hz": int(lib.dps_tsc_hz())}

    def read(self, args: Args, now: float) -> PerfRead:
        self.lease.renew(want(args, "id", str), now)
        if want(args, "stop", bool, False):
            check("perf_stop", lib.dps_perf_stop())
        perf = ffi.new("struct dps_perf *")
        delays = ffi.new("struct dps_delays *")
        check("perf_get", lib.dps_perf_get(perf, delays))
        return {
            "bursts": int(perf.bursts),
            "packets": int(perf.packets),
            "cycles_most": int(perf.cycles_most),
            "cycles": [int(n) for n in perf.cycles],
            "batch": [int(n) for n in perf.batch],
            "delay_packets": int(delays.packets),
            "delay_most": int(delays.most),
            "delay": [int(n) for n in delays.by_class],
            "slow": [self._slow(one) for one in perf.slow if one.cycles],
        }

    def _slow(self, one: Any) -> SlowBurst:
        # The worker may be writing it, or have written nonsense: only as much as there is.
        n = min(int(one.n), len(one.len))
        heads: list[Head] = [
            {"len": int(one.len[i]), "head": bytes(one.head[i])[: int(one.len[i])].hex()}
            for i in range(n)
        ]
        return {
            "cycles": int(one.cycles), "tsc": int(one.tsc), "lane": int(one.lane), "packets": heads,
        }  # fmt: skip

    def _free(self) -> None:
        check("perf_free", lib.dps_perf_free())
        self.lease.end()
