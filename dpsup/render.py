# SPDX-License-Identifier: BSD-3-Clause
"""Documents as tables for people. The one module that imports rich."""

from __future__ import annotations

import posixpath
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpsup.steering import BUCKETS

_STATE = {"running": "green", "degraded": "yellow", "held": "red", "backoff": "yellow"}

_STATE_WORDS = 6
_WIDE = 200  # where nobody's terminal limits it

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=_WIDE)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        left = column in (
            "NAME",
            "DRIVER",
            "GROUP",
            "WORKER",
            "STATE",
            "PLUGIN",
            "DROPPED",
            "LAST EXIT",
            "PLACE",
            "OF",
        )
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "DROPPED")
    return table


def _drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{k} {v}" for k, v in drops.items()) or "-"


def _state(state: str) -> Text:
    return Text(state, style=_STATE.get(state, ""))


def print_status(doc: dict[str, Any]) -> None:
    supervisor = doc["supervisor"]["pid"] or "none (headless)"
    console.print(
        Text.assemble(
            (doc["name"], "bold"),
            "  ",
            _state(doc["state"]),
            f"  generation {doc['generation']}  supervisor {supervisor}"
            f"  primary {doc['primary']['pid']}",
        )
    )
    table = _table("NAME", "RX", "TX", "MISSED", "TX DROPPED", "DROPPED")
    for p in doc["ports"]:
        link = "" if p["link_up"] else " (down)"
        counts = (p["rx_packets"], p["tx_packets"], p["rx_missed"], p["tx_dropped"])
        table.add_row(p["name"] + link, *map(str, counts), _drops(p["dropped"]))
    console.print(table)
    table = _table("WORKER", "STATE", "PID", "CORE", "RX", "TX", "RESTARTS", "LAST EXIT", "DROPPED")
    for group in doc["groups"]:
        for w in group["workers"]:
            last = w["last_exit"]
            table.add_row(
                w["id"],
                _state(w["state"]),
                str(w["pid"] or "-"),
                str(w["core"]),
                str(w["rx_packets"]),
                str(w["tx_packets"]),
                str(w["restarts"]),
                last["how"] if last else "-",
                _drops(w["dropped"]),
            )
    console.print(table)
    for pool in doc["mempools"]:
        console.print(
            f"mempool {pool['name']}: {pool['in_use']} of {pool['size']} in use, least free "
            f"{pool['low_water']}, {pool['alloc_failures']} allocation failures"
        )
    recovery = doc["recovery"]
    failover = recovery["last_failover_us"]
    console.print(
        f"recovery: {recovery['deaths']} deaths, {recovery['lost']} packets lost, "
        f"{recovery['quarantined']} quarantined"
        + (f", last failover {failover:.0f} us" if failover is not None else "")
    )
    for hint in hints(doc):
        console.print(Text(f"hint: {hint}", style="yellow"))


def hints(doc: dict[str, Any]) -> list[str]:
    """What is not as desired, and what to type."""
    found = []
    name = doc["name"]
    if doc["supervisor"]["pid"] is None:
        found.append(
            f"no supervisor: `dpsup -n {name} stop` ends it, `dpsup start FILE` supervises it again"
        )
    for group in doc["groups"]:
        for w in group["workers"]:
            if w["state"] in ("held", "backoff") and w["last_exit"]:
                reason = w["last_exit"]["reason"] or w["held_for"]
                again = "reset-failed" if w["state"] == "held" else "restart"
                found.append(
                    f"{w['id']} is in {w['state']} after {w['last_exit']['how']}"
                    + (f" ({reason})" if reason else "")
                    + f": `dpsup -n {name} logs {w['id']}`, `dpsup -n {name} {again} {w['id']}`"
                )
        if group["spares_held"]:
            found.append(
                f"no spare of {group['name']} is forked any more ({group['spares_held']}): "
                f"`dpsup -n {name} reset-failed {group['name']}`"
            )
    return found


def print_audit(doc: dict[str, Any], detail: bool = False) -> None:
    shown = {
        "size": "SIZE",
        "free": "FREE",
        "cached": "CACHED",
        "rx_rings": "RX",
        "tx_rings": "TX",
        "lanes": "LANES",
        "io": "IO",
        "quarantine": "QUAR",
        "unexplained": "UNEXPLAINED",
    }
    table = _table("NAME", *shown.values())
    for pool in doc["pools"]:
        table.add_row(pool["name"], *(str(pool[k]) for k in shown))
    console.print(table)
    if detail:
        table = _table("NAME", "IO", "PLACE", "OF", "MBUFS")
        for pool in doc["pools"]:
            for at in pool["places"]:
                table.add_row(
                    pool["name"], str(at["io"]), at["place"], at["of"] or "-", str(at["mbufs"])
                )
        console.print(table)
    for pool in doc["pools"]:
        for stray in pool["strays"]:
            console.print(stray_line(pool["name"], stray))


