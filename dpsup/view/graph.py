# SPDX-License-Identifier: BSD-3-Clause
"""The paths of packets as text: ports, io cores, workers, and their destinations. Pure.

Each group is a block, groups fed by ports first: its inputs, the io cores that steer them, its
workers, its destinations. Rates are packets per second; drops are red.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpsup.view.columns import Line, percent, si
from dpsup.view.sections import Screen, heading, hint_lines

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import GroupRates, Picture, PortRates, WorkerRates

_LINES = {"h": "─", "v": "│", "to": "▶", "top": "┬", "cross": "┼", "left": "┤", "right": "├"}
_LINES |= {"start": "┌", "end": "└", "first": "┐", "last": "┘", "bottom": "┴", "drop": "✗"}
_ASCII = dict.fromkeys(_LINES, "+") | {"h": "-", "v": "|", "to": ">", "drop": "x"}


def _trunk(left: int, right: int, rows: int, letters: dict[str, str]) -> list[str]:
    """Lines that join each of `left` rows with each of `right` rows, both from the top."""
    made = []
    height = max(left, right)
    for row in range(rows):
        is_in, is_out = row < left, row < right
        above, below = 0 < row < height, row + 1 < height
        if not (is_in or is_out):
            made.append("    ")
            continue
        key = {
            (True, True, False, False): "h",
            (True, True, False, True): "top",
            (True, True, True, True): "cross",
            (True, True, True, False): "bottom",
            (True, False, True, True): "left",
            (True, False, True, False): "last",
            (False, True, True, True): "right",
            (False, True, True, False): "end",
        }[is_in, is_out, above, below]
        line = letters["h"]
        made.append(
            (line if is_in else " ") + letters[key] + (line + letters["to"] if is_out else "  ")
        )
    return made


def _column(cells: Sequence[Line], rows: int) -> list[Line]:
    """Cells padded to the same width, empty ones below."""
    width = max(map(_length, cells), default=0)
    made = []
    for row in range(rows):
        cell = cells[row] if row < len(cells) else []
        made.append([*cell, (" " * (width - _length(cell)), "")])
    return made


def _worker(w: WorkerRates, letters: dict[str, str], *, brief: bool) -> Line:
    if w["state"] != "running":
        return [(w["id"], "bold"), (f" {w['state']}", "warn")]
    line: Line = [(w["id"], "bold"), (f" {si(w['pps'])}", "")]
    if not brief:
        line.append((f" {percent(w['busy'])}", ""))
    if w["drop_pps"]:
        line.append((f" {letters['drop']} {si(w['drop_pps'])}/s", "bad" if w["fault_pps"] else ""))
    health = w.get("health", "ok")
    if health != "ok":
        line.append((f" {health}", "warn"))
    return line


def _order(groups: list[GroupRates], ports: set[str]) -> list[GroupRates]:
    """The groups along the paths of packets, those fed by ports first."""
    done = [g for g in groups if ports & set(g["inputs"])]
    left = [g for g in groups if g not in done]
    while left:
        known = {g["name"] for g in done}
        ready = [g for g in left if known & set(g["inputs"])] or left[:1]
        done += ready
        left = [g for g in left if g not in ready]
    return done


def draw(picture: Picture, screen: Screen) -> list[Line]:
    letters = _ASCII if screen.ascii_only else _LINES
    ports = {p["name"]: p for p in picture["ports"]}
    made = heading(picture, screen)
    for group in _order(picture["groups"], set(ports)):
        block = _block(picture, group, ports, letters, brief=False)
        if screen.width is not None and max(map(_length, block)) > screen.width:
            block = _block(picture, group, ports, letters, brief=True)
        made += [[], *(_cut(line, screen) for line in block)]
    for chain in picture["chains"]:
        way = f" {letters['h']}{letters['to']} ".join(chain["path"])
        made += [[], [(f"chain {chain['name']}: {way}", "")]]
    return made + hint_lines(picture, screen)


def _length(line: Line) -> int:
    return sum(len(text) for text, _ in line)


def _cut(line: Line, screen: Screen) -> Line:
    """No longer than the screen is wide."""
    if screen.width is None or _length(line) <= screen.width:
        return line
    made: Line = []
    room = screen.width - 1
    for text, style in line:
        made.append((text[:room], style))
        room -= min(room, len(text))
    return [*made, ("~" if screen.ascii_only else "…", "dim")]


def _block(
    picture: Picture,
    group: GroupRates,
    ports: dict[str, PortRates],
    letters: dict[str, str],
    *,
    brief: bool,
) -> list[Line]:
    inputs: list[Line] = []
    for name in group["inputs"]:
        line: Line = [(name, "bold")]
        if name in ports:
            line.append((f" {si(ports[name]['rx_pps'])}", ""))
            if ports[name]["missed_pps"]:
                line.append((f" {letters['drop']} {si(ports[name]['missed_pps'])}/s", "bad"))
        inputs.append(line)
    cores: list[Line] = [
        [(one["id"], "bold"), ("" if brief else f" {percent(one['busy'])}", "")]
        for one in picture["io"]
    ]
    workers = [
        _worker(w, letters, brief=brief) for w in picture["workers"] if w["group"] == group["name"]
    ]
    outputs: list[Line] = []
    for name in group["next"]:
        line = [(name, "bold")]
        if name in ports:
            line.append((f" {si(ports[name]['tx_pps'])}", ""))
            drops = ports[name]["drops_new"].get("tx_full")
            if drops and picture["window_s"]:
                line.append((f" {letters['drop']} {si(drops / picture['window_s'])}/s", "bad"))
        outputs.append(line)
    columns = [c or [[("-", "dim")]] for c in (inputs, cores, workers, outputs)]
    rows = max(map(len, columns))
    parts = [_column(c, rows) for c in columns]
    trunks = [
        _trunk(len(columns[i]), len(columns[i + 1]), rows, letters) for i in range(len(columns) - 1)
    ]
    made: list[Line] = []
    for row in range(rows):
        line = []
        for i, part in enumerate(parts):
            line += part[row]
            if i < len(trunks):
                line.append((f" {trunks[i][row]} ", "dim"))
        made.append(line)
    return [[(f"group {group['name']}", "head"), (f"  {group['plugin']}", "")], *made]
