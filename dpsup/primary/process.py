# SPDX-License-Identifier: BSD-3-Clause
"""The primary: owns EAL, hugepages, pools, ports and every ring, and runs the io cores.

Started by the supervisor with a plan; lays everything out, says READY, then answers the
supervisor's requests. It never touches a packet, and outlives a supervisor that dies. The one
module that imports the C shim.
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
from typing import Any

from dpsup import _abi
from dpsup._build import VERSION
from dpsup._shim import ffi, lib
from dpsup.bus.messages import ProtocolError, Request, as_error, want
from dpsup.bus.sockets import Responder
from dpsup.errors import DpsupError, Exit, ShimError
from dpsup.host import process
from dpsup.primary.capture import Mirror, Perf
from dpsup.primary.eal_locks import Attachments

# Microsoft's example key ("Verifying the RSS hash calculation"), the default of most NICs.
MICROSOFT_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
# One 16-bit word repeated: both directions of a flow hash alike (Woo and Park, 2012).
SYMMETRIC_KEY = bytes.fromhex("6d5a") * 20

DROPS = tuple(_abi.DPS_DROP_NAMES.values())
WHEN_EMPTY = tuple(_abi.DPS_EMPTY_NAMES.values())
PACKET_MOST = 1 << 16  # bytes
EVIDENCE_BYTES = 1 << 20  # of packets, in one reply
PLACES = {**_abi.DPS_PLACE_NAMES, _abi.DPS_PLACE_BACK: "handed_back"}
STATE_SHOWN = 8 << 10  # bytes of a slot's state in a reply
STATE_REPLY = 256 << 10  # and of all buckets'
STAGES = tuple(_abi.DPS_STAGE_NAMES.values())
_RSS = {
    "ipv4": _abi.DPS_RSS_IPV4,
    "ipv6": _abi.DPS_RSS_IPV6,
    "tcp": _abi.DPS_RSS_TCP,
    "udp": _abi.DPS_RSS_UDP,
    "sctp": _abi.DPS_RSS_SCTP,
    "vxlan": _abi.DPS_RSS_VXLAN,
    "geneve": _abi.DPS_RSS_GENEVE,
    "gre": _abi.DPS_RSS_GRE,
    "gtpu": _abi.DPS_RSS_GTPU,
}


def rss_key(spec: str) -> bytes:
    """The bytes of a key given as "symmetric", "default" or hex digits."""
    if spec == "symmetric":
        return SYMMETRIC_KEY
    return MICROSOFT_KEY if spec == "default" else bytes.fromhex(spec)


def rss_types(fields: list[str]) -> int:
    return sum(_RSS[f] for f in fields)


def _check(call: str, ret: int, message: str = "", help: str = "") -> int:
    """The one funnel from -errno to an error for people."""
    if ret >= 0:
        return ret
    text = ffi.string(lib.dps_strerror(-ret)).decode()
    raise ShimError(call, -ret, f"{message or call}: {text}", help=help)


def _text(chars: Any) -> str:
    return ffi.string(chars).decode(errors="replace")  # type: ignore[no-any-return]


def _fields(struct: Any) -> dict[str, Any]:
    """Integer fields of a cffi struct."""
    return {
        name: int(getattr(struct, name))
        for name, field in ffi.typeof(struct[0]).fields
        if field.type.kind == "primitive"
    }


def _verdict(hops: list[list[Any]], port: int) -> int:
    """The verdict that takes a packet of that input port to its next hop."""
    kind, index = hops[port] if port < len(hops) else ("", -1)
    kinds = {"port": lib.DPS_V_OUT, "group": lib.DPS_V_GROUP}
    return int(kinds[kind] | index) if kind else int(lib.DPS_NOWHERE)


def _story(story: Any) -> dict[str, Any]:
    frames = [f"{story.frame[i]:#x}" for i in range(story.n_frames)]
    return {**_fields(story), "frames": frames}


def _reasons(facts: Any) -> list[str]:
    return [_text(facts.reason[r]) for r in range(min(facts.n_reasons, lib.DPS_REASONS))]


def _state(get: Any, where: tuple[int, ...], most: int) -> dict[str, Any] | None:
    """A block of state, None where it is nobody's."""
    head = ffi.new("struct dps_state_head *")
    data = ffi.new("uint8_t[]", max(most, 1))
    n = _check("state_get", get(*where, head, data, most))
    if head.stamp == 0:
        return None
    version = int(head.stamp) & 0xFFFFFFFF
    return {"version": version, "size": int(head.size), "hex": bytes(data[0:n]).hex()}


