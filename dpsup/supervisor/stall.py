# SPDX-License-Identifier: BSD-3-Clause
"""A data plane that stands still: packets wait or are offered, and none leaves. Pure.

Everything may look healthy meanwhile: a mempool that a stray write made leak, a port that takes
nothing more, workers that are down. So it is said once, with what it waits for, and once when it
goes on.
"""

from __future__ import annotations

from dpsup.documents.counters import Counters, PoolCounters
from dpsup.documents.requests import Notice

AFTER_S = 5.0  # without a packet that leaves


class Stall:
    """`pools`: each pool's name and the ports that it feeds; `slots`: each slot's worker."""

    def __init__(
        self, name: str, pools: list[tuple[str, list[str]]], slots: list[str], groups: list[str]
    ) -> None:
        self._name, self._pools, self._slots, self._groups = name, pools, slots, groups
        self._before: Counters | None = None
        self._since: dict[str, float] = {}  # by what stands still
        self._said: set[str] = set()

    def observe(self, counters: Counters, now: float) -> list[Notice]:
        """After each reading of the counters, at `now` seconds: events of type "stall"."""
        before, self._before = self._before, counters
        if before is None or before["generation"] != counters["generation"]:
            self._since.clear()
            self._said.clear()
            return []
        causes = self._empty_pools(before, counters)
        if not causes and _left(counters) == _left(before) and _waiting(counters):
            causes[self._name] = f"no packet leaves: {self._waits_for(counters)}"
        found: list[Notice] = []
        for name in self._since.keys() - causes.keys():
            del self._since[name]
            if name in self._said:
                self._said.discard(name)
                found.append({"name": name, "message": "packets move again"})
        for name, cause in causes.items():
            since = self._since.setdefault(name, now)
            if now - since >= AFTER_S and name not in self._said:
                self._said.add(name)
                found.append({"name": name, "message": cause})
        return found

    def _empty_pools(self, before: Counters, now: Counters) -> dict[str, str]:
        """Pools that had no mbuf at any poll, so that nothing was received."""
        found = {}
        for i, (name, fed) in enumerate(self._pools):
            pool = now["pools"][i]
            came = _received(now, fed) > _received(before, fed)
            if pool["starved"] > before["pools"][i]["starved"] and not came:
                found[name] = self._why_empty(name, pool, _waiting(now))
        return found

    def _why_empty(self, name: str, pool: PoolCounters, waiting: int) -> str:
        said = f"nothing is received: {pool['free']} of {pool['size']} mbufs of {name} are free"
        if 2 * waiting >= pool["size"]:
            return f"{said}, and {waiting} packets are under way"
        return (
            f"{said}, and only {waiting} packets are under way: the others have leaked, as after a "
            f"stray write into an mbuf; `dpsup -n {self._name} audit` lists them, and a restart of "
            "the instance gets them back"
        )

    def _waits_for(self, now: Counters) -> str:
        lent = [(s["outstanding"], w) for s, w in zip(now["slots"], self._slots, strict=True)]
        held = [(g["held"], name) for g, name in zip(now["groups"], self._groups, strict=True)]
        parts = [f"{n} packets in the lanes of {worker}" for n, worker in lent if n]
        parts += [f"{n} for a worker of {group}" for n, group in held if n]
        tx = sum(io["tx_waiting"] + io["xfer"] for io in now["io"])
        return ", ".join([*parts, *([f"{tx} for a port that takes none"] if tx else [])])


def _left(counters: Counters) -> tuple[int, int, int]:
    """Packets that went somewhere so far: sent, dropped, handed back."""
    ports = counters["ports"]
    return (
        sum(p["tx_packets"] + p.get("to_kernel", 0) for p in ports),
        sum(sum(p["drops"].values()) for p in ports),
        sum(s["collected"] for s in counters["slots"]),
    )


def _received(counters: Counters, ports: list[str]) -> int:
    return sum(p["rx_packets"] for p in counters["ports"] if p["name"] in ports)


def _waiting(counters: Counters) -> int:
    held = sum(g["held"] for g in counters["groups"])
    io = sum(i["tx_waiting"] + i["xfer"] for i in counters["io"])
    return held + io + sum(s["outstanding"] for s in counters["slots"])
