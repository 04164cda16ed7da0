# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup capture`: the packets that io cores copy, as lines or as pcapng.

The primary returns records as the io cores wrote them (shim/shim.h: struct dps_captured). The
records of one io core are in order; those of several are sorted here: a record that was stamped
before a read began has been published by the next read.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import json
import os
import signal
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dpsup import _abi
from dpsup._build import VERSION
from dpsup.bus.client import Client
from dpsup.errors import DpsupError, HostError, UsageError
from dpsup.instance import client
from dpsup.instance.runtime_dir import PLAN, PRIMARY, Runtime
from dpsup.packets import pcapng
from dpsup.packets.decode import one_line
from dpsup.text import plural
from dpsup.topology.values import parse_vdev

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.inspect import CaptureStart
    from dpsup.documents.plan import Plan

SIGN_S = 1.0  # between two keep-alives
EVERY_S = 0.05  # between two reads that found nothing
RX, TX = _abi.DPS_CAPTURE_RX, _abi.DPS_CAPTURE_TX
LENT, BACK = _abi.DPS_CAPTURE_LENT, _abi.DPS_CAPTURE_BACK
DROP = _abi.DPS_CAPTURE_DROP
ANY = "any"
_DROPS = tuple(_abi.DPS_DROP_NAMES.values())
_OF_GROUPS = ("no_worker", "hold_full", "worker_held")
_RECORD = struct.Struct("<QIIIIHBBBBBB")  # struct dps_captured

Ask = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Captured:
    tsc: int
    length: int
    index: int
    verdict: int
    what: int
    io: int
    port: int
    slot: int
    version: int
    bad: bool
    data: bytes


def parse(raw: bytes) -> Iterator[Captured]:
    at = 0
    while at + _RECORD.size <= len(raw):
        tsc, size, length, captured, index, verdict, what, io, port, slot, version, bad = (
            _RECORD.unpack_from(raw, at)
        )
        start = at + _RECORD.size
        data = raw[start : start + captured]
        yield Captured(
            tsc, length, index, verdict, what, io, port, slot, version, bool(bad), data
        )  # fmt: skip
        at += size


