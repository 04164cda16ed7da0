# SPDX-License-Identifier: BSD-3-Clause
"""What was counted since a mark: two looks at an instance, subtracted counter by counter. Pure.

Counters of a generation only grow; the next generation counts from 0. What the one before counted
after the mark went with it, so the differences are then those since the new one's start, and that
is said. The supervisor counts deaths, which go on across generations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dpsup.instance.status import API, account

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import Look
    from dpsup.documents.since import Account, Marked, Since

# By their names, wherever they are in a look. Numbers that are no counters are left as they are.
GROWS = frozenset((
    # of ports
    "rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_missed", "rx_errors", "rx_nombuf",
    "tx_errors", "tx_dropped", "reopened", "to_kernel", "to_kernel_bytes", "from_kernel",
    "from_kernel_bytes",
    # of mempools
    "starved", "alloc_failures",
    # of io cores
    "loops", "busy_loops", "sleeps", "woken", "busy_cycles", "requeued", "rings", "stage_packets",
    "fragments", "fragments_tracked", "fragments_forgotten",
    # of groups
    "no_worker", "worker_held", "hold_full", "bypassed", "pause_ns",
    # of lanes and slots
    "sent", "collected", "out", "on", "on_hash", "lane_full", "bad_verdict", "quarantined",
    "quarantine_full", "corrupt", "lanes_corrupt", "beats", "bursts", "busy", "dropped_policy",
    "emitted", "no_blank", "copied", "no_copy", "ticks", "ticks_skipped", "forgotten",
    "undeclared",
))  # fmt: skip
TABLES = frozenset(("drops", "dropped", "counters", "stage_cycles", "pause"))  # all their entries
OF_SUPERVISOR = frozenset(("restarts", "deaths", "primary_deaths"))
_PARTS = ("ports", "pools", "io", "groups", "slots", "lanes")
_OF_STATUS = ("ports", "mempools", "groups", "recovery")


def is_same_generation(mark: Marked, now: Look) -> bool:
    """Do the counters of the mark go on? The clock begins anew with the machine."""
    old, new = mark["look"]["counters"], now["counters"]
    if old is None or new is None:
        return False
    generations = {
        old["generation"],
        new["generation"],
        mark["look"]["status"]["generation"],
        now["status"]["generation"],
    }
    return len(generations) == 1 and old["at_ns"] <= new["at_ns"]


def looks(mark: Marked, now: Look) -> tuple[Look | None, Look]:
    """Two looks whose counters are 0 and what was counted since: instance.rates makes a picture of
    them, whose rates are means. No look before where the generation is another."""
    old, is_same = mark["look"], is_same_generation(mark, now)
    return _less(old, old, True) if is_same else None, _less(now, old, is_same)


def document(mark: Marked, now: Look) -> Since:
    """The Since document."""
    is_same = is_same_generation(mark, now)
    old, new = mark["look"], _less(now, mark["look"], is_same)
    counters: Any = new["counters"]
    recovery = new["status"]["recovery"]
    made: Any = {
        "apiVersion": API,
        "kind": "Since",
        "name": new["status"]["name"],
        "at_ns": counters["at_ns"],
        "generation": counters["generation"],
        "since": "mark" if is_same else "generation",
        "window_s": _seconds(old, now) if is_same else None,
        "mark": {
            "at": mark["at"],
            "at_ns": old["status"]["at_ns"],
            "generation": old["status"]["generation"],
        },
        "deaths": recovery["deaths"],
        "primary_deaths": recovery["primary_deaths"],
        "account": _account(old, now, new, is_same=is_same),
    }
    made.update({part: counters[part] for part in _PARTS if part in counters})
    made["lanes"] = new["lanes"]
    names = [
        f"{g['name']}/{m}" for g in now["plan"].get("groups", []) for m in range(g["max"])
    ]  # fmt: skip
    made["slots"] = [
        {"id": names[i] if i < len(names) else f"slot {i}", **slot}
        for i, slot in enumerate(made["slots"])
    ]
    return cast("Since", made)


def _seconds(old: Look, now: Look) -> float | None:
    was, here = old["counters"], now["counters"]
    return (here["at_ns"] - was["at_ns"]) / 1e9 if was and here else None


def _account(old: Look, now: Look, less: Look, *, is_same: bool) -> Account:
    assert now["counters"] is not None and less["counters"] is not None
    then = account(old["counters"]) if is_same and old["counters"] else None
    found, total = account(less["counters"]), account(now["counters"])
    before = then["in_flight"] if then else 0
    return {
        "received": found["received"],
        "missed": found["missed"],
        "sent": found["sent"],
        "dropped": {reason: n for reason, n in found["dropped"].items() if n},
        "in_flight": total["in_flight"],
        "emitted": found["emitted"],
        "copied": found["copied"],
        "to_kernel": found["to_kernel"],
        "from_kernel": found["from_kernel"],
        "in_flight_before": before,
        # Known of a moment at which nothing is in flight.
        "lost": None
        if before or total["in_flight"]
        else max(0, total["lost"] - (then["lost"] if then else 0)),
    }


# --- subtraction ----------------------------------------------------------------------------------


def _less(now: Look, old: Look, is_same: bool) -> Look:
    grows, tables = (GROWS, TABLES) if is_same else (frozenset[str](), frozenset[str]())
    sub = _Subtraction(grows | OF_SUPERVISOR, tables)
    made: Any = dict(now)
    status: Any = now["status"]
    was: Any = old["status"]
    made["status"] = {
        **status,
        **{part: sub.of(status[part], was.get(part)) for part in _OF_STATUS if part in status},
    }
    counters: Any = now["counters"]
    before: Any = old["counters"] or {}
    if counters:
        parts = {p: sub.of(counters[p], before.get(p)) for p in _PARTS if p in counters}
        made["counters"] = {**counters, **parts}
    made["lanes"] = sub.of(now["lanes"], old["lanes"])
    return cast("Look", made)


class _Subtraction:
    def __init__(self, grows: frozenset[str], tables: frozenset[str]) -> None:
        self._grows, self._tables = grows, tables

    def of(self, new: Any, old: Any, key: str = "") -> Any:
        if key in self._tables:
            return _table(new, old)
        if isinstance(new, dict):
            was = old if isinstance(old, dict) else {}
            return {k: self.of(v, was.get(k), k) for k, v in new.items()}
        if isinstance(new, list):
            by_name = {_name(one, i): one for i, one in enumerate(old or [])}
            return [self.of(one, by_name.get(_name(one, i)), "") for i, one in enumerate(new)]
        if key in self._grows and isinstance(new, int):
            return max(0, new - old) if isinstance(old, int) else new
        return new


def _table(new: Any, old: Any) -> Any:
    if isinstance(new, list):
        was = [*(old or []), *[0] * len(new)]
        return [max(0, n - o) for n, o in zip(new, was, strict=False)]
    known = old if isinstance(old, dict) else {}
    return {k: max(0, n - known.get(k, 0)) for k, n in new.items()}


def _name(one: Any, index: int) -> Any:
    """What an entry of a list is known by: names, or where they have none, their places."""
    if not isinstance(one, dict):
        return index
    if "io" in one and "slot" in one:
        return one["io"], one["slot"]
    return one.get("name", one.get("id", index))
