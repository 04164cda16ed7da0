# SPDX-License-Identifier: BSD-3-Clause
"""All advice from a window: as a document and as text. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dpsup.advise import KINDS, cores, lanes, pools
from dpsup.advise.piece import LEVELS, Piece
from dpsup.advise.window import Window
from dpsup.text import listing, plural
from dpsup.view.columns import Line, percent, si, wrap
from dpsup.view.sections import Screen

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.advice import Advice, Bottleneck

QUESTIONS: tuple[Callable[[Window], Iterator[Piece]], ...] = (
    pools.pools,
    lanes.skew,
    lanes.tunnels,
    lanes.workers,
    lanes.crowded,
    lanes.rings,
    cores.more_io,
    cores.rx_queues,
    pools.caches,
    cores.bursts,
    cores.numa,
    cores.idle,
)
MIB = 1 << 20
_STYLES = {"losing": "bad", "risk": "warn", "faster": ""}
_WORDS = {"losing": "packets are lost", "risk": "a risk", "faster": "more is possible"}


def pieces(window: Window) -> list[Piece]:
    """All advice, that against losses first."""
    if not window.measured:
        return []
    found = [piece for question in QUESTIONS for piece in question(window)]
    order = list(KINDS)
    return sorted(found, key=lambda p: (LEVELS.index(p.level), order.index(p.kind), p.about))


def bottleneck(window: Window) -> Bottleneck | None:
    """The io core or worker with the least time left, and how much more load it could take."""
    known = [("io core", id, io["busy"]) for id, io in window.io.items()]
    known += [
        ("worker", w["id"], w["busy"])
        for w in window.picture["workers"]
        if w["state"] == "running" and w["busy"] is not None
    ]
    if not known or not any(p["rx_pps"] for p in window.ports.values()):
        return None
    kind, busiest, busy = max(known, key=lambda one: one[2])
    return {
        "kind": kind,
        "who": busiest,
        "busy": busy,
        "times_the_load": 1.0 / busy if busy >= 0.01 else None,
    }


def document(window: Window) -> Advice:
    return {
        "apiVersion": window.picture["apiVersion"],
        "kind": "Advice",
        "name": window.name,
        "state": window.picture["state"],
        "generation": window.picture["generation"],
        "at_ns": window.picture["at_ns"],
        "window_s": window.seconds,
        "topology_file": window.picture["topology_file"],
        "bottleneck": bottleneck(window) if window.measured else None,
        "lost_pps": _lost(window) if window.measured else None,
        "advice": [p.document(window.cost(p.changes)) for p in pieces(window)],
        "contents": lanes.contents_of(window) if window.measured else {},
        "measured": window.document() if window.measured else None,
    }


def _lost(window: Window) -> float:
    """Packets per second that are missed or find a lane full."""
    missed = sum(p["missed_pps"] for p in window.ports.values())
    return float(missed + sum(g["lane_full_pps"] for g in window.groups.values()))


def nothing(doc: Advice) -> str:
    """The reason if there is no advice."""
    if not doc["lost_pps"]:
        return "Nothing to change."
    if doc["state"] == "degraded":
        return (
            f"{si(doc['lost_pps'])} packets/s are lost while it is degraded:"
            f" `dpsup -n {doc['name']} status` shows the reason, and what to do."
        )
    crowd = _crowd(doc)
    if crowd:
        return f"{si(doc['lost_pps'])} packets/s are lost: {crowd}, and no CPU is free."
    for worker, what in doc.get("contents", {}).items():
        return (
            f"{si(doc['lost_pps'])} packets/s are lost: {worker} has more than its share, {what}."
        )
    found = doc["bottleneck"]
    full = f", and {found['who']} is full" if found and found["busy"] >= lanes.FULL_TIME else ""
    return (
        f"{si(doc['lost_pps'])} packets/s are lost{full}: no change of this topology is known to"
        " help on this host. More CPUs or cheaper packet code would help."
    )


def _crowd(doc: Advice) -> str:
    """The worker that loses packets, has time by its own account, and shares a CPU that has none.
    `dpsup status` says the same."""
    if doc["measured"] is None:
        return ""
    losing = {w for g in doc["measured"]["groups"].values() for w, n in g["lane_full"].items() if n}
    for number, core in doc["measured"]["cores"].items():
        mine = losing & set(core["roles"])
        others = [role for role in core["roles"] if role not in mine]
        if mine and others and (core["load"] or 0.0) >= lanes.FULL_TIME:
            return f"{listing(sorted(mine))} shares CPU {number} with {listing(others)}"
    return ""


def said(doc: Advice) -> str:
    """The bottleneck in a sentence, or ""."""
    found = doc["bottleneck"]
    if found is None:
        return ""
    more = found["times_the_load"]
    room = f": about {more:.1f} times this load before that" if more and more > 1.1 else ""
    return f"{found['who']} would be full first, it is {percent(found['busy'])} busy{room}"


def lines(doc: Advice, screen: Screen) -> list[Line]:
    if doc["measured"] is None:
        return wrap(
            [("No advice: it needs the counters of a running primary, twice.", "warn")],
            screen.width,
        )
    rates = [p["rx_pps"] for p in doc["measured"]["ports"].values()]
    head = f"{doc['name']}, {doc['state']}, measured for {doc['window_s']:.1f} s: "
    made = wrap([(f"{head}{si(sum(rates))} packets/s received", "bold")], screen.width)
    if said(doc):
        made += wrap([(said(doc), "")], screen.width)
    if not doc["advice"]:
        style = "warn" if doc["lost_pps"] else "good"
        return [*made, *wrap([(nothing(doc), style)], screen.width)]
    for n, piece in enumerate(doc["advice"], 1):
        made += [[], *wrap([(f"{n}. {piece['title']}", "bold"),
                            (f" ({_WORDS[piece['level']]})", _STYLES[piece["level"]])],
                           screen.width)]  # fmt: skip
        made += _said("seen", piece["seen"], screen)
        made += _said("why", piece["why"], screen)
        for change in piece["changes"]:
            made += _said("change", change["text"], screen, "good")
        made += _said("then", piece["predicted"]["text"], screen)
        if piece["memory_bytes"] >= MIB:
            cost = f"{piece['memory_bytes'] / MIB:.0f} MiB more of hugepages"
            made += _said("cost", cost, screen, "warn")
    kinds = {c["kind"] for p in doc["advice"] for c in p["changes"]}
    count = f"{plural(len(doc['advice']), 'piece')} of advice"
    made += [[]]
    if "toml" in kinds:
        file = doc["topology_file"]
        again = f"dpsup -n {doc['name']} stop && dpsup start {file} --detach"
        made += wrap([(f"{count}. Keys are those of {file}; they apply after `{again}`.", "")],
                     screen.width)  # fmt: skip
    else:
        made += wrap([(f"{count}. Measure again afterwards: the load may have changed.", "")],
                     screen.width)  # fmt: skip
    return made


def _said(label: str, text: str, screen: Screen, style: str = "") -> list[Line]:
    return wrap([(f"   {label:<7} ", "dim"), (text, style)], screen.width, 11)
