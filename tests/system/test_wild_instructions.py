# SPDX-License-Identifier: BSD-3-Clause
"""Writes where a worker must not, at some instruction of its loop: what is found out, what does no
harm, and that nobody else suffers. The worker itself may not write at all of these places: the seed
does it. docs/limits.md says what cannot be found."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Run, seed, wait_for
from ptrace import Traced
from stepping import build_step, step, write_as_seed
from traffic import flows, mix, save

import dpsup
from dpsup._shim import ffi

pytestmark = pytest.mark.beside

TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap={file},infinite_rx=1"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "delay"
args = {{ cycles = 20000, rewrite = true }}
input = ["wan"]
count = 2
spares = 1
ring = 256
on_full = "hold"
restart = {{ intensity = 100000, backoff = {{ initial = "1ms", factor = 1 }} }}
health = {{ stall_after = "500ms" }}
"""

_libc = ctypes.CDLL(None, use_errno=True)
GET_ROBUST_LIST = 274


def robust_list(pid: int) -> int:
    """Where the kernel believes a thread's list of robust mutexes to begin."""
    head, length = ctypes.c_void_p(), ctypes.c_size_t()
    assert _libc.syscall(GET_ROBUST_LIST, pid, ctypes.byref(head), ctypes.byref(length)) == 0
    return int(head.value or 0)


def offset(struct_: str, field: str) -> int:
    return int(ffi.offsetof(f"struct {struct_}", *field.split(".")))


Where = dict[str, Any]
Write = tuple[int, bytes]


def u32(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value & (1 << 64) - 1)


def slot(field: str, data: bytes) -> Callable[[Where, Where], Write]:
    return lambda me, other: (me["slot"] + offset("dps_slot", field), data)


def sitter(field: str, data: bytes) -> Callable[[Where, Where], Write]:
    return lambda me, other: (me["sitter"] + offset("dps_sitter", field), data)


def ctl(field: str, data: bytes) -> Callable[[Where, Where], Write]:
    return lambda me, other: (me["ctl"] + offset("dps_ctl", field), data)


def lane(field: str, data: bytes) -> Callable[[Where, Where], Write]:
    return lambda me, other: (me["lane"][0] + offset("dps_lane", field), data)


def words(value: int) -> Callable[[Where, Where], Write]:
    return lambda me, other: (me["lane"][0] + 256, u64(value) * me["ring"])


