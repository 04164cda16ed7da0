# SPDX-License-Identifier: BSD-3-Clause
"""What dpsup-try says was wrong, in words: what was found, and what to change. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dpsup import _abi
from dpsup.documents.trial import TriedFinding
from dpsup.host.process import signal_name
from dpsup.text import plural

UNDO = _abi.DPS_UNDO  # bytes that a plugin may declare
KINDS = (
    "undeclared", "verdict", "crash", "hang", "corrupt", "refused", "burst", "twice", "restart",
    "own-memory", "counters",
)  # fmt: skip

Names = Callable[[dict[str, Any]], list[str]]


def finding(
    kind: str, packet: int, packets: int, message: str, help: str = "", trace: Iterable[str] = ()
) -> TriedFinding:
    return {
        "kind": kind, "packet": packet, "packets": packets, "message": message, "help": help,
        "backtrace": list(trace), "allowed": False,
    }  # fmt: skip


def _bytes(first: int, last: int) -> str:
    return f"byte {first}" if first == last else f"bytes {first} to {last}"


def _undeclared(one: dict[str, Any], plugin: dict[str, Any]) -> TriedFinding:
    first, last, where = one["first"], one["last"], one["where"]
    rewrites, prepends = plugin["rewrites"], plugin["prepends"]
    if where == "packet":
        wanted = last + 1
        message = (
            f"it changes {_bytes(first, last)} of the packet and declares .rewrites = {rewrites}"
        )
        help = f"declare .rewrites = {wanted}"
        if wanted + prepends > UNDO:
            help = (
                f"at most {UNDO} bytes can be declared: change fewer, or drop the packet and send"
                " one of your own (dps_emit)"
            )
    elif where == "before":
        message = (
            f"it writes {_bytes(-last, -first)} before the packet and"
            f" declares .prepends = {prepends}"
        )
        help = f"declare .prepends = {-first}"
    elif where == "behind":
        message = f"it writes behind the packet's end, up to offset {last}"
        help = "set packet->len to what the packet is to have, and write no farther"
    elif where == "segment":
        message = "it changes a further segment of a packet, which is read-only"
        help = "change the first segment alone"
    else:
        message = f"it writes outside of a packet that dps_emit gave, up to offset {last}"
        help = "ask dps_emit for as many bytes as are written"
    if where in ("packet", "before"):
        message += ": a worker that is killed there leaves them changed, and they are changed twice"
    return finding("undeclared", one["packet"], one["packets"], message, help)


def _verdict(one: dict[str, Any], plugin: dict[str, Any]) -> TriedFinding:
    why = one["why"]
    help = "return a verdict that dpsup_plugin.h has a function for"
    if ".prepends" in why:
        why += f" ({plugin['prepends']})"
        help = "declare in .prepends how far the start may move"
    elif "port" in why or "group" in why:
        help = "look the name up with dps_port or dps_group in init; --port and --group name them"
    elif "length" in why or "segments" in why:
        help = "check packet->headroom, len and total first"
    elif "again and again" in why:
        help = "see the finding before"
    message = f"the packet is refused: it {why}"
    if "again and again" in why:
        message = f"the packet was given up: it {one['why']}"
    return finding("verdict", one["packet"], one["packets"], message, help)


_PHASES = {
    "init": "in init",
    "seated": "between packets, or in seated()",
    "look": "in look, at one of the packets from this one on",
    "packet": "in packet()",
    "tick": "in a tick before this packet",
    "recovery": "in the run after a kill",
}


def _death(one: dict[str, Any], names: Names) -> TriedFinding:
    where = _PHASES[one["phase"]]
    if one["kind"] == "hang":
        message = f"no end {where} within --timeout"
        help = "look for a loop that does not end; a slow plugin needs a longer --timeout"
    elif one["exit"] >= 0:
        message = f"it left the process {where}, with exit code {one['exit']}"
        help = "a plugin does not call exit: return dps_drop or dps_quarantine"
    else:
        message = f"{signal_name(one['signal'])} {where}"
        if one["address"]:
            message += f", at address {one['address']:#x}"
        help = "the backtrace says where; what it printed is above"
    return finding(one["kind"], one["packet"], 1, message, help, names(one))


_SECTIONS = {
    "verdict": "its verdict",
    "bytes": "its bytes",
    "emitted": "what it originates",
    "state": "the state of the worker's place",
    "bucket": "the state of its bucket",
    "counters": "the plugin's counters",
}


def _twice(one: dict[str, Any], names: Names) -> TriedFinding:
    section, at = one["section"], _bytes(one["first"], one["last"])
    what = _SECTIONS[section]
    run = "tick before this packet" if one["tick"] else "packet"
    trace = names(one)
    after = f" after its store in {trace[0]}" if trace else ""
    if one["kind"] == "restart":
        message = f"a worker that starts again before the {run} gives another outcome: {what}"
        if section not in ("verdict", "emitted"):
            message += f", {at}"
        return finding(
            "restart", one["packet"], one["packets"], message,
            "variables of the plugin's own are lost with the process: keep what decides in state"
            " (state_size, bucket_state_size)",
        )  # fmt: skip
    message = f"killed{after}, the {run} is run again, and the outcome is another: {what}"
    if section == "counters":
        message += f" (counter {one['first'] // 8} counts it twice)"
    elif section in ("state", "bucket", "bytes"):
        message += f", {at}"
    help = "call dps_touch(at, len) before the change"
    if one["kind"] == "counters":
        help = (
            "say .needs = DPS_PLUGIN_TOUCHES and call dps_touch before the change, or, where that"
            " does not matter: --allow counters"
        )
    if section == "bytes":
        help = "declare in .rewrites and .prepends all bytes that it changes"
    elif section in ("verdict", "emitted"):
        help = "what decides was changed before: call dps_touch(at, len) before that change"
    return finding(one["kind"], one["packet"], one["packets"], message, help, trace)


def _own(one: dict[str, Any], names: Names) -> TriedFinding:
    trace = names(one)
    what = f"`{trace[0]}`" if trace else "allocated memory"
    if one["own"] >= 0:
        what = f"what init gave as state, byte {one['own']}"
    return finding(
        "own-memory", one["packet"], one["packets"],
        f"it changes memory of its own, {what}, which ends with the process",
        "keep it in state (state_size, bucket_state_size) or in env->counters; for a cache that it"
        " can do without: --allow own-memory",
    )  # fmt: skip


def in_words(
    said: Iterable[dict[str, Any]], plugin: dict[str, Any], names: Names, variables: Names
) -> list[TriedFinding]:
    found: list[TriedFinding] = []
    for one in said:
        kind = one["kind"]
        if kind == "undeclared":
            found.append(_undeclared(one, plugin))
        elif kind == "verdict":
            found.append(_verdict(one, plugin))
        elif kind in ("crash", "hang"):
            found.append(_death(one, names))
        elif kind in ("twice", "restart", "counters"):
            found.append(_twice(one, names))
        elif kind == "own-memory":
            found.append(_own(one, variables))
        else:
            found.append(
                finding(
                    "corrupt", one["packet"], 1,
                    "it wrote over what lies beside the packets, so that the lane is beyond repair",
                    "look for a write through a wild pointer",
                )
            )  # fmt: skip
    return _together(found)


def _together(found: list[TriedFinding]) -> list[TriedFinding]:
    """Deaths of one packet, or at one place, are one finding."""
    kept: dict[tuple[str, str, tuple[str, ...]], TriedFinding] = {}
    packets: dict[int, set[int]] = {}
    for one in found:
        same = kept.setdefault((one["kind"], one["message"], tuple(one["backtrace"])), one)
        of = packets.setdefault(id(same), set())
        of.add(one["packet"])
        if same["kind"] in ("crash", "hang"):
            same["packets"] = len(of)
    return list(kept.values())


def lines(one: TriedFinding) -> list[str]:
    where = f"packet {one['packet']}: " if one["packet"] else ""
    more = f" (and {plural(one['packets'] - 1, 'more packet')})" if one["packets"] > 1 else ""
    mark = "allowed" if one["allowed"] else "finding"
    out = [f"{mark} [{one['kind']}] {where}{one['message']}{more}"]
    out += [f"    {frame}" for frame in one["backtrace"]]
    if one["help"]:
        out.append(f"  help: {one['help']}")
    return out
