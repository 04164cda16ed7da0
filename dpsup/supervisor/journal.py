# SPDX-License-Identifier: BSD-3-Clause
"""What processes print, as log lines with their names; and the instance's own events.

Both are kept in bounded memory, numbered, and published.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from dpsup.bus.sockets import Publisher
from dpsup.instance import record

Entry = TypeVar("Entry", bound=Mapping[str, Any])  # documents' Event or LogLine

KEPT = 2000  # lines and events each
LINE_MOST = 4096  # bytes
LINES_PER_SECOND = 500


class Journal(Generic[Entry]):
    """A bounded list of numbered entries, each also handed to `publish` and to the listeners. It
    raises nothing, as it is told in the middle of everything: `on_fault` hears of it."""

    def __init__(self, topic: str, publish: Callable[[str, dict[str, Any]], int]) -> None:
        self._topic = topic
        self._publish = publish
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self.listeners: list[Callable[[Entry], None]] = []
        self.on_fault: Callable[[Exception], None] = lambda _: None

    def add(self, **entry: Any) -> None:
        entry["at"] = time.time()
        entry["at_ns"] = time.monotonic_ns()
        try:
            entry["seq"] = self._publish(self._topic, entry)
        except Exception as e:  # it has no form for the bus, nor for an answer: it is left out
            self.on_fault(e)
            return
        whole = cast(Entry, entry)
        self._entries.append(whole)
        for listener in self.listeners:
            try:
                listener(whole)
            except Exception as e:
                self.on_fault(e)

    def restore(self, entries: list[Entry]) -> None:
        """Take over recorded entries; the next number follows their last one."""
        self._entries.extend(entries)

    def since(self, seq: int, most: int = KEPT) -> list[Entry]:
        """The last `most` entries numbered above `seq`."""
        return [e for e in self._entries if e["seq"] > seq][-most:] if most > 0 else []

    def after(self, seq: int, most: int = KEPT) -> list[Entry]:
        """The first `most` entries numbered above `seq`: the next page."""
        return [e for e in self._entries if e["seq"] > seq][: max(most, 0)]


class Throttle:
    """Lets a number of lines a second through. A worker that prints for each packet must not take
    the supervisor's core; a note says how many lines were left out."""

    def __init__(self, per_second: int = LINES_PER_SECOND) -> None:
        self._most = per_second
        self._second = -1
        self._passed = 0
        self._dropped = 0

    def admit(self, line: str, now: float) -> list[str]:
        """What to keep of a line that comes at `now` (seconds)."""
        kept = []
        if int(now) != self._second:
            if self._dropped:
                kept.append(f"({self._dropped} lines left out)")
            self._second, self._passed, self._dropped = int(now), 0, 0
        self._passed += 1
        if self._passed <= self._most:
            return [*kept, line]
        self._dropped += 1
        return kept


class Lines:
    """Reads a pipe line by line until its end, then closes it."""

    def __init__(
        self, fd: int, each: Callable[[str], None], per_second: int = LINES_PER_SECOND
    ) -> None:
        self._fd = fd
        self._each = each
        self._rest = b""
        self._throttle = Throttle(per_second)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MOST or (not data and self._rest):
            lines.append(self._rest)
            self._rest = b""
        now = time.monotonic()
        for line in lines:
            for kept in self._throttle.admit(line[:LINE_MOST].decode(errors="replace"), now):
                self._each(kept.rstrip())
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)


def keep(directory: Path, publisher: Publisher, journals: dict[str, Journal[Any]]) -> None:
    """Load the record into each topic's journal, and record its new entries. Sequence numbers
    continue: a follower of the previous supervisor sees what it missed."""
    for topic, journal in journals.items():
        known = record.read(directory, topic)
        if known:
            journal.restore(known)
            publisher.seq[topic] = known[-1]["seq"]
        journal.listeners.append(record.Recorder(directory, topic).write)
