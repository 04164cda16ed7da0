# SPDX-License-Identifier: BSD-3-Clause
"""Tables that are no part of a picture: which instances there are, where a flow goes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpsup.view.columns import Cell, Column, Line, ago, percent, si, wrap
from dpsup.view.sections import Screen, state

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.fleet import Fleet, HostAnswer
    from dpsup.documents.instances import Instances
    from dpsup.documents.rates import Picture
    from dpsup.documents.where import Where


def instances(found: Instances, screen: Screen) -> list[Line]:
    columns = [
        Column("NAME", left=True),
        Column("STATE", left=True),
        Column("GEN", rank=2),
        Column("SUPERVISOR", rank=1),
        Column("PRIMARY", rank=3),
        Column("UP"),
        Column("PORTS"),
        Column("WORKERS"),
        Column("USER", left=True, rank=4),
        Column("DIRECTORY", left=True, rank=5),
        Column("WHY", left=True, rank=1, flexible=True),
    ]
    rows: list[list[Cell]] = [
        [
            one["name"],
            state(one["state"], "bad"),
            _or_dash(one["generation"]),
            _or_dash(one["supervisor"]),
            _or_dash(one["primary"]),
            ago(one["up_s"]),
            _of(one["ports_up"], one["ports"]),
            _of(one["workers_ready"], one["workers"]),
            one["user"],
            one["directory"],
            one["why"] or ("" if one["named"] else "-n means another one of that name") or "-",
        ]
        for one in found["instances"]
    ]
    return screen.table(columns, rows)


def hosts(found: Fleet, screen: Screen) -> list[Line]:
    """A line for each host, of its Picture."""
    columns = [
        Column("HOST", left=True),
        Column("STATE", left=True),
        Column("GEN", rank=3),
        Column("UP", rank=2),
        Column("PORTS"),
        Column("WORKERS"),
        Column("RX PPS"),
        Column("TX PPS"),
        Column("DROPPED"),
        Column("BUSY", rank=1),
        Column("DEATHS", rank=2),
        Column("WHY", left=True, flexible=True),
    ]
    return screen.table(columns, [_host(one) for one in found["hosts"]])


def _host(one: HostAnswer) -> list[Cell]:
    if one["error"]:
        return [one["host"], ("no answer", "bad"), *["-"] * 9, f"{one['code']}: {one['error']}"]
    doc: Picture = one["document"]
    ports, groups = doc["ports"], doc["groups"]
    dropped = _sum([g["drop_pps"] for g in groups] + [p["drop_pps"] for p in ports])
    busy = [w["busy"] for w in doc["workers"] if w["busy"] is not None]
    return [
        one["host"],
        state(doc["state"], "bad"),
        str(doc["generation"]),
        ago(doc["up_s"]),
        _of(sum(p["link_up"] and not p["absent"] for p in ports), len(ports)),
        _of(sum(g["ready"] for g in groups), sum(g["desired"] for g in groups)),
        si(_sum([p["rx_pps"] for p in ports])),
        si(_sum([p["tx_pps"] for p in ports])),
        (si(dropped), "warn") if dropped else si(dropped),
        percent(max(busy, default=None)),
        str(doc["recovery"]["deaths"]),
        "-",
    ]


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def where(found: Where, screen: Screen) -> list[Line]:
    columns = [
        Column("PORT", left=True),
        Column("QUEUE", rank=3),
        Column("IO", left=True),
        Column("HASH BY", left=True, rank=2),
        Column("GROUP", left=True),
        Column("WORKER", left=True),
        Column("STATE", left=True, rank=1),
        Column("CORE", rank=4),
        Column("THEN", left=True),
    ]
    rows: list[list[Cell]] = []
    none = "not known" if found["source"] == "file" else "none now"
    for one in found["arrivals"]:
        io = f"{one['io']} (CPU {one['io_core']})" if one["io"] else "not known"
        first = [one["port"], _or_dash(one["queue"]), io, one["hashed_by"]]
        for stop in one["path"]:
            rows.append(
                [
                    *first,
                    stop["group"] if stop["certain"] else f"({stop['group']})",
                    stop["worker"] or (none, "warn"),
                    state(stop["state"]) if stop["state"] else "-",
                    _or_dash(stop["core"]),
                    stop["then"] or "its plugin decides",
                ]
            )
            first = [""] * len(first)
    head: list[Line] = [
        [(found["flow"], "bold")],
        [(f"hash {found['hash']:#010x} of {found['by']}, bucket {found['bucket']}", "")],
        [],
    ]
    notes = [line for n in found["notes"] for line in wrap([(f"note: {n}", "")], screen.width)]
    return [*head, *screen.table(columns, rows), *notes]


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _of(part: int | None, whole: int | None) -> Cell:
    if part is None or whole is None:
        return "-"
    return (f"{part}/{whole}", "warn") if part < whole else f"{part}/{whole}"
