# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's monitor, as far as the lab needs it."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any


class Refused(Exception):
    """What QEMU answered instead of doing it."""


class Lines:
    """A socket that JSON documents come from, one a line."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self._rest = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self) -> list[dict[str, Any]]:
        """All whole lines there are; blocks for as long as the socket's timeout."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        documents = []
        for line in lines:
            try:
                document = json.loads(line)
            except ValueError:  # half a line, from before the machine was reset
                continue
            if isinstance(document, dict):
                documents.append(document)
        return documents

    def write(self, document: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(document).encode() + b"\n")


class Qmp:
    """One connection; events that come meanwhile are kept."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self._lines.socket.settimeout(60)
        self.events: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._next()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, verb: str, **arguments: Any) -> Any:
        self._lines.write({"execute": verb, "arguments": arguments})
        while True:
            answer = self._next()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise Refused(f"{verb}: {answer['error'].get('desc')}")
            elif "return" in answer:
                return answer["return"]

    def happens(self, event: str, seconds: float, **data: Any) -> bool:
        """Whether the event comes, or came, within some seconds; it is taken off the list."""
        end = time.monotonic() + seconds
        while True:
            for one in self.events:
                said = one.get("data", {})
                if one["event"] == event and all(said.get(k) == v for k, v in data.items()):
                    self.events.remove(one)
                    return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._lines.socket.settimeout(left)
            try:
                answer = self._next()
            except TimeoutError:
                return False
            finally:
                self._lines.socket.settimeout(60)
            if "event" in answer:
                self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while not self._waiting:
            self._waiting = self._lines.read()
        return self._waiting.pop(0)
