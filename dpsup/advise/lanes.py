# SPDX-License-Identifier: BSD-3-Clause
"""Are there enough workers, are their lanes long enough, and is the load spread? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.advise import contents
from dpsup.advise.piece import FASTER, LOSING, Command, Effect, Key, Piece
from dpsup.advise.queue import backlog, refused
from dpsup.advise.window import HALF, SMALLEST_BUSY, Window, mersenne, pool_need
from dpsup.instance.rates import LANE_RESERVE
from dpsup.packets import tunnels as looked
from dpsup.supervisor.steering import WORTHWHILE
from dpsup.text import listing
from dpsup.view.columns import percent, si

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.advice import GroupSeen
    from dpsup.documents.plan import Group, Port

SPARE_TIME = 0.8  # of a worker or an io core: below this it keeps up on average
FULL_TIME = 0.9  # of a worker: it does not keep up
LOSS = 1e-4  # of a group's packets: if fewer find a lane full, no change is suggested
UNEVEN = 1.25  # a worker's packets over the mean
LOADED = 0.6  # of the busiest worker's time: above this its share matters
MARGIN = 1.5  # times the worst burst measured
FLOWS = 4  # inside of a tunnel: fewer are not spread
USEFUL = 0.15  # of a CPU: another worker must get this much
NOT_HIGHER = 0.9  # of the available room is promised


def loses(found: GroupSeen) -> bool:
    """Does a group lose more than a few packets because lanes are full?"""
    offered = found["pps"] + found["lane_full_pps"]
    return bool(found["lane_full_pps"] > LOSS * offered)


def io_keeps_up(window: Window) -> bool:
    return all(io["busy"] < FULL_TIME for io in window.io.values())


def uneven(window: Window) -> list[str]:
    """Groups for which `dpsup rebalance --dry-run` may help."""
    return [
        name
        for name, found in window.groups.items()
        if found["workers"] > 1
        and found["imbalance"] >= UNEVEN
        and (found["busiest"] >= LOADED or loses(found))
    ]


def skew(window: Window) -> Iterator[Piece]:
    for name in uneven(window):
        found, spread = window.groups[name], window.spreads.get(name)
        if spread is None or not spread["packets"]:
            continue
        if spread["imbalance"] - spread["imbalance_predicted"] < WORTHWHILE:
            continue  # flows are not split: one flow causes the rest
        most = max(spread["before"], key=lambda worker: spread["before"][worker])
        lost = found["lane_full_pps"]
        yield Piece(
            kind="skew",
            level=LOSING if loses(found) else FASTER,
            about=f"group {name}",
            title=f"{most} has more than its share of {name}",
            seen=f"{most} gets {percent(spread['before'][most])} of {spread['packets']} packets, "
            f"an even share is {percent(1 / len(spread['before']))}; the busiest worker is "
            f"{percent(found['busiest'])} busy, the mean {percent(found['busy'])}; "
            f"{si(lost)} packets/s find a lane full",
            why="the busiest worker's lane fills first, even if the others are idle; moving "
            f"{spread['buckets_moved']} buckets keeps each flow in order",
            changes=(Command(("dpsup", "-n", window.name, "rebalance", name)),),
            effect=Effect(
                ("groups", name, "imbalance"), "x the mean",
                spread["imbalance"], spread["imbalance_predicted"],
            ),
            numbers={**found, "spread": spread},
        )  # fmt: skip


def elephant(window: Window, group: str) -> str:
    """The worker whose load no move of buckets can take off; "": there is none."""
    spread = window.spreads.get(group)
    if spread is None or not spread["packets"]:
        return ""
    if spread["imbalance_predicted"] < UNEVEN:
        return ""
    return max(spread["before"], key=lambda worker: spread["before"][worker])


def contents_of(window: Window) -> dict[str, str]:
    """By worker that keeps more than its share: what most of its packets are, in words."""
    found: dict[str, str] = {}
    for group, frames in window.samples.items():
        most, worker = contents.most(frames), elephant(window, group)
        if most is None or not worker:
            continue
        share = f"{percent(most.share)} of its packets are {most.what}"
        if most.key:
            found[worker] = f'{share}: `rss.inner = ["{most.key}"]` spreads the flows inside'
        elif most.what == "fragments" and not any(
            "fragments" in port["rss_fields"] for port in window.plan["ports"]
        ):
            found[worker] = f'{share}: `rss.fragments = "track"` steers them as their flows'
        elif most.what.startswith("one flow"):
            found[worker] = f"{share}: a flow is not split"
        else:
            found[worker] = f"{share}: the software does not look inside, so they are few flows"
    return found


def tunnels(window: Window) -> Iterator[Piece]:
    """Hash the inner headers of a tunnel whose packets all come to one worker."""
    for name, frames in window.samples.items():
        most, worker = contents.most(frames), elephant(window, name)
        index = next(i for i, g in enumerate(window.plan["groups"]) if g["name"] == name)
        fed = [p for p in window.plan["ports"] if p["group"] == index]
        lacking = [p for p in fed if most and _lacks(p, most.key)]
        if most is None or not most.key or not worker or not lacking or len(most.spread) < FLOWS:
            continue
        found, spread = window.groups[name], window.spreads[name]
        part = spread["before"][worker] * most.share
        then = contents.imbalance(most.spread, part, len(spread["before"]))
        if spread["imbalance"] - then < WORTHWHILE:
            continue
        yield Piece(
            kind="tunnel",
            level=LOSING if loses(found) else FASTER,
            about=f"group {name}",
            title=f"{worker} has the packets of a tunnel",
            seen=f"{worker} gets {percent(spread['before'][worker])} of {spread['packets']} packets"
            f"; of {most.packets} looked at, {percent(most.share)} are {most.what}, with"
            f" {len(most.spread)} flows inside",
            why="they are steered by their outer headers, which are few flows; the inner ones are"
            " many",
            changes=tuple(
                Key(("ports", p["name"], "rss", "inner"), [*now, most.key], now)
                for p in lacking
                for now in (looked.inner(p["rss_fields"]),)
            ),
            effect=Effect(("groups", name, "imbalance"), "x the mean", spread["imbalance"], then),
            numbers={**found, "spread": spread, "share": most.share, "flows": len(most.spread)},
        )


def _lacks(port: Port, key: str) -> bool:
    """Whether the key is not yet there, and there is room for it."""
    fields = port["rss_fields"]
    full = len(looked.vxlan_ports(fields)) >= looked.VXLAN_PORTS
    return key not in fields and not (full and looked.kind(key) == "vxlan")


def workers(window: Window) -> Iterator[Piece]:
    """More workers, as far as CPUs have room."""
    skewed = {p.about for p in skew(window)}
    for group in window.plan["groups"]:
        name = group["name"]
        found = window.groups[name]
        drops = loses(found) and found["busiest"] >= FULL_TIME
        waits = group["on_full"] == "hold" and found["fill"] >= SPARE_TIME
        if not found["workers"] or f"group {name}" in skewed or found["busy"] < SPARE_TIME:
            continue
        if drops or (waits and found["busiest"] >= FULL_TIME):
            piece = _add(window, group, found)
            if piece is not None:
                yield piece


def _add(window: Window, group: Group, found: GroupSeen) -> Piece | None:
    name = group["name"]
    desired = next(g["desired"] for g in window.picture["groups"] if g["name"] == name)
    each = found["pps"] / max(found["busy"] * found["workers"], SMALLEST_BUSY)
    cores = [
        (core, window.room(core))
        for core in (
            *group["cores"][desired:],
            *(window.unused() if len(group["cores"]) < limits.SLOTS else ()),
        )
    ]
    rooms: dict[int, float] = {}
    for core, room in cores:
        if room >= USEFUL and core not in rooms:
            rooms[core] = room
    wanted = found["lane_full_pps"] / each if each else 0.0
    taken: list[int] = []
    got = 0.0
    for n, core in enumerate((*group["cores"][desired:], *window.unused())):
        if core not in rooms or n != len(taken):
            break  # workers take their CPUs in order
        got += rooms.pop(core)
        taken.append(core)
        if wanted and got * NOT_HIGHER >= wanted:
            break
    if not taken:
        return None  # no CPU has room: more workers would only share it
    n = desired + len(taken)
    gain = each * got * NOT_HIGHER
    changes: tuple[Key | Command, ...]
    if n <= group["max"]:
        changes = (Command(("dpsup", "-n", window.name, "scale", name, str(n))),)
    else:
        changes = (
            Key(("workers", name, "max"), n, group["max"]),
            Key(("workers", name, "count"), n, group["count"]),
        )
    holds = group["on_full"] == "hold"
    lost = found["lane_full_pps"]
    busy = f"{percent(found['busy'])} busy on the mean, {percent(found['busiest'])} the busiest"
    if holds:
        effect = Effect(("groups", name, "pps"), "packets/s", found["pps"], found["pps"] + gain)
        cost = f"lanes are {percent(found['fill'])} full"
    else:
        left = max(0.0, lost - gain)
        effect = Effect(("groups", name, "lane_full_pps"), "packets/s", lost, left)
        cost = f"{si(lost)} packets/s find their lane full"
    return Piece(
        kind="workers",
        level=FASTER if holds else LOSING,
        about=f"group {name}",
        title=f"{name} has too few workers",
        seen=f"{found['workers']} workers, {busy}; {cost}; one handles {si(each)} packets/s, and "
        + listing([f"CPU {c} has {percent(window.room(c))} unused" for c in taken]),
        why="a worker that is always busy has a full lane, and further packets are "
        + ("not received" if holds else "dropped"),
        changes=changes,
        effect=effect,
        numbers={**found, "packets_per_s_of_one": each, "cpus": taken},
    )


def crowded(window: Window) -> Iterator[Piece]:
    """A CPU of its own for a worker that shares one and loses packets for it."""
    free = [core for core in window.unused() if window.room(core) >= USEFUL]
    for group in window.plan["groups"]:
        name = group["name"]
        found = window.groups[name]
        if not loses(found):
            continue
        for member, w in enumerate(w for w in window.picture["workers"] if w["group"] == name):
            core = window.cores.get(w["core"])
            lost = found["lane_full"].get(w["id"], 0.0)
            if not lost or not free or core is None or w["core"] not in group["cores"]:
                continue
            busy = w["busy"] or 0.0
            others = [role for role in core["roles"] if role != w["id"]]
            if busy >= SPARE_TIME or not others or (core["load"] or 0.0) < FULL_TIME:
                continue
            to, cores = free.pop(0), list(group["cores"])
            cores[member] = to
            gain = (w["pps"] or 0.0) * max(0.0, window.room(to) / max(busy, SMALLEST_BUSY) - 1)
            yield Piece(
                kind="crowded",
                level=LOSING,
                about=w["id"],
                title=f"{w['id']} does not get enough of its CPU",
                seen=f"{si(lost)} packets/s find its lane full; CPU {w['core']} is "
                f"{percent(core['load'])} used, {percent(busy)} of it by this worker, which shares"
                f" it with {listing(others)}; CPU {to} has {percent(window.room(to))} unused",
                why="while another thread runs on its CPU, a worker's lane fills",
                changes=(
                    Key(
                        ("workers", name, "cores"), ",".join(map(str, cores)),
                        ",".join(map(str, group["cores"])),
                    ),
                ),
                effect=Effect(
                    ("groups", name, "lane_full_pps"), "packets/s", found["lane_full_pps"],
                    max(found["lane_full_pps"] - lost, found["lane_full_pps"] - gain * NOT_HIGHER),
                ),
                numbers={**found, "cpu": to},
            )  # fmt: skip


def rings(window: Window) -> Iterator[Piece]:
    """Longer lanes, if workers have time but lanes are full: bursts."""
    if not io_keeps_up(window):
        return  # packets wait in the lanes for the io core, not for the worker
    for index, group in enumerate(window.plan["groups"]):
        name = group["name"]
        found = window.groups[name]
        if not loses(found) or found["busiest"] >= SPARE_TIME or group["on_full"] != "drop":
            continue
        lanes = window.lane_steps(name)
        backlogs = [backlog(steps) for steps in lanes]
        if not lanes or found["fill"] >= HALF or not all(b.is_burst for b in backlogs):
            continue  # it does not keep up: a longer lane is full a moment later
        room = group["ring"] - LANE_RESERVE
        excess = max(b.most for b in backlogs)
        ring = 1 << int(room + excess * MARGIN + LANE_RESERVE - 1).bit_length()
        ring = min(max(ring, group["ring"] * 2), limits.RING)
        if ring <= group["ring"]:
            continue
        changes: list[Key] = [Key(("workers", name, "ring"), ring, group["ring"])]
        for pool, conf in enumerate(window.plan["pools"]):
            if not any(p["pool"] == pool and p["group"] == index for p in window.plan["ports"]):
                continue
            need = pool_need(window.plan, pool, ring=ring)
            if need > conf["mbufs"]:
                key = ("mempools", conf["name"], "mbufs")
                changes.append(Key(key, mersenne(need), conf["mbufs"]))
        more = ring - group["ring"]
        left = sum(refused(steps, more) for steps in lanes) / (window.seconds or 1.0)
        yield Piece(
            kind="lane-ring",
            level=LOSING,
            about=f"group {name}",
            title=f"bursts overrun the lanes of {name}",
            seen=f"{si(found['lane_full_pps'])} packets/s find their lane full, up to "
            f"{excess:.0f} more than its {room} at a time, while the lanes are "
            f"{percent(found['fill'])} full on average and the busiest worker is "
            f"{percent(found['busiest'])} busy",
            why="on average the workers keep up; a lane only needs to hold one burst",
            changes=tuple(changes),
            effect=Effect(
                ("groups", name, "lane_full_pps"), "packets/s", found["lane_full_pps"], left
            ),
            numbers={**found, "room": room},
        )
