# SPDX-License-Identifier: BSD-3-Clause
"""The flight recorder: the last events and log lines, in files of the runtime directory.

One JSON line per entry, written at once with one write(2): the next supervisor finds what a killed
one had written. Two files per topic, each of at most SEGMENT bytes: the older one is removed when
the newer one is full. Events and lines have files of their own, so that
a talkative worker does not push out the story of a death.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

SEGMENT = 1 << 20  # bytes
FILES = {"event": ("events.jsonl", "events.jsonl.1"), "log": ("log.jsonl", "log.jsonl.1")}
NAMES = tuple(name for pair in FILES.values() for name in pair)

Entry = dict[str, Any]  # documents.events.Event or documents.printed.LogLine


class Recorder:
    """Writes one topic. A disk that is full or gone costs the record, never the supervisor."""

    def __init__(self, directory: Path, topic: str, segment: int = SEGMENT) -> None:
        self._new, self._old = (directory / name for name in FILES[topic])
        self._segment = segment
        self._fd = -1
        self._size = 0
        self.lost = 0  # entries that could not be written
        with contextlib.suppress(OSError):
            self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._new, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            # The writer was killed in the middle of a line, which readers then skip.
            self._size += os.write(self._fd, b"\n")

    def write(self, entry: Entry) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            if self._fd < 0:
                self._open()
            elif self._size and self._size + len(line) > self._segment:
                self._turn()
            self._size += os.write(self._fd, line)
        except OSError:
            self.lost += 1

    def _turn(self) -> None:
        self.close()
        self._new.replace(self._old)
        self._open()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(directory: Path, topic: str) -> list[Entry]:
    """All recorded entries, the oldest first; a truncated line is skipped."""
    found: list[Entry] = []
    for name in reversed(FILES[topic]):
        try:
            lines = (directory / name).read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("seq"), int):
                    found.append(entry)
    return found
