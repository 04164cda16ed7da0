# SPDX-License-Identifier: BSD-3-Clause
"""Documents as text for people, on a terminal or in a pipe.

The tables are those of view.columns, for all commands. Own code instead of rich: that cost 28 ms of
import (62 ms to load this module, 34 without), and its tables cannot leave out the columns that
matter least. What is left of it is one page: styles, and drawing in place.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dpsup.supervisor.steering import BUCKETS
from dpsup.text import fold
from dpsup.view import answers
from dpsup.view.columns import Column, Line
from dpsup.view.sections import Screen, account

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.audit import Stray
    from dpsup.documents.instances import Instances
    from dpsup.documents.printed import (
        Audit,
        Quarantine,
        Rebalance,
        Reload,
        Revisions,
        Rolled,
        Rollouts,
        Scale,
        State,
    )
    from dpsup.documents.quarantine import Death, Packet
    from dpsup.documents.status import Account, Learned, Summary
    from dpsup.documents.tables import Tables
    from dpsup.documents.where import Where

_STATE_WORDS = 6
_SIZE = (80, 25)  # if a terminal does not report its size

# Colour marks good and bad values: SGR codes, omitted with NO_COLOR (https://no-color.org).
_STYLES = {
    "": "",
    "good": "32",
    "warn": "33",
    "bad": "1;31",
    "dim": "2",
    "head": "1",
    "bold": "1",
    "chosen": "7",
    "cyan": "36",
    "green": "32",
    "magenta": "35",
    "blue": "34",
    "yellow": "33",
}
_WITHOUT_COLOUR = {"bad": "1", "dim": "2", "head": "1", "bold": "1", "chosen": "7"}
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen, no cursor
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


class Console:
    """stdout, as it is at the moment: it may be redirected, its window may change its size."""

    @property
    def is_terminal(self) -> bool:
        return sys.stdout.isatty()

    @property
    def is_dumb(self) -> bool:
        """Does the output not interpret escape sequences?"""
        return not self.is_terminal or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")

    @property
    def size(self) -> tuple[int, int]:
        try:
            width, height = os.get_terminal_size(sys.stdout.fileno())
        except (OSError, ValueError):
            return _SIZE
        return width or _SIZE[0], height or _SIZE[1]

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    def styled(self, line: Line) -> str:
        if self.is_dumb:
            return "".join(text for text, _ in line)
        styles = _WITHOUT_COLOUR if os.environ.get("NO_COLOR") else _STYLES
        return "".join(
            f"\x1b[{code}m{text}\x1b[0m" if (code := styles.get(style, "")) else text
            for text, style in line
        )

    def write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


console = Console()


def _say(text: str) -> None:
    console.write(f"{text}\n")


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    columns = [Column(t, left=t in _LEFT, flexible=t in _FLEXIBLE) for t in titles]
    print_lines(screen().table(columns, [list(row) for row in rows]))


_FLEXIBLE = ("PLUGIN", "ARGS", "WHY", "DEATHS", "8-BYTE WORDS")  # shortened if the width is short
_LEFT = (
    "NAME", "GROUP", "WORKER", "STATE", "PLUGIN", "PLACE", "OF", "PHASE", "TO", "WORKERS", "ARGS",
    "WHY", "DEATHS", "TABLE", "KIND", "FILE",
)  # fmt: skip


def screen(*, wide: bool = False) -> Screen:
    """The size of stdout. A pipe has no width: every column is shown."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    width = None if wide or not console.is_terminal else console.width
    return Screen(width, ascii_only=not utf8)


def print_lines(lines: Sequence[Line]) -> None:
    _say("\n".join(console.styled(line) for line in lines))


def _crop(line: Line, width: int) -> Line:
    made: Line = []
    for text, style in line:
        made.append((text[:width], style))
        width -= len(text)
        if width <= 0:
            break
    return made


