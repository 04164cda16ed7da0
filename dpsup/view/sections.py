# SPDX-License-Identifier: BSD-3-Clause
"""The tables and hints of a picture (instance.rates), line by line. Pure.

Colour marks good and bad values; a table without colour holds the same information.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpsup.text import listing, plural
from dpsup.view.tables import Cell, Column, Line, ago, counts, percent, si, table, wrap

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import GroupRates, Picture, WorkerRates
    from dpsup.documents.status import Account

FULL = 0.8  # of a lane or a mempool: marked
BUSY = 0.95  # of a core: the bottleneck
IDLE = 0.5  # of a worker: it could take more
_STATES = {
    "running": "good",
    "degraded": "warn",
    "held": "bad",
    "backoff": "warn",
    "recovering": "warn",
    "starting": "warn",
}


@dataclass(frozen=True, slots=True)
class Screen:
    """The output: its width in columns (None: no limit) and its characters."""

    width: int | None = 80
    ascii_only: bool = False

    def table(self, columns: list[Column], rows: list[list[Cell]]) -> list[Line]:
        return table(columns, rows, self.width, ascii_only=self.ascii_only)


def state(name: str) -> Cell:
    return (name, _STATES.get(name, ""))


def _mark(text: str, is_bad: bool, style: str = "warn") -> Cell:
    return (text, style) if is_bad else text


def _full(share: float | None) -> Cell:
    return _mark(percent(share), share is not None and share >= FULL)


def _busy(share: float | None) -> Cell:
    return _mark(percent(share), share is not None and share >= BUSY)


def _drops(number: int, rate: float | None) -> Cell:
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
                _drops(w["drops"], w["drop_pps"]),
                _mark(str(w["restarts"]), w["restarts"] > 0),
                ago(w["since_s"]),
                si(w["drop_pps"]),
                str(w["rx_packets"]),
                str(w["tx_packets"]),
                w["plugin"],
                last["how"] if last else "-",
                counts(w["dropped"]),
            ]
        )
    return screen.table(columns, rows)


def ports(picture: Picture, screen: Screen) -> list[Line]:
    columns = [
        Column("PORT", left=True),
        Column("LINK", left=True, rank=1),
        Column("RX PPS"),
        Column("TX PPS"),
        Column("RX BIT/S", rank=3),
        Column("TX BIT/S", rank=3),
        Column("RX", rank=2),
        Column("TX", rank=2),
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
                _mark(si(p["rx_missed"]), bool(p["missed_pps"]), "bad"),
                _drops(sum(why.values()), p["drop_pps"]),
                si(p["rx_nombuf"]),
                si(p["rx_errors"] + p["tx_errors"]),
                p["feeds"] or "-",
                counts(why),
            ]
        )
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
    missed = _sum(ports, "missed_pps") or 0
    line: Line = [
        (f"  rx {si(_sum(ports, 'rx_pps'))} pps", ""),
        (f"  tx {si(_sum(ports, 'tx_pps'))} pps", ""),
        (f"  drops {si(dropped)}/s", "bad" if dropped else ""),
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
    took = found["last_failover_us"]
    line: Line = [
        (f"recovery: {plural(found['deaths'], 'death')}, ", ""),
        (f"{found['lost']} packets lost", "bad" if found["lost"] else ""),
        (f", {found['quarantined']} quarantined", "warn" if found["quarantined"] else ""),
        ("" if took is None else f", last failover {si(took)} us", ""),
        (f"  spares ready: {spares}" if spares else "", ""),
    ]
    return line


def status(picture: Picture, screen: Screen) -> list[Line]:
    made = heading(picture, screen)
    if picture["ports"]:
        made += [[], *ports(picture, screen)]
    made += [[], *workers(picture, screen), []]
    made += wrap(recovery(picture), screen.width)
    return made + hint_lines(picture, screen)


def stats(picture: Picture, screen: Screen) -> list[Line]:
    made: list[Line] = heading(picture, screen)
    shown = (ports, devices, io, workers, lanes, mempools, cores)
    for one in shown:
        made += [[], *one(picture, screen)]
    for p in picture["port_info"]:
        if p["note"]:
            made += wrap([(f"{p['name']}: {p['note']}", "")], screen.width)
    for w in picture["workers"]:
        made += [[(f"{w['id']} {name}: {n}", "")] for name, n in w["counters"].items()]
    if picture["account"]:
        made += [[], *wrap([(account(picture["account"]), "")], screen.width)]
    return made


def account(found: Account) -> str:
    """What became of every packet."""
    dropped = found["dropped"]
    total = sum(dropped.values())
    detail = f" ({counts(dropped)})" if total else ""
    missed = f" (missed {found['missed']})" if found["missed"] else ""
    return (
        f"in {found['received']}{missed}, out {found['sent']}, dropped {total}{detail}, "
        f"in flight {found['in_flight']}, lost {found['lost']}"
    )


def hint_lines(picture: Picture, screen: Screen) -> list[Line]:
    made: list[Line] = []
    for hint in hints(picture):
        made += wrap([("hint: ", "warn"), (hint, "")], screen.width)
    return made


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
    yield from _worker_hints(picture, do)
    yield from _group_hints(picture, do)
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
            yield f"port {p['name']}: its output lacks {short} bytes: disk full, port opened anew?"
        if p["missed_pps"]:
            yield (
                f"port {p['name']} misses {si(p['missed_pps'])} packets per second, its io core "
                f"does not keep up: `{do} cores`, then more cores in [[io]] or descriptors.rx"
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


def _worker_hints(picture: Picture, do: str) -> Iterator[str]:
    for w in picture["workers"]:
        id, health = w["id"], w.get("health", "ok")
        if w["state"] in ("held", "backoff") and w["last_exit"]:
            reason = w["last_exit"]["reason"] or w.get("held_for", "")
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
        elif health == "stopped":
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
        and w["drop_pps"]
        and w.get("health", "ok") == "ok"
    ]
    if full:
        names = (
            f"{listing([w['id'] for w in full])} {'does' if len(full) == 1 else 'do'} not keep up"
        )
        lost = sum(w["drop_pps"] or 0 for w in full)
        yield f"{names}, {si(lost)} packets per second find the lanes full: " + _relief(
            picture, group, full, [w for w in mine if w not in full], do
        )


def _relief(
    picture: Picture, group: GroupRates, full: list[WorkerRates], others: list[WorkerRates], do: str
) -> str:
    if all((w["busy"] or 0) < IDLE for w in full):
        busy = [one["id"] for one in picture["io"] if (one["busy"] or 0) >= FULL]
        if busy:
            return f"the bottleneck is {listing(busy)}: `{do} advise`"
        loaded = {c["core"] for c in picture["cores"] if (c["load"] or 0) >= FULL}
        if all(w["core"] in loaded for w in full):
            return f"other threads use more than half of their CPU: `{do} cores`"
    well = [w for w in others if w["state"] == "running" and w.get("health", "ok") == "ok"]
    if any((w["busy"] or 0) < IDLE for w in well):
        return f"other workers are idle, `{do} rebalance {group['name']}` may spread the load"
    if group["desired"] < group["max"]:
        return f"`{do} scale {group['name']} +1`"
    return f"raise max of {group['name']} in {picture['topology_file']}, and restart the instance"


def _group_hints(picture: Picture, do: str) -> Iterator[str]:
    for g in picture["groups"]:
        yield from _overload(picture, g, do)
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
        if g["held"]:
            yield f"{g['held']} packets wait for {g['name']}: `{do} workers {g['name']}`"


# --- one command each -----------------------------------------------------------------------------

View = Callable[["Picture", Screen], list[Line]]

SECTIONS: dict[str, tuple[View, str]] = {
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
