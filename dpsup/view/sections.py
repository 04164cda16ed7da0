# SPDX-License-Identifier: BSD-3-Clause
"""The tables of a picture (instance.rates), line by line. Pure.

Colour marks good and bad values; a table without colour holds the same information.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpsup.text import microseconds, plural
from dpsup.view.columns import Cell, Column, Line, ago, counts, percent, si, table, wrap
from dpsup.view.hints import FULL, hints

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import Picture, WorkerRates
    from dpsup.documents.since import Since
    from dpsup.documents.status import Account

BUSY = 0.95  # of a core: the bottleneck
_STATES = {
    "running": "good",
    "degraded": "warn",
    "held": "bad",
    "backoff": "warn",
    "recovering": "warn",
    "starting": "warn",
    "stopping": "warn",
    "headless": "warn",
}


@dataclass(frozen=True, slots=True)
class Screen:
    """The output: its width in columns (None: no limit) and its characters."""

    width: int | None = 80
    ascii_only: bool = False

    def table(self, columns: list[Column], rows: list[list[Cell]]) -> list[Line]:
        return table(columns, rows, self.width, ascii_only=self.ascii_only)


def state(name: str, otherwise: str = "") -> Cell:
    return (name, _STATES.get(name, otherwise))


def _mark(text: str, is_bad: bool, style: str = "warn") -> Cell:
    return (text, style) if is_bad else text


def _full(share: float | None) -> Cell:
    return _mark(percent(share), share is not None and share >= FULL)


def _busy(share: float | None) -> Cell:
    return _mark(percent(share), share is not None and share >= BUSY)


def _drops(number: int, rate: float | None) -> Cell:
    """`rate`: of those that are no policy."""
    return _mark(si(number), bool(rate), "bad")


# --- tables ---------------------------------------------------------------------------------------


def _how(worker: WorkerRates) -> str:
    """The worker's state, with the time to its restart, or its health."""
    if worker["state"] == "backoff" and worker.get("retry_in_s") is not None:
        return f"backoff {worker['retry_in_s']:.1f}s"
    health = worker.get("health", "ok")
    return str(worker["state"] if health == "ok" or worker["state"] != "running" else health)


def workers(picture: Picture, screen: Screen, of: str = "") -> list[Line]:
    columns = [
        Column("WORKER", left=True),
        Column("STATE", left=True),
        Column("PID", rank=5),
        Column("CORE", rank=2),
        Column("BUSY"),
        Column("PPS"),
        Column("CYC/PKT", rank=3),
        Column("BATCH", rank=4),
        Column("FILL", rank=1),
        Column("DROPS"),
        Column("RESTARTS", rank=2),
        Column("SINCE", rank=1),
        Column("DROP/S", rank=6),
        Column("RX", rank=7),
        Column("TX", rank=7),
        Column("PLUGIN", rank=9, left=True),
        Column("LAST EXIT", rank=8, left=True, flexible=True),
        Column("DROPPED", rank=9, left=True, flexible=True),
    ]
    rows: list[list[Cell]] = []
    for w in picture["workers"]:
        if of and of not in (w["group"], w["id"]):
            continue
        how, style = _how(w), _STATES.get(w["state"], "")
        last = w["last_exit"]
        cycles, batch = w["cycles_per_packet"], w["batch"]
        rows.append(
            [
                w["id"],
                (how, style if how == w["state"] else "warn"),
                str(w["pid"] or "-"),
                str(w["core"]),
                _busy(w["busy"]),
                si(w["pps"]),
                "-" if cycles is None else f"{cycles:.0f}",
                "-" if batch is None else f"{batch:.1f}",
                _full(w["fill"]),
                _drops(w["drops"], w["fault_pps"]),
                _mark(str(w["restarts"]), w["restarts"] > 0),
                ago(w["since_s"]),
                si(w["drop_pps"]),
                str(w["rx_packets"]),
                str(w["tx_packets"]),
                _plugin(w),
                last["how"] if last else "-",
                counts(w["dropped"]),
            ]
        )
    return screen.table(columns, rows)


