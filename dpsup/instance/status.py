# SPDX-License-Identifier: BSD-3-Clause
"""The documents that commands print: composed from the primary's counters and the supervisor's
view. Pure; scripts rely on their keys."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # start-up: they need 5 ms
    from collections.abc import Iterable

    from dpsup.documents.audit import AuditPool
    from dpsup.documents.counters import Counters, GroupCounters, SlotCounters
    from dpsup.documents.plan import Group, Plan, Running
    from dpsup.documents.printed import Audit
    from dpsup.documents.state import Left
    from dpsup.documents.status import (
        Account,
        LastExit,
        MovePause,
        Pool,
        Port,
        RecoveryView,
        Status,
        StatusGroup,
        StatusWorker,
        Totals,
        View,
        Worker,
    )

API = "dpsup/v1"

_GROUP_COUNTS = ("no_worker", "hold_full", "held", "bypassed", "pause_ns")


def ports(plan: Plan, counters: Counters) -> list[Port]:
    """The ports that have a device, then those that have none now."""
    known = {p["name"] for p in plan["ports"]}
    found: list[Port] = [
        {
            "name": p["name"],
            "rx_packets": p["rx_packets"],
            "tx_packets": p["tx_packets"],
            "rx_missed": p["rx_missed"],
            "tx_dropped": p["drops"].get("tx_full", 0),
            "rx_bytes": p["rx_bytes"],
            "tx_bytes": p["tx_bytes"],
            "rx_errors": p["rx_errors"],
            "tx_errors": p["tx_errors"],
            "rx_nombuf": p["rx_nombuf"],
            "dropped": {k: v for k, v in p["drops"].items() if k != "tx_full"},
            "link_up": p["link_up"],
            "link_mbps": p["link_mbps"],
            # a primary of an older dpsup does not have these three
            "unwritten_bytes": p.get("unwritten_bytes", 0),
            "absent": p.get("absent", False),
            "trouble": p.get("trouble", ""),
            # nor these
            "to_kernel": p.get("to_kernel", 0),
            "to_kernel_bytes": p.get("to_kernel_bytes", 0),
            "from_kernel": p.get("from_kernel", 0),
            "from_kernel_bytes": p.get("from_kernel_bytes", 0),
            "kernel": p.get("kernel"),
        }
        for p in counters["ports"]
        if p["name"] in known
    ]
    return sorted(found, key=lambda p: p["absent"])


def mempools(plan: Plan, counters: Counters) -> list[Pool]:
    failures: Counter[str] = Counter()
    pool_of = {p["name"]: plan["pools"][p["pool"]]["name"] for p in plan["ports"]}
    for port in counters["ports"]:
        failures[pool_of[port["name"]]] += port["rx_nombuf"]
    return [
        {
            "name": p["name"],
            "size": p["size"],
            "in_use": p["size"] - p["free"],
            "low_water": p["low_water"],
            # the drivers' counts, and the polls that found the pool empty
            "alloc_failures": failures[p["name"]] + p["starved"],
        }
        for p in counters["pools"]
    ]


def slot_dropped(slot: SlotCounters) -> dict[str, int]:
    """Why packets of a slot were dropped: the plugin's reasons, then dpsup's own."""
    dropped = dict(slot["dropped"])
    for key, count in (
        ("lane_full", slot["lane_full"]),
        ("bad_verdict", slot["bad_verdict"]),
        ("quarantine", slot["quarantined"]),
        ("quarantine_full", slot["quarantine_full"]),
        ("corrupt", slot["corrupt"]),
    ):
        if count:
            dropped[key] = dropped.get(key, 0) + count
    return dropped


def group_dropped(group: GroupCounters) -> dict[str, int]:
    dropped = {
        "no_worker": group["no_worker"],
        "hold_full": group["hold_full"],
        "worker_held": group.get("worker_held", 0),  # an older primary counts none
    }
    return {k: n for k, n in dropped.items() if n}


def totals(workers: Iterable[Worker], before: dict[str, int]) -> Totals:
    """The sums of a group's workers; `before`: what was dropped before any of them. A slot that is
    not in the Status document has counted nothing."""
    dropped: Counter[str] = Counter(before)
    counters: Counter[str] = Counter()
    made: Totals = {
        "rx_packets": 0,
        "tx_packets": 0,
        "dropped": dropped,
        "outstanding": 0,
        "requeued": 0,
        "restarts": 0,
        "counters": counters,
    }
    for w in workers:
        dropped.update(w["dropped"])
        counters.update(w["counters"])
        made["rx_packets"] += w["rx_packets"]
        made["tx_packets"] += w["tx_packets"]
        made["outstanding"] += w["outstanding"]
        made["requeued"] += w["requeued"]
        made["restarts"] += w["restarts"]
    return {**made, "dropped": dict(dropped), "counters": dict(counters)}


def move_pause(group: GroupCounters) -> MovePause:
    """Time that moving buckets waited for their previous worker to drain, in seconds: `counts[i]`
    is the number of buckets below `bounds[i]`, `count` of all that waited. 1 µs to 17 s."""
    total, bounds, counts = 0, [], []
    for i, n in enumerate(group["pause"]):
        total += n
        if 10 <= i <= 34:
            bounds.append((1 << i) / 1e9)
            counts.append(total)
    return {"bounds": bounds, "counts": counts, "count": total, "sum": group["pause_ns"] / 1e9}


def in_flight(counters: Counters) -> int:
    """Packets received and neither sent nor dropped: lent, held or waiting."""
    lent = sum(int(s["outstanding"]) for s in counters["slots"])
    waits = sum(int(io["held"] + io["xfer"] + io["tx_waiting"]) for io in counters["io"])
    return lent + waits + sum(io.get("kernel_waiting", 0) for io in counters["io"])


def account(counters: Counters) -> Account:
    """Every packet received, by what became of it. Counters are read one after the other, so
    that losses are known only once no packet is in flight."""
    dropped: Counter[str] = Counter()
    for port in counters["ports"]:
        dropped.update(port["drops"])
    for slot in counters["slots"]:
        dropped.update(slot_dropped(slot))
    for group in counters["groups"]:
        dropped.update(group_dropped(group))
    received = sum(p["rx_packets"] for p in counters["ports"])
    sent = sum(p["tx_packets"] for p in counters["ports"])
    to_kernel = sum(p.get("to_kernel", 0) for p in counters["ports"])
    from_kernel = sum(p.get("from_kernel", 0) for p in counters["ports"])
    flight = in_flight(counters)
    emitted = sum(s.get("emitted", 0) for s in counters["slots"])
    copied = sum(s.get("copied", 0) for s in counters["slots"])
    came = received + emitted + copied + from_kernel
    return {
        "received": received,
        # as the drivers count, for lack of a descriptor or an mbuf
        "missed": sum(p["rx_missed"] + p["rx_nombuf"] for p in counters["ports"]),
        "sent": sent,
        "dropped": dict(dropped),
        "in_flight": flight,
        "emitted": emitted,
        "copied": copied,
        "to_kernel": to_kernel,
        "from_kernel": from_kernel,
        "lost": 0 if flight else came - sent - to_kernel - sum(dropped.values()),
    }


def _without_supervisor(
    group: Group, member: int, slot: SlotCounters, left: Left
) -> tuple[str, int, LastExit | None, str]:
    """A worker's state, restarts, last exit, and why it is held, as far as they are known."""
    index = group["first_slot"] + member
    noted = left["memory"].get("workers", {}).get(f"{group['name']}/{member}", {})
    restarts = max(0, noted.get("restarts", 0)) + left["takeovers"].get(index, 0)
    last, why = noted.get("last_exit"), ""
    if slot["pid"]:
        state = "running"
    elif member >= _desired(group, left):
        state = "stopped"
    else:
        state = "held"
        is_known = noted.get("state") == "held" and not left["deaths"].get(index)
        why = noted.get("held_for", "") if is_known else "no supervisor starts it again"
    return state, restarts, last, why


