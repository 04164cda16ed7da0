# SPDX-License-Identifier: BSD-3-Clause
"""Hints: what is wrong in a picture (instance.rates), and what to type. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup.text import listing
from dpsup.view.columns import ago, percent, si

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.counters import KernelPath
    from dpsup.documents.rates import GroupRates, Picture, WorkerRates

FULL = 0.8  # of a lane or a mempool: marked
IDLE = 0.5  # of a worker: it could take more
LOADED = 0.6  # of a worker's time: above this its share of the group's packets matters


def hints(picture: Picture) -> list[str]:
    """Problems, and what to type."""
    return list(_hints(picture))


def _hints(picture: Picture) -> Iterator[str]:
    name = picture["name"]
    do = f"dpsup -n {name}"
    if picture["supervisor"]["pid"] is None:
        start = f"dpsup start {picture['topology_file']}"
        yield f"no supervisor: `{start}` supervises it again, `{do} stop` ends it"
    elif picture["primary"]["state"] != "running":
        yield f"no primary yet ({picture['primary']['state']}): `{do} logs primary`, `{do} events`"
    builder = picture["builder"]
    if builder and builder["state"] == "stopped":
        yield (
            f"the builder is stopped, by a signal or a debugger, and no live table can be changed:"
            f" `kill -CONT {builder['pid']}`"
        )
    elif builder and builder["state"] != "ready" and builder["trouble"]:
        yield (
            f"live tables cannot be changed, the builder {builder['trouble']}:"
            f" `{do} logs builder`, `{do} events`"
        )
    yield from _worker_hints(picture, do)
    yield from _group_hints(picture, do)
    drivers = {p["name"]: p["driver"] for p in picture["port_info"]}
    for p in picture["ports"]:
        if p["trouble"]:
            what = "is absent" if p["absent"] else "is down"
            yield (
                f"port {p['name']} {what}: {p['trouble']}; it is used again once that is over:"
                f" `{do} events --type port`"
            )
        elif not p["link_up"]:
            yield f"port {p['name']} has no link: check cable and peer, then `{do} ports -w`"
        if p["unwritten_bytes"]:
            short = si(p["unwritten_bytes"])
            yield f"port {p['name']}: its output lacks {short} bytes: disk full, port opened again?"
        if p["missed_pps"]:
            of_kernel = drivers.get(p["name"]) == "net_af_packet"
            longer = "framecnt in its vdev" if of_kernel else "descriptors.rx"
            yield (
                f"port {p['name']} misses {si(p['missed_pps'])} packets per second, its io core "
                f"does not keep up: `{do} cores`, then more cores in [[io]] or {longer}"
            )
        if p["drops_new"].get("oversize"):
            yield (
                f"port {p['name']} drops frames that are longer than its MTU (oversize): raise mtu,"
                f" or switch off gro, tso and gso of its interface: "
                f"`dpsup doctor {picture['topology_file']}` has the ethtool line"
            )
        if p["drops_new"].get("no_kernel"):
            yield (
                f"a plugin hands packets of port {p['name']} to the kernel, and the port has no way"
                ' there, so they are dropped (no_kernel): write kernel = "tap" in its [[ports]]'
            )
        kernel = p["kernel"]
        if kernel and kernel["trouble"]:
            yield f"port {p['name']} has no way to the kernel: {kernel['trouble']}"
        elif kernel and p["drops_new"].get("kernel_failed"):
            yield (
                f"the kernel refuses packets of port {p['name']} (kernel_failed): set its TAP up,"
                f" `ip{_in_namespace(kernel)} link set {kernel['tap']} up`"
            )
        beyond = p["drops_new"].get("kernel_rate", 0) + p["drops_new"].get("kernel_full", 0)
        if kernel and beyond:
            yield (
                f"port {p['name']} has {beyond} packets for the kernel too many (kernel_rate,"
                f" kernel_full): {kernel['rate']} per second may pass from each io core. Is it a"
                " flood? If not, raise rate in its `kernel`"
            )
        if p["drops_new"].get("tx_full"):
            yield f"port {p['name']} drops packets, its tx queue is full: `{do} ports -o wide`"
    for pool in picture["mempools"]:
        if pool["low_water"] == 0 or pool["alloc_failures"]:
            yield (
                f"mempool {pool['name']} ran empty ({pool['alloc_failures']} allocation failures): "
                f"`{do} audit` shows where its mbufs are; raise mbufs in [mempools.{pool['name']}]"
            )
    if picture["recovery"]["quarantined"]:
        yield f"{picture['recovery']['quarantined']} packets are in quarantine: `{do} quarantine`"


def _in_namespace(kernel: KernelPath) -> str:
    return f" -n {kernel['netns']}" if kernel["netns"] else ""


def _worker_hints(picture: Picture, do: str) -> Iterator[str]:
    headless = picture["supervisor"]["pid"] is None
    for w in picture["workers"]:
        id, health = w["id"], w.get("health", "ok")
        if w["state"] == "held" and headless:
            # What a supervisor would be asked for, the next one does by itself.
            why = w.get("held_for") or "no process has its slot"
            yield f"{id} is held, {why}: `{do} logs {id}`"
        elif w["state"] in ("held", "backoff") and w["last_exit"]:
            reason = w["last_exit"]["reason"] or w.get("held_for", "")
            if w["state"] == "held" and w.get("retry_in_s"):
                reason = f"{reason}, tried again in {ago(w['retry_in_s'])}".removeprefix(", ")
            again = "reset-failed" if w["state"] == "held" else "restart"
            yield (
                f"{id} is {'held' if w['state'] == 'held' else 'in backoff'} after "
                + w["last_exit"]["how"]
                + (f" ({reason})" if reason else "")
                + f": `{do} logs {id}`, `{do} {again} {id}`"
            )
        elif w["state"] == "held":
            why = w.get("held_for") or "no process has its slot"
            yield f"{id} is held, {why}: `{do} logs {id}`, `{do} reset-failed {id}`"
        if w["drops_new"].get("bad_verdict"):
            yield (
                f"{id} returns verdicts that have no meaning, and dpsup drops these packets "
                f"(bad_verdict): `{do} events --type verdict` shows the last one"
            )
        if health == "stopped":
            yield f"{id} is stopped, by a signal or a debugger: `{do} kill {id} -s CONT`"
        elif health == "stuck":
            yield f"{id} is stuck with a packet and is being ended: `{do} events --type death`"
        elif health == "starved":
            yield f"{id} gets no CPU: `{do} cores` shows the other threads on core {w['core']}"


def _overload(picture: Picture, group: GroupRates, do: str) -> Iterator[str]:
    """What to type if workers are overloaded."""
    mine = [w for w in picture["workers"] if w["group"] == group["name"]]
    full = [
        w
        for w in mine
        if w["state"] == "running"
        and (w["fill"] or 0) >= FULL
        and w["drops_new"].get("lane_full")
        and w.get("health", "ok") == "ok"
    ]
    if full:
        names = (
            f"{listing([w['id'] for w in full])} {'does' if len(full) == 1 else 'do'} not keep up"
        )
        lost = sum(w["drops_new"]["lane_full"] for w in full) / (picture["window_s"] or 1)
        yield f"{names}, {si(lost)} packets per second find the lanes full: " + _relief(
            picture, group, full, [w for w in mine if w not in full], do
        )


def _relief(
    picture: Picture, group: GroupRates, full: list[WorkerRates], others: list[WorkerRates], do: str
) -> str:
    if all((w["busy"] or 0) < FULL for w in full):
        busy = [one["id"] for one in picture["io"] if (one["busy"] or 0) >= FULL]
        if busy:
            return f"the bottleneck is {listing(busy)}: `{do} advise`"
        loaded = {c["core"] for c in picture["cores"] if (c["load"] or 0) >= FULL}
        if all(w["core"] in loaded for w in full):
            return f"other threads use the rest of their CPU: `{do} cores`"
    well = [w for w in others if w["state"] == "running" and w.get("health", "ok") == "ok"]
    if any((w["busy"] or 0) < IDLE for w in well):
        return f"other workers are idle, `{do} rebalance {group['name']}` may spread the load"
    if group["desired"] < group["max"]:
        return f"`{do} scale {group['name']} +1`"
    return f"raise max of {group['name']} in {picture['topology_file']}, and restart the instance"


def _uneven(picture: Picture, group: GroupRates, do: str) -> Iterator[str]:
    """One worker has most of the packets: of few flows, which may be a tunnel's outer headers."""
    mine = [
        w for w in picture["workers"] if w["group"] == group["name"] and w["state"] == "running"
    ]
    total = sum(w["pps"] or 0 for w in mine)
    if len(mine) < 2 or not total:
        return
    most = max(mine, key=lambda w: w["pps"] or 0)
    share = (most["pps"] or 0) / total
    is_loaded = (most["busy"] or 0) >= LOADED or most["drops_new"].get("lane_full")
    # Nearer to all than to an even share.
    if is_loaded and share > (1 + 1 / len(mine)) / 2:
        yield (
            f"{most['id']} gets {percent(share)} of the packets of {group['name']}, an even share"
            f" is {percent(1 / len(mine))}: `{do} advise` says what they are, and which key spreads"
            " a tunnel's"
        )


