# SPDX-License-Identifier: BSD-3-Clause
"""What the primary does for `dpsup capture`."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field

from dpsup import _abi
from dpsup.bus.messages import Args, ProtocolError, want
from dpsup.documents.inspect import CapturePart, CaptureStart
from dpsup.documents.plan import Plan
from dpsup.errors import DpsupError, NoSuchObject
from dpsup.primary.lease import Leased, workers_of
from dpsup.primary.shim import check, ffi, lib
from dpsup.text import listing, suggest

_DROPS = tuple(_abi.DPS_DROP_NAMES.values())
READ_BYTES = 1 << 20  # of records in one reply
FILTER_MOST = 4096  # instructions
ANY = "any"
NOT_SEEN = "tx_failed"  # such a packet is the driver's by then

Reasons = dict[int, dict[int, list[str]]]  # plugins' names, by group and version


@dataclass
class Target:
    """What a capture is of: ports, or what goes to slots and comes back."""

    ports: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    ios: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # of drops


def find_target(plan: Plan, ports: dict[str, int], name: str) -> Target:
    """ "wan", "fw", "fw/0", or "io/0:fw/0". Raises: NoSuchObject."""
    ios = list(range(len(plan["io"])))
    workers = workers_of(plan)
    if name in ports:
        return Target(ports=[ports[name]], ios=ios)
    if name in workers:
        return Target(slots=[workers[name]], ios=ios)
    for index, group in enumerate(plan["groups"]):
        if group["name"] == name:
            first = group["first_slot"]
            slots = list(range(first, first + group["max"]))
            return Target(slots=slots, ios=ios, groups=[index])
    io, _, worker = name.partition(":")
    if worker in workers and io in [f"io/{i}" for i in ios]:
        return Target(slots=[workers[worker]], ios=[int(io[3:])])
    lanes = [f"io/{i}:{w}" for i in ios for w in workers]
    groups = [group["name"] for group in plan["groups"]]
    close = suggest(name, (*ports, *groups, *workers, *lanes))
    known = (*ports, *groups, *(w for w in workers if w.endswith("/0")))
    raise NoSuchObject(
        f'no port, group, worker or lane "{name}"',
        code="E0730",
        help=f'did you mean "{close}"?' if close else f"there are: {listing(known)}, io/0:WORKER",
    )


def everywhere(plan: Plan, ports: dict[str, int]) -> Target:
    """All places that drop packets."""
    ios, groups = list(range(len(plan["io"]))), list(range(len(plan["groups"])))
    return Target([*ports.values()], [*workers_of(plan).values()], ios, groups)


def find_reasons(names: list[str], plugins: Reasons) -> tuple[int, dict[int, int]]:
    """The bits of dpsup's own reasons, and by group those of its plugins'. Raises: NoSuchObject,
    ProtocolError."""
    own, theirs = 0, dict.fromkeys(plugins, 0)
    known = {name for versions in plugins.values() for some in versions.values() for name in some}
    known |= {ANY, *_DROPS} - {NOT_SEEN}
    for name in names:
        if not isinstance(name, str):
            raise ProtocolError("args.dropped: names of reasons are wanted")
        if name not in known:
            close = suggest(name, tuple(known))
            raise NoSuchObject(
                f'no packet is dropped for a reason "{name}"'
                if name != NOT_SEEN
                else "what a driver failed to send cannot be captured: the packet is the driver's",
                code="E0738",
                help=f'did you mean "{close}"?'
                if close
                else f"there are: {listing(sorted(known))}",
            )
        own |= sum(1 << bit for bit, one in enumerate(_DROPS) if name in (one, ANY))
        for group, versions in plugins.items():
            for some in versions.values():
                theirs[group] |= sum(1 << bit for bit, one in enumerate(some) if one == name)
            theirs[group] |= 0xFFFF if name == ANY else 0
    return own, theirs


class Capture(Leased):
    """Captures, one at a time."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._room = ffi.new("uint8_t[]", READ_BYTES)
        self._slots: list[int] = []

    def start(
        self,
        args: Args,
        ports: dict[str, int],
        now: float,
        reasons: Reasons,
    ) -> CaptureStart:
        words = want(args, "filter", list, [])
        if len(words) > FILTER_MOST or not all(
            isinstance(w, int) and 0 <= w < 1 << 64 for w in words
        ):
            raise ProtocolError("args.filter: BPF instructions are wanted")
        snap = want(args, "snap", int)
        name = want(args, "target", str)
        dropped = want(args, "dropped", list, [])
        if name or not dropped:
            target = find_target(self._plan, ports, name)
        else:
            target = everywhere(self._plan, ports)
        own, theirs = find_reasons(dropped, reasons)
        busy = DpsupError(
            "a capture is under way, and there is one at a time",
            code="E0731",
            help="end that one; it also ends by itself when its process does",
        )
        id = self.lease.take(f"process {want(args, 'pid', int)}, of {name or 'drops'},", now, busy)
        conf = ffi.new("struct dps_capture_conf *")
        conf.rx_ports = conf.tx_ports = sum(1 << p for p in target.ports)
        conf.slots = sum(1 << s for s in target.slots)
        conf.ios = sum(1 << i for i in target.ios)
        conf.snap = snap
        if dropped:
            conf.groups = sum(1 << g for g in target.groups)
            conf.drops = own
            for group, bits in theirs.items():
                conf.reasons[group] = bits
        conf.n_filter = len(words)
        self._slots = target.slots
        try:
            ret = lib.dps_capture_start(conf, ffi.new("uint64_t[]", words or [0]))
            check("capture_start", ret)
        except DpsupError:
            self.lease.end()
            raise
        names = {index: name for name, index in ports.items()}
        return {
            "id": id,
            "tsc": int(lib.dps_tsc()),
            "at_ns": time.time_ns(),
            "tsc_hz": int(lib.dps_tsc_hz()),
            "ports": [names.get(i, f"port {i}") for i in range(max(names, default=-1) + 1)],
            "groups": [g["name"] for g in self._plan["groups"]],
            "interfaces": name,
            "workers": {str(slot): worker for worker, slot in workers_of(self._plan).items()},
        }

    def read(self, args: Args, now: float) -> CapturePart:
        """What was captured since the last read; `before`: the TSC when this one began."""
        self.lease.renew(want(args, "id", str), now)
        if want(args, "stop", bool, False):
            check("capture_stop", lib.dps_capture_stop())
        before = int(lib.dps_tsc())
        parts, left = [], READ_BYTES
        for io in range(len(self._plan["io"])):
            n = check("capture_read", lib.dps_capture_read(io, self._room, left))
            parts.append(bytes(ffi.buffer(self._room, n)))
            left -= n
        stats = ffi.new("struct dps_capture_stats *")
        check("capture_stats_get", lib.dps_capture_stats_get(stats))
        return {
            "records": base64.b64encode(b"".join(parts)).decode(),
            "before": before,
            "captured": int(stats.captured),
            "missed": int(stats.missed),
            "waiting": int(stats.waiting),
        }

    def keep(self, args: Args, now: float) -> None:
        """Renew the lease of a client that cannot read now."""
        self.lease.renew(want(args, "id", str), now)

    @property
    def slots(self) -> list[int]:
        """Those whose plugins' names for their reasons a reader wants."""
        return self._slots

    def _free(self) -> None:
        # If an io core does not answer, the next look tries again.
        check("capture_free", lib.dps_capture_free())
        self.lease.end()
        self._slots = []
