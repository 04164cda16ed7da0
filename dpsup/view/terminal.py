# SPDX-License-Identifier: BSD-3-Clause
"""Documents as tables for people. The one module that imports rich."""

from __future__ import annotations

import contextlib
import posixpath
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dpsup.supervisor.steering import BUCKETS
from dpsup.text import fold
from dpsup.view.sections import Screen, account
from dpsup.view.tables import Line

_STATE_WORDS = 6
_WIDE = 200  # without a terminal

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
            "PHASE",
            "TO",
            "WORKERS",
            "ARGS",
            "WHY",
        )
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "DROPPED")
    return table


def _drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{k} {v}" for k, v in drops.items()) or "-"


# Colour marks good and bad values; rich omits it with NO_COLOR and on a dumb terminal.
_STYLES = {
    "": "",
    "good": "green",
    "warn": "yellow",
    "bad": "bold red",
    "dim": "dim",
    "head": "bold",
    "bold": "bold",
    "chosen": "reverse",
}


def screen(*, wide: bool = False) -> Screen:
    """The size of stdout. A pipe has no width: every column is shown."""
    utf8 = console.encoding.lower().replace("-", "") == "utf8"
    width = None if wide or not console.is_terminal else console.width
    return Screen(width, ascii_only=not utf8)


def _rich(lines: Sequence[Line]) -> Text:
    text = Text(no_wrap=True, overflow="ignore")
    for i, line in enumerate(lines):
        text.append("\n" if i else "")
        for part, style in line:
            text.append(part, style=_STYLES[style])
    return text


def print_lines(lines: Sequence[Line]) -> None:
    console.print(_rich(lines), crop=False, soft_wrap=True)


@contextlib.contextmanager
def live() -> Iterator[Callable[[Sequence[Line]], None]]:
    """Draws lines in the place of the last ones, on an alternate screen; if stdout is no terminal,
    one block below the other."""
    if not console.is_terminal or console.is_dumb_terminal:

        def block(lines: Sequence[Line]) -> None:
            print_lines([*lines, []])
            sys.stdout.flush()

        yield block
        return
    with Live(console=console, screen=True, auto_refresh=False) as drawn:
        yield lambda lines: drawn.update(_rich(lines), refresh=True)


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
    """One missing mbuf, and what is known about it."""
    sure = "lost" if stray["certain"] else "lost, or held by a driver"
    by = {"lane": f", {stray['packets_since']} packets ago", "bucket": ", by its bucket"}
    holder = f"{stray['holder']}{by[stray['holder_by']]}" if stray["holder"] else "unknown"
    return (
        f"{pool}: mbuf {stray['address']} is {sure}; last holder {holder}; received on "
        f"{stray['port'] or 'no port'}, {stray['length']} bytes, refcnt {stray['refcnt']}: "
        f"{stray['bytes'][:64]}"
    )


def print_state(doc: dict[str, Any]) -> None:
    """State blocks, as the 8-byte numbers at their beginning."""
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
        console.print("the plugin of this group keeps no state")


def print_account(found: dict[str, Any]) -> None:
    console.print(account(found))


def print_summary(summary: dict[str, Any]) -> None:
    """The summary of a run: the account, and the mbufs."""
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
            console.print(f"    no worker is left then: at_zero = {doc['at_zero']}")
        else:
            console.print(f"    {doc['buckets_moved']} of {BUCKETS} buckets move")
    console.print("Nothing was changed (--dry-run).")


def print_rollout(doc: dict[str, Any]) -> None:
    """The result of a rollout command."""
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
    """The changes in a topology file."""
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
        console.print(f"Nothing was changed: {doc['why']}.")
    elif doc["dry_run"]:
        console.print("Nothing was changed (--dry-run).")


def _how(death: dict[str, Any]) -> str:
    at = f" at {death['address']}" if death["signal"] and int(death["address"], 16) else ""
    return ("stuck, " if death["hung"] else "") + (death["signal"] or "killed") + at


def print_quarantine(doc: dict[str, Any]) -> None:
    if not doc["packets"]:
        console.print(f"no packet is in quarantine, {doc['folder']}")
        return
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
        "poison": "two workers died while handling it",
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
    """The counts of a table that are not zero."""
    if not isinstance(value, dict):
        return value
    return ",".join(f"{k}:{v}" for k, v in value.items() if v) or "-"


def _death(event: dict[str, Any]) -> str:
    """One line; `-o json` shows the whole event."""
    found, times = event["repaired"], event["times"]
    noticed = times.get("noticed_ns", 0)
    parts = [f"pid {event['pid']}, {event['how']}{', stuck with packets' if event['hung'] else ''}"]
    if found["corrupt"]:
        parts.append("its shared memory is corrupt")
    elif times.get("repaired_ns"):
        parts.append(
            f"{found['published']} verdicts kept, {found['undone']} packets put back, "
            f"{found['left']} left, in {(times['repaired_ns'] - noticed) / 1000:.0f} us"
        )
    if found.get("mended"):
        parts.append(f"{found['mended']} overwritten descriptors restored")
    if event.get("blamed"):
        parts.append(f"death {event['blamed']} with the same packet in hand")
    if event["successor"]:
        took = (times.get("seated_ns", noticed) - noticed) / 1000
        parts.append(f"spare {event['successor']} in the slot after {took:.0f} us")
    return "; ".join(parts)


_EVENTS = {
    "death": "bad",
    "held": "bad",
    "failed": "bad",
    "corrupt": "bad",
    "error": "warn",
    "warning": "warn",
    "health": "warn",
    "lent": "warn",
    "quarantine": "warn",
}
_NAMES = ("cyan", "green", "magenta", "blue", "yellow")


def event_line(event: dict[str, Any]) -> str:
    skip = {"at", "at_ns", "seq", "type", "name", "kind"}
    if event["type"] == "state":
        what = f"{event['kind']} {event['name']}: {event['old']} -> {event['new']} ({event['why']})"
    elif event["type"] == "death":
        what = f"death {event['name']} {_death(event)}"
    else:
        rest = [f"{k}={_brief(v)}" for k, v in event.items() if k not in {*skip, "message"}]
        message = [event["message"]] if event.get("message") else []
        what = " ".join(w for w in (event["type"], event.get("name", ""), *message, *rest) if w)
    return f"{_clock(event)} {what}"


def print_event(event: dict[str, Any]) -> None:
    line = event_line(event)
    if console.is_terminal:
        line = fold(line, console.width, len(f"{_clock(event)} "))
    console.print(Text(line, _STYLES[_EVENTS.get(event["type"], "")]), soft_wrap=True)


def _printable(line: str) -> str:
    """A process may print bytes of a packet: control characters must not reach the terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in line)


def print_log(entry: dict[str, Any]) -> None:
    """A line after its process's name; each name has its own colour."""
    colour = _NAMES[zlib.crc32(entry["name"].encode()) % len(_NAMES)]
    line = Text.assemble(
        f"{_clock(entry)} ", (f"{entry['name']:10}", colour), f" {_printable(entry['line'])}"
    )
    console.print(line, soft_wrap=True)