def _desired(group: Group, left: Left) -> int:
    known = left["memory"].get("groups", {}).get(group["name"], {})
    return min(group["max"], known.get("desired", group["count"]))


_NOTHING_LEFT: Left = {"memory": {}, "deaths": {}, "takeovers": {}, "spares": {}}


def groups(
    plan: Plan, counters: Counters, view: View | None, left: Left | None = None
) -> list[StatusGroup]:
    """Without a supervisor's view, what shared memory holds, and what the last one noted."""
    left = left or _NOTHING_LEFT
    found: list[StatusGroup] = []
    for g, group in enumerate(plan["groups"]):
        workers: list[StatusWorker] = []
        seen = view["groups"][g] if view else None
        for member in range(group["max"]):
            slot = counters["slots"][group["first_slot"] + member]
            known = seen["workers"][member] if seen else None
            state, restarts, last_exit, held_for = _without_supervisor(group, member, slot, left)
            # A slot that was never occupied is not shown.
            if known is None and state == "stopped" and not slot["sent"]:
                continue
            if known is not None and known["hidden"] and not slot["sent"]:
                continue
            core = group["cores"][member]
            one: StatusWorker = {
                "id": f"{group['name']}/{member}",
                "pid": known["pid"] if known else slot["pid"] or None,
                "core": core,
                "state": known["state"] if known else state,
                "rx_packets": slot["sent"],
                "tx_packets": slot["out"] + slot["on"],
                "dropped": slot_dropped(slot),
                "restarts": known["restarts"] if known else restarts,
                "last_exit": known["last_exit"] if known else last_exit,
                "outstanding": slot["outstanding"],
                "requeued": slot["requeued"],
                # a primary of an older dpsup does not have these
                "emitted": slot.get("emitted", 0),
                "no_blank": slot.get("no_blank", 0),
                "copied": slot.get("copied", 0),
                "no_copy": slot.get("no_copy", 0),
                "on_hash": slot.get("on_hash", 0),
                "ticks": slot.get("ticks", 0),
                "ticks_skipped": slot.get("ticks_skipped", 0),
                "counters": slot["counters"],
                "gauges": slot.get("gauges", {}),
                "dropped_policy": slot.get("dropped_policy", 0),
            }
            if group.get("verify"):
                one["undeclared"] = slot.get("undeclared", 0)
            if known is not None:
                one["health"] = known["health"]
                one["retry_in_s"] = known["retry_in_s"]
                one["held_for"] = known["held_for"]
                one["since_ns"] = known["since_ns"]
            elif held_for:
                one["held_for"] = held_for
            workers.append(one)
        ready = sum(w["state"] == "running" for w in workers)
        found.append(
            {
                "name": group["name"],
                "plugin": group["plugin"],
                "plugin_on_disk": seen["plugin_on_disk"] if seen else "",
                "desired": seen["desired"] if seen else _desired(group, left),
                "ready": ready,
                "spares_ready": seen["spares_ready"] if seen else left["spares"].get(g, 0),
                "spares_held": seen["spares_held"] if seen else "",
                "rollout": seen["rollout"] if seen else None,
                "max": group["max"],
                "workers": workers,
                "dropped": group_dropped(counters["groups"][g]),
                "held": counters["groups"][g]["held"],
                "bypassed": counters["groups"][g]["bypassed"],
                "move_pause": move_pause(counters["groups"][g]),
                "totals": totals(workers, group_dropped(counters["groups"][g])),
            }
        )
        if seen and "learned" in seen:
            found[-1]["learned"] = seen["learned"]
    return found