@contextlib.contextmanager
def live() -> Iterator[Callable[[Sequence[Line]], None]]:
    """Draws lines in the place of the last ones, on an alternate screen; if stdout is no terminal,
    one block below the other."""
    if console.is_dumb:
        yield lambda lines: print_lines([*lines, []])
        return

    def draw(lines: Sequence[Line]) -> None:
        width, height = console.size
        shown = [console.styled(_crop(line, width)) for line in lines[:height]]
        console.write(_HOME + "\n".join(f"{one}{_REST_OF_LINE}" for one in shown) + _REST)

    console.write(_ENTER)
    try:
        yield draw
    finally:
        console.write(_LEAVE)


def print_instances(doc: Instances) -> None:
    if doc["instances"]:
        print_lines(answers.instances(doc, screen()))
    else:
        _say("there is no instance: `dpsup start FILE` starts one")


def print_where(doc: Where) -> None:
    print_lines(answers.where(doc, screen()))


def print_audit(doc: Audit, detail: bool = False) -> None:
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
    pools: Sequence[Mapping[str, Any]] = doc["pools"]
    rows = [[pool["name"], *(str(pool[k]) for k in shown)] for pool in pools]
    _table(["NAME", *shown.values()], rows)
    if detail:
        rows = [
            [pool["name"], str(at["io"]), at["place"], at["of"] or "-", str(at["mbufs"])]
            for pool in doc["pools"]
            for at in pool["places"]
        ]
        _table(["NAME", "IO", "PLACE", "OF", "MBUFS"], rows)
    for pool in doc["pools"]:
        for stray in pool["strays"]:
            _say(stray_line(pool["name"], stray))


def stray_line(pool: str, stray: Stray) -> str:
    """One missing mbuf, and what is known about it."""
    sure = "lost" if stray["certain"] else "lost, or held by a driver"
    by = {"lane": f", {stray['packets_since']} packets ago", "bucket": ", by its bucket"}
    holder = f"{stray['holder']}{by[stray['holder_by'] or '']}" if stray["holder"] else "unknown"
    return (
        f"{pool}: mbuf {stray['address']} is {sure}; last holder {holder}; received on "
        f"{stray['port'] or 'no port'}, {stray['length']} bytes, refcnt {stray['refcnt']}: "
        f"{stray['bytes'][:64]}"
    )


def print_state(doc: State) -> None:
    """State blocks, as the 8-byte numbers at their beginning."""
    titles, rows = ["NAME", "VERSION", "BYTES", "WORKER", "8-BYTE WORDS"], []
    workers = [(w["id"], "-", w) for w in doc["workers"]]
    names = [f"{doc['group']}/{b['member']}" for b in doc["buckets"]]
    buckets = [(str(b["bucket"]), n, b) for n, b in zip(names, doc["buckets"], strict=True)]
    for name, worker, block in workers + buckets:
        data = bytes.fromhex(block["hex"])
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
        shown = " ".join(map(str, words[:_STATE_WORDS])) + " ..." * (len(words) > _STATE_WORDS)
        rows.append([name, str(block["version"]), str(block["size"]), worker, shown])
    _table(titles, rows)
    if not rows:
        _say("the plugin of this group keeps no state")


def print_account(found: Account) -> None:
    _say(account(found))


def print_summary(summary: Summary) -> None:
    """The summary of a run: the account, and the mbufs."""
    print_account(summary)
    unexplained = sum(p["unexplained"] for p in summary["audit"])
    _say(f"worker deaths {summary['deaths']}, mbufs unexplained {unexplained}")


def print_scale(doc: Scale) -> None:
    """What a scale would change."""
    if doc["old"] == doc["desired"]:
        _say(f"{doc['group']}: unchanged, {doc['ready']} of {doc['desired']} ready")
    else:
        _say(f"~ group {doc['group']}: workers {doc['old']} -> {doc['desired']}")
        for sign, seats in (("+", doc["add"]), ("-", doc["remove"])):
            for one in seats:
                _say(f"    {sign} {one['worker']}  core {one['core']}")
        if doc["at_zero"]:
            _say(f"    no worker is left then: at_zero = {doc['at_zero']}")
        else:
            _say(f"    {doc['buckets_moved']} of {BUCKETS} buckets move")
    _say("Nothing was changed (--dry-run).")