def _plugin(w: WorkerRates) -> Cell:
    newer = {"changed": " (newer on disk)", "missing": " (gone from disk)"}
    note = newer.get(w["plugin_on_disk"], "")
    return (w["plugin"] + note, "warn") if note else w["plugin"]


def groups(picture: Picture, screen: Screen) -> list[Line]:
    columns = [
        Column("GROUP", left=True),
        Column("WORKERS"),
        Column("SPARES", rank=4),
        Column("BUSY"),
        Column("CORES BUSY", rank=1),
        Column("PPS"),
        Column("DROPS"),
        Column("DROP/S", rank=1),
        Column("LENT", rank=3),
        Column("HELD", rank=2),
        Column("RESTARTS", rank=2),
        Column("RX", rank=3),
        Column("TX", rank=3),
        Column("PLUGIN", rank=6, left=True),
        Column("WHY DROPPED", rank=5, left=True, flexible=True),
    ]
    rows: list[list[Cell]] = []
    for g in picture["groups"]:
        all_ = g["totals"]
        rows.append(
            [
                g["name"],
                _mark(f"{g['ready']}/{g['desired']}", g["ready"] < g["desired"]),
                str(g["spares_ready"]),
                _busy(g["busy"]),
                "-" if g["busy_sum"] is None else f"{g['busy_sum']:.2f}",
                si(g["pps"]),
                _drops(g["drops"], g["fault_pps"]),
                si(g["drop_pps"]),
                si(all_["outstanding"]),
                _mark(si(g["held"]), g["held"] > 0),
                _mark(str(all_["restarts"]), all_["restarts"] > 0),
                si(all_["rx_packets"]),
                si(all_["tx_packets"]),
                g["plugin"],
                counts(all_["dropped"]),
            ]
        )
    return screen.table(columns, rows)


def ports(picture: Picture, screen: Screen) -> list[Line]:
    # Columns that only a port with a way to the kernel fills.
    has_kernel = any(p["kernel"] for p in picture["ports"])
    kernel = [Column("TO KERNEL", rank=2), Column("FROM KERNEL", rank=2)] if has_kernel else []
    columns = [
        Column("PORT", left=True),
        Column("LINK", left=True, rank=1),
        Column("RX PPS"),
        Column("TX PPS"),
        Column("RX BIT/S", rank=3),
        Column("TX BIT/S", rank=3),
        Column("RX", rank=2),
        Column("TX", rank=2),
        *kernel,
        Column("MISSED", rank=1),
        Column("DROPPED"),
        Column("NO MBUF", rank=5),
        Column("ERRORS", rank=5),
        Column("FEEDS", rank=6, left=True),
        Column("WHY DROPPED", rank=4, left=True, flexible=True),
    ]
    rows: list[list[Cell]] = []
    for p in picture["ports"]:
        speed = si(p["link_mbps"] * 1e6) if p["link_mbps"] else "up"
        down = ("absent", "warn") if p["absent"] else ("down", "bad")
        why = {**p["dropped"], **({"tx_full": p["tx_dropped"]} if p["tx_dropped"] else {})}
        rows.append(
            [
                p["name"],
                (speed, "") if p["link_up"] else down,
                si(p["rx_pps"]),
                si(p["tx_pps"]),
                si(p["rx_bps"]),
                si(p["tx_bps"]),
                si(p["rx_packets"]),
                si(p["tx_packets"]),
                *([si(p["to_kernel"]), si(p["from_kernel"])] if has_kernel else []),
                _mark(si(p["rx_missed"]), bool(p["missed_pps"]), "bad"),
                _drops(sum(why.values()), p["drop_pps"]),
                si(p["rx_nombuf"]),
                si(p["rx_errors"] + p["tx_errors"]),
                p["feeds"] or "-",
                counts(why),
            ]
        )
    return screen.table(columns, rows)


def xstats(picture: Picture, screen: Screen) -> list[Line]:
    """What the drivers themselves count, and is not 0; all of it where there is room."""
    rows: list[list[Cell]] = [
        [p["name"], name, str(n)]
        for p in picture["ports"]
        for name, n in (p["xstats"] or {}).items()
        if n or screen.width is None
    ]
    columns = [Column("PORT", left=True), Column("DRIVER'S COUNTER", left=True), Column("VALUE")]
    return screen.table(columns, rows)