WILD = 0x4141414141414141
CASES: dict[str, Callable[[Where, Where], Write]] = {
    "lease: a number": sitter("lease", u32(WILD)),
    "lease: free": sitter("lease", u32(0)),
    "lease: dead": sitter("lease", u32(0x40000000)),
    "lease: all of it": sitter("lease", u64(WILD) * 8),
    "robust list: nowhere": lambda me, other: (robust_list(me["pid"]), u64(8)),
    "robust list: empty": lambda me, other: (robust_list(me["pid"]), u64(robust_list(me["pid"]))),
    "robust list: pending": lambda me, other: (robust_list(me["pid"]) + 16, u64(WILD)),
    "done: ahead": lane("done", u32(WILD)),
    "done: 0": lane("done", u32(0)),
    "sent: ahead": lane("sent", u32(WILD)),
    "words: descriptors of nothing": words(0),
    "words: wild descriptors": words(WILD),
    "words: verdicts": words(1 << 63 | 0x1000),
    "words: no verdict known": words(~0),
    "words: requeue": words(1 << 63 | 0x4000),
    "undo stamp": slot("undo", u64(WILD)),
    "undo lengths": slot("undo_head", b"\xff" * 4),
    "undo bytes": slot("undo_bytes", b"\xff" * 256),
    "brief record": slot("brief", b"\xff" * 16),
    "seat: nobody": slot("seat", u64(0)),
    "seat: wild": slot("seat", u64(WILD)),
    "berth: nobody": sitter("berth", u64(0)),
    "berth: wild": sitter("berth", u64(WILD)),
    **{f"hand: {n}": sitter("hand", u32(n)) for n in (0, 1, 2, 3, 5, 77)},
    "its slot": sitter("slot", u32(1)),
    "its slot: wild": sitter("slot", u32(WILD)),
    "its ticket": sitter("ticket", u32(WILD)),
    "its group": sitter("group", u32(WILD)),
    "a fatal signal that was none": sitter("signal", u32(11)),
    "an exit that was none": sitter("exit_pid", u32(WILD) * 3),
    "facts": sitter("facts", u64(WILD) * 8),
    "slot's head": slot("magic", u64(WILD) * 8),
    "slot's index": slot("index", u32(63)),
    "slot's ring": slot("ring", u32(1 << 20)),
    "slot's lanes": slot("lanes", u64(WILD) * 8),
    "slot's metas": slot("meta", u64(WILD) * 8),
    "slot's facts": slot("facts", u64(WILD) * 8),
    "command: stop": slot("command", u32(1)),
    "core": slot("core", u32(4000)),
    "bell and parks": slot("parks", u32(WILD)),
    "packet in hand": slot("hand", u64(WILD)),
    "beats": slot("beats", u64(WILD) * 8),
    "first": slot("first_ns", u64(~0)),
    "another's done": lambda me, other: (other["lane"][0] + 128, u32(WILD)),
    "another's undo": lambda me, other: (other["slot"] + offset("dps_slot", "undo"), u64(WILD)),
    "another's seat": lambda me, other: (other["slot"] + offset("dps_slot", "seat"), u64(0)),
    "another's lease": lambda me, other: (other["sitter"], u32(WILD)),
    "perf": slot("perf_at", u64(WILD)),
    "berth: another pid": sitter("berth", u32(1)),
    "another's lease: dead": lambda me, other: (other["sitter"], u32(0x40000000)),
    "counters past their end": sitter("counter", u64(1) * 24),
    "the primary's lease": ctl("lease", u32(WILD)),
    "the primary's lease: it is dead": ctl("lease", u32(0x40000000)),
    "the control block's head": ctl("magic", u32(WILD) * 24),
    "slots": ctl("slot", u64(WILD) * 64),
    "groups": ctl("group", u64(WILD) * 64),
}


class Rig:
    """An instance under load, and a way to write into it."""

    def __init__(self, instance: Run, rng: random.Random) -> None:
        save(instance.folder / "in.pcap", mix(flows(4), 500, seed=1))
        instance.start(TOPOLOGY.format(file=instance.folder / "in.pcap"))
        self.program = build_step(instance.folder / "step")
        self.live = dpsup.connect(instance.name)
        self.rng = rng

    def worker(self, member: int) -> dict[str, Any]:
        found: dict[str, Any] = self.live.status()["groups"][0]["workers"][member]
        return found

    def settle(self) -> None:
        wait_for(lambda: (s := self.live.status())["state"] == "running" and s)
        wait_for(lambda: self.live.status()["groups"][0]["spares_ready"] == 1)

    def where(self, member: int) -> Where:
        pid = self.worker(member)["pid"]
        return {"pid": pid, **step(self.program, pid, "where")}

    def passes(self, member: int) -> None:
        seen = self.worker(member)["rx_packets"]
        wait_for(lambda: self.worker(member)["rx_packets"] > seen + 200)