def print_rollout(doc: Rolled) -> None:
    """The result of a rollout command."""
    plugin = posixpath.basename(doc["to_plugin"] or doc["plugin"])
    if not doc["changed"]:
        _say(f"{doc['group']}: unchanged, it runs {plugin} already")
    elif doc["phase"] == "done":
        _say(f"{doc['group']}: revision {doc['to']}, {plugin}, in all workers")
    elif doc["phase"] in ("undone", "stuck"):
        _say(f"{doc['group']}: revision {doc['to']}, {plugin}, {doc['phase']}: {doc['why']}")
    else:
        _say(
            f"{doc['group']}: to revision {doc['to']}, {plugin}: {doc['phase']}.  "
            f"dpsup rollout status"
        )


def print_rollouts(doc: Rollouts) -> None:
    titles, rows = ["GROUP", "REVISION", "PLUGIN", "PHASE", "TO", "WORKERS", "WHY"], []
    for g in doc["groups"]:
        workers = " ".join(f"{w}:{n}" for w, n in g["workers"].items())
        to = f"{g['to']} {posixpath.basename(g['to_plugin'] or '')}" if g["to"] else "-"
        plugin = posixpath.basename(g["plugin"])
        rows.append([g["group"], str(g["revision"]), plugin, g["phase"], to, workers, g["why"]])
    _table(titles, rows)


def print_revisions(doc: Revisions) -> None:
    titles, rows = ["REVISION", "SINCE", "PLUGIN", "ARGS", "STATE", "WHY"], []
    for r in doc["revisions"]:
        args = " ".join(f"{k}={v}" for k, v in r["args"])
        rows.append([str(r["number"]), _clock(r), r["plugin"], args, r["state"], r["why"]])
    _table(titles, rows)


_HOW = {"live": "at once", "rolling": "worker by worker", "restart": "needs a restart"}


def print_reload(doc: Reload) -> None:
    """The changes in a topology file."""
    if not doc["changes"]:
        _say(f"{doc['file']}: nothing changed")
    for kind, how in _HOW.items():
        found = [c for c in doc["changes"] if c["class"] == kind]
        if found:
            _say(f"{how}:")
        for c in found:
            why = f" ({c['why']})" if c["why"] else ""
            _say(f"  {doc['file']}:{c['line']}  {c['text']}{why}")
    for warning in doc.get("warnings", ()):  # an older instance tells none
        _say(f"warning: {warning}")


def print_reloaded(doc: Reload) -> None:
    done = sum(c["done"] for c in doc["changes"])
    _say(f"{done} of {len(doc['changes'])} done")
    if doc["failed"]:
        _say(f"undone: {doc['failed']}")


def print_tables(doc: Tables) -> None:
    """Live tables, one a line."""
    rows = [
        [
            f"{one['group']}/{one['table']}",
            one["kind"],
            str(one["entries"]),
            str(one["most"]),
            f"{one['bytes'] / (1 << 20):.1f}",
            str(one["version"]),
            one["file"] + (" (changed since)" if one["changed_on_disk"] else ""),
            _learned(one["learned"]),
        ]
        for one in doc["tables"]
    ]
    titles = ["TABLE", "KIND", "ENTRIES", "MOST", "MiB", "VERSION", "FILE", "WORKERS TOLD"]
    if not any(one["learned"] for one in doc["tables"]):
        titles, rows = titles[:-1], [row[:-1] for row in rows]
    _table(titles, rows)


def _learned(found: Learned | None) -> str:
    """What workers told a table, and what became of it."""
    if found is None:
        return ""
    words = [f"{found['entries']} learned"]
    words += [f"{found[k]} {k}" for k in ("aged", "refused", "lost") if found[k]]
    return ", ".join(words)


