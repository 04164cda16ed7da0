# SPDX-License-Identifier: BSD-3-Clause
"""What the primary does for `dpsup capture` and `dpsup perf`: turn them on, hand out what was
found, and turn them off when nobody asks for it any more.

Who asks talks to the primary itself, so that nothing of it depends on the supervisor. It holds a
lease of seconds that each question renews: a client that was killed leaves nothing on.
"""

from __future__ import annotations

import base64
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dpsup.bus.messages import ProtocolError, want
from dpsup.errors import DpsupError, NoSuchObject
from dpsup.text import listing, suggest

LEASE_S = 3.0
READ_BYTES = 1 << 20  # of records in one reply
FILTER_MOST = 4096  # instructions

Check = Callable[[str, int], int]


@dataclass
class Lease:
    """Who has something turned on, of which there is one."""

    id: str = ""  # "": nobody
    holder: str = ""
    until: float = 0.0

    def take(self, holder: str, now: float, refusal: DpsupError) -> str:
        """Raises: `refusal`, told who has it."""
        if self.id:
            refusal.why = f"{self.holder} has it on"
            raise refusal
        self.id, self.holder = os.urandom(8).hex(), holder
        self.until = now + LEASE_S
        return self.id

    def renew(self, id: str, now: float) -> None:
        """Raises: DpsupError where it is another's by now, or nobody's."""
        if not id or id != self.id:
            raise DpsupError(
                "it was turned off meanwhile",
                code="E0734",
                why=f"nobody had asked for {LEASE_S:g} s, or the primary was restarted",
            )
        self.until = now + LEASE_S

    def end(self) -> None:
        self.id = self.holder = ""

    def has_run_out(self, now: float) -> bool:
        return bool(self.id) and now > self.until


class Leased(ABC):
    """What is on for as long as somebody asks for it, and for one at a time."""

    def __init__(self, lib: Any, ffi: Any, check: Check, plan: dict[str, Any]) -> None:
        self._lib, self._ffi, self._check = lib, ffi, check
        self._plan = plan
        self.lease = Lease()

    def end(self, args: dict[str, Any], now: float) -> None:
        self.lease.renew(want(args, "id", str), now)
        self._free()

    def look(self, now: float) -> None:
        if self.lease.has_run_out(now):
            self._free()

    @abstractmethod
    def _free(self) -> None:
        """Turn it off, and end the lease."""


def _workers(plan: dict[str, Any]) -> dict[str, int]:
    """Each worker that there may be, and its slot."""
    return {
        f"{g['name']}/{m}": g["first_slot"] + m for g in plan["groups"] for m in range(g["max"])
    }


@dataclass
class Target:
    """What a capture is of: ports, or what goes to slots and comes back."""

    ports: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    ios: list[int] = field(default_factory=list)


def find_target(plan: dict[str, Any], ports: dict[str, int], name: str) -> Target:
    """ "wan", "fw/0", or "io/0:fw/0". Raises: NoSuchObject."""
    ios = list(range(len(plan["io"])))
    workers = _workers(plan)
    if name in ports:
        return Target(ports=[ports[name]], ios=ios)
    if name in workers:
        return Target(slots=[workers[name]], ios=ios)
    io, _, worker = name.partition(":")
    if worker in workers and io in [f"io/{i}" for i in ios]:
        return Target(slots=[workers[worker]], ios=[int(io[3:])])
    lanes = [f"io/{i}:{w}" for i in ios for w in workers]
    close = suggest(name, (*ports, *workers, *lanes))
    known = (*ports, *(w for w in workers if w.endswith("/0")))
    raise NoSuchObject(
        f'no port, worker or lane "{name}"',
        code="E0730",
        help=f'did you mean "{close}"?' if close else f"there are: {listing(known)}, io/0:WORKER",
    )


