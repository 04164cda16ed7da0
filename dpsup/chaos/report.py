# SPDX-License-Identifier: BSD-3-Clause
"""What a chaos run found, as a document and as text. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dpsup._abi import DPS_NO_SLOT
from dpsup.packets.traffic import Count

if TYPE_CHECKING:
    from dpsup.documents.audit import AuditPool, Stray
    from dpsup.documents.chaos import Asked, Chaos, Host, Percentiles
    from dpsup.documents.story import Story

# The time from each step of a recovery to the next; `total`: the delay of the packets that waited.
PHASES = ("noticed", "repaired", "claimed", "seated", "first_packet", "total")
POINTS = 1000  # of a curve in the document, at most


@dataclass(frozen=True, slots=True)
class Injected:
    t: float  # seconds of traffic
    kind: str
    at_ns: int  # CLOCK_MONOTONIC
    pid: int


@dataclass(slots=True)
class Found:
    """What a run gathers."""

    name: str
    own_traffic: bool
    injected: list[Injected] = field(default_factory=list)
    no_victim: Counter[str] = field(default_factory=Counter)
    held_back: Counter[str] = field(default_factory=Counter)  # for the restart policy's sake
    deaths: list[Story] = field(default_factory=list)  # the wardens' stories
    outages_us: dict[str, list[float]] = field(
        default_factory=dict
    )  # of processes that are no workers
    rate: list[tuple[float, float]] = field(default_factory=list)  # seconds, packets a second
    seconds: float = 0.0
    generations: int = 0
    count: Count = field(default_factory=Count)
    in_flight_lost: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    audits: int = 0
    leaked: int = 0
    strays: dict[str, Stray] = field(default_factory=dict)  # mbufs, by address
    problems: list[str] = field(default_factory=list)

    def note_audit(self, pools: Sequence[AuditPool]) -> None:
        self.audits += 1
        self.leaked = max(self.leaked, sum(abs(int(p["unexplained"])) for p in pools))
        for pool in pools:
            for stray in pool["strays"]:
                self.strays.setdefault(stray["address"], stray)


def percentiles(values: Sequence[float]) -> Percentiles:
    """Nearest rank: each is a value that was measured."""
    ranked = sorted(values)

    def at(share: float) -> float:
        return round(ranked[max(0, math.ceil(share * len(ranked)) - 1)], 1)

    return {"n": len(ranked), "p50": at(0.5), "p99": at(0.99), "max": round(ranked[-1], 1)}


def phases_of(story: Story, injected_ns: int | None) -> dict[str, float]:
    """Microseconds of each phase of a death that took place."""
    marks = [
        ("noticed", injected_ns or 0),
        ("repaired", story["noticed_ns"]),
        ("claimed", story["repaired_ns"]),
        ("seated", story["claimed_ns"]),
        ("first_packet", story["seated_ns"] or story["repaired_ns"]),
        ("total", injected_ns or 0),
    ]
    ends: dict[str, Any] = {
        **story,
        "first_packet_ns": story["first_ns"],
        "total_ns": story["first_ns"],
    }
    return {
        name: (ends[f"{name}_ns"] - since) / 1000
        for name, since in marks
        if since and ends[f"{name}_ns"] and ends[f"{name}_ns"] >= since
    }


def _recovery(found: Found) -> dict[str, dict[str, Percentiles]]:
    """By fault, and for all sudden faults together: a hang is only noticed after its time limit."""
    by_pid = {i.pid: i for i in found.injected}
    gathered: dict[str, dict[str, list[float]]] = {}
    for story in found.deaths:
        fault = by_pid.get(story["pid"])
        kind = fault.kind if fault else "other"
        for group in {kind, "all" if kind in ("kill", "segv") else kind}:
            for phase, us in phases_of(story, fault.at_ns if fault else None).items():
                gathered.setdefault(group, {}).setdefault(phase, []).append(us)
    return {
        kind: {p: percentiles(phases[p]) for p in PHASES if p in phases}
        for kind, phases in sorted(gathered.items())
    }


def thinned(points: list[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours."""
    step = max(1, math.ceil(len(points) / most))
    return [
        (round(part[0][0], 3), round(sum(v for _, v in part) / len(part), 1))
        for part in (points[i : i + step] for i in range(0, len(points), step))
    ]


