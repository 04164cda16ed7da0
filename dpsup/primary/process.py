# SPDX-License-Identifier: BSD-3-Clause
"""The primary: owns EAL, hugepages, pools, ports and every ring, and runs the io cores.

The supervisor starts it with a plan. It lays everything out, says READY, then answers the
supervisor's requests. It never touches a packet, and outlives a supervisor that dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, cast

from dpsup import _abi
from dpsup._build import VERSION
from dpsup.bus.messages import Args, ProtocolError, Request, as_error, want
from dpsup.bus.sockets import Responder
from dpsup.documents.audit import AuditPool
from dpsup.documents.counters import Counters as CountersDocument
from dpsup.documents.counters import Lane, PortInfo
from dpsup.documents.inspect import CaptureRead, CaptureStart, PerfRead, PerfStart
from dpsup.documents.plan import Health, Plan
from dpsup.documents.story import (
    Evidence,
    Hello,
    Locks,
    Sitter,
    Sitters,
    State,
    StatePart,
    Story,
)
from dpsup.errors import DpsupError, Exit, ShimError
from dpsup.host import process, rights
from dpsup.instance.runtime_dir import lock_primary
from dpsup.plan import rights as of
from dpsup.primary.audit import Audit
from dpsup.primary.capture import Capture
from dpsup.primary.counters import Counters
from dpsup.primary.layout import Layout, set_health, version_of
from dpsup.primary.perf import Perf
from dpsup.primary.ports import Ports
from dpsup.primary.shim import check, ffi, fields, lib, reasons_of, text

WHEN_EMPTY = tuple(_abi.DPS_EMPTY_NAMES.values())
PACKET_MOST = 1 << 16  # bytes
EVIDENCE_BYTES = 1 << 20  # of packets, in one reply
STATE_SHOWN = 8 << 10  # bytes of a slot's state in a reply
STATE_REPLY = 256 << 10  # and of all buckets'
LONG = frozenset({"audit"})  # verbs that take up to seconds; they only read


def _story(story: Any) -> Story:
    frames = [f"{story.frame[i]:#x}" for i in range(min(story.n_frames, len(story.frame)))]
    return cast(Story, {**fields(story), "frames": frames})


def _state(get: Any, where: tuple[int, ...], most: int) -> State | None:
    """A block of state, None where no plugin owns it."""
    head = ffi.new("struct dps_state_head *")
    data = ffi.new("uint8_t[]", max(most, 1))
    n = check("state_get", get(*where, head, data, most))
    if head.stamp == 0:
        return None
    version = int(head.stamp) & 0xFFFFFFFF
    return {"version": version, "size": int(head.size), "hex": bytes(data[0:n]).hex()}


class Primary:
    """Everything between EAL's start and its end."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.layout = Layout(plan)
        self.ports = Ports(self.layout)
        self.counters = Counters(self.layout, self.ports.states)
        self.audit = Audit(self.layout, lambda: self.ports.turns)
        self.capture = Capture(plan)
        self.perf = Perf(plan)
        self.stopping = False
        self.rx = False

    # --- requests --------------------------------------------------------------------------------

    def handle(self, request: Request) -> Any:
        method = getattr(self, f"do_{request.verb}", None)
        if method is None:
            raise ProtocolError(f"the primary knows no `{request.verb}`", code="E0903")
        return method(request.args)

    def do_hello(self, _: Args) -> Hello:
        me = process.identify(os.getpid())
        return {
            "pid": me.pid,
            "start": me.start,
            "generation": self.plan["generation"],
            "version": VERSION,
            "abi": int(lib.DPS_ABI_VERSION),
            "dpdk": text(lib.dps_eal_version()),
            "tsc_hz": int(lib.dps_tsc_hz()),
            "notes": self.layout.notes,
            "absent": [name for name, state in self.ports.states().items() if state.absent],
            "ports": [
                self._port_info(name, i)
                for name, i in self.layout.port_index.items()
                if not self.ports.states()[name].absent
            ],
        }

    def _port_info(self, name: str, index: int) -> PortInfo:
        info = ffi.new("struct dps_port_info *")
        check("port_info_get", lib.dps_port_info_get(index, info))
        reta = ffi.new("uint16_t[512]")
        entries = lib.dps_port_reta_get(index, reta, 512)
        mac = bytes(ffi.buffer(info.mac))[:6]
        one = {
            "name": name,
            "driver": text(info.driver),
            "mac": ":".join(f"{b:02x}" for b in mac),
            "note": text(info.note).strip(),
            "reta": list(reta[0 : max(entries, 0)]),
            **fields(info),
        }
        return cast(PortInfo, one)

    def do_rx(self, args: Args) -> None:
        on = want(args, "on", bool)
        check("io_rx", lib.dps_io_rx(on))
        self.rx = on

    def do_prepare(self, args: Args) -> dict[str, int]:
        """Open a slot for its next worker: its berth and ticket, or the pid of its process."""
        slot, core = want(args, "slot", int), want(args, "core", int)
        ticket = ffi.new("uint32_t *")
        ret = lib.dps_slot_prepare(slot, core, ticket)
        if ret == -errno.EBUSY:
            return {"sitting": int(lib.dps_slot_sitter(slot))}
        return {"berth": check("slot_prepare", ret), "ticket": int(ticket[0])}

    def do_spare(self, args: Args) -> dict[str, int]:
        """A berth for a spare of a group."""
        ticket = ffi.new("uint32_t *")
        version = want(args, "version", int, 0)
        ret = lib.dps_spare_prepare(want(args, "group", int), version, ticket)
        return {"berth": check("spare_prepare", ret), "ticket": int(ticket[0])}

    def do_call_off(self, args: Args) -> int:
        """Close a berth whose order failed, unless a process took it with that ticket: its pid; 0:
        none did, nor will; -1: one still may. Without a ticket: any process that may come."""
        berth, ticket = want(args, "berth", int), want(args, "ticket", int, -1)
        ret = 0 if ticket < 0 else lib.dps_sitter_pid(berth, ticket)
        if ret == -errno.ESTALE:
            return 0  # called off before; the berth may be of another order's by now
        pid = check("sitter_pid", ret)
        # A pid in the berth of a process that has not its lease yet may be a stray write's.
        is_over = lib.dps_sitter_fate(berth, pid) == 0
        return 0 if is_over else pid or -1

    def do_fate(self, args: Args) -> bool:
        """Has the warden done what it does about this process's death?"""
        ret = lib.dps_sitter_fate(want(args, "berth", int), want(args, "pid", int))
        return bool(ret != -errno.EAGAIN)

    def do_sitters(self, _: Args) -> Sitters:
        """Which process occupies which slot, and what else a new supervisor needs; told after the
        story `stories`."""
        sitters: list[Sitter] = []
        exits: list[tuple[int, int]] = []
        out = ffi.new("struct dps_sitter_info *")
        for berth in range(int(lib.DPS_MAX_SITTERS)):
            check("sitter_get", lib.dps_sitter_get(berth, out))
            if out.state:
                sitters.append(cast(Sitter, {"berth": berth, **fields(out)}))
            # The seed and any worker can write there, also nonsense.
            if out.exit_pid > 0 and process.is_ending(out.exit_status):
                exits.append((int(out.exit_pid), int(out.exit_status)))
        return {
            "sitters": sitters,
            "exits": exits,
            "rx": self.rx,
            "stories": int(lib.dps_stories()),
        }

    def do_takeovers(self, args: Args) -> None:
        """How many spares may take this slot over before the supervisor is asked; with `failures`,
        only after a worker that did not leave in order."""
        slot, n = want(args, "slot", int), want(args, "n", int)
        failures = want(args, "failures", bool, False)
        check("slot_takeovers", lib.dps_slot_takeovers(slot, n, failures))

    def do_stories(self, args: Args) -> list[Story]:
        """What the wardens did, in order, after the story of that number."""
        told = []
        out = ffi.new("struct dps_story *")
        last = int(lib.dps_stories())
        for seq in range(max(want(args, "since", int), last - int(lib.DPS_STORIES)) + 1, last + 1):
            if lib.dps_story_get(seq, out) == 0:
                told.append(_story(out))
        return told

    def do_quarantine(self, _: Args) -> list[Evidence]:
        """The packets in quarantine, as many as a reply has room for, the oldest first."""
        found: list[Evidence] = []
        names = {index: name for name, index in self.layout.port_index.items()}
        out = ffi.new("struct dps_evidence *")
        room = ffi.new("uint8_t[]", PACKET_MOST)
        left = EVIDENCE_BYTES
        for io in range(len(self.plan["io"])):
            nth = 0
            while left > 0 and (n := self._evidence(io, nth, out, room)) is not None:
                deaths = [_story(ffi.addressof(out.death, d)) for d in range(out.deaths)]
                port = names.get(out.port, "")
                data = bytes(ffi.buffer(room, n)).hex()
                one = {**fields(out), "io": io, "port": port, "deaths": deaths, "bytes": data}
                found.append(cast(Evidence, one))
                left -= n
                nth += 1
        return found

    @staticmethod
    def _evidence(io: int, nth: int, out: Any, room: Any) -> int | None:
        ret = lib.dps_quarantine_get(io, nth, out, room, PACKET_MOST)
        return None if ret == -errno.ENOENT else check("quarantine_get", ret)

    def do_release(self, args: Args) -> None:
        """Free the oldest packets of an io core's in quarantine."""
        io, n = want(args, "io", int), want(args, "n", int)
        check("quarantine_free", lib.dps_quarantine_free(io, n))

    def do_command(self, args: Args) -> None:
        slot, command = want(args, "slot", int), want(args, "command", str)
        code = {"run": lib.DPS_RUN, "stop": lib.DPS_STOP}[command]
        check("slot_command", lib.dps_slot_command(slot, code))

    def do_lane(self, args: Args) -> None:
        check("io_lane", lib.dps_io_lane(want(args, "slot", int)))

    def do_version(self, args: Args) -> bool:
        """Write down a group's next version. False: processes of the one before are still there."""
        group, version = want(args, "group", int), want(args, "version", int)
        conf = version_of(
            {
                "plugin": want(args, "plugin", str),
                "plugin_path": want(args, "plugin_path", str),
                "plugin_copy": want(args, "plugin_copy", str, ""),
                "args": want(args, "args", list),
            }
        )
        # What the one before dropped is counted under its names.
        for slot in range(self.plan["n_slots"]):
            self.counters.fold(slot)
        ret = lib.dps_group_version(group, version, conf)
        if ret == -errno.EBUSY:
            return False
        check("group_version", ret)
        self.counters.reasons.get(group, {}).pop(version, None)
        return True

    def do_versions(self, args: Args) -> list[int]:
        """Which version the processes in these berths have."""
        berths = want(args, "berths", list)
        return [check("sitter_version", lib.dps_sitter_version(b)) for b in berths]

    def do_heir(self, args: Args) -> None:
        """Which version of a group is started, and takes over unasked, from now on."""
        group, version = want(args, "group", int), want(args, "version", int)
        check("group_heir", lib.dps_group_heir(group, version))

    def do_facts(self, args: Args) -> dict[str, int] | None:
        """What the plugin of a ready spare says of itself; None: there is no such spare."""
        facts = ffi.new("struct dps_facts *")
        group, version = want(args, "group", int), want(args, "version", int)
        ret = lib.dps_spare_facts(group, version, facts)
        if ret == -errno.ENOENT:
            return None
        check("spare_facts", ret)
        self.counters.reasons.setdefault(group, {})[version] = reasons_of(facts[0])
        return fields(facts)

    def do_state_lost(self, args: Args) -> dict[str, int] | None:
        """What a version would forget of what its group's blocks hold; None: it has no ready
        spare."""
        facts, lost = ffi.new("struct dps_facts *"), ffi.new("struct dps_state_lost *")
        group, version = want(args, "group", int), want(args, "version", int)
        ret = lib.dps_spare_facts(group, version, facts)
        if ret == -errno.ENOENT:
            return None
        check("spare_facts", ret)
        check("state_lost_get", lib.dps_state_lost_get(group, facts, lost))
        # Stamps: state.c of the worker.
        return {**fields(lost), "to": int(facts.stamp) & 0xFFFFFFFF}

    def do_also(self, args: Args) -> None:
        """What packets for a slot carry in addition to what its plugin asks for."""
        slot, needs = want(args, "slot", int), want(args, "needs", int)
        check("io_lane_also", lib.dps_io_lane_also(slot, needs, want(args, "changes", bool)))

    def do_handover(self, args: Args) -> str:
        """Have the slot's worker make room for a spare of a version: "told"; "nobody":
        the slot is empty; "no spare": none fits."""
        slot, version = want(args, "slot", int), want(args, "version", int)
        ret = lib.dps_slot_handover(slot, version)
        known = {-errno.EBUSY: "nobody", -errno.ENOENT: "no spare"}
        return known.get(ret) or ("told" if check("slot_handover", ret) == 0 else "")

    def do_health(self, args: Args) -> None:
        stall_after, on_stopped = want(args, "stall_after", float), want(args, "on_stopped", str)
        health: Health = {"stall_after": stall_after, "on_stopped": on_stopped}
        set_health(want(args, "group", int), health)

    def do_map(self, args: Args) -> None:
        members = bytes.fromhex(want(args, "map", str))
        empty = WHEN_EMPTY.index(want(args, "when_empty", str, "hold"))
        group = want(args, "group", int)
        check("io_map", lib.dps_io_map(group, members, len(members), empty))

    def do_given_up(self, args: Args) -> None:
        """Are all workers of a group held? Then that is why its packets are dropped."""
        group, on = want(args, "group", int), want(args, "on", bool)
        check("group_given_up", lib.dps_group_given_up(group, on))

    def do_loads(self, args: Args) -> list[int]:
        """Packets steered so far, by bucket, modulo 2^32 in each io core."""
        loads = ffi.new("uint64_t[]", lib.DPS_BUCKETS)
        group = want(args, "group", int)
        check("io_loads", lib.dps_io_loads(group, loads, lib.DPS_BUCKETS))
        return list(loads)

    def do_state(self, args: Args) -> StatePart:
        """What plugins keep in a group: with bucket 0 each slot's block, and as many buckets from
        the one asked for as fit in a reply; `next` is the first that did not."""
        index, first = want(args, "group", int), want(args, "first", int)
        group = self.plan["groups"][index]
        slots = range(group["first_slot"], group["first_slot"] + group["max"])
        most = min(group["state"], STATE_SHOWN)
        end = min(first + max(1, STATE_REPLY // (group["bucket_state"] + 1)), lib.DPS_BUCKETS)
        return {
            "slots": [] if first else [_state(lib.dps_state_get, (s,), most) for s in slots],
            "buckets": [
                _state(lib.dps_bucket_state_get, (index, b), group["bucket_state"])
                for b in range(first, end)
            ],
            "next": end if end < lib.DPS_BUCKETS else None,
        }

    def do_map_read(self, args: Args) -> str:
        """A group's map as it is: the caretaker may have changed it."""
        members = ffi.new("uint8_t[]", lib.DPS_BUCKETS)
        group = want(args, "group", int)
        check("io_map_get", lib.dps_io_map_get(group, members, len(members)))
        return bytes(members).hex()

    def do_requeue(self, args: Args) -> int:
        return check("slot_requeue", lib.dps_slot_requeue(want(args, "slot", int)))

    def do_reset(self, args: Args) -> None:
        check("io_reset", lib.dps_io_reset(want(args, "slot", int)))

    def do_audit(self, _: Args) -> list[AuditPool]:
        return self.audit.take()

    def do_counters(self, _: Args) -> CountersDocument:
        return self.counters.read()

    def do_xstats(self, args: Args) -> dict[str, int] | None:
        port = want(args, "port", str)
        if port not in self.layout.port_index:
            raise ProtocolError(f"args.port: no port {port}")
        return self.counters.xstats(port)

    def do_lanes(self, _: Args) -> list[Lane]:
        return self.counters.lanes()

    def do_test_leak(self, args: Args) -> None:
        """Forget one mbuf, for tests of the audit: refused unless the instance was started with
        DPSUP_TEST_LEAK=1. Nothing of dpsup asks for it."""
        check("test_leak", lib.dps_test_leak(want(args, "slot", int)), "test_leak")

    def do_heap(self, _: Args) -> int | None:
        """Bytes allocated in EAL's heaps; None where a lock of theirs is held, and stays so."""
        used = ffi.new("uint64_t *")
        ret = lib.dps_heap_used(used)
        return None if ret == -errno.EDEADLK else int(check("heap_used", ret) or used[0])

    def do_locks(self, args: Args) -> Locks | None:
        """Give back locks of EAL's that the dead hold. `seed` is ready or dead; `attach`: another
        one is about to start, so look closely."""
        seed, attach = want(args, "seed", int), want(args, "attach", bool)
        if attach:
            # The next seed will read it.
            lib.dps_ctl_restore()
        if self.layout.attachments is None:
            return None
        if attach:
            return self.layout.attachments.put_right(seed)
        return self.layout.attachments.review(seed)

    # What `dpsup capture` and `dpsup perf` ask for.

    def do_capture_start(self, args: Args) -> CaptureStart:
        for slot in range(self.plan["n_slots"]):
            self.counters.fold(slot)
        reasons = {g: self.counters.reasons.get(g, {}) for g in range(len(self.plan["groups"]))}
        return self.capture.start(args, self.layout.port_index, time.monotonic(), reasons)

    def do_capture_read(self, args: Args) -> CaptureRead:
        found = self.capture.read(args, time.monotonic())
        for slot in self.capture.slots:
            self.counters.fold(slot)
        return {**found, "reasons": self.counters.reasons}

    def do_capture_keep(self, args: Args) -> None:
        self.capture.keep(args, time.monotonic())

    def do_capture_end(self, args: Args) -> None:
        self.capture.end(args, time.monotonic())

    def do_perf_start(self, args: Args) -> PerfStart:
        return self.perf.start(args, time.monotonic())

    def do_perf_read(self, args: Args) -> PerfRead:
        return self.perf.read(args, time.monotonic())

    def do_perf_end(self, args: Args) -> None:
        self.perf.end(args, time.monotonic())

    def maintain(self, ready: set[int]) -> None:
        """See how the ports are, and turn off what no client asks for any more."""
        self.ports.observe(time.monotonic(), news=self.ports.fd in ready)
        self.layout.kernel.observe(self.ports.states(), time.monotonic())
        for one in (self.capture, self.perf):
            with contextlib.suppress(ShimError):  # tried again at the next look
                one.expire(time.monotonic())

    def do_stop(self, _: Args) -> None:
        self.stopping = True

    # --- stop ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Bounded: the io cores free what they hold, ports are closed."""
        check("io_stop", lib.dps_io_stop(), "io cores do not stop")
        lib.dps_eal_stop()


def _say(notify: int, text: str) -> None:
    os.write(notify, f"{text}\n".encode())
    os.close(notify)


def main(argv: list[str]) -> int:
    plan_file, _, notify_fd = argv
    plan: Plan = json.loads(Path(plan_file).read_text())
    notify = int(notify_fd)
    # Until the primary is ready, no other process can use it.
    process.die_with_parent(yes=True)
    if not process.is_read(notify):
        return int(Exit.FAILED)
    rights.keep(of.mask(of.primary(plan)))
    process.pin(tuple(plan["supervisor_cores"]))
    with contextlib.suppress(OSError):  # a full disk; its pid says the same in most cases
        lock_primary(Path(plan_file).parent)  # until the end of this process
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    asked_to_end: list[int] = []
    process.ignore_accidents()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(sig, lambda s, _: asked_to_end.append(s))
    signal.set_wakeup_fd(wake_w)

    primary = Primary(plan)
    try:
        primary.layout.create()
        primary.ports.begin(time.monotonic())
        responder = Responder(f"{plan['runtime_dir']}/primary.sock", primary.handle, LONG)
    except DpsupError as e:
        _say(notify, "REFUSED " + json.dumps(as_error(e)))
        return int(Exit.FAILED)
    responder.watch(wake_r)
    if primary.ports.fd >= 0:
        responder.watch(primary.ports.fd)
    process.die_with_parent(yes=False)
    try:
        _say(notify, "READY")
    except BrokenPipeError:
        primary.stopping = True
    while not primary.stopping and not asked_to_end:
        # Handlers of signals run between two polls at the latest; the bound is for nothing else.
        ready = responder.poll(1.0)
        if wake_r in ready:
            os.read(wake_r, 64)
        primary.maintain(ready)
    responder.finish()  # before the memory goes that it reads
    primary.stop()
    responder.close()
    return 0


def plan_document(plan: Any) -> str:
    """A plan as the primary reads it."""
    return json.dumps(dataclasses.asdict(plan))