def status(
    plan: Running, counters: Counters | None, view: View | None, left: Left | None = None
) -> Status:
    """The Status document. `view` is None where the supervisor is dead (headless), and `left` is
    what is known then; `counters` is None while no primary runs."""
    if counters is None:
        counters = _nothing(plan, view["at_ns"] if view else 0)
    recovery = view["recovery"] if view else _recovery_without_supervisor(left or _NOTHING_LEFT)
    return {
        "apiVersion": API,
        "kind": "Status",
        "name": plan["name"],
        "state": view["state"] if view else "degraded",
        "generation": plan["generation"],
        "at_ns": counters["at_ns"],
        "supervisor": {"pid": view["pid"] if view else None},
        "primary": view["primary"] if view else {"pid": plan["primary_pid"], "state": "running"},
        "seed": view["seed"] if view else None,
        "builder": view.get("builder") if view else None,
        "topology_file": plan["topology_file"],
        "started_ns": view["started_ns"] if view else None,
        "ports": ports(plan, counters),
        "mempools": mempools(plan, counters),
        "groups": groups(plan, counters, view, left),
        "io": counters["io"],
        "in_flight": in_flight(counters),
        "recovery": {
            "deaths": recovery["deaths"],
            "refused_calls": recovery.get("refused_calls", 0),
            "primary_deaths": recovery["primary_deaths"],
            "lost": recovery["lost"],
            "duplicated": 0,
            "quarantined": sum(s["quarantined"] for s in counters["slots"]),
            "last_failover_us": recovery["last_failover_us"],
            "histograms": recovery["histograms"],
        },
    }


def _recovery_without_supervisor(left: Left) -> RecoveryView:
    memory = left["memory"]
    return {
        "deaths": memory.get("deaths", 0) + sum(left["deaths"].values()),
        "refused_calls": memory.get("refused_calls", 0),
        "primary_deaths": memory.get("primary_deaths", 0),
        "lost": memory.get("lost", 0),
        "last_failover_us": memory.get("last_failover_us"),
        "histograms": memory.get("failovers", {}),
    }


_NO_SLOT = {
    "pid": 0,
    "sent": 0,
    "out": 0,
    "on": 0,
    "requeued": 0,
    "lane_full": 0,
    "bad_verdict": 0,
    "bad_word": 0,
    "bad_len": 0,
    "bad_version": 0,
    "quarantined": 0,
    "quarantine_full": 0,
    "corrupt": 0,
    "outstanding": 0,
    "dropped": {},
    "counters": {},
}


def _nothing(plan: Plan, at_ns: int) -> Counters:
    """The counters that a Status document takes, before a primary runs."""
    found = {
        "at_ns": at_ns,
        "ports": [],
        "pools": [],
        "io": [],
        "groups": [{**dict.fromkeys(_GROUP_COUNTS, 0), "pause": []} for _ in plan["groups"]],
        "slots": [_NO_SLOT] * plan["n_slots"],
    }
    return cast("Counters", found)


def audit(name: str, pools: list[AuditPool]) -> Audit:
    return {"apiVersion": API, "kind": "Audit", "name": name, "pools": pools}