def print_rebalance(doc: Rebalance) -> None:
    titles, rows = ["WORKER", "BEFORE", "PREDICTED", "MEASURED"], []
    for worker, share in doc["before"].items():
        measured = f"{doc['measured'][worker]:.1%}" if doc["measured"] else "-"
        rows.append([worker, f"{share:.1%}", f"{doc['predicted'][worker]:.1%}", measured])
    _table(titles, rows)
    for one in doc["elephants"]:
        _say(
            f"bucket {one['bucket']} of {one['worker']} alone has {one['share']:.1%} of the packets"
        )
    if doc["elephants"]:
        _say("`dpsup advise` says what its packets are, and which key spreads a tunnel's")
    most, then = doc["imbalance"], doc["imbalance_predicted"]
    _say(
        f"busiest worker: {most:.2f} of an even share, {then:.2f} after "
        f"{doc['buckets_moved']} of {BUCKETS} buckets moved"
    )
    if doc["why"]:
        _say(f"Nothing was changed: {doc['why']}.")
    elif doc["dry_run"]:
        _say("Nothing was changed (--dry-run).")


def _how(death: Death) -> str:
    address = int(death["address"] or "0", 16) if death["signal"] else 0
    at = f" at {death['address']}" if address else ""
    return ("stuck, " if death["hung"] else "") + (death["signal"] or "killed") + at


def print_quarantine(doc: Quarantine) -> None:
    if not doc["packets"]:
        _say(f"no packet is in quarantine, {doc['folder']}")
        return
    titles, rows = ["N", "WHEN", "GROUP", "PORT", "LENGTH", "FLOW HASH", "WHY", "DEATHS"], []
    for p in doc["packets"]:
        when = datetime.fromtimestamp(p["at"]).strftime("%Y-%m-%d %H:%M:%S")
        deaths = "; ".join(f"{d['worker']} {_how(d)}" for d in p["deaths"]) or "-"
        found = (p["group"], p["port"], str(p["length"]), p["flow_hash"], p["why"], deaths)
        rows.append([str(p["number"]), when, *found])
    _table(titles, rows)
    _say(f"{len(doc['packets'])} in {doc['folder']}")


def print_quarantined(doc: Packet) -> None:
    """One packet's story."""
    why = {
        "poison": "two workers died while handling it",
        "asked": f"plugin {doc['plugin']} put it there",
    }
    _say(
        f"packet {doc['number']} of {doc['instance']}, {_clock(doc)}: {why[doc['why']]}\n"
        f"{doc['length']} bytes from port {doc['port']}, flow hash {doc['flow_hash']}, "
        f"group {doc['group']}\n{doc['file']}"
    )
    for death in doc["deaths"]:
        _say(
            f"death of {death['worker']}, plugin {death['plugin']}, pid {death['pid']}, "
            f"{_clock(death)}: {_how(death)}"
        )
        for i, frame in enumerate(death.get("symbols") or death["backtrace"]):
            _say(f"  #{i} {frame}")


def _clock(entry: Mapping[str, Any]) -> str:
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
    if event.get("called"):
        parts.append(f"called {event['called']}(), which a worker may not")
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
        what = "tick" if event.get("ticked") else "packet"
        parts.append(f"death {event['blamed']} with the same {what} in hand")
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
    return f"{_clock(event)} {_printable(what)}"


def print_event(event: dict[str, Any]) -> None:
    line = event_line(event)
    if console.is_terminal:
        line = fold(line, console.width, len(f"{_clock(event)} "))
    print_lines([[(line, _EVENTS.get(event["type"], ""))]])


def _printable(line: str) -> str:
    """A process may print bytes of a packet: control characters must not reach the terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in line)


def print_log(entry: dict[str, Any]) -> None:
    """A line after its process's name; each name has its own colour."""
    colour = _NAMES[zlib.crc32(entry["name"].encode()) % len(_NAMES)]
    line = [(f"{_clock(entry)} ", ""), (f"{entry['name']:10}", colour)]
    print_lines([[*line, (f" {_printable(entry['line'])}", "")]])