def _is_well(picture: Picture, group: GroupRates) -> bool:
    """Do all its workers run? Then what waits is on its way: with `on_full = "hold"` some packets
    always do, while inputs that are faster than the workers are left alone."""
    mine = [w for w in picture["workers"] if w["group"] == group["name"]]
    return 0 < group["desired"] <= group["ready"] and all(
        w.get("health", "ok") == "ok" for w in mine if w["state"] == "running"
    )


def _group_hints(picture: Picture, do: str) -> Iterator[str]:
    if picture["supervisor"]["pid"] is None:
        return  # each of these needs one, and that is said
    for g in picture["groups"]:
        yield from _overload(picture, g, do)
        yield from _uneven(picture, g, do)
        if g["plugin_on_disk"] == "changed":
            yield (
                f"{g['plugin']} has changed on disk, {g['name']} runs the copy of before: "
                f"`{do} rollout {g['name']} --plugin {g['plugin']}` starts the new one"
            )
        elif g["plugin_on_disk"] == "missing":
            yield f"{g['plugin']} is gone from the disk, {g['name']} runs its copy"
        if g["spares_held"]:
            yield (
                f"no spare of {g['name']} is forked ({g['spares_held']}): "
                f"`{do} reset-failed {g['name']}`"
            )
        told = any(
            w["group"] == g["name"] and w["state"] in ("held", "backoff")
            for w in picture["workers"]
        )
        if g["ready"] < g["desired"] and picture["state"] == "degraded" and not told:
            yield (
                f"{g['name']} has {g['ready']} of {g['desired']} workers ready: "
                f"`{do} events --since 10m --type death,held,state`"
            )
        if g["desired"] == 0:
            yield f"{g['name']} has no workers: `{do} scale {g['name']} 1`"
        if g["held"] and not _is_well(picture, g):
            yield f"{g['held']} packets wait for {g['name']}: `{do} workers {g['name']}`"
