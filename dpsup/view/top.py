# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup top`: an instance live, with keys to act on its workers.

`Top` holds the screen's state and the meaning of keys; `run` has the terminal and the instance.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from dpsup.errors import DpsupError, NotRunning, UsageError
from dpsup.instance import rates
from dpsup.instance.client import connect
from dpsup.view import sections
from dpsup.view.columns import Cell, Column, Line, ago, percent, si, spark
from dpsup.view.sections import Screen

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import Look, Picture, WorkerRates

HISTORY = 120  # values of a sparkline in memory
SPARK = 12  # values shown
SORTS = {
    "p": ("pps", "pps"),
    "b": ("busy", "busy"),
    "c": ("cycles_per_packet", "cycles"),
    "d": ("drop_pps", "drops"),
    "n": ("", "name"),
}
KEYS = "q quit  arrows select  s scale  k kill  r drain, restart"
SORT_KEYS = "sort by " + ", ".join(f"{key} {title}" for key, (_, title) in SORTS.items())
SAID_S = 5.0  # how long a message stays on the screen


class Top:
    """State of the screen. `key` returns what to do: ("scale", "fw", "+1"), or None."""

    def __init__(self) -> None:
        self.picture: Picture | None = None
        self.gone = ""  # the reason if the instance is gone
        self.chosen = ""
        self.sort = "n"
        self.prompt = ""  # "scale" | "kill" | "drain": the question on the screen
        self.typed = ""
        self.said: tuple[str, float] = ("", 0.0)
        self.is_over = False
        self._history: dict[str, deque[float | None]] = {}

    # --- input -----------------------------------------------------------------------------------

    def see(self, picture: Picture) -> None:
        self.picture, self.gone = picture, ""
        for w in picture["workers"]:
            self._remember(w["id"], w["pps"])
        for p in picture["ports"]:
            self._remember(f"port {p['name']}", p["rx_pps"])
        ids = [w["id"] for w in self._workers()]
        if self.chosen not in ids:
            self.chosen = ids[0] if ids else ""

    def lose(self, why: str) -> None:
        """The instance has ended, or does not answer; the last picture stays."""
        self.gone = why
        self.prompt = self.typed = ""

    def say(self, text: str, now: float) -> None:
        self.said = (text, now)

    def _remember(self, name: str, value: float | None) -> None:
        self._history.setdefault(name, deque(maxlen=HISTORY)).append(value)

    def key(self, key: str) -> tuple[str, ...] | None:
        if self.prompt:
            return self._answer(key)
        if key in ("q", "\x03"):
            self.is_over = True
        elif key in ("up", "down"):
            self._move(-1 if key == "up" else 1)
        elif key in SORTS:
            self.sort = key
        elif key in ("s", "k", "r") and self.chosen and not self.gone:
            self.prompt = {"s": "scale", "k": "kill", "r": "drain"}[key]
            self.typed = ""
        return None

    def _answer(self, key: str) -> tuple[str, ...] | None:
        asked, group = self.prompt, self.chosen.rpartition("/")[0]
        if key in ("esc", "\x03"):
            self.prompt = ""
        elif asked == "scale" and key in ("\r", "\n"):
            self.prompt = ""
            return ("scale", group, self.typed) if self.typed else None
        elif asked == "scale" and key in ("\x7f", "\b"):
            self.typed = self.typed[:-1]
        elif asked == "scale" and (key.isdigit() or (key in "+-" and not self.typed)):
            self.typed += key
        elif asked != "scale":
            self.prompt = ""
            return (asked, self.chosen) if key == "y" else None
        return None

    def _move(self, by: int) -> None:
        ids = [w["id"] for w in self._workers()]
        if ids:
            at = ids.index(self.chosen) if self.chosen in ids else 0
            self.chosen = ids[max(0, min(len(ids) - 1, at + by))]

    def _workers(self) -> list[WorkerRates]:
        found: list[WorkerRates] = list(self.picture["workers"]) if self.picture else []
        key = SORTS[self.sort][0]
        if not key:
            return found
        return sorted(found, key=lambda w: -(cast("Mapping[str, Any]", w)[key] or 0))

    # --- output ---------------------------------------------------------------------------------

    def lines(self, screen: Screen, height: int, now: float) -> list[Line]:
        """At most `height` lines: the keys are in the last one, the table is shortened."""
        if self.picture is None:
            return [[(self.gone or "connecting ...", "warn")], [("q quit", "dim")]]
        head = sections.heading(self.picture, screen)
        if self.gone:
            head = [[(self.gone, "bad"), (", last known state:", "")], *head]
        head += self._ports(screen)
        foot = self._foot(screen, now)
        body = self._table(screen)
        room = max(2, height - len(head) - len(foot) - 1)
        rows = body[1:]
        if len(rows) > room - 1:
            at = [w["id"] for w in self._workers()].index(self.chosen)
            first = max(0, min(at - (room - 2) // 2, len(rows) - (room - 1)))
            rows = rows[first : first + room - 1]
        return [*head, [], body[0], *rows, *foot][:height]

    def _ports(self, screen: Screen) -> list[Line]:
        assert self.picture is not None
        made: list[Line] = []
        for p in self.picture["ports"]:
            bars = spark(
                self._history.get(f"port {p['name']}", []), SPARK, ascii_only=screen.ascii_only
            )
            drops = (p["drop_pps"] or 0) + (p["missed_pps"] or 0)
            line: Line = [
                (f"  {p['name']:8.8} ", "bold"),
                (bars, "dim"),
                (f"  rx {si(p['rx_pps']):>5} pps  tx {si(p['tx_pps']):>5} pps", ""),
                (f"  drops {si(drops)}/s", "bad" if drops else ""),
            ]
            made.append(line)
        return made[:4]

    def _table(self, screen: Screen) -> list[Line]:
        columns = [
            Column("WORKER", left=True),
            Column("STATE", left=True, rank=1),
            Column("CORE", rank=5),
            Column("BUSY"),
            Column("PPS"),
            Column("LAST", left=True, rank=6),
            Column("CYC/PKT", rank=2),
            Column("BATCH", rank=7),
            Column("FILL", rank=3),
            Column("DROP/S"),
            Column("RESTARTS", rank=8),
            Column("SINCE", rank=4),
        ]
        rows: list[list[Cell]] = []
        for w in self._workers():
            chosen = "chosen" if w["id"] == self.chosen else ""
            cycles, batch = w["cycles_per_packet"], w["batch"]
            bars = spark(self._history.get(w["id"], []), SPARK, ascii_only=screen.ascii_only)
            health = w.get("health", "ok")
            how = health if w["state"] == "running" and health != "ok" else w["state"]
            rows.append(
                [
                    (w["id"], chosen),
                    sections.state(how) if how == w["state"] else (how, "warn"),
                    str(w["core"]),
                    percent(w["busy"]),
                    si(w["pps"]),
                    (bars, "dim"),
                    "-" if cycles is None else f"{cycles:.0f}",
                    "-" if batch is None else f"{batch:.1f}",
                    percent(w["fill"]),
                    (si(w["drop_pps"]), "bad" if w["fault_pps"] else ""),
                    str(w["restarts"]),
                    ago(w["since_s"]),
                ]
            )
        return screen.table(columns, rows)

    def _foot(self, screen: Screen, now: float) -> list[Line]:
        assert self.picture is not None
        made: list[Line] = [[]]
        group = self.chosen.rpartition("/")[0]
        text, at = self.said
        if self.prompt == "scale":
            made.append([(f"scale {group} to (4, +1, -1; Enter, Esc): {self.typed}_", "warn")])
        elif self.prompt == "kill":
            made.append([(f"send SIGKILL to {self.chosen}? y/n", "warn")])
        elif self.prompt == "drain":
            made.append([(f"drain {self.chosen} and restart it? y/n", "warn")])
        elif text and now - at < SAID_S:
            made.append([(text, "warn")])
        else:
            made += sections.hint_lines(self.picture, screen)[:2]
        by = f"{SORT_KEYS}; now by {SORTS[self.sort][1]}"
        made += [[(line[: screen.width], "dim")] for line in (by, KEYS)]
        return made


# --- the terminal ---------------------------------------------------------------------------------

_ESCAPES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b": "esc"}


def _keys(data: bytes) -> list[str]:
    """The typed keys: characters, and names of escape sequences."""
    found = []
    while data:
        for sequence, name in _ESCAPES.items():
            if data.startswith(sequence) and (name != "esc" or len(data) == 1):
                found.append(name)
                data = data[len(sequence) :]
                break
        else:
            found.append(chr(data[0]))
            data = data[1:]
    return found


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _act(name: str, top: Top, action: tuple[str, ...]) -> None:
    """Runs in its own thread, as a drain takes time."""
    top.say(_done(name, action), time.monotonic())


def _done(name: str, action: tuple[str, ...]) -> str:
    try:
        with connect(name) as instance:
            if action[0] == "scale":
                scaled = instance.scale(action[1], action[2], wait=False)
                return f"{scaled['group']}: {scaled['old']} -> {scaled['desired']} workers"
            if action[0] == "kill":
                killed = instance.kill(action[1])
                return f"SIGKILL to {killed['worker']}, pid {killed['pid']}"
            restarted = instance.restart(action[1])["restarted"]
            return f"drained and restarted: {', '.join(restarted)}"
    except DpsupError as e:
        return e.message


def run(name: str | None, every: float) -> None:
    """Run until q. The instance may end and be started again in this time."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "`dpsup top` needs a terminal",
            code="E1004",
            help="`dpsup status -w` writes to pipes and files too",
        )
    from dpsup.view import terminal

    with connect(name) as instance:
        name, before = instance.name, instance.look()
    top, fd, due = Top(), sys.stdin.fileno(), time.monotonic() + min(every, 0.3)
    with _raw(fd), terminal.live() as draw:
        while not top.is_over:
            now = time.monotonic()
            if now >= due:
                due = now + every
                before = _look(name, top, before)
            draw(top.lines(terminal.screen(), terminal.console.height, now))
            left = max(0.0, due - time.monotonic())
            if select.select([fd], [], [], left)[0]:
                for key in _keys(os.read(fd, 64)):
                    action = top.key(key)
                    if action is not None:
                        top.say(f"{' '.join(action)} ...", time.monotonic())
                        threading.Thread(target=_act, args=(name, top, action), daemon=True).start()


def _look(name: str, top: Top, before: Look) -> Look:
    try:
        with connect(name) as instance:
            after = instance.look()
    except NotRunning:
        top.lose(f"{name} has ended; waiting for its next start")
        return before
    except (DpsupError, OSError) as e:
        top.lose(f"{name} does not answer: {e}")
        return before
    top.see(rates.picture(before, after))
    return after
