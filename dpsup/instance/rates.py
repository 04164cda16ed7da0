# SPDX-License-Identifier: BSD-3-Clause
"""From two looks at an instance to rates per second. Pure.

`picture` returns one document, the source of every table and graph. Rates are per second, `busy`
and `fill` are shares (0 to 1), both None if they could not be measured.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, cast

from dpsup._abi import DPS_BURST
from dpsup.instance.status import account, group_dropped, slot_dropped, totals

if TYPE_CHECKING:  # start-up: they need 5 ms
    from collections.abc import Mapping

    from dpsup.documents.counters import Counters, SlotCounters
    from dpsup.documents.plan import Plan
    from dpsup.documents.rates import (
        Core,
        CpuTimes,
        GroupRates,
        IoRates,
        LaneRates,
        Look,
        Picture,
        PortRates,
        WorkerRates,
    )
    from dpsup.documents.status import Group, Status, Worker

LANE_RESERVE = DPS_BURST + 1  # an io core leaves that many words of a ring free


def _delta(before: Mapping[str, Any] | None, after: Mapping[str, Any], key: str) -> int | None:
    """None without two readings of the same counter."""
    if before is None:
        return None
    grown = int(after[key]) - int(before[key])
    return grown if grown >= 0 else None


def _per(count: int | None, seconds: float | None) -> float | None:
    return None if count is None or not seconds else count / seconds


def _over(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole else 0.0


def _grown(old: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {k: n - old.get(k, 0) for k, n in after.items() if n > old.get(k, 0)}


def picture(before: Look | None, after: Look) -> Picture:
    """The instance and its rates. Without a look before, or across a change of generation, every
    value that needs two looks is None."""
    status, counters = after["status"], after["counters"]
    old = before["counters"] if before else None
    if old and counters and old["generation"] != counters["generation"]:
        old = None
    seconds = (counters["at_ns"] - old["at_ns"]) / 1e9 if old and counters else None
    if seconds is not None and seconds <= 0:
        seconds, old = None, None
    made = _Maker(before if old else None, after, old, seconds)
    workers = made.workers()
    io = made.io()
    return {
        "apiVersion": status["apiVersion"],
        "kind": "Picture",
        "name": status["name"],
        "state": status["state"],
        "generation": status["generation"],
        "at_ns": status["at_ns"],
        "window_s": seconds,
        "up_s": _since(status, status.get("started_ns")),
        "supervisor": status["supervisor"],
        "primary": status["primary"],
        "builder": status.get("builder"),
        "topology_file": status["topology_file"],
        "ports": made.ports(),
        "io": io,
        "workers": workers,
        "groups": made.groups(workers),
        "lanes": made.lanes(),
        "mempools": [
            {**p, "used": _share(p["in_use"], p["size"])} for p in status["mempools"]
        ],
        "cores": made.cores(io, workers),
        "chains": made.plan.get("chains", []),
        "in_flight": status["in_flight"],
        "recovery": status["recovery"],
        "processes": after.get("processes") or {},
        "port_info": after.get("port_info") or [],
        "account": account(counters) if counters else None,
    }  # fmt: skip


def _since(status: Status, since_ns: int | None) -> float | None:
    return max(0.0, (status["at_ns"] - since_ns) / 1e9) if since_ns and status["at_ns"] else None


_NO_PLAN = cast("Plan", {})  # it could not be read


class _Maker:
    def __init__(
        self, before: Look | None, after: Look, old: Counters | None, seconds: float | None
    ) -> None:
        self.before, self.after, self.old, self.seconds = before, after, old, seconds
        self.status = after["status"]
        self.counters = after["counters"]
        self.plan = after.get("plan", _NO_PLAN)
        self.hz = after.get("tsc_hz") or 0

    def _busy(self, cycles: int | None) -> float | None:
        if cycles is None or not self.seconds or not self.hz:
            return None
        return _share(cycles, self.seconds * self.hz)

    def ports(self) -> list[PortRates]:
        old = {p["name"]: p for p in self.old["ports"]} if self.old else {}
        now = {p["name"]: p for p in self.counters["ports"]} if self.counters else {}
        groups = {p["name"]: p["group"] for p in self.plan.get("ports", [])}
        names = [g["name"] for g in self.plan.get("groups", [])]
        xstats = self.after.get("xstats", {})
        found: list[PortRates] = []
        for p in self.status["ports"]:
            was, counted = old.get(p["name"]), now.get(p["name"])
            here = counted if counted is not None else p
            drops = _grown(was["drops"] if was else {}, counted["drops"] if counted else {})
            group = groups.get(p["name"], -1)
            found.append(
                {
                    **p,
                    "feeds": names[group] if 0 <= group < len(names) else None,
                    "rx_pps": _per(_delta(was, here, "rx_packets"), self.seconds),
                    "tx_pps": _per(_delta(was, here, "tx_packets"), self.seconds),
                    "rx_bps": _bits(_per(_delta(was, here, "rx_bytes"), self.seconds)),
                    "tx_bps": _bits(_per(_delta(was, here, "tx_bytes"), self.seconds)),
                    "missed_pps": _per(_delta(was, here, "rx_missed"), self.seconds),
                    "drop_pps": _per(sum(drops.values()) if was else None, self.seconds),
                    "drops_new": drops,
                    "xstats": xstats.get(p["name"]),
                }
            )
        return found

    def _slots(self, counters: Counters | None) -> dict[str, SlotCounters]:
        """By worker."""
        if counters is None:
            return {}
        return {
            f"{g['name']}/{m}": counters["slots"][g["first_slot"] + m]
            for g in self.plan.get("groups", [])
            for m in range(g["max"])
        }

    def workers(self) -> list[WorkerRates]:
        old, now = self._slots(self.old), self._slots(self.counters)
        rings = {g["name"]: g["ring"] for g in self.plan.get("groups", [])}
        lanes = len(self.plan.get("io", [])) or 1
        found: list[WorkerRates] = []
        for group in self.status["groups"]:
            for w in group["workers"]:
                was, here = old.get(w["id"]), now.get(w["id"])
                room = lanes * (rings.get(group["name"], 0) - LANE_RESERVE)
                drops = sum(w["dropped"].values())
                dropped = drops - sum(slot_dropped(was).values()) if was else None
                faults = dropped
                if was and dropped is not None:
                    faults = dropped - w.get("dropped_policy", 0) + was.get("dropped_policy", 0)
                kept = cast("Worker", {k: v for k, v in w.items() if k != "since_ns"})
                one: WorkerRates = {
                    **kept,
                    "group": group["name"],
                    "plugin": group["plugin"],
                    "plugin_on_disk": group["plugin_on_disk"],
                    "drops": drops,
                    "since_s": _since(self.status, w.get("since_ns")),
                    "fill": _share(w["outstanding"], room) if room > 0 else None,
                    "drop_pps": _per(dropped, self.seconds),
                    "fault_pps": _per(faults, self.seconds),
                    "drops_new": _grown(slot_dropped(was), w["dropped"]) if was else {},
                    "pps": None,
                    "busy": None,
                    "cycles_per_packet": None,
                    "batch": None,
                }
                if here is not None:
                    cycles = _delta(was, here, "busy")
                    packets = _delta(was, here, "collected")
                    one["pps"] = _per(packets, self.seconds)
                    one["busy"] = self._busy(cycles)
                    one["cycles_per_packet"] = _over(cycles, packets)
                    one["batch"] = _over(packets, _delta(was, here, "bursts"))
                found.append(one)
        return found

    def groups(self, workers: list[WorkerRates]) -> list[GroupRates]:
        found: list[GroupRates] = []
        hops = self._hops()
        for index, group in enumerate(self.status["groups"]):
            mine = [w for w in workers if w["group"] == group["name"]]
            rates = [w["pps"] for w in mine if w["pps"] is not None]
            busy = [w["busy"] for w in mine if w["busy"] is not None and w["state"] == "running"]
            # a supervisor of an older dpsup does not add them up
            known = {"totals": totals(group["workers"], group["dropped"]), **group}
            kept = cast("Group", {k: v for k, v in known.items() if k != "workers"})
            before = self._dropped_before(index)
            new = Counter(before)
            faults = _per(sum(before.values()) if self.old else None, self.seconds)
            if faults is not None:
                faults += sum(w["fault_pps"] or 0 for w in mine)
            for w in mine:
                new.update(w["drops_new"])
            found.append(
                {
                    **kept,
                    "pps": sum(rates) if rates else None,
                    "busy": sum(busy) / len(busy) if busy else None,
                    "busy_sum": sum(busy) if busy else None,
                    "drops": sum(kept["totals"]["dropped"].values()),
                    "drop_pps": _per(sum(new.values()) if self.old else None, self.seconds),
                    "fault_pps": faults,
                    "drops_new": dict(new),
                    "inputs": [name for name, to in hops if to == group["name"]],
                    "next": [to for name, to in hops if name == group["name"]],
                }
            )
        return found

    def _dropped_before(self, group: int) -> dict[str, int]:
        """In the window, for want of a worker or of room to wait for one."""
        if self.old is None or self.counters is None:
            return {}
        old, now = (group_dropped(c["groups"][group]) for c in (self.old, self.counters))
        return _grown(old, now)

    def _hops(self) -> list[tuple[str, str]]:
        """Paths of packets, by name: from ports to groups, from groups to groups and ports. A
        plugin without a configured path may send packets to every port and reachable group."""
        ports = [p["name"] for p in self.plan.get("ports", [])]
        groups = self.plan.get("groups", [])
        names = {"port": ports, "group": [g["name"] for g in groups]}
        found = [
            (p["name"], groups[p["group"]]["name"])
            for p in self.plan.get("ports", [])
            if p["group"] >= 0
        ]
        for group in groups:
            to = [names[kind][index] for kind, index in group["next"] if kind]
            if not to:
                others = [names["group"][g] for g in group["reach"]]
                to = [*ports, *(name for name in others if name != group["name"])]
            found += [(group["name"], name) for name in dict.fromkeys(to)]
        return found

    def io(self) -> list[IoRates]:
        found: list[IoRates] = []
        for i, io in enumerate(self.counters["io"] if self.counters else []):
            was = self.old["io"][i] if self.old else None
            cycles = _delta(was, io, "busy_cycles")
            turned = _delta(was, io, "stage_packets")
            stages = {
                k: _over(n - was["stage_cycles"][k], turned) if was else None
                for k, n in io["stage_cycles"].items()
            }
            # Counted on their way in and on their way back: half a packet each.
            stages = {k: n * 2 if n is not None else None for k, n in stages.items()}
            found.append(
                {
                    "id": f"io/{i}",
                    "core": io["core"],
                    "busy": self._busy(cycles),
                    "loops_per_s": _per(_delta(was, io, "loops"), self.seconds),
                    "sleeps_per_s": _per(_delta(was, io, "sleeps"), self.seconds),
                    "rings_per_s": _per(_delta(was, io, "rings"), self.seconds),
                    "cycles_per_packet": sum(n or 0 for n in stages.values()) if turned else None,
                    "stage_cycles_per_packet": stages,
                    "held": io["held"],
                    "tx_waiting": io["tx_waiting"],
                    "quarantine": io["quarantine"],
                }
            )
        return found

    def lanes(self) -> list[LaneRates]:
        names = {}
        rings = {}
        for g in self.plan.get("groups", []):
            for m in range(g["max"]):
                names[g["first_slot"] + m] = f"{g['name']}/{m}"
                rings[g["first_slot"] + m] = g["ring"]
        before = self.before["lanes"] if self.before else []
        old = {(n["io"], n["slot"]): n for n in before}
        found: list[LaneRates] = []
        for lane in self.after.get("lanes") or []:
            was = old.get((lane["io"], lane["slot"]))
            room = rings.get(lane["slot"], 0) - LANE_RESERVE
            found.append(
                {
                    "io": f"io/{lane['io']}",
                    "worker": names.get(lane["slot"], f"slot {lane['slot']}"),
                    "size": room,
                    "out": lane["outstanding"],
                    "fill": _share(lane["outstanding"], room) if room > 0 else None,
                    "sent": lane["sent"],
                    "returned": lane["collected"],
                    "requeued": lane["requeued"],
                    "lane_full": lane["lane_full"],
                    "corrupt": lane["lanes_corrupt"],
                    "pps": _per(_delta(was, lane, "collected"), self.seconds),
                    "full_pps": _per(_delta(was, lane, "lane_full"), self.seconds),
                }
            )
        return found

    def cores(self, io: list[IoRates], workers: list[WorkerRates]) -> list[Core]:
        """Each CPU of the instance, the threads on it, and how busy it is: by dpsup's own counters
        (`busy`), and by the kernel's (`load`, of all processes)."""
        roles: dict[int, list[tuple[str, float | None]]] = {}
        for core in self.plan.get("supervisor_cores", []):
            roles.setdefault(core, []).append(("supervisor", None))
        for one in io:
            roles.setdefault(one["core"], []).append((one["id"], one["busy"]))
        for w in workers:
            if w["pid"]:
                roles.setdefault(w["core"], []).append((w["id"], w["busy"]))
        now, was = self.after["cpus"], self.before["cpus"] if self.before else {}
        found: list[Core] = []
        for core, users in sorted(roles.items()):
            new, old = now.get(core), was.get(core)
            known = [b for _, b in users if b is not None]
            found.append(
                {
                    "core": core,
                    "numa": new["numa"] if new else None,
                    "roles": [name for name, _ in users],
                    "busy": min(1.0, sum(known)) if known else None,
                    "load": _ticks(old, new, "busy"),
                    "stolen": _ticks(old, new, "steal"),
                }
            )
        return found


def _ticks(
    old: CpuTimes | None, new: CpuTimes | None, what: Literal["busy", "steal"]
) -> float | None:
    if old is None or new is None or new["total"] <= old["total"]:
        return None
    return _share(new[what] - old[what], new["total"] - old["total"])


def _bits(bytes_per_s: float | None) -> float | None:
    return None if bytes_per_s is None else bytes_per_s * 8