class InOrder:
    """Packets of several io cores, by time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Captured]] = []
        self._n = 0  # packets of the same time keep their order
        self._before = 0

    def add(self, packets: Iterator[Captured], before: int) -> list[Captured]:
        """The packets that no later one can precede; `before` is the time when this read began."""
        for one in packets:
            self._n += 1
            heapq.heappush(self._waiting, (one.tsc, self._n, one))
        ready = self._pop(self._before)
        self._before = before
        return ready

    def rest(self) -> list[Captured]:
        return self._pop(1 << 64)

    def _pop(self, before: int) -> list[Captured]:
        ready = []
        while self._waiting and self._waiting[0][0] < before:
            ready.append(heapq.heappop(self._waiting)[2])
        return ready


@dataclass
class Names:
    """The names of the numbers in a record."""

    target: str
    ports: list[str]
    groups: list[str]
    reasons: list[dict[str, list[str]]]  # by group: its plugin's versions and their reasons
    group: int = 0  # the target's
    workers: dict[int, str] = field(default_factory=dict)  # by slot
    dropped: tuple[str, ...] = ()  # the reasons that are asked for

    @property
    def is_port(self) -> bool:
        is_name = self.target in self.ports or self.target not in self.groups
        return "/" not in self.target and is_name

    def worker(self, one: Captured) -> str:
        """The worker that a packet went to, or came back from."""
        return self.workers.get(one.slot, self.target.rpartition(":")[2])

    def group_of(self, one: Captured) -> int:
        name = self.workers.get(one.slot, "").rpartition("/")[0]
        return self.groups.index(name) if name in self.groups else self.group

    def is_wanted(self, one: Captured) -> bool:
        """The names of reasons for drops: a rollout may bring others for the same numbers."""
        return not self.dropped or ANY in self.dropped or self.reason(one) in self.dropped

    def reason(self, one: Captured) -> str:
        """Why a packet was dropped; "": it was not."""
        if one.what == DROP:
            return _DROPS[one.verdict] if one.verdict < len(_DROPS) else f"reason {one.verdict}"
        if one.bad:
            return "bad_verdict"
        if one.verdict & 0xF000 == _abi.DPS_V_QUARANTINE:
            return "quarantine"
        return self.verdict(one).removeprefix("drop ")

    def place(self, one: Captured) -> str:
        """Where a packet was dropped."""
        reason = self.reason(one)
        if one.what == BACK or one.slot != _abi.DPS_NO_SLOT:
            return self.worker(one)
        if reason in _OF_GROUPS and one.index < len(self.groups):
            return self.groups[one.index]
        return self.port(one.index)

    def port(self, index: int) -> str:
        return self.ports[index] if index < len(self.ports) else f"port {index}"

    def verdict(self, one: Captured) -> str:
        """The verdict on a packet that a worker returned."""
        kind, arg = one.verdict & 0xF000, one.verdict & 0x0FFF
        if one.bad:
            return "bad verdict"
        if kind & _abi.DPS_V_HASHES == _abi.DPS_V_HASH:
            group, bucket = one.verdict >> _abi.DPS_V_HASH_GROUP & 0xF, arg % _abi.DPS_BUCKETS
            first = replace(one, verdict=_abi.DPS_V_GROUP | group)
            return f"{self.verdict(first)}, bucket {bucket}"
        if kind == _abi.DPS_V_PUNT:
            return "to the kernel"
        if kind & _abi.DPS_V_ALSO:
            first = replace(one, verdict=one.verdict & 0x700F)
            return f"{self.verdict(first)}, copy out {self.port(arg >> 4)}"
        if kind == _abi.DPS_V_OUT:
            return f"out {self.port(arg)}"
        if kind == _abi.DPS_V_GROUP:
            return f"to {self.groups[arg]}" if arg < len(self.groups) else f"to group {arg}"
        if kind == _abi.DPS_V_DROP:
            group = self.group_of(one)
            known = self.reasons[group] if group < len(self.reasons) else {}
            names = known.get(str(one.version), [])
            return f"drop {names[arg]}" if arg < len(names) else f"drop, reason {arg}"
        return {
            _abi.DPS_V_QUARANTINE: "quarantined",
            _abi.DPS_V_REQUEUE: "requeued",
        }.get(kind, "bad verdict")


class Clock:
    """Wall-clock nanoseconds of a TSC value: as of the start, so that they never go back."""

    def __init__(self, tsc: int, at_ns: int, hz: int) -> None:
        self._tsc, self._at_ns, self._hz = tsc, at_ns, hz

    def ns(self, tsc: int) -> int:
        return self._at_ns + (tsc - self._tsc) * 1_000_000_000 // self._hz


# --- where they go --------------------------------------------------------------------------------


class Lines:
    """A line for each packet."""

    def __init__(self, out: IO[bytes], names: Names, clock: Clock) -> None:
        self._out, self._names, self._clock = out, names, clock

    def write(self, packets: list[Captured]) -> None:
        for one in packets:
            self._out.write(self.line(one).encode() + b"\n")
        self._out.flush()

    def line(self, one: Captured) -> str:
        at = self._clock.ns(one.tsc)
        when = datetime.fromtimestamp(at // 1_000_000_000).strftime("%H:%M:%S")
        names = self._names
        if names.dropped:
            place, port = names.place(one), names.port(one.port)
            where = f"{place} io/{one.io} dropped, {names.reason(one)}, from {port}"
        elif one.what in (RX, TX):
            where = f"{names.port(one.port)} {'rx' if one.what == RX else 'tx'}"
        else:
            worker = names.worker(one)
            fate = f"before, from {names.port(one.port)}"
            if one.what == BACK:
                fate = f"after, {names.verdict(one)}"
            where = f"{worker} io/{one.io} #{one.index} {fate}"
        text = f"{when}.{at % 1_000_000_000:09d} {where}: {one.length} {one_line(one.data)}"
        return "".join(c if c.isprintable() else "?" for c in text)

    def end(self, captured: int, missed: int) -> None:
        pass


class Pcapng:
    """A file for Wireshark: for a port, one interface with directions; for a worker, one interface
    before it and one after it, whose packets carry their verdicts as comments."""

    def __init__(self, out: IO[bytes], names: Names, clock: Clock, snap: int, filter: str) -> None:
        self._out, self._names, self._clock = out, names, clock
        self._seen = 0
        self._last_ns = clock.ns(0)
        target = names.target
        out.write(pcapng.section(f"dpsup {VERSION}"))
        if names.dropped:
            what = f"dropped, {', '.join(names.dropped)}"
            out.write(pcapng.interface(target or "dropped", what, snap, filter))
            self._interfaces = 1
        elif not names.is_port:
            worker = target.rpartition(":")[2]
            out.write(pcapng.interface(f"{target} before", f"to {worker}", snap, filter))
            out.write(pcapng.interface(f"{target} after", f"back from {worker}", snap, filter))
            self._interfaces = 2
        else:
            out.write(pcapng.interface(target, f"port {target}", snap, filter))
            self._interfaces = 1
        out.flush()

    def write(self, packets: list[Captured]) -> None:
        for one in packets:
            self._last_ns = self._clock.ns(one.tsc)
            self._out.write(self.block(one))
        self._out.flush()

    def block(self, one: Captured) -> bytes:
        at = self._clock.ns(one.tsc)
        if self._names.dropped:
            comment = f"{self._names.place(one)}: {self._names.reason(one)}"
            return pcapng.packet(0, at, one.data, one.length, comment=comment)
        if one.what in (RX, TX):
            direction = pcapng.INBOUND if one.what == RX else pcapng.OUTBOUND
            return pcapng.packet(0, at, one.data, one.length, direction=direction)
        # Before and after, it is the same packet of the same lane.
        packet_id = one.io << 40 | one.slot << 32 | one.index
        if one.what == LENT:
            comment = f"from {self._names.port(one.port)}"
        else:
            comment = self._names.verdict(one)
        if "/" not in self._names.target:
            comment = f"{self._names.worker(one)}: {comment}"
        number = int(one.what == BACK)
        return pcapng.packet(
            number, at, one.data, one.length, comment=comment, packet_id=packet_id
        )  # fmt: skip

    def end(self, captured: int, missed: int) -> None:
        # Missed packets are not counted by interface: the first one shows them.
        for number in range(self._interfaces):
            some = (captured + missed, missed) if number == 0 else (0, 0)
            self._out.write(pcapng.statistics(number, max(self._last_ns, 0), *some))
        self._out.flush()


class Sign:
    """Sends keep-alives: the reader of our output may be slower than the primary's lease."""

    def __init__(self, path: str, id: str) -> None:
        self._path, self._id = path, id
        self._over = threading.Event()
        # A thread of this process: if that is killed or stopped, the keep-alives end.
        self._thread = threading.Thread(target=self._give, daemon=True)

    def _give(self) -> None:
        primary = Client(self._path)
        while not self._over.wait(SIGN_S):
            with contextlib.suppress(DpsupError):  # the next read reports the error
                primary.ask("capture_keep", timeout=SIGN_S, id=self._id)
        primary.close()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()