def stray_line(pool: str, stray: dict[str, Any]) -> str:
    """One mbuf that is nowhere, and what can be told of it."""
    sure = "lost" if stray["certain"] else "lost, or a driver's"
    by = {"lane": f", {stray['packets_since']} packets ago", "bucket": ", by its bucket"}
    holder = f"{stray['holder']}{by[stray['holder_by']]}" if stray["holder"] else "unknown"
    return (
        f"{pool}: mbuf {stray['address']} is {sure}; last holder {holder}; came in by "
        f"{stray['port'] or 'no port'}, {stray['length']} bytes, refcnt {stray['refcnt']}: "
        f"{stray['bytes'][:64]}"
    )


def print_stats(doc: dict[str, Any]) -> None:
    hz = doc["tsc_hz"] or 1
    table = _table("NAME", "DRIVER", "MAC", "LINK", "MTU", "RXQ", "TXQ", "RSS", "RX ERR", "TX ERR")
    for p, stats in zip(doc["port_info"], doc["ports"], strict=True):
        speed = f"{stats['link_mbps']} Mbit/s" if stats["link_mbps"] else "up"
        table.add_row(
            p["name"],
            p["driver"],
            p["mac"],
            speed if stats["link_up"] else "down",
            str(p["mtu"]),
            f"{p['rx_queues']} of {p['max_rx_queues']}",
            f"{p['tx_queues']} of {p['max_tx_queues']}",
            "NIC" if p["hw_rss"] else "software",
            str(stats["rx_errors"]),
            str(stats["tx_errors"]),
        )
    console.print(table)
    for p in doc["port_info"]:
        if p["note"]:
            console.print(f"{p['name']}: {p['note']}")
    table = _table("NAME", "CORE", "LOOPS", "BUSY LOOPS", "BUSY", "SLEEPS", "HELD")
    for i, io in enumerate(doc["io"]):
        busy = f"{io['busy_cycles'] / hz:.2f} s"
        counts = (io["core"], io["loops"], io["busy_loops"], busy, io["sleeps"], io["held"])
        table.add_row(f"io/{i}", *map(str, counts))
    console.print(table)
    table = _table("CYC/PKT", *map(str.upper, doc["io"][0]["stage_cycles"]))
    for i, io in enumerate(doc["io"]):
        packets = io["stage_packets"] / 2  # counted on their way in and on their way back
        stages = (f"{c / packets:.1f}" if packets else "-" for c in io["stage_cycles"].values())
        table.add_row(f"io/{i}", *stages)
    console.print(table)
    table = _table("WORKER", "LENT", "RETURNED", "OUT", "ON", "REQUEUED", "BURSTS", "CYC/PKT")
    for s in doc["slots"]:
        if s["pid"] or s["sent"]:
            cycles = f"{s['busy'] / s['collected']:.0f}" if s["collected"] else "-"
            counts = (s["sent"], s["collected"], s["out"], s["on"], s["requeued"], s["bursts"])
            table.add_row(s["id"], *map(str, counts), cycles)
    console.print(table)
    for s in doc["slots"]:
        for counter, value in s["counters"].items():
            console.print(f"{s['id']} {counter}: {value}")
    print_account(doc["account"])


def print_state(doc: dict[str, Any]) -> None:
    """Blocks that are somebody's, as the 8-byte numbers that they begin with."""
    table = _table("NAME", "VERSION", "BYTES", "WORKER", "8-BYTE WORDS")
    workers = [(w["id"], "-", w) for w in doc["workers"]]
    names = [f"{doc['group']}/{b['member']}" for b in doc["buckets"]]
    buckets = [(str(b["bucket"]), n, b) for n, b in zip(names, doc["buckets"], strict=True)]
    for name, worker, block in workers + buckets:
        data = bytes.fromhex(block["hex"])
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
        shown = " ".join(map(str, words[:_STATE_WORDS])) + " ..." * (len(words) > _STATE_WORDS)
        table.add_row(name, str(block["version"]), str(block["size"]), worker, shown)
    console.print(table)
    if not table.rows:
        console.print("no plugin of this group keeps anything")


