# SPDX-License-Identifier: BSD-3-Clause
"""A series of looks at an instance, as the numbers that advice is derived from. Pure.

Shares are 0 to 1, rates are packets per second. Samples (lanes, pools) are only known at the times
of the looks; counts are exact between the first and the last look.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.advise.piece import Command, Key
from dpsup.advise.queue import Step
from dpsup.instance.rates import LANE_RESERVE, picture

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.advice import GroupSeen, IoSeen, PoolSeen, PortSeen, Seen
    from dpsup.documents.audit import AuditPool
    from dpsup.documents.plan import Group, Plan
    from dpsup.documents.printed import Rebalance
    from dpsup.documents.rates import IoRates, Look

MBUF_MORE = 192  # bytes of an mbuf besides its data room: its header, and the pool's
WORD_BYTES = 40  # of a lane, for each packet: its word, and what goes with it
SLOT_BYTES = 64 << 10  # of a slot, besides its lanes
HALF = 0.5  # of a lane
SMALLEST_BUSY = 0.05  # of a worker: below this its rate does not tell its capacity


def mersenne(least: int) -> int:
    """The next 2^n - 1, the sizes at which a mempool's ring has no unused entries."""
    return (1 << max(1, least).bit_length()) - 1


def pool_need(plan: Plan, index: int, **instead: int) -> int:
    """The mbufs of a pool that full lanes can hold, as `dpsup check` counts them; `instead`: with
    another cache, burst, ring or rx."""
    ports = [p for p in plan["ports"] if p["pool"] == index]
    fed = {p["group"] for p in ports if p["group"] >= 0}
    pool, n_io = plan["pools"][index], len(plan["io"])
    rx = sum(instead.get("rx", p["rx_desc"]) + p["tx_desc"] for p in ports) * n_io
    room = pool["data_room"] - limits.HEADROOM
    segments = max(((p["mtu"] + limits.FRAME_MORE) // room + 1 for p in ports), default=0)
    bursts = sum(instead.get("burst", io["burst"]) * segments for io in plan["io"])
    caches = int(n_io * instead.get("cache", pool["cache"]) * 1.5)
    lanes = sum(
        n_io * g["count"] * (instead.get("ring", g["ring"]) - LANE_RESERVE)
        for i, g in enumerate(plan["groups"])
        if i in fed
    )
    return int(rx + bursts + caches + lanes)


class Window:
    """`audits` are those of the pools at the end, by name; `spreads` the dry runs of `dpsup
    rebalance` by group."""

    def __init__(
        self,
        looks: list[Look],
        audits: dict[str, AuditPool] | None = None,
        spreads: dict[str, Rebalance] | None = None,
        samples: dict[str, list[bytes]] | None = None,
    ) -> None:
        self.first, self.last = looks[0], looks[-1]
        self.plan: Plan = self.last["plan"]
        self.picture = picture(self.first, self.last)
        self.steps = [picture(a, b) for a, b in pairwise(looks)]
        self.seconds: float | None = self.picture["window_s"]
        self.name: str = self.picture["name"]
        self.audits = audits or {}
        self.spreads = spreads or {}
        self.samples = samples or {}  # by group: packets of its most loaded worker
        self.pools = self._pools(looks)
        self.ports = self._ports()
        self.io = self._io()
        self.groups = self._groups()
        self.cores = {c["core"]: c for c in self.picture["cores"]}

    @property
    def measured(self) -> bool:
        """Are there two readings of the same generation, with the counters of a primary?"""
        return bool(self.seconds) and self.last["counters"] is not None

    def document(self) -> Seen:
        return {
            "mempools": self.pools,
            "ports": self.ports,
            "io": self.io,
            "groups": self.groups,
            "cores": {
                str(n): {"load": c["load"], "busy": c["busy"], "roles": c["roles"]}
                for n, c in self.cores.items()
            },
            "numa": {"crossings": len(self.crossings())},
            "processes": {"cpus": self.cpus_used()},
        }

    def _pools(self, looks: list[Look]) -> dict[str, PoolSeen]:
        found: dict[str, PoolSeen] = {}
        seconds = self.seconds or 0.0
        for i, pool in enumerate(self.last["status"]["mempools"]):
            free = [
                look["status"]["mempools"][i]["size"] - look["status"]["mempools"][i]["in_use"]
                for look in looks
                if i < len(look["status"]["mempools"])
            ]
            old = self.first["status"]["mempools"]
            failed = pool["alloc_failures"] - old[i]["alloc_failures"] if i < len(old) else 0
            found[pool["name"]] = {
                "size": pool["size"],
                "free": free[-1],
                "least_free": min(free),
                "low_water": pool["low_water"],
                "low_water_before": old[i]["low_water"] if i < len(old) else pool["low_water"],
                "alloc_failures_per_s": max(0, failed) / seconds if seconds else 0.0,
                "empty_in_s": _empty_in(free, seconds, pool["size"]),
            }
        return found

    def _ports(self) -> dict[str, PortSeen]:
        found: dict[str, PortSeen] = {}
        for port in self.picture["ports"]:
            name = port["name"]
            steps = [p for s in self.steps for p in s["ports"] if p["name"] == name]
            missed = [(p["missed_pps"] or 0.0) for p in steps]
            pairs = zip(self.steps, missed, strict=False)
            found[name] = {
                "rx_pps": port["rx_pps"] or 0.0,
                "missed_pps": port["missed_pps"] or 0.0,
                # the share of looks with misses: all means a steady loss, a few mean bursts
                "missed_steps": sum(m > 0 for m in missed) / len(missed) if missed else 0.0,
                "missed_most": max((m * (s["window_s"] or 0.0) for s, m in pairs), default=0.0),
            }
        return found

    def _io(self) -> dict[str, IoSeen]:
        found: dict[str, IoSeen] = {}
        now = self.last["counters"]
        was = self.first["counters"]
        received = sum(p["rx_pps"] or 0.0 for p in self.picture["ports"])
        for i, io in enumerate(self.picture["io"]):
            turns = 0
            if now and was:
                turns = now["io"][i]["busy_loops"] - was["io"][i]["busy_loops"]
            seconds = self.seconds or 0.0
            calm = self._calm(i, io)
            found[io["id"]] = {
                "core": io["core"],
                "busy": io["busy"] or 0.0,
                "cycles_per_packet": calm["cycles_per_packet"],
                "stages": calm["stage_cycles_per_packet"],
                "sleeps_per_s": io["sleeps_per_s"] or 0.0,
                # of all io cores: a port's packets are not counted per io core
                "rx_batch": received * seconds / len(self.picture["io"]) / turns if turns else 0.0,
            }
        return found

    def _calm(self, index: int, whole: IoRates) -> IoRates:
        """An io core in a step of the cheapest quarter: in other steps another process may have
        used its CPU, whose cycles are not those of packets."""
        steps = [s["io"][index] for s in self.steps if index < len(s["io"])]
        some = sorted(
            (s for s in steps if s["cycles_per_packet"]),
            key=lambda s: s["cycles_per_packet"] or 0.0,
        )
        return some[len(some) // 4] if some else whole

    def _groups(self) -> dict[str, GroupSeen]:
        found: dict[str, GroupSeen] = {}
        seconds = self.seconds or 0.0
        for group in self.plan.get("groups", []):
            name = group["name"]
            mine = [
                w
                for w in self.picture["workers"]
                if w["group"] == name and w["state"] == "running" and w["busy"] is not None
            ]
            full = {w["id"]: self._lane_full(group, w["id"]) / seconds for w in mine if seconds}
            busy = [w["busy"] or 0.0 for w in mine]
            fills = [
                w["fill"] or 0.0
                for s in self.steps
                for w in s["workers"]
                if w["group"] == name and w["state"] == "running"
            ]
            total = sum(w["pps"] or 0.0 for w in mine)
            offered = [(w["pps"] or 0.0) + full.get(w["id"], 0.0) for w in mine]
            mean = sum(offered) / len(offered) if offered else 0.0
            found[name] = {
                "workers": len(mine),
                "pps": total,
                "lane_full_pps": sum(full.values()),
                "lane_full": full,
                "lane_full_most": self._lane_full_most(name),
                "busy": sum(busy) / len(busy) if busy else 0.0,
                "busiest": max(busy, default=0.0),
                "fill": sum(fills) / len(fills) if fills else 0.0,
                "imbalance": max(offered) / mean if mean else 1.0,
            }
        return found

    def _slot_of(self, group: Group, worker: str) -> int:
        return int(group["first_slot"]) + int(worker.rpartition("/")[2])

    def _lane_full(self, group: Group, worker: str) -> int:
        now, was = self.last["counters"], self.first["counters"]
        if not self.measured or now is None or was is None:
            return 0
        slot = self._slot_of(group, worker)
        return max(0, now["slots"][slot]["lane_full"] - was["slots"][slot]["lane_full"])

    def _lane_full_most(self, group: str) -> float:
        """Largest number of packets that found one lane full between two looks."""
        return max(
            (
                (lane["full_pps"] or 0.0) * (s["window_s"] or 0.0)
                for s in self.steps
                for lane in s["lanes"]
                if lane["worker"].rpartition("/")[0] == group
            ),
            default=0.0,
        )

    # --- queues ----------------------------------------------------------------------------------

    def lane_steps(self, group: str) -> list[list[Step]]:
        """For each lane of a group, between two looks: what found it full, and the time that its
        worker had left. A worker that shares its CPU has no more than the kernel left unused."""
        seconds = self.seconds or 0.0
        found: list[list[Step]] = []
        for w in self.picture["workers"]:
            if w["group"] != group or w["state"] != "running" or w["busy"] is None:
                continue
            core, used = self.cores.get(w["core"]), w["busy"]
            shares = core is not None and (len(core["roles"]) > 1 or not self.polls(w["id"]))
            if core is not None and shares and core["load"] is not None:
                used = max(used, core["load"])
            for lane in self.picture["lanes"]:
                if lane["worker"] != w["id"] or not seconds:
                    continue
                each = (lane["pps"] or 0.0) / max(used, SMALLEST_BUSY)
                found.append(self._steps_of(lane["io"], w["id"], each * (1.0 - min(1.0, used))))
        return found

    def _steps_of(self, io: str, worker: str, spare_pps: float) -> list[Step]:
        made, was_full = [], False
        for s in self.steps:
            lane = next((x for x in s["lanes"] if (x["io"], x["worker"]) == (io, worker)), None)
            if lane is None:
                continue
            is_full = (lane["fill"] or 0.0) >= HALF
            seconds = s["window_s"] or 0.0
            # A lane that is as good as full at a look was not waited for by its worker.
            spare = 0.0 if is_full or was_full else spare_pps * seconds
            made.append(Step((lane["full_pps"] or 0.0) * seconds, spare))
            was_full = is_full
        return made

    def rx_steps(self, port: str) -> list[Step]:
        """For a port's queues: what they missed, and what the io cores, awake, had time for."""
        busy = [io["busy"] for io in self.io.values()]
        used = max(SMALLEST_BUSY, sum(busy) / len(busy)) if busy else 1.0
        found = []
        for s in self.steps:
            for p in s["ports"]:
                if p["name"] == port:
                    seconds = s["window_s"] or 0.0
                    could = self.ports[port]["rx_pps"] / used * seconds
                    took = (p["rx_pps"] or 0.0) * seconds
                    found.append(Step((p["missed_pps"] or 0.0) * seconds, max(0.0, could - took)))
        return found

    def cost(self, changes: Iterable[Key | Command]) -> int:
        """Bytes of hugepages that changes take, more or (negative) less."""
        total = 0
        for change in changes:
            if not isinstance(change, Key):
                continue
            table, name, key = change.where[0], change.where[1], change.where[-1]
            is_number = isinstance(change.value, int)
            grown = int(change.value) - int(change.old) if is_number else 0
            if (table, key) == ("mempools", "mbufs"):
                pool = next(p for p in self.plan["pools"] if p["name"] == name)
                total += grown * (pool["data_room"] + MBUF_MORE)
            elif table == "workers":
                group = next(g for g in self.plan["groups"] if g["name"] == name)
                lanes = len(self.plan["io"])
                if key == "ring":
                    total += grown * WORD_BYTES * lanes * group["max"]
                elif key == "max":
                    total += grown * (SLOT_BYTES + group["ring"] * WORD_BYTES * lanes)
        return total

    # --- CPUs ------------------------------------------------------------------------------------

    def polls(self, role: str) -> bool:
        """Does an io core, or a worker, use its CPU even without packets?"""
        if role.startswith("io/"):
            return bool(self.plan["io"][int(role[3:])]["idle"] == "poll")
        return role != "supervisor" and all(io["idle"] == "poll" for io in self.plan["io"])

    def room(self, core: int) -> float:
        """The share of a CPU that one more worker on it would get: the unused share; if other
        programs use the CPU, half of what the instance leaves."""
        times = self.last["cpus"].get(core)
        if times is None:
            return 0.0
        used = self.cores.get(core)
        if used is None:
            load = self._load(core)
            return max(1.0 - load, 0.5)
        polled = any(self.polls(role) for role in used["roles"])
        own = 1.0 if polled else used["busy"] or 0.0
        load = own if used["load"] is None else used["load"]
        return max(0.0, 1.0 - max(load, own), (1.0 - own) / 2)

    def _load(self, core: int) -> float:
        new, old = self.last["cpus"][core], self.first["cpus"].get(core)
        if old is None or new["total"] <= old["total"]:
            return 0.0
        return float((new["busy"] - old["busy"]) / (new["total"] - old["total"]))

    def unused(self) -> list[int]:
        """CPUs that the topology does not use, those with most room first."""
        given = set(self.plan.get("supervisor_cores", [])) | {io["core"] for io in self.plan["io"]}
        given |= {c for g in self.plan["groups"] for c in g["cores"]}
        return sorted(set(self.last["cpus"]) - given, key=lambda c: (-self.room(c), c))

    def cpus_used(self) -> float:
        """CPU seconds per second of all processes of the instance."""
        now, was = self.last["processes"] or {}, self.first["processes"] or {}
        used = sum(
            max(0.0, now[name]["cpu_seconds"] - was[name]["cpu_seconds"])
            for name in now
            if name in was
        )
        return float(used / self.seconds) if self.seconds else 0.0

    # --- NUMA ------------------------------------------------------------------------------------

    def node(self, core: int) -> int | None:
        times = self.last["cpus"].get(core)
        return times["numa"] if times else None

    def crossings(self) -> list[tuple[str, str]]:
        """Pairs on different nodes that exchange packets: a port's device, its pool, the io cores,
        and the running workers."""
        nodes = {t["numa"] for t in self.last["cpus"].values()}
        if len(nodes) < 2:
            return []
        found = []
        io = [(f"io/{i['index']}", self.node(i["core"])) for i in self.plan["io"]]
        infos = {p["name"]: p.get("numa", -1) for p in self.last["port_info"]}
        for port in self.plan["ports"]:
            home = infos.get(port["name"], -1)
            if home < 0:
                continue
            pool = self.plan["pools"][port["pool"]]
            if pool["numa"] != home:
                found.append((f"port {port['name']}", f"mempool {pool['name']}"))
            found += [(f"port {port['name']}", name) for name, node in io if node != home]
        for w in self.picture["workers"]:
            if w["state"] == "running":
                here = self.node(w["core"])
                found += [(name, w["id"]) for name, node in io if node != here]
        return found


def _empty_in(free: list[int], seconds: float, size: int) -> float | None:
    """Seconds until a pool is empty at its present rate: None if it does not shrink all the time.
    Comparing thirds of the looks evens out short changes."""
    part = len(free) // 3
    if part < 2 or not seconds:
        return None
    means = [sum(free[i * part : (i + 1) * part]) / part for i in range(3)]
    first, second = means[0] - means[1], means[1] - means[2]
    least = size * 0.01
    if min(first, second) < least or max(first, second) > 3 * min(first, second):
        return None
    return means[2] / ((first + second) / (seconds * 2 / 3))