def devices(picture: Picture, screen: Screen) -> list[Line]:
    columns = [
        Column("PORT", left=True),
        Column("DRIVER", left=True),
        Column("MAC", left=True, rank=2),
        Column("MTU", rank=1),
        Column("RXQ"),
        Column("TXQ"),
        Column("RSS"),
    ]
    rows: list[list[Cell]] = [
        [
            p["name"],
            p["driver"],
            p["mac"],
            str(p["mtu"]),
            f"{p['rx_queues']} of {p['max_rx_queues']}",
            f"{p['tx_queues']} of {p['max_tx_queues']}",
            "NIC" if p["hw_rss"] else "software",
        ]
        for p in picture["port_info"]
    ]
    return screen.table(columns, rows)


def cores(picture: Picture, screen: Screen) -> list[Line]:
    columns = [
        Column("CORE"),
        Column("NUMA", rank=2),
        Column("BUSY"),
        Column("LOAD"),
        Column("STOLEN", rank=1),
        Column("WHO", left=True, flexible=True),
    ]
    rows: list[list[Cell]] = [
        [
            str(c["core"]),
            "-" if c["numa"] is None else str(c["numa"]),
            _busy(c["busy"]),
            percent(c["load"]),
            _mark(percent(c["stolen"]), (c["stolen"] or 0) > 0.02),
            _mark(", ".join(c["roles"]), len(c["roles"]) > 1),
        ]
        for c in picture["cores"]
    ]
    return screen.table(columns, rows)


def io(picture: Picture, screen: Screen) -> list[Line]:
    stages = list(picture["io"][0]["stage_cycles_per_packet"]) if picture["io"] else []
    columns = [
        Column("IO", left=True),
        Column("CORE", rank=1),
        Column("BUSY"),
        Column("HELD"),
        Column("TX WAIT", rank=4),
        Column("SLEEPS/S", rank=3),
        Column("CYC/PKT"),
        *(Column(s.upper(), rank=2) for s in stages),
        Column("WAKES/S", rank=5),
        Column("LOOPS/S", rank=6),
    ]
    rows: list[list[Cell]] = [
        [
            one["id"],
            str(one["core"]),
            _busy(one["busy"]),
            _mark(si(one["held"]), one["held"] > 0),
            si(one["tx_waiting"]),
            si(one["sleeps_per_s"]),
            si(one["cycles_per_packet"]),
            *(si(n) for n in one["stage_cycles_per_packet"].values()),
            si(one["rings_per_s"]),
            si(one["loops_per_s"]),
        ]
        for one in picture["io"]
    ]
    return screen.table(columns, rows)


def mempools(picture: Picture, screen: Screen) -> list[Line]:
    columns = [
        Column("MEMPOOL", left=True),
        Column("SIZE"),
        Column("IN USE"),
        Column("USED"),
        Column("LEAST FREE"),
        Column("ALLOC FAILURES"),
    ]
    rows: list[list[Cell]] = [
        [
            p["name"],
            str(p["size"]),
            str(p["in_use"]),
            _full(p["used"]),
            _mark(str(p["low_water"]), p["low_water"] == 0, "bad"),
            _mark(str(p["alloc_failures"]), p["alloc_failures"] > 0, "bad"),
        ]
        for p in picture["mempools"]
    ]
    return screen.table(columns, rows)


def lanes(picture: Picture, screen: Screen) -> list[Line]:
    columns = [
        Column("IO", left=True),
        Column("WORKER", left=True),
        Column("FILL"),
        Column("OUT"),
        Column("ROOM", rank=1),
        Column("PPS"),
        Column("FULL/S"),
        Column("LENT", rank=2),
        Column("RETURNED", rank=3),
        Column("REQUEUED", rank=4),
        Column("FULL", rank=1),
        Column("CORRUPT", rank=2),
    ]
    rows: list[list[Cell]] = [
        [
            one["io"],
            one["worker"],
            _full(one["fill"]),
            str(one["out"]),
            str(one["size"]),
            si(one["pps"]),
            _mark(si(one["full_pps"]), bool(one["full_pps"]), "bad"),
            si(one["sent"]),
            si(one["returned"]),
            si(one["requeued"]),
            si(one["lane_full"]),
            _mark(str(one["corrupt"]), one["corrupt"] > 0, "bad"),
        ]
        for one in picture["lanes"]
    ]
    return screen.table(columns, rows)