def print_account(account: dict[str, Any]) -> None:
    dropped = account["dropped"]
    total = sum(dropped.values())
    detail = f" ({_drops(dropped)})" if total else ""
    missed = f" (missed {account['missed']})" if account["missed"] else ""
    console.print(
        f"in {account['received']}{missed}, out {account['sent']}, dropped {total}{detail}, "
        f"in flight {account['in_flight']}, lost {account['lost']}"
    )


def print_summary(summary: dict[str, Any]) -> None:
    """The last word of a run: the account, and the mbufs."""
    print_account(summary)
    unexplained = sum(p["unexplained"] for p in summary["audit"])
    console.print(f"worker deaths {summary['deaths']}, mbufs unexplained {unexplained}")


def print_scale(doc: dict[str, Any]) -> None:
    """What a scale would change."""
    if doc["old"] == doc["desired"]:
        console.print(f"{doc['group']}: unchanged, {doc['ready']} of {doc['desired']} ready")
    else:
        console.print(f"~ group {doc['group']}: workers {doc['old']} -> {doc['desired']}")
        for sign, key in (("+", "add"), ("-", "remove")):
            for one in doc[key]:
                console.print(f"    {sign} {one['worker']}  core {one['core']}")
        if doc["at_zero"]:
            console.print(f"    nobody works in it then: at_zero = {doc['at_zero']}")
        else:
            console.print(f"    {doc['buckets_moved']} of {BUCKETS} buckets move")
    console.print("Nothing was done (--dry-run).")


def print_rollout(doc: dict[str, Any]) -> None:
    """What came of an order."""
    plugin = posixpath.basename(doc["to_plugin"] or doc["plugin"])
    if not doc["changed"]:
        console.print(f"{doc['group']}: unchanged, it runs {plugin} already")
    elif doc["phase"] == "done":
        console.print(f"{doc['group']}: revision {doc['to']}, {plugin}, in all workers")
    elif doc["phase"] in ("undone", "stuck"):
        console.print(
            f"{doc['group']}: revision {doc['to']}, {plugin}, {doc['phase']}: {doc['why']}"
        )
    else:
        console.print(
            f"{doc['group']}: to revision {doc['to']}, {plugin}: {doc['phase']}.  "
            f"dpsup rollout status"
        )


def print_rollouts(doc: dict[str, Any]) -> None:
    table = _table("GROUP", "REVISION", "PLUGIN", "PHASE", "TO", "WORKERS", "WHY")
    for g in doc["groups"]:
        workers = " ".join(f"{w}:{n}" for w, n in g["workers"].items())
        to = f"{g['to']} {posixpath.basename(g['to_plugin'])}" if g["to"] else "-"
        plugin = posixpath.basename(g["plugin"])
        table.add_row(g["group"], str(g["revision"]), plugin, g["phase"], to, workers, g["why"])
    console.print(table)


def print_revisions(doc: dict[str, Any]) -> None:
    table = _table("REVISION", "SINCE", "PLUGIN", "ARGS", "STATE", "WHY")
    for r in doc["revisions"]:
        args = " ".join(f"{k}={v}" for k, v in r["args"])
        table.add_row(str(r["number"]), _clock(r), r["plugin"], args, r["state"], r["why"])
    console.print(table)


_HOW = {"live": "at once", "rolling": "worker by worker", "restart": "needs a restart"}


def print_reload(doc: dict[str, Any]) -> None:
    """What a changed file comes to."""
    if not doc["changes"]:
        console.print(f"{doc['file']}: nothing changed")
    for kind, how in _HOW.items():
        found = [c for c in doc["changes"] if c["class"] == kind]
        if found:
            console.print(f"{how}:")
        for c in found:
            why = f" ({c['why']})" if c["why"] else ""
            console.print(f"  {doc['file']}:{c['line']}  {c['text']}{why}")


def print_reloaded(doc: dict[str, Any]) -> None:
    done = sum(c["done"] for c in doc["changes"])
    console.print(f"{done} of {len(doc['changes'])} done")
    if doc["failed"]:
        console.print(f"undone: {doc['failed']}")