def flat_args(args: list[list[str]]) -> bytes:
    """A group's arguments as the ABI has them: key NUL value NUL ..."""
    return b"".join(f"{k}\0{v}\0".encode() for k, v in args)


def _version(group: dict[str, Any]) -> Any:
    """A plugin with its arguments, as the ABI has them."""
    conf = ffi.new("struct dps_version *")
    conf.plugin = (group["plugin_path"] or group["plugin"]).encode()
    conf.builtin = not group["plugin_path"]
    conf.n_args = len(group["args"])
    conf.args = flat_args(group["args"]).ljust(lib.DPS_ARGS, b"\0")
    return conf


@dataclasses.dataclass
class Drops:
    """What a slot's plugins dropped, by their names for it."""

    counted: list[int] = dataclasses.field(default_factory=list)  # by version and number, so far
    by_name: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, names: dict[int, list[str]], counts: list[int]) -> dict[str, int]:
        """`counts` of all time; `names` of each version's reasons."""
        each = len(counts) // int(lib.DPS_VERSIONS)
        before = self.counted or [0] * len(counts)
        for i, (old, new) in enumerate(zip(before, counts, strict=True)):
            known, r = names.get(i // each, []), i % each
            if new > old:
                name = known[r] if r < len(known) else f"reason_{r}"
                self.by_name[name] = self.by_name.get(name, 0) + new - old
        self.counted = counts
        return dict(self.by_name)


class Primary:
    """Everything between EAL's start and its end."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.notes: list[str] = []
        self.absent: list[str] = []  # ports that were not required and are not there
        self.port_index: dict[str, int] = {}
        self.drops: dict[int, Drops] = {}  # by slot
        self.reasons: dict[int, dict[int, list[str]]] = {}  # by group and version
        self.stopping = False
        self.rx = False
        self.attachments: Attachments | None = None
        self.mirror = Mirror(lib, ffi, _check, plan)
        self.perf = Perf(lib, ffi, _check, plan)

    # --- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        plan = self.plan
        argv = [ffi.new("char[]", a.encode()) for a in ("dpsup", *plan["eal_args"])]
        _check(
            "eal_start",
            lib.dps_eal_start(len(argv), ffi.new("char *[]", argv)),
            "EAL did not start",
            help="`dpsup logs` or the lines above have EAL's own words",
        )
        for pool in plan["pools"]:
            self._pool(pool)
        _check("ctl_create", lib.dps_ctl_create(plan["generation"], len(plan["io"])))
        self._attachments()
        for port in plan["ports"]:
            self._port(port)
        self._start_ports()
        self._hash()
        for i, group in enumerate(plan["groups"]):
            self._group(i, group)
        slot = 0
        for i, group in enumerate(plan["groups"]):
            for member in range(group["max"]):
                _check(
                    "slot_create",
                    lib.dps_slot_create(slot, i, member),
                    f"no memory for slot {group['name']}/{member}",
                )
                slot += 1
        for io in plan["io"]:
            _check(
                "io_create",
                lib.dps_io_create(io["index"], io["lcore"], io["burst"], io["idle"] == "adaptive"),
                f"io core {io['core']}",
            )
        _check("ctl_publish", lib.dps_ctl_publish())
        _check("io_start", lib.dps_io_start())

    def _attachments(self) -> None:
        """Find EAL's locks while nobody else attaches."""
        if lib.dps_locks_find() < 0:
            self.notes.append("EAL's locks were not found: one held by the dead is only waited for")
            return
        words = ffi.new("uint32_t[]", int(lib.DPS_LOCKS_MOST))
        total = ffi.new("uint64_t *")

        def read() -> list[int]:
            return list(words[0 : _check("locks_read", lib.dps_locks_read(words))])

        def release(lock: int, word: int) -> bool:
            ret = lib.dps_lock_release(lock, word)
            return ret != -errno.EAGAIN and _check("lock_release", ret) == 0

        def guarded(lock: int) -> int:
            _check("lock_guards", lib.dps_lock_guards(lock, total))
            return int(total[0])

        folder = Path(_text(lib.dps_eal_dir()))
        program = Path(__file__).parents[1] / "dpsup-worker"
        self.attachments = Attachments(folder, program, read, release, guarded)

    def _pool(self, pool: dict[str, Any]) -> None:
        conf = ffi.new("struct dps_pool_conf *")
        conf.name = pool["name"].encode()
        for key in ("mbufs", "data_room", "cache", "numa", "page_size"):
            setattr(conf, key, pool[key])
        _check(
            "pool_create",
            lib.dps_pool_create(conf),
            f'mempool "{pool["name"]}" of {pool["mbufs"]} mbufs',
            help='more [host] hugepages, or fewer mbufs; "auto" computes what is needed',
        )

    def _port(self, port: dict[str, Any]) -> None:
        conf = ffi.new("struct dps_port_conf *")
        key = rss_key(port["rss_key"])
        conf.name = port["name"].encode()
        conf.device = port["device"].encode()
        conf.vdev = port["vdev"].encode()
        conf.pool = port["pool"]
        conf.rx_desc = port["rx_desc"]
        conf.tx_desc = port["tx_desc"]
        for name in ("rx_free", "rx_drop", "tx_free"):
            setattr(conf, name, -1 if port[name] is None else int(port[name]))
        conf.mtu = port["mtu"]
        conf.promiscuous = port["promiscuous"]
        conf.rss_types = rss_types(port["rss_fields"])
        conf.key_len = len(key)
        conf.key = key.ljust(lib.DPS_KEY, b"\0")
        conf.group = port["group"]
        group = self.plan["groups"][port["group"]] if port["group"] >= 0 else None
        conf.hold = group is not None and group["on_full"] == "hold"
        why = ffi.new("char[]", lib.DPS_TEXT)
        ret = lib.dps_port_create(conf, len(self.plan["io"]), why)
        if ret < 0 and not port["required"]:
            self._absent(port["name"], _text(why))
            index = _check("port_absent", lib.dps_port_absent())
            _check("ctl_port", lib.dps_ctl_port(index, port["name"].encode()))
            return
        said = _text(why)
        _check(
            "port_create",
            ret,
            f'port "{port["name"]}" ({port["device"]})' + (f": {said}" if said else ""),
            help="required = false starts without it",
        )
        self.port_index[port["name"]] = ret
        _check("ctl_port", lib.dps_ctl_port(ret, port["name"].encode()))

    def _absent(self, name: str, why: str) -> None:
        self.absent.append(name)
        self.notes.append(f'port "{name}" is not there: {why}')

    def _start_ports(self) -> None:
        """Before the io cores are made: they learn only of ports that are there."""
        for port in self.plan["ports"]:
            name = port["name"]
            if name not in self.port_index:
                continue
            ret = lib.dps_port_start(self.port_index[name])
            if ret < 0 and not port["required"]:
                del self.port_index[name]
                self._absent(name, "it does not start")
            else:
                _check("port_start", ret, f'port "{name}" does not start')

    def _hash(self) -> None:
        """Software hashing, for what drivers do not hash: one key and field set for all ports."""
        ports = self.plan["ports"]
        first = next((p for p in ports if p["group"] >= 0), ports[0])
        key = rss_key(first["rss_key"])
        _check("hash_conf", lib.dps_hash_conf(key, len(key), rss_types(first["rss_fields"])))

    def _group(self, index: int, group: dict[str, Any]) -> None:
        conf = ffi.new("struct dps_group_conf *")
        conf.name = group["name"].encode()
        conf.adaptive = any(io["idle"] == "adaptive" for io in self.plan["io"])
        conf.first_slot = group["first_slot"]
        conf.max = group["max"]
        conf.ring = group["ring"]
        conf.hold = group["on_full"] == "hold"
        conf.reach = sum(1 << g for g in group["reach"])
        conf.next = [_verdict(group["next"], port) for port in range(lib.DPS_MAX_PORTS)]
        conf.state = group["state"]
        conf.bucket_state = group["bucket_state"]
        _check("ctl_group", lib.dps_ctl_group(index, conf))
        _check("group_version", lib.dps_group_version(index, 0, _version(group)))
        self._health(index, group)
        _check("group_lend", lib.dps_group_lend(index, int(group["lend_after"] * 1e9)))

    @staticmethod
    def _health(index: int, group: dict[str, Any]) -> None:
        stall_ns = max(1, int(group["stall_after"] * 1e9))
        kill = group["on_stopped"] == "kill"
        _check("group_health", lib.dps_group_health(index, stall_ns, kill))

    # --- requests --------------------------------------------------------------------------------

    def handle(self, request: Request) -> Any:
        method = getattr(self, f"do_{request.verb}", None)
        if method is None:
            raise ProtocolError(f"the primary knows no `{request.verb}`", code="E0903")
        return method(request.args)

    def do_hello(self, _: dict[str, Any]) -> dict[str, Any]:
        me = process.identify(os.getpid())
        return {
            "pid": me.pid,
            "start": me.start,
            "generation": self.plan["generation"],
            "version": VERSION,
            "abi": int(lib.DPS_ABI_VERSION),
            "dpdk": _text(lib.dps_eal_version()),
            "tsc_hz": int(lib.dps_tsc_hz()),
            "notes": self.notes,
            "absent": self.absent,
            "ports": [self._port_info(name, i) for name, i in self.port_index.items()],
        }

    def _port_info(self, name: str, index: int) -> dict[str, Any]:
        info = ffi.new("struct dps_port_info *")
        _check("port_info_get", lib.dps_port_info_get(index, info))
        reta = ffi.new("uint16_t[512]")
        entries = lib.dps_port_reta_get(index, reta, 512)
        mac = bytes(ffi.buffer(info.mac))[:6]
        return {
            "name": name,
            "driver": _text(info.driver),
            "mac": ":".join(f"{b:02x}" for b in mac),
            "note": _text(info.note).strip(),
            "reta": list(reta[0 : max(entries, 0)]),
            **_fields(info),
        }

    def do_rx(self, args: dict[str, Any]) -> None:
        on = want(args, "on", bool)
        _check("io_rx", lib.dps_io_rx(on))
        self.rx = on

    def do_prepare(self, args: dict[str, Any]) -> dict[str, int]:
        """Open a slot for its next worker: its berth and ticket, or the pid of who sits there."""
        slot, core = want(args, "slot", int), want(args, "core", int)
        ticket = ffi.new("uint32_t *")
        ret = lib.dps_slot_prepare(slot, core, ticket)
        if ret == -errno.EBUSY:
            return {"sitting": int(lib.dps_slot_sitter(slot))}
        return {"berth": _check("slot_prepare", ret), "ticket": int(ticket[0])}

    def do_spare(self, args: dict[str, Any]) -> dict[str, int]:
        """A berth for a spare of a group."""
        ticket = ffi.new("uint32_t *")
        version = want(args, "version", int, 0)
        ret = lib.dps_spare_prepare(want(args, "group", int), version, ticket)
        return {"berth": _check("spare_prepare", ret), "ticket": int(ticket[0])}

    def do_call_off(self, args: dict[str, Any]) -> int:
        """Close a berth whose order failed, unless somebody came to it for that ticket: their pid;
        0: nobody did, nor will; -1: somebody still may. Without a ticket: whoever may come."""
        berth, ticket = want(args, "berth", int), want(args, "ticket", int, -1)
        pid = 0 if ticket < 0 else _check("sitter_pid", lib.dps_sitter_pid(berth, ticket))
        if pid == 0 and lib.dps_sitter_fate(berth, 0) != 0:
            return -1
        return pid

    def do_fate(self, args: dict[str, Any]) -> bool:
        """Has the warden done what it does about this process's death?"""
        ret = lib.dps_sitter_fate(want(args, "berth", int), want(args, "pid", int))
        return bool(ret != -errno.EAGAIN)

    def do_sitters(self, _: dict[str, Any]) -> dict[str, Any]:
        """Who sits where, and what else a new supervisor needs; told after the story `stories`."""
        sitters, exits = [], []
        out = ffi.new("struct dps_sitter_info *")
        for berth in range(int(lib.DPS_MAX_SITTERS)):
            _check("sitter_get", lib.dps_sitter_get(berth, out))
            if out.state:
                sitters.append({"berth": berth, **_fields(out)})
            if out.exit_pid:
                exits.append([int(out.exit_pid), int(out.exit_status)])
        return {
            "sitters": sitters,
            "exits": exits,
            "rx": self.rx,
            "stories": int(lib.dps_stories()),
        }

    def do_takeovers(self, args: dict[str, Any]) -> None:
        """How many spares may take this slot over before the supervisor is asked; with `failures`,
        only after a worker that did not leave in order."""
        slot, n = want(args, "slot", int), want(args, "n", int)
        failures = want(args, "failures", bool, False)
        _check("slot_takeovers", lib.dps_slot_takeovers(slot, n, failures))

    def do_stories(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        """What the wardens did, in order, after the story of that number."""
        told = []
        out = ffi.new("struct dps_story *")
        last = int(lib.dps_stories())
        for seq in range(max(want(args, "since", int), last - int(lib.DPS_STORIES)) + 1, last + 1):
            if lib.dps_story_get(seq, out) == 0:
                told.append(_story(out))
        return told

    def do_quarantine(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        """The packets in quarantine, as many as a reply has room for, the oldest first."""
        found: list[dict[str, Any]] = []
        names = {index: name for name, index in self.port_index.items()}
        out = ffi.new("struct dps_evidence *")
        room = ffi.new("uint8_t[]", PACKET_MOST)
        left = EVIDENCE_BYTES
        for io in range(len(self.plan["io"])):
            nth = 0
            while left > 0 and (n := self._evidence(io, nth, out, room)) is not None:
                deaths = [_story(ffi.addressof(out.death, d)) for d in range(out.deaths)]
                port = names.get(out.port, "")
                data = bytes(ffi.buffer(room, n)).hex()
                found.append(
                    {**_fields(out), "io": io, "port": port, "deaths": deaths, "bytes": data}
                )
                left -= n
                nth += 1
        return found

    @staticmethod
    def _evidence(io: int, nth: int, out: Any, room: Any) -> int | None:
        ret = lib.dps_quarantine_get(io, nth, out, room, PACKET_MOST)
        return None if ret == -errno.ENOENT else _check("quarantine_get", ret)

    def do_release(self, args: dict[str, Any]) -> None:
        """Free the oldest packets of an io core's in quarantine."""
        io, n = want(args, "io", int), want(args, "n", int)
        _check("quarantine_free", lib.dps_quarantine_free(io, n))

    def do_command(self, args: dict[str, Any]) -> None:
        slot, command = want(args, "slot", int), want(args, "command", str)
        code = {"run": lib.DPS_RUN, "stop": lib.DPS_STOP}[command]
        _check("slot_command", lib.dps_slot_command(slot, code))

    def do_lane(self, args: dict[str, Any]) -> None:
        _check("io_lane", lib.dps_io_lane(want(args, "slot", int)))

    def do_version(self, args: dict[str, Any]) -> bool:
        """Write down a group's next version. False: processes of the one before are still there."""
        group, version = want(args, "group", int), want(args, "version", int)
        keys = {"plugin": str, "plugin_path": str, "args": list}
        conf = _version({k: want(args, k, kind) for k, kind in keys.items()})
        # What the one before dropped is counted under its names.
        for slot in range(self.plan["n_slots"]):
            self._fold(slot)
        ret = lib.dps_group_version(group, version, conf)
        if ret == -errno.EBUSY:
            return False
        _check("group_version", ret)
        self.reasons.get(group, {}).pop(version, None)
        return True

    def do_versions(self, args: dict[str, Any]) -> list[int]:
        """Which version the processes in these berths have."""
        berths = want(args, "berths", list)
        return [_check("sitter_version", lib.dps_sitter_version(b)) for b in berths]

    def do_heir(self, args: dict[str, Any]) -> None:
        """Which version of a group is started, and takes over unasked, from now on."""
        group, version = want(args, "group", int), want(args, "version", int)
        _check("group_heir", lib.dps_group_heir(group, version))

    def do_facts(self, args: dict[str, Any]) -> dict[str, Any] | None:
        """What the plugin of a ready spare says of itself; None: there is no such spare."""
        facts = ffi.new("struct dps_facts *")
        group, version = want(args, "group", int), want(args, "version", int)
        ret = lib.dps_spare_facts(group, version, facts)
        if ret == -errno.ENOENT:
            return None
        _check("spare_facts", ret)
        self.reasons.setdefault(group, {})[version] = _reasons(facts[0])
        return _fields(facts)

    def do_also(self, args: dict[str, Any]) -> None:
        """What packets for a slot carry beside what its plugin asks for."""
        slot, needs = want(args, "slot", int), want(args, "needs", int)
        _check("io_lane_also", lib.dps_io_lane_also(slot, needs, want(args, "changes", bool)))

    def do_handover(self, args: dict[str, Any]) -> str:
        """Have the slot's worker make room for a spare of a version: "told", or "nobody" sits
        there, or there is "no spare" that fits."""
        slot, version = want(args, "slot", int), want(args, "version", int)
        ret = lib.dps_slot_handover(slot, version)
        known = {-errno.EBUSY: "nobody", -errno.ENOENT: "no spare"}
        return known.get(ret) or ("told" if _check("slot_handover", ret) == 0 else "")

    def do_health(self, args: dict[str, Any]) -> None:
        keys = {"stall_after": float, "on_stopped": str}
        self._health(want(args, "group", int), {k: want(args, k, v) for k, v in keys.items()})

    def do_map(self, args: dict[str, Any]) -> None:
        members = bytes.fromhex(want(args, "map", str))
        empty = WHEN_EMPTY.index(want(args, "when_empty", str, "hold"))
        group = want(args, "group", int)
        _check("io_map", lib.dps_io_map(group, members, len(members), empty))

    def do_loads(self, args: dict[str, Any]) -> list[int]:
        """Packets steered so far, by bucket, modulo 2^32 in each io core."""
        loads = ffi.new("uint64_t[]", lib.DPS_BUCKETS)
        group = want(args, "group", int)
        _check("io_loads", lib.dps_io_loads(group, loads, lib.DPS_BUCKETS))
        return list(loads)

    def do_state(self, args: dict[str, Any]) -> dict[str, Any]:
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

    def do_map_read(self, args: dict[str, Any]) -> str:
        """A group's map as it is: the lender may have changed it."""
        members = ffi.new("uint8_t[]", lib.DPS_BUCKETS)
        group = want(args, "group", int)
        _check("io_map_get", lib.dps_io_map_get(group, members, len(members)))
        return bytes(members).hex()

    def do_requeue(self, args: dict[str, Any]) -> int:
        return _check("slot_requeue", lib.dps_slot_requeue(want(args, "slot", int)))

    def do_reset(self, args: dict[str, Any]) -> None:
        _check("io_reset", lib.dps_io_reset(want(args, "slot", int)))

    def do_audit(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        pools = []
        for i, pool in enumerate(self.plan["pools"]):
            out = ffi.new("struct dps_audit *")
            # Several io cores answer one after the other: what moves between them meanwhile may
            # be counted twice or not at all, a leak is there each time.
            for _try in range(1 if len(self.plan["io"]) == 1 else 20):
                _check("audit_get", lib.dps_audit_get(i, out))
                if out.unexplained == 0:
                    break
            found = {"name": pool["name"], **_fields(out), "moving": 0, "strays": []}
            found["places"] = self._places(i)
            if out.unexplained:
                self._search(i, found)
            pools.append(found)
        return pools

    def _worker_name(self, slot: int) -> str | None:
        for group in self.plan["groups"]:
            member = slot - group["first_slot"]
            if 0 <= member < group["max"]:
                return f"{group['name']}/{member}"
        return None

    def _port_name(self, index: int) -> str | None:
        return next((name for name, i in self.port_index.items() if i == index), None)

    def _places(self, pool: int) -> list[dict[str, Any]]:
        """Where its mbufs are, io core by io core; then what each port's driver may have."""
        out = ffi.new("struct dps_audit_place[4096]")
        n = _check("audit_places", lib.dps_audit_places(pool, out, 4096))
        places = []
        for at in out[0:n]:
            place = PLACES[at.place]
            places.append(
                {"io": int(at.io), "place": place, "of": self._of(place, at.index),
                 "mbufs": int(at.mbufs)}
            )  # fmt: skip
        return places

    def _of(self, place: str, index: int) -> str | None:
        if place in ("lent", "handed_back"):
            return self._worker_name(index)
        if place in ("again", "front", "held"):
            return str(self.plan["groups"][index]["name"])
        if place == "tx":
            return self._port_name(index)
        return f"io/{index}" if place == "xfer" else None

    def _search(self, pool: int, found: dict[str, Any]) -> None:
        """It does not add up: look for each single mbuf. With several io cores, that one was on its
        way between their answers is no fault: those are `moving`."""
        out = ffi.new("struct dps_stray[]", lib.DPS_STRAYS)
        fresh = ffi.new("uint32_t *")
        nowhere = _check("audit_search", lib.dps_audit_search(pool, out, lib.DPS_STRAYS, fresh))
        if len(self.plan["io"]) > 1:
            lost = max(0, nowhere - found["rx_rings"] - found["tx_rings"])
            found["moving"] = found["unexplained"] - lost
            found["unexplained"] = lost
        if found["unexplained"] <= 0:
            return
        # What a driver took meanwhile is nowhere too, and no different: all are suspects then.
        certain = fresh[0] == found["unexplained"]
        for stray in out[0 : min(nowhere, lib.DPS_STRAYS, max(fresh[0], found["unexplained"]))]:
            found["strays"].append({**self._stray(stray), "certain": certain})

    def _stray(self, stray: Any) -> dict[str, Any]:
        return {
            "address": f"{stray.address:#x}",
            "holder": self._worker_name(stray.slot) if stray.by else None,
            "holder_by": {lib.DPS_STRAY_BY_LANE: "lane", lib.DPS_STRAY_BY_BUCKET: "bucket"}.get(
                stray.by
            ),
            "port": self._port_name(stray.port),
            "io": int(stray.io),
            "packets_since": int(stray.ago) if stray.by == lib.DPS_STRAY_BY_LANE else None,
            "length": int(stray.length),
            "refcnt": int(stray.refcnt),
            "bytes": bytes(ffi.buffer(stray.bytes))[: stray.n_bytes].hex(),
        }

    def do_test_leak(self, args: dict[str, Any]) -> None:
        """Forget one mbuf, for tests of the audit: refused unless the instance was started with
        DPSUP_TEST_LEAK=1. Nothing of dpsup asks for it."""
        _check("test_leak", lib.dps_test_leak(want(args, "slot", int)), "test_leak")

    def do_counters(self, _: dict[str, Any]) -> dict[str, Any]:
        """Everything that is counted, read after the request came; `at_ns` is when."""
        at = time.monotonic_ns()
        ports = []
        for name, i in self.port_index.items():
            stats = ffi.new("struct dps_port_stats *")
            _check("port_stats_get", lib.dps_port_stats_get(i, stats))
            info = ffi.new("struct dps_port_info *")
            _check("port_info_get", lib.dps_port_info_get(i, info))
            drops = {DROPS[d]: int(n) for d, n in enumerate(stats.drops) if n}
            link = {"link_up": bool(info.link_up), "link_mbps": int(info.link_mbps)}
            ports.append({"name": name, "drops": drops, **link, **_fields(stats)})
        return {
            "at_ns": at,
            "generation": self.plan["generation"],
            "ports": ports,
            "pools": [self._pool_stats(i, p["name"]) for i, p in enumerate(self.plan["pools"])],
            "io": [self._io_stats(io) for io in self.plan["io"]],
            "groups": [self._group_stats(i) for i in range(len(self.plan["groups"]))],
            "slots": [self._slot(i) for i in range(self.plan["n_slots"])],
        }

    def do_heap(self, _: dict[str, Any]) -> int | None:
        """Bytes allocated in EAL's heaps; None where a lock of theirs is held, and stays so."""
        used = ffi.new("uint64_t *")
        ret = lib.dps_heap_used(used)
        return None if ret == -errno.EDEADLK else int(_check("heap_used", ret) or used[0])

    def do_locks(self, args: dict[str, Any]) -> dict[str, Any] | None:
        """Give back locks of EAL's that the dead hold. `seed` is ready or dead; `attach`: another
        one is about to start, so look closely."""
        if self.attachments is None:
            return None
        seed = want(args, "seed", int)
        if want(args, "attach", bool):
            return self.attachments.put_right(seed)
        return self.attachments.look(seed)

    def _pool_stats(self, index: int, name: str) -> dict[str, Any]:
        stats = ffi.new("struct dps_pool_stats *")
        _check("pool_stats_get", lib.dps_pool_stats_get(index, stats))
        return {"name": name, **_fields(stats)}

    def _io_stats(self, io: dict[str, Any]) -> dict[str, Any]:
        stats = ffi.new("struct dps_io_stats *")
        _check("io_stats_get", lib.dps_io_stats_get(io["index"], stats))
        stages = {name: int(stats.stage[i]) for i, name in enumerate(STAGES)}
        return {"core": io["core"], **_fields(stats), "stage_cycles": stages}

    def _group_stats(self, index: int) -> dict[str, Any]:
        stats = ffi.new("struct dps_group_stats *")
        _check("group_stats_get", lib.dps_group_stats_get(index, stats))
        return {**_fields(stats), "pause": [int(n) for n in stats.pause]}

    def _slot(self, index: int) -> dict[str, Any]:
        slot = ffi.new("struct dps_slot *")
        _check("slot_read", lib.dps_slot_read(index, slot))
        lane = ffi.new("struct dps_lane_stats *")
        _check("lane_stats_get", lib.dps_lane_stats_get(index, lane))
        counters = {
            name: int(slot.counter[c])
            for c, chars in enumerate(slot.counter_name)
            if (name := _text(chars))
        }
        return {
            "pid": int(lib.dps_slot_sitter(index)),
            "version": int(lib.dps_slot_version(index)),
            "needs": int(slot.facts.needs),
            "changes": bool(slot.facts.rewrites + slot.facts.prepends),
            "beats": int(slot.beats),
            "bursts": int(slot.bursts),
            "busy": int(slot.busy),
            "perf": int(slot.perf),  # not 0: measured just now
            "ready_ns": int(slot.ready_ns),
            "first_ns": int(slot.first_ns),
            "dropped": self._fold(index, slot, lane),
            "counters": counters,
            **_fields(lane),
        }

    def do_lanes(self, _: dict[str, Any]) -> list[dict[str, int]]:
        """Each lane that packets went through, io core by io core."""
        found = []
        lane = ffi.new("struct dps_lane_stats *")
        for io in self.plan["io"]:
            for slot in range(self.plan["n_slots"]):
                _check("lane_of_io", lib.dps_lane_of_io(io["index"], slot, lane))
                if lane.sent:
                    found.append({"io": io["index"], "slot": slot, **_fields(lane)})
        return found

    def _fold(self, index: int, slot: Any = None, lane: Any = None) -> dict[str, int]:
        """A slot's drops by the plugins' names for them. Another version may have other names for
        the same numbers."""
        if slot is None:
            slot = ffi.new("struct dps_slot *")
            _check("slot_read", lib.dps_slot_read(index, slot))
            lane = ffi.new("struct dps_lane_stats *")
            _check("lane_stats_get", lib.dps_lane_stats_get(index, lane))
        group = int(slot.group)
        if slot.version < lib.DPS_VERSIONS:
            self.reasons.setdefault(group, {})[int(slot.version)] = _reasons(slot.facts)
        drops = self.drops.setdefault(index, Drops())
        return drops.add(self.reasons.get(group, {}), [int(n) for n in lane.dropped])

    # What `dpsup capture` and `dpsup perf` ask for.

    def do_capture_start(self, args: dict[str, Any]) -> dict[str, Any]:
        return self.mirror.start(args, self.port_index, time.monotonic())

    def do_capture_read(self, args: dict[str, Any]) -> dict[str, Any]:
        found = self.mirror.read(args, time.monotonic())
        for slot in self.mirror.slots:
            self._fold(slot)
        return {**found, "reasons": self.reasons}

    def do_capture_keep(self, args: dict[str, Any]) -> None:
        self.mirror.keep(args, time.monotonic())

    def do_capture_end(self, args: dict[str, Any]) -> None:
        self.mirror.end(args, time.monotonic())

    def do_perf_start(self, args: dict[str, Any]) -> dict[str, Any]:
        return self.perf.start(args, time.monotonic())

    def do_perf_read(self, args: dict[str, Any]) -> dict[str, Any]:
        return self.perf.read(args, time.monotonic())

    def do_perf_end(self, args: dict[str, Any]) -> None:
        self.perf.end(args, time.monotonic())

    def look(self) -> None:
        """Turn off what nobody asks for any more."""
        for one in (self.mirror, self.perf):
            with contextlib.suppress(ShimError):  # tried again at the next look
                one.look(time.monotonic())

    def do_stop(self, _: dict[str, Any]) -> None:
        self.stopping = True

    # --- stop ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Bounded: the io cores free what they hold, ports are closed."""
        _check("io_stop", lib.dps_io_stop(), "io cores do not stop")
        lib.dps_eal_stop()


def _say(notify: int, text: str) -> None:
    os.write(notify, f"{text}\n".encode())
    os.close(notify)


def main(argv: list[str]) -> int:
    plan_file, _, notify_fd = argv
    plan = json.loads(Path(plan_file).read_text())
    notify = int(notify_fd)
    # Until it is ready, nobody else could make sense of it.
    process.die_with_parent(yes=True)
    if not process.is_read(notify):
        return int(Exit.FAILED)
    process.pin(tuple(plan["supervisor_cores"]))
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    asked_to_end: list[int] = []
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda s, _: asked_to_end.append(s))
    signal.set_wakeup_fd(wake_w)

    primary = Primary(plan)
    try:
        primary.start()
        responder = Responder(f"{plan['runtime_dir']}/primary.sock", primary.handle)
    except DpsupError as e:
        _say(notify, "REFUSED " + json.dumps(as_error(e)))
        return int(Exit.FAILED)
    responder.watch(wake_r)
    process.die_with_parent(yes=False)
    try:
        _say(notify, "READY")
    except BrokenPipeError:
        primary.stopping = True
    while not primary.stopping and not asked_to_end:
        # Handlers of signals run between two polls at the latest; the bound is for nothing else.
        if wake_r in responder.poll(1.0):
            os.read(wake_r, 64)
        primary.look()
    primary.stop()
    responder.close()
    return 0


def plan_document(plan: Any) -> str:
    """A plan as the primary reads it."""
    return json.dumps(dataclasses.asdict(plan))