def document(found: Found, asked: Asked, host: Host) -> Chaos:
    count = asdict(found.count)
    unaccounted = count.pop("unaccounted")
    known = found.own_traffic
    problems = list(found.problems)
    if known:
        # Packets on which two workers hung were put in quarantine, and are counted under that name.
        missing = count["lost"] - found.dropped["quarantine"]
        count["lost"] = max(0, missing)
        if missing < 0:
            problems.append(f"{-missing} packets in quarantine came out all the same")

    for name in ("lost", "duplicated", "reordered", "damaged"):
        if count[name]:
            problems.append(f"{count[name]} packets {name}")
    if found.leaked:
        problems.append(f"{found.leaked} mbufs leaked")
    return {
        "apiVersion": "dpsup/v1",
        "kind": "Chaos",
        "name": found.name,
        "ok": not problems,
        "problems": problems,
        "asked": asked,
        "host": host,
        "seconds": round(found.seconds, 3),
        "generations": found.generations,
        "injected": dict(sorted(Counter(i.kind for i in found.injected).items())),
        "no_victim": dict(found.no_victim),
        "held_back": dict(found.held_back),
        "deaths": len(found.deaths),
        "left_to_supervisor": sum(
            not s["successor"] for s in found.deaths if s["slot"] != DPS_NO_SLOT
        ),
        "recovery_us": _recovery(found),
        "outage_us": {k: percentiles(v) for k, v in sorted(found.outages_us.items()) if v},
        "traffic": {
            "sequences_checked": known,
            "sent": count["sent"],
            "arrived": count["arrived"] if known else None,
            "lost": count["lost"] if known else None,
            "duplicated": count["duplicated"] if known else None,
            "reordered": count["reordered"] if known else None,
            "damaged": count["damaged"] if known else None,
            "lost_with_primary": found.in_flight_lost + unaccounted,
            "dropped": dict(found.dropped),
        },
        "audit": {
            "times": found.audits,
            "leaked": found.leaked,
            "strays": [*found.strays.values()],
        },
        "throughput": thinned(found.rate),
        "faults": [(round(i.t, 3), i.kind) for i in found.injected],
    }


def text(doc: Chaos) -> str:
    asked = doc["asked"]
    lines = [
        f"{doc['name']}: {sum(doc['injected'].values())} faults in {doc['seconds']:.1f} s of "
        f"traffic, seed {asked['seed']}: "
        + (", ".join(f"{k} {n}" for k, n in doc["injected"].items()) or "none"),
        "",
        f"{'us':28}" + "".join(f"{h:>10}" for h in ("n", "p50", "p99", "max")),
    ]
    for kind, phases in doc["recovery_us"].items():
        title = "kill and segv" if kind == "all" else kind
        for phase, p in phases.items():
            name = f"{title}: {phase.replace('_', ' ')}"
            lines.append(
                f"{name:28}{p['n']:10}" + "".join(f"{p[k]:10.0f}" for k in ("p50", "p99", "max"))
            )
    for kind, p in doc["outage_us"].items():
        name = f"{kind}: back"
        lines.append(
            f"{name:28}{p['n']:10}" + "".join(f"{p[k]:10.0f}" for k in ("p50", "p99", "max"))
        )
    traffic = doc["traffic"]
    if traffic["sequences_checked"]:
        lines += [
            "",
            f"packets {traffic['sent']}: lost {traffic['lost']}, duplicated "
            f"{traffic['duplicated']}, reordered {traffic['reordered']}, damaged "
            f"{traffic['damaged']}; in flight at a primary's death {traffic['lost_with_primary']}",
        ]
    else:
        lines += [
            "",
            f"packets {traffic['sent']}, by counters; sequence numbers were not checked, as the "
            "traffic is not chaos's own",
        ]
    lines.append(
        f"mbufs leaked {doc['audit']['leaked']}, in {doc['audit']['times']} audits; worker deaths "
        f"{doc['deaths']}, of which the supervisor filled {doc['left_to_supervisor']}"
    )
    if spared := sum(doc["held_back"].values()):
        lines.append(
            f"{spared} faults were held back: `restart.intensity` allows no more deaths, and the "
            "worker would be held; raise it, or lower --rate, for more"
        )
    lines += [f"problem: {p}" for p in doc["problems"]]
    lines.append("all is accounted for" if doc["ok"] else "NOT all is accounted for")
    return "\n".join(lines)