class Mirror(Leased):
    """Captures, one at a time."""

    def __init__(self, lib: Any, ffi: Any, check: Check, plan: dict[str, Any]) -> None:
        super().__init__(lib, ffi, check, plan)
        self._room = ffi.new("uint8_t[]", READ_BYTES)
        self._slots: list[int] = []

    def start(
        self,
        args: dict[str, Any],
        ports: dict[str, int],
        now: float,
    ) -> dict[str, Any]:
        words = want(args, "filter", list, [])
        if len(words) > FILTER_MOST or not all(
            isinstance(w, int) and 0 <= w < 1 << 64 for w in words
        ):
            raise ProtocolError("args.filter: BPF instructions are wanted")
        snap = want(args, "snap", int)
        name = want(args, "target", str)
        target = find_target(self._plan, ports, name)
        busy = DpsupError(
            "a capture is under way, and there is one at a time",
            code="E0731",
            help="end that one; it also ends by itself when its process does",
        )
        id = self.lease.take(f"process {want(args, 'pid', int)}, of {name},", now, busy)
        conf = self._ffi.new("struct dps_capture_conf *")
        conf.rx_ports = conf.tx_ports = sum(1 << p for p in target.ports)
        conf.slots = sum(1 << s for s in target.slots)
        conf.ios = sum(1 << i for i in target.ios)
        conf.snap = snap
        conf.n_filter = len(words)
        self._slots = target.slots
        try:
            ret = self._lib.dps_capture_start(conf, self._ffi.new("uint64_t[]", words or [0]))
            self._check("capture_start", ret)
        except DpsupError:
            self.lease.end()
            raise
        names = {index: name for name, index in ports.items()}
        return {
            "id": id,
            "tsc": int(self._lib.dps_tsc()),
            "at_ns": time.time_ns(),
            "tsc_hz": int(self._lib.dps_tsc_hz()),
            "ports": [names.get(i, f"port {i}") for i in range(max(names, default=-1) + 1)],
            "groups": [g["name"] for g in self._plan["groups"]],
            "interfaces": name,
        }

    def read(self, args: dict[str, Any], now: float) -> dict[str, Any]:
        """What was captured since the last read; `before`: the TSC when this one began."""
        self.lease.renew(want(args, "id", str), now)
        if want(args, "stop", bool, False):
            self._check("capture_stop", self._lib.dps_capture_stop())
        before = int(self._lib.dps_tsc())
        parts, left = [], READ_BYTES
        for io in range(len(self._plan["io"])):
            n = self._check("capture_read", self._lib.dps_capture_read(io, self._room, left))
            parts.append(bytes(self._ffi.buffer(self._room, n)))
            left -= n
        stats = self._ffi.new("struct dps_capture_stats *")
        self._check("capture_stats_get", self._lib.dps_capture_stats_get(stats))
        return {
            "records": base64.b64encode(b"".join(parts)).decode(),
            "before": before,
            "captured": int(stats.captured),
            "missed": int(stats.missed),
            "waiting": int(stats.waiting),
        }

    def keep(self, args: dict[str, Any], now: float) -> None:
        """From who cannot read just now."""
        self.lease.renew(want(args, "id", str), now)

    @property
    def slots(self) -> list[int]:
        """Those whose plugins' names for their reasons a reader wants."""
        return self._slots

    def _free(self) -> None:
        # If an io core does not answer, the next look tries again.
        self._check("capture_free", self._lib.dps_capture_free())
        self.lease.end()
        self._slots = []


class Perf(Leased):
    """Measures one worker at a time."""

    def start(self, args: dict[str, Any], now: float) -> dict[str, Any]:
        name = want(args, "worker", str)
        workers = _workers(self._plan)
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
            self._check("perf_start", self._lib.dps_perf_start(workers[name]))
        except DpsupError:
            self.lease.end()
            raise
        return {"id": id, "tsc_hz": int(self._lib.dps_tsc_hz())}

    def read(self, args: dict[str, Any], now: float) -> dict[str, Any]:
        self.lease.renew(want(args, "id", str), now)
        if want(args, "stop", bool, False):
            self._check("perf_stop", self._lib.dps_perf_stop())
        perf = self._ffi.new("struct dps_perf *")
        delays = self._ffi.new("struct dps_delays *")
        self._check("perf_get", self._lib.dps_perf_get(perf, delays))
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

    def _slow(self, one: Any) -> dict[str, Any]:
        # The worker may be writing it, or have written nonsense: only as much as there is.
        n = min(int(one.n), len(one.len))
        heads = [
            {"len": int(one.len[i]), "head": bytes(one.head[i])[: int(one.len[i])].hex()}
            for i in range(n)
        ]
        return {
            "cycles": int(one.cycles), "tsc": int(one.tsc), "lane": int(one.lane), "packets": heads,
        }  # fmt: skip

    def _free(self) -> None:
        self._check("perf_free", self._lib.dps_perf_free())
        self.lease.end()