# --- the command ----------------------------------------------------------------------------------


@dataclass
class Options:
    target: str
    count: int | None
    filter: str
    file: str | None  # "-": stdout
    seconds: float | None
    snap: int
    dropped: tuple[str, ...] = ()  # the reasons; (): what passes


def _open(file: str | None) -> IO[bytes]:
    if file in (None, "-"):
        if file == "-" and sys.stdout.isatty():
            raise UsageError(
                "refusing to write binary pcapng to a terminal",
                code="E0736",
                help="give a file (-w out.pcapng), or a pipe (-w - | tshark -r -)",
            )
        return sys.stdout.buffer
    try:
        # Emptied once the capture begins: one that is refused leaves what is there.
        fd = os.open(str(file), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as e:
        raise HostError(f"cannot write {file}: {e.strerror}", code="E0735") from e
    return os.fdopen(fd, "wb")


def _empty(out: IO[bytes]) -> None:
    if out is not sys.stdout.buffer and stat.S_ISREG(os.fstat(out.fileno()).st_mode):
        os.ftruncate(out.fileno(), 0)


def used_by(file: str, plan: Plan) -> str:
    """What the instance does with that file, empty: nothing. By device and inode."""
    uses = {plan["topology_file"]: "the instance's topology"}
    for port in plan["ports"]:
        for key, value in parse_vdev(port["vdev"])[1]:
            if key in ("rx_pcap", "tx_pcap"):
                uses[value] = f"{key} of port {port['name']}"
    for path, what in uses.items():
        with contextlib.suppress(OSError):
            if Path(file).samefile(path):
                return what
    return ""


def _demand_free(file: str | None, where: Runtime) -> None:
    """Raises: UsageError where the capture would overwrite a file of the instance's."""
    if file in (None, "-"):
        return
    try:
        plan: Plan = json.loads(where.read(PLAN))
    except (OSError, ValueError):
        return  # nothing is known
    if what := used_by(str(file), plan):
        raise UsageError(
            f"cannot write {file}: it is {what}, and would be overwritten",
            code="E0735",
            help="give another file",
        )


def _names(options: Options, started: CaptureStart) -> Names:
    worker = options.target.rpartition(":")[2]
    group = worker.rpartition("/")[0] or worker
    groups = started["groups"]
    at = groups.index(group) if group in groups else 0
    workers = {int(slot): name for slot, name in started.get("workers", {}).items()}
    return Names(options.target, started["ports"], groups, [{} for _ in groups], at, workers,
                 options.dropped)  # fmt: skip


class Signals:
    """Notes SIGINT and SIGTERM, so that read packets are written and the capture is ended."""

    def __init__(self) -> None:
        self.came = False

    def _note(self, *_: object) -> None:
        self.came = True

    def __enter__(self) -> Signals:
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def run(
    name: str | None, options: Options, filter: list[int], begun: Callable[[], None]
) -> tuple[int, int]:
    """Capture until the count, the time, a signal or the end of the output's reader. Returns the
    numbers of captured and missed packets. `begun` is called at the start. Raises: DpsupError."""
    where = client.find(name)
    where.demand_access()
    _demand_free(options.file, where)
    primary = Client(where.file(PRIMARY), lambda: where.name in client.running())
    out = _open(options.file)
    try:
        with Signals() as signals:
            started = primary.ask(
                "capture_start",
                target=options.target,
                filter=filter,
                snap=options.snap,
                pid=os.getpid(),
                dropped=list(options.dropped),
            )
            _empty(out)
            begun()
            return _capture(primary.ask, where.file(PRIMARY), options, started, out, signals)
    except OSError as e:
        raise HostError(
            f"cannot write {options.file or 'stdout'}: {e.strerror}", code="E0735"
        ) from e
    finally:
        primary.close()
        if out is not sys.stdout.buffer:
            with contextlib.suppress(OSError):
                out.close()


def _capture(
    ask: Ask,
    path: str,
    options: Options,
    started: CaptureStart,
    out: IO[bytes],
    signals: Signals,
) -> tuple[int, int]:
    id = started["id"]
    names = _names(options, started)
    clock = Clock(started["tsc"], started["at_ns"], started["tsc_hz"])
    written, missed, left = 0, 0, options.count
    try:
        sink: Lines | Pcapng
        if options.file is None:
            sink = Lines(out, names, clock)
        else:
            sink = Pcapng(out, names, clock, options.snap, options.filter)
        with Sign(path, id):
            for packets, so_far in _packets(ask, id, names, options.seconds, signals):
                missed = so_far
                packets = [one for one in packets if names.is_wanted(one)]
                some = packets if left is None else packets[:left]
                sink.write(some)
                written += len(some)
                left = None if left is None else left - len(some)
                if left == 0:
                    break
        sink.end(written, missed)
    except BrokenPipeError:
        # The reader closed the pipe: what is still buffered is discarded.
        if out is not sys.stdout.buffer:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        # If the primary has ended it already, or does not answer, the lease expires.
        with contextlib.suppress(DpsupError):
            ask("capture_end", id=id)
    return written, missed


def _packets(
    ask: Ask, id: str, names: Names, seconds: float | None, signals: Signals
) -> Iterator[tuple[list[Captured], int]]:
    """Packets in order, as they arrive, with the number missed so far."""
    order = InOrder()
    deadline = None if seconds is None else time.monotonic() + seconds
    stop = False
    while True:
        stop = stop or signals.came or (deadline is not None and time.monotonic() >= deadline)
        found = ask("capture_read", id=id, stop=stop)
        for group in range(len(names.groups)):
            names.reasons[group] = found["reasons"].get(str(group), {})
        yield order.add(parse(base64.b64decode(found["records"])), found["before"]), found["missed"]
        if stop and not found["waiting"]:
            yield order.rest(), found["missed"]
            return
        if not found["records"] and not stop:
            left = EVERY_S if deadline is None else deadline - time.monotonic()
            time.sleep(min(EVERY_S, max(left, 0.0)))


def summary(captured: int, missed: int) -> str:
    return f"captured {plural(captured, 'packet')}, missed {missed}"
