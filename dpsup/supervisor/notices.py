# SPDX-License-Identifier: BSD-3-Clause
"""What the supervisor notices by itself: packets are lost for a lack that `dpsup advise` can
correct. Pure; it measures no window and judges nothing."""

from __future__ import annotations

from typing import Literal

from dpsup import _abi
from dpsup.documents.counters import Counters
from dpsup.documents.requests import BadVerdict, Notice, Undeclared

QUIET_S = 600.0  # between two events about the same thing
LOOKS = 3  # in a row that lanes were full: one burst is none of a person's business
SHARE = 0.01  # of what came to a group


class Notices:
    def __init__(self, name: str, pools: list[str], groups: list[tuple[str, range]]) -> None:
        """Names of the instance, its pools, and its groups with their slots."""
        self._name, self._pools, self._groups = name, pools, groups
        self._before: Counters | None = None
        self._full: dict[str, int] = {}  # looks in a row
        self._told: dict[str, float] = {}

    def observe(self, counters: Counters, now: float) -> list[Notice]:
        """After each reading of the counters, at `now` seconds: events of type "advice"."""
        before, self._before = self._before, counters
        if before is None or before["generation"] != counters["generation"]:
            return []
        found: list[Notice] = []
        for i, pool in enumerate(self._pools):
            if counters["pools"][i]["starved"] > before["pools"][i]["starved"]:
                found += self._tell(pool, f"mempool {pool} ran out of mbufs", now)
        for group, slots in self._groups:
            full = _grown(before, counters, slots, "lane_full")
            came = _grown(before, counters, slots, "sent") + full
            self._full[group] = self._full.get(group, 0) + 1 if full > came * SHARE else 0
            if self._full[group] >= LOOKS:
                share = full / came
                found += self._tell(group, f"{share:.0%} of its packets find the lane full", now)
        return found

    def _tell(self, name: str, message: str, now: float) -> list[Notice]:
        if now - self._told.get(name, -QUIET_S) < QUIET_S:
            return []
        self._told[name] = now
        hint = f"`dpsup -n {self._name} advise` says what helps"
        return [{"name": name, "message": f"{message}: {hint}"}]


def _grown(before: Counters, now: Counters, slots: range, key: Literal["lane_full", "sent"]) -> int:
    return sum(max(0, int(now["slots"][i][key]) - int(before["slots"][i][key])) for i in slots)


_COPIED = (_abi.DPS_V_DROP, _abi.DPS_V_OUT, _abi.DPS_V_GROUP)  # a copy may go with these
_SHAPED = (_abi.DPS_V_OUT, _abi.DPS_V_GROUP, _abi.DPS_V_PUNT)


def meaning(word: int, length: int, ports: int, groups: int) -> str:
    """Why a verdict's word is none, for a person."""
    kind, argument = word & _abi.DPS_V_KIND, word & _abi.DPS_V_ARG
    if not word >> _abi.DPS_W_DONE & 1:
        return "no verdict was written"
    if kind & _abi.DPS_V_HASHES == _abi.DPS_V_HASH:
        kind, argument = _abi.DPS_V_GROUP, word >> _abi.DPS_V_HASH_GROUP & 0xF
    if kind & _abi.DPS_V_ALSO and kind & ~_abi.DPS_V_ALSO in _COPIED:
        kind, argument, copy = kind & ~_abi.DPS_V_ALSO, argument % 16, argument >> 4
        if copy >= ports:
            return f"a copy out of port {copy}, of ports 0 to {ports - 1}"
    if kind == _abi.DPS_V_OUT and argument >= ports:
        return f"out of port {argument}, of ports 0 to {ports - 1}"
    if kind == _abi.DPS_V_GROUP and argument >= groups:
        return f"on to group {argument}, of groups 0 to {groups - 1}"
    if word >> _abi.DPS_W_CHANGED & 1 and kind in _SHAPED:
        new = word >> _abi.DPS_W_NEWLEN & 0xFFFF
        shift = word >> _abi.DPS_W_SHIFT & 0xFFFF
        shift -= (shift & 0x8000) << 1
        return (
            f"{length} bytes become {new} and begin {shift} bytes later: the buffer does not have"
            " them, the plugin does not declare them in .prepends, or the packet has several"
            " segments"
        )
    return f"a verdict of kind {kind >> 12}, which dpsup does not know"


class BadVerdicts:
    """Packets that dpsup drops because a worker's verdict has no meaning."""

    def __init__(self, workers: list[str], ports: int, groups: int) -> None:
        """Workers by slot."""
        self._workers, self._ports, self._groups = workers, ports, groups
        self._before: Counters | None = None
        self._told: dict[tuple[int, int], float] = {}  # by slot and version

    def observe(self, counters: Counters, now: float) -> list[tuple[int, BadVerdict]]:
        """After each reading, at `now` seconds: by slot, events of type "verdict"."""
        before, self._before = self._before, counters
        if before is not None and before["generation"] != counters["generation"]:
            before = None
        found: list[tuple[int, BadVerdict]] = []
        for i, slot in enumerate(counters["slots"]):
            was = before["slots"][i]["bad_verdict"] if before else 0
            # Another version's are another matter.
            key = i, slot["bad_version"]
            if slot["bad_verdict"] <= was or now - self._told.get(key, -QUIET_S) < QUIET_S:
                continue
            self._told[key] = now
            word, length = slot["bad_word"], slot["bad_len"]
            found.append((i, {
                "name": self._workers[i],
                "message": meaning(word, length, self._ports, self._groups),
                "verdict": f"{word:#x}",
                "length": length,
                "packets": slot["bad_verdict"] - was,
            }))  # fmt: skip
        return found


class UndeclaredWrites:
    """Packets of which a plugin changed bytes that it did not declare, where a group verifies."""

    def __init__(self, workers: list[str], ports: list[str]) -> None:
        """Workers by slot."""
        self._workers, self._ports = workers, ports
        self._before: Counters | None = None
        self._told: dict[tuple[int, int], float] = {}  # by slot and version

    def observe(self, counters: Counters, now: float) -> list[tuple[int, Undeclared]]:
        """After each reading, at `now` seconds: by slot, events of type "undeclared"."""
        before, self._before = self._before, counters
        if before is not None and before["generation"] != counters["generation"]:
            before = None
        found: list[tuple[int, Undeclared]] = []
        for i, slot in enumerate(counters["slots"]):
            was = before["slots"][i].get("undeclared", 0) if before else 0
            key, n = (i, slot["version"]), slot.get("undeclared", 0)
            if n <= was or now - self._told.get(key, -QUIET_S) < QUIET_S:
                continue
            self._told[key] = now
            first, last = slot["undeclared_first"], slot["undeclared_last"]
            port = slot["undeclared_port"]
            found.append((i, {
                "name": self._workers[i],
                "message": f"bytes {first} to {last} of a packet were changed, which neither"
                " .rewrites nor .prepends declares: a kill would have them changed twice. It"
                f" began {slot['undeclared_head']}",
                "port": self._ports[port] if port < len(self._ports) else str(port),
                "length": slot["undeclared_len"],
                "packets": n - was,
            }))  # fmt: skip
        return found