def print_rebalance(doc: dict[str, Any]) -> None:
    table = _table("WORKER", "BEFORE", "PREDICTED", "MEASURED")
    for worker, share in doc["before"].items():
        measured = f"{doc['measured'][worker]:.1%}" if doc["measured"] else "-"
        table.add_row(worker, f"{share:.1%}", f"{doc['predicted'][worker]:.1%}", measured)
    console.print(table)
    for one in doc["elephants"]:
        console.print(
            f"bucket {one['bucket']} of {one['worker']} alone has {one['share']:.1%} of the packets"
        )
    most, then = doc["imbalance"], doc["imbalance_predicted"]
    console.print(
        f"busiest worker: {most:.2f} of an even share, {then:.2f} after "
        f"{doc['buckets_moved']} of {BUCKETS} buckets moved"
    )
    if doc["why"]:
        console.print(f"Nothing was done: {doc['why']}.")
    elif doc["dry_run"]:
        console.print("Nothing was done (--dry-run).")


def _how(death: dict[str, Any]) -> str:
    at = f" at {death['address']}" if death["signal"] and int(death["address"], 16) else ""
    return ("stuck, " if death["hung"] else "") + (death["signal"] or "killed") + at


def print_quarantine(doc: dict[str, Any]) -> None:
    table = _table("N", "WHEN", "GROUP", "PORT", "LENGTH", "FLOW HASH", "WHY", "DEATHS")
    for p in doc["packets"]:
        when = datetime.fromtimestamp(p["at"]).strftime("%Y-%m-%d %H:%M:%S")
        deaths = "; ".join(f"{d['worker']} {_how(d)}" for d in p["deaths"]) or "-"
        found = (p["group"], p["port"], str(p["length"]), p["flow_hash"], p["why"], deaths)
        table.add_row(str(p["number"]), when, *found)
    console.print(table)
    console.print(f"{len(doc['packets'])} in {doc['folder']}")


def print_quarantined(doc: dict[str, Any]) -> None:
    """One packet's story."""
    why = {
        "poison": "it is to blame for the deaths of two workers",
        "asked": f"plugin {doc['plugin']} put it there",
    }
    console.print(
        f"packet {doc['number']} of {doc['instance']}, {_clock(doc)}: {why[doc['why']]}\n"
        f"{doc['length']} bytes from port {doc['port']}, flow hash {doc['flow_hash']}, "
        f"group {doc['group']}\n{doc['file']}"
    )
    for death in doc["deaths"]:
        console.print(
            f"death of {death['worker']}, plugin {death['plugin']}, pid {death['pid']}, "
            f"{_clock(death)}: {_how(death)}"
        )
        for i, frame in enumerate(death["backtrace"]):
            console.print(f"  #{i} {frame}")


def _clock(entry: dict[str, Any]) -> str:
    return datetime.fromtimestamp(entry["at"]).strftime("%H:%M:%S.%f")[:-3]


def _brief(value: Any) -> Any:
    """Of a table of counts, those that are not zero."""
    if not isinstance(value, dict):
        return value
    return ",".join(f"{k}:{v}" for k, v in value.items() if v) or "-"


def _death(event: dict[str, Any]) -> str:
    """One line of what `-o json` tells in full."""
    found, times = event["repaired"], event["times"]
    noticed = times.get("noticed_ns", 0)
    parts = [f"pid {event['pid']}, {event['how']}{', stuck with work' if event['hung'] else ''}"]
    if found["corrupt"]:
        parts.append("its shared memory is corrupt")
    elif times.get("repaired_ns"):
        parts.append(
            f"{found['published']} verdicts kept, {found['undone']} packets put back, "
            f"{found['left']} left, in {(times['repaired_ns'] - noticed) / 1000:.0f} us"
        )
    if found.get("mended"):
        parts.append(f"{found['mended']} overwritten descriptors put right")
    if event.get("blamed"):
        parts.append(f"death {event['blamed']} of the packet in hand")
    if event["successor"]:
        took = (times.get("seated_ns", noticed) - noticed) / 1000
        parts.append(f"spare {event['successor']} seated after {took:.0f} us")
    return "; ".join(parts)


def event_line(event: dict[str, Any]) -> str:
    skip = {"at", "at_ns", "seq", "type", "name", "kind"}
    if event["type"] == "state":
        what = f"{event['kind']} {event['name']}: {event['old']} -> {event['new']} ({event['why']})"
    elif event["type"] == "death":
        what = f"death {event['name']} {_death(event)}"
    else:
        rest = " ".join(f"{k}={_brief(v)}" for k, v in event.items() if k not in skip)
        what = f"{event['type']} {event.get('name', '')} {rest}".strip()
    return f"{_clock(event)} {what}"


def log_line(entry: dict[str, Any]) -> str:
    return f"{_clock(entry)} {entry['name']:10} {entry['line']}"