# --- status ---------------------------------------------------------------------------------------


def heading(picture: Picture, screen: Screen) -> list[Line]:
    """The instance's name, state, processes and rates."""
    dot = "*" if screen.ascii_only else "●"
    how = picture["state"]
    style = _STATES.get(how, "")
    supervisor = picture["supervisor"]["pid"] or "none (headless)"
    up = f"  up {ago(picture['up_s'])}" if picture["up_s"] is not None else ""
    first: Line = [
        (dot, style),
        (f" {picture['name']}", "bold"),
        ("  ", ""),
        (how, style),
        (f"  generation {picture['generation']}{up}", ""),
        (f"  supervisor {supervisor}  primary {picture['primary']['pid'] or 'none'}", ""),
    ]
    made = wrap(first, screen.width)
    if picture["window_s"] is not None:
        made += wrap(traffic(picture), screen.width)
    return made


def _sum(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [one[key] for one in rows if one[key] is not None]
    return sum(known) if known else None


def traffic(picture: Picture) -> Line:
    ports = picture["ports"]
    dropped = (_sum(ports, "drop_pps") or 0) + (_sum(picture["workers"], "drop_pps") or 0)
    faults = (_sum(ports, "drop_pps") or 0) + (_sum(picture["workers"], "fault_pps") or 0)
    missed = _sum(ports, "missed_pps") or 0
    line: Line = [
        (f"  rx {si(_sum(ports, 'rx_pps'))} pps", ""),
        (f"  tx {si(_sum(ports, 'tx_pps'))} pps", ""),
        (f"  drops {si(dropped)}/s", "bad" if faults else ""),
    ]
    if missed:
        line.append((f"  missed {si(missed)}/s", "bad"))
    line.append((f"  in flight {si(picture['in_flight'])}", ""))
    for pool in picture["mempools"]:
        style = "warn" if pool["used"] >= FULL else ""
        line.append((f"  mbufs {percent(pool['used'])} of {pool['size']}", style))
    return line


def recovery(picture: Picture) -> Line:
    found = picture["recovery"]
    spares = ", ".join(f"{g['name']} {g['spares_ready']}" for g in picture["groups"])
    took, of_primary = found["last_failover_us"], found.get("primary_deaths", 0)
    refused = found.get("refused_calls", 0)
    line: Line = [
        (f"recovery: {plural(found['deaths'], 'death')}", ""),
        (f" of workers, {of_primary} of the primary" if of_primary else "", "warn"),
        (f", {refused} by a refused system call" if refused else "", "warn"),
        (", ", ""),
        (f"{found['lost']} packets lost", "bad" if found["lost"] else ""),
        (f", {found['quarantined']} quarantined", "warn" if found["quarantined"] else ""),
        ("" if took is None else f", last failover {microseconds(took)}", ""),
        (f"  spares ready: {spares}" if spares else "", ""),
    ]
    return line


def status(picture: Picture, screen: Screen) -> list[Line]:
    made = heading(picture, screen)
    if picture["ports"]:
        made += [[], *ports(picture, screen)]
    if any(g["desired"] > 1 for g in picture["groups"]):
        made += [[], *groups(picture, screen)]
    made += [[], *workers(picture, screen), []]
    made += wrap(recovery(picture), screen.width)
    return made + hint_lines(picture, screen)


def stats(picture: Picture, screen: Screen) -> list[Line]:
    made: list[Line] = heading(picture, screen)
    shown = (ports, devices, io, groups, workers, lanes, mempools, cores)
    for one in shown:
        made += [[], *one(picture, screen)]
    for p in picture["port_info"]:
        if p["note"]:
            made += wrap([(f"{p['name']}: {p['note']}", "")], screen.width)
    for w in picture["workers"]:
        told = {**w["counters"], **w.get("gauges", {})}
        made += [[(f"{w['id']} {name}: {n}", "")] for name, n in told.items()]
    for g in picture["groups"]:
        if g["desired"] > 1:
            all_ = g["totals"]["counters"]
            made += [[(f"{g['name']} {name}: {n}", "")] for name, n in all_.items()]
    if picture["account"]:
        made += [[], *wrap([(account(picture["account"]), "")], screen.width)]
    return made


def since(picture: Picture, found: Since, screen: Screen) -> list[Line]:
    """The tables of `stats`, with what was counted since a mark, and mean rates."""
    set_at, now = found["mark"], found["generation"]
    took = f", {ago(found['window_s'])} ago" if found["window_s"] is not None else ""
    first: Line = [
        (f"since the mark{took}: {plural(found['deaths'], 'death')} of workers", "bold"),
        (f", {found['primary_deaths']} of the primary", "bold"),
    ]
    made = wrap(first, screen.width)
    if found["since"] == "generation":
        said = (
            f"The primary was started again after the mark (generation {set_at['generation']} "
            f"then, {now} now), and counts from 0: these are all counts of generation {now}. What "
            "earlier ones counted after the mark is not known."
        )
        made += wrap([(said, "warn")], screen.width, 0)
    made += stats({**picture, "account": None}, screen)
    of = found["account"]
    lost = "not known" if of["lost"] is None else of["lost"]
    missed = f" (missed {of['missed']})" if of["missed"] else ""
    dropped = sum(of["dropped"].values())
    detail = f" ({counts(of['dropped'])})" if dropped else ""
    then = f"{of['in_flight_before']} then and " if found["since"] == "mark" else ""
    line = (
        f"in {of['received']}{missed}, out {of['sent']}, dropped {dropped}{detail}, in flight "
        f"{then}{of['in_flight']} now, lost {lost}"
    )
    return [*made, [], *wrap([(line, "")], screen.width)]


def account(found: Account) -> str:
    """What became of every packet."""
    dropped = found["dropped"]
    total = sum(dropped.values())
    detail = f" ({counts(dropped)})" if total else ""
    missed = f" (missed {found['missed']})" if found["missed"] else ""
    more = "".join(
        f", {word} {n}"
        for word, n in (
            ("originated", found.get("emitted", 0)),
            ("copies", found.get("copied", 0)),
            ("from the kernel", found.get("from_kernel", 0)),
        )
        if n
    )
    kernel = f", to the kernel {n}" if (n := found.get("to_kernel", 0)) else ""
    return (
        f"in {found['received']}{missed}{more}, out {found['sent']}{kernel}, "
        f"dropped {total}{detail}, in flight {found['in_flight']}, lost {found['lost']}"
    )


def hint_lines(picture: Picture, screen: Screen) -> list[Line]:
    made: list[Line] = []
    for hint in hints(picture):
        made += wrap([("hint: ", "warn"), (hint, "")], screen.width)
    return made


# --- one command each -----------------------------------------------------------------------------

View = Callable[["Picture", Screen], list[Line]]

SECTIONS: dict[str, tuple[View, str]] = {
    "groups": (groups, "Groups"),
    "workers": (workers, "Workers"),
    "ports": (ports, "Ports"),
    "cores": (cores, "Cores"),
    "mempools": (mempools, "Mempools"),
    "lanes": (lanes, "Lanes"),
}


def document(picture: Picture, section: str, of: str = "") -> dict[str, Any]:
    """A section's part of the picture, for -o json."""
    whole: Mapping[str, Any] = picture
    rows = whole[section]
    if of:
        rows = [one for one in rows if of in (one.get("group"), one.get("id"))]
    head = {k: whole[k] for k in ("apiVersion", "name", "state", "at_ns", "window_s")}
    return {
        "apiVersion": head.pop("apiVersion"),
        "kind": SECTIONS[section][1],
        **head,
        section: rows,
    }
