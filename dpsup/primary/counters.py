# SPDX-License-Identifier: BSD-3-Clause
"""What the io cores and the workers count, as the primary hands it out.

The structs of the C headers have no types in Python: what is made of one is cast to its document's
type, and tests/c/test_abi.py holds the two together.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from dpsup import _abi
from dpsup.documents import counters as documents
from dpsup.documents.plan import Io
from dpsup.primary.layout import Layout
from dpsup.primary.ports import State
from dpsup.primary.shim import check, ffi, fields, gauges_of, lib, reasons_of, text


def signed(n: int) -> int:
    """A gauge's 64 bits as a number."""
    return n - (1 << 64) if n >> 63 else n


DROPS = tuple(_abi.DPS_DROP_NAMES.values())
STAGES = tuple(_abi.DPS_STAGE_NAMES.values())


@dataclass
class Drops:
    """What a slot's plugins dropped, by their names for it."""

    counted: list[int] = field(default_factory=list)  # by version and number, so far
    by_name: dict[str, int] = field(default_factory=dict)
    policy: int = 0  # of these, by reasons that their version marks as policy

    def add(
        self, names: dict[int, list[str]], counts: list[int], policy: dict[int, int] | None = None
    ) -> dict[str, int]:
        """`counts` of all time; `names` of each version's reasons, and those marked as policy."""
        each = len(counts) // int(lib.DPS_VERSIONS)
        before = self.counted or [0] * len(counts)
        for i, (old, new) in enumerate(zip(before, counts, strict=True)):
            known, r = names.get(i // each, []), i % each
            if new > old:
                name = known[r] if r < len(known) else f"reason_{r}"
                self.by_name[name] = self.by_name.get(name, 0) + new - old
                if (policy or {}).get(i // each, 0) >> r & 1:
                    self.policy += new - old
        self.counted = counts
        return dict(self.by_name)


class Counters:
    def __init__(self, layout: Layout, states: Callable[[], dict[str, State]]) -> None:
        self._layout, self._plan = layout, layout.plan
        self._states = states
        self._drops: dict[int, Drops] = {}  # by slot
        self.reasons: dict[int, dict[int, list[str]]] = {}  # by group and version
        self._policy: dict[int, dict[int, int]] = {}  # likewise: a bit for each reason

    def read(self) -> documents.Counters:
        """Everything that is counted, read after the request came; `at_ns` is when."""
        at = time.monotonic_ns()
        ports: list[documents.PortCounters] = []
        states, kernel = self._states(), self._layout.kernel.states()
        for name, i in self._layout.port_index.items():
            stats = ffi.new("struct dps_port_stats *")
            check("port_stats_get", lib.dps_port_stats_get(i, stats))
            state = states[name]
            info = ffi.new("struct dps_port_info *")
            if not state.absent:
                check("port_info_get", lib.dps_port_info_get(i, info))
            drops = {DROPS[d]: int(n) for d, n in enumerate(stats.drops) if n}
            link = {
                # Most virtual drivers say "up" whatever their interface does.
                "link_up": bool(info.link_up) and not state.trouble,
                "link_mbps": int(info.link_mbps),
                **state._asdict(),
            }
            output = self._layout.outputs.get(name)
            unwritten = output.unwritten(stats.tx_packets, stats.tx_bytes) if output else 0
            ports.append(
                cast(
                    documents.PortCounters,
                    {
                        "name": name,
                        "drops": drops,
                        "unwritten_bytes": unwritten,
                        "kernel": kernel.get(name),
                        **link,
                        **fields(stats),
                    },
                )
            )
        return {
            "at_ns": at,
            "generation": self._plan["generation"],
            "ports": ports,
            "pools": [self._pool_stats(i, p["name"]) for i, p in enumerate(self._plan["pools"])],
            "io": [self._io_stats(io) for io in self._plan["io"]],
            "groups": [self._group_stats(i) for i in range(len(self._plan["groups"]))],
            "slots": [self._slot(i) for i in range(self._plan["n_slots"])],
        }

    def xstats(self, port: str) -> dict[str, int] | None:
        """All that the port's driver counts, by its own names; None where it has no device."""
        index, room = self._layout.port_index[port], 0
        while True:
            found = ffi.new("struct dps_xstat[]", max(room, 1))
            n = lib.dps_port_xstats_get(index, found, room)
            if n == -errno.ENODEV:
                return None
            if check("port_xstats_get", n, f'extended statistics of port "{port}"') <= room:
                return {text(found[i].name): int(found[i].value) for i in range(n)}
            room = n

    def lanes(self) -> list[documents.Lane]:
        """Each lane that packets went through, io core by io core."""
        found: list[documents.Lane] = []
        lane = ffi.new("struct dps_lane_stats *")
        for io in self._plan["io"]:
            for slot in range(self._plan["n_slots"]):
                check("lane_of_io", lib.dps_lane_of_io(io["index"], slot, lane))
                if lane.sent:
                    one = {"io": io["index"], "slot": slot, **fields(lane)}
                    found.append(cast(documents.Lane, one))
        return found

    def _pool_stats(self, index: int, name: str) -> documents.PoolCounters:
        stats = ffi.new("struct dps_pool_stats *")
        check("pool_stats_get", lib.dps_pool_stats_get(index, stats))
        return cast(documents.PoolCounters, {"name": name, **fields(stats)})

    def _io_stats(self, io: Io) -> documents.Io:
        stats = ffi.new("struct dps_io_stats *")
        check("io_stats_get", lib.dps_io_stats_get(io["index"], stats))
        stages = {name: int(stats.stage[i]) for i, name in enumerate(STAGES)}
        one = {"core": io["core"], **fields(stats), "stage_cycles": stages}
        return cast(documents.Io, one)

    def _group_stats(self, index: int) -> documents.GroupCounters:
        stats = ffi.new("struct dps_group_stats *")
        check("group_stats_get", lib.dps_group_stats_get(index, stats))
        one = {**fields(stats), "pause": [int(n) for n in stats.pause]}
        return cast(documents.GroupCounters, one)

    def _slot(self, index: int) -> documents.SlotCounters:
        slot = ffi.new("struct dps_slot *")
        check("slot_read", lib.dps_slot_read(index, slot))
        lane = ffi.new("struct dps_lane_stats *")
        check("lane_stats_get", lib.dps_lane_stats_get(index, lane))
        counted = {
            name: int(slot.counter[c])
            for c, chars in enumerate(slot.counter_name)
            if (name := text(chars))
        }
        told = gauges_of(slot.facts) if slot.version < lib.DPS_VERSIONS else []
        gauges = {name: signed(counted.pop(name, 0)) for name in told}
        one = {
            "pid": int(lib.dps_slot_sitter(index)),
            "version": int(lib.dps_slot_version(index)),
            "needs": int(slot.facts.needs),
            "changes": bool(slot.facts.rewrites + slot.facts.prepends),
            "beats": int(slot.beats),
            "bursts": int(slot.bursts),
            "busy": int(slot.busy),
            "forgotten": int(slot.forgotten),
            "undeclared": int(slot.undeclared),
            "undeclared_first": int(slot.undeclared_first),
            "undeclared_last": int(slot.undeclared_last),
            "undeclared_len": int(slot.undeclared_len),
            "undeclared_port": int(slot.undeclared_port),
            "undeclared_head": bytes(slot.undeclared_head).hex() if slot.undeclared else "",
            "perf": int(slot.perf),  # not 0: measured just now
            "ready_ns": int(slot.ready_ns),
            "first_ns": int(slot.first_ns),
            "dropped": self.fold(index, slot, lane),
            "dropped_policy": self._drops[index].policy,
            "counters": counted,
            "gauges": gauges,
            **fields(lane),
        }
        return cast(documents.SlotCounters, one)

    def fold(self, index: int, slot: Any = None, lane: Any = None) -> dict[str, int]:
        """A slot's drops by the plugins' names for them. Another version may have other names for
        the same numbers."""
        if slot is None:
            slot = ffi.new("struct dps_slot *")
            check("slot_read", lib.dps_slot_read(index, slot))
            lane = ffi.new("struct dps_lane_stats *")
            check("lane_stats_get", lib.dps_lane_stats_get(index, lane))
        group = int(slot.group)
        if slot.version < lib.DPS_VERSIONS:
            self.reasons.setdefault(group, {})[int(slot.version)] = reasons_of(slot.facts)
            self._policy.setdefault(group, {})[int(slot.version)] = int(slot.facts.policy)
        drops = self._drops.setdefault(index, Drops())
        counts = [int(n) for n in lane.dropped]
        return drops.add(self.reasons.get(group, {}), counts, self._policy.get(group))