def do(rig: Rig, name: str, then: int) -> tuple[list[dict[str, Any]], str]:
    """One wild write by fw/0, which then goes on (0) or gets a signal; the events of it, and how
    its death was noticed if it died. Both workers work on afterwards, and nothing is unexplained.
    """
    rig.settle()
    me, other = rig.where(0), rig.where(1)
    log = rig.live.events()
    since = log[-1]["seq"] if log else 0
    traced = Traced(me["pid"])
    for _ in range(1 + rig.rng.randrange(300)):
        traced.step()
    address, data = CASES[name](me, other)
    if name.startswith("robust"):
        with Path(f"/proc/{me['pid']}/mem").open("r+b", buffering=0) as memory:
            memory.seek(address)
            memory.write(data)
    else:
        write_as_seed(me["pid"], address, data)
    traced.let_go(then)

    def dead(pid: int) -> list[str]:
        """By what notice, if it is."""
        events = rig.live.events(since=since)
        return [e["notice"] for e in events if e["type"] == "death" and e["pid"] == pid]

    # What it dies of is found out when the warden looks next, not at once.
    notice = wait_for(lambda: dead(me["pid"]))[0] if then or (name, then) in NOTICES else ""
    rig.passes(0)
    rig.passes(1)
    events = rig.live.events(since=since)
    if not name.startswith("another's"):
        assert not dead(other["pid"]), "the bystander suffered"
    # The next write is to find everything as it should be.
    for one in (me, other) if name.startswith("another's") else (me,):
        if not dead(one["pid"]):
            # It may be dying of what was written.
            with contextlib.suppress(ProcessLookupError):
                os.kill(one["pid"], signal.SIGKILL)
            wait_for(lambda pid=one["pid"]: dead(pid))
    rig.settle()
    assert rig.live.audit()["pools"][0]["unexplained"] == 0
    assert rig.live.status()["generation"] == 1, "the primary suffered"
    return [e for e in events if e["type"] in ("corrupt", "death")], notice


# What is found out, and how.
NOTICES = {
    ("lease: a number", 0): "doubt",
    ("lease: free", 0): "doubt",
    ("lease: all of it", 0): "doubt",
    ("lease: dead", 0): "doubt",
    ("robust list: nowhere", signal.SIGKILL): "pidfd",
    ("robust list: empty", signal.SIGKILL): "pidfd",
    # No notice at all, a crash with it.
    ("robust list: empty", signal.SIGSEGV): "pidfd",
}
# Each of these once ended the primary, or the wrong worker, or kept the place empty.
KNOWN = [("slot's index", 0), ("slot's head", signal.SIGKILL), ("hand: 1", signal.SIGKILL),
         ("groups", signal.SIGKILL), ("core", signal.SIGKILL)]  # fmt: skip


EVERY = [(name, then) for name in CASES for then in (0, signal.SIGKILL, signal.SIGSEGV)]


@pytest.mark.fault(33)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "every",
    [pytest.param(False, id="some"), pytest.param(True, marks=pytest.mark.long, id="every")],
)
def test_wild_writes_are_found_out_or_do_no_harm(instance: Run, every: bool) -> None:
    rng = random.Random(seed())
    known = [*NOTICES, *KNOWN]
    targets = known + EVERY * 3 if every else rng.sample(known, 2) + rng.sample(EVERY, 2)
    rig = Rig(instance, rng)
    for name, then in targets:
        print(f"{name:32} {int(then):2}", end=" ", flush=True)
        events, notice = do(rig, name, then)
        print([(e["type"], e["name"], e.get("notice", "")) for e in events], flush=True)
        if (name, then) in NOTICES:
            assert notice == NOTICES[name, then]


@pytest.mark.long
def test_a_worker_that_says_it_is_a_spare_keeps_its_seat(instance: Run) -> None:
    """Another's death finds it: who has a slot is in the primary's own memory."""
    rig = Rig(instance, random.Random(1))
    for _ in range(3):
        rig.settle()
        me, other = rig.where(0), rig.where(1)
        write_as_seed(me["pid"], me["sitter"] + offset("dps_sitter", "hand"), u32(1))
        os.kill(other["pid"], signal.SIGKILL)
        wait_for(lambda pid=other["pid"]: rig.worker(1)["pid"] not in (pid, None))
        rig.passes(1)
        rig.passes(0)
        assert rig.worker(0)["pid"] == me["pid"]
