# SPDX-License-Identifier: BSD-3-Clause
"""Where a TOML file says something: from a path of keys to a line.

tomllib does not report lines, and users need them. This scanner only follows the structure of a
text that tomllib accepts (headers, dotted and quoted keys, inline tables, arrays, strings); it
judges nothing and never raises.
"""

from __future__ import annotations

import bisect
import contextlib
import re
import tomllib
from dataclasses import dataclass, field

from dpsup.errors import Exit, Problem, Severity

Path = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
# Ends of multi-line strings may have two more quotes, which belong to the text.
_TEXT = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


class _Scanner:
    """One pass over a text, filling `index` with the line of each key, element and header."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.index: dict[Path, int] = {}
        self.newlines = [m.start() for m in re.finditer("\n", text)]
        self.elements: dict[Path, int] = {}  # arrays of tables: elements so far

    def run(self) -> None:
        table: Path = ()
        while self.peek():
            start = self.pos
            if self.text.startswith("[[", start):
                table = self.header(2)
            elif self.peek() == "[":
                table = self.header(1)
            else:
                self.pair(table)
            if self.pos == start:
                return  # not TOML

    def header(self, brackets: int) -> Path:
        at = self.pos
        self.pos += brackets
        *parents, last = self.key() or ("",)
        path: Path = ()
        for part in parents:
            path = (*path, part)
            self.note(path, at)
            if path in self.elements:
                path = (*path, self.elements[path] - 1)
        path = (*path, last)
        if brackets == 2:
            self.note(path, at)
            self.elements[path] = self.elements.get(path, 0) + 1
            path = (*path, self.elements[path] - 1)
        self.index[path] = self.line(at)  # the header itself, not an earlier sub-table's
        self.peek()
        self.pos += brackets
        return path

    def pair(self, table: Path) -> None:
        self.peek()
        at = self.pos
        path = table
        for part in self.key():
            path = (*path, part)
            self.note(path, at)
        if self.peek() == "=":
            self.pos += 1
            self.value(path)

    def value(self, path: Path) -> None:
        first = self.peek()
        if first in ("[", "{"):
            close = "]" if first == "[" else "}"
            self.pos += 1
            i = 0
            while self.peek() not in ("", close):
                start = self.pos
                if first == "[":
                    self.note((*path, i), start)
                    self.value((*path, i))
                    i += 1
                else:
                    self.pair(path)
                if self.peek() == ",":
                    self.pos += 1
                elif self.pos == start:
                    return
            self.pos += 1
        elif not self.take(_TEXT):
            self.take(_SCALAR)

    def key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self.peek()
            if quoted := self.take(_TEXT):
                try:
                    parts.append(tomllib.loads(f"k={quoted}")["k"])
                except ValueError:
                    parts.append(quoted)
            else:
                parts.append(self.take(_BARE))
            if self.peek() != ".":
                return tuple(parts)
            self.pos += 1

    def peek(self) -> str:
        """The next character that says something, "" at the end."""
        self.take(_SPACE)
        return self.text[self.pos : self.pos + 1]

    def take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.pos)
        if found is None:
            return ""
        self.pos = found.end()
        return found[0]

    def line(self, pos: int) -> int:
        return bisect.bisect_left(self.newlines, pos) + 1

    def note(self, path: Path, pos: int) -> None:
        self.index.setdefault(path, self.line(pos))


@dataclass(frozen=True)
class Source:
    """A topology file's text. Two sources are equal when they are the same file."""

    file: str
    text: str = field(default="", compare=False, repr=False)
    _index: dict[Path, int] = field(default_factory=dict, compare=False, repr=False)
    _lines: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def scan(cls, file: str, text: str) -> Source:
        text = text.replace("\r\n", "\n")
        scanner = _Scanner(text)
        with contextlib.suppress(RecursionError):  # what was found until there still helps
            scanner.run()
        return cls(file, text, scanner.index, tuple(text.split("\n")))

    def line(self, path: Path) -> int:
        """The 1-based line of `path`, or of the nearest table or key around it, or 1."""
        while path:
            if path in self._index:
                return self._index[path]
            path = path[:-1]
        return 1

    def at(self, line: int) -> str:
        """The text of `line`, safe for a terminal."""
        if not 0 < line <= len(self._lines):
            return ""
        text = self._lines[line - 1].replace("\t", " ").strip()[:200]
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

    def problem(
        self,
        path: Path,
        message: str,
        *,
        code: str,
        why: str,
        help: str,
        severity: Severity = Severity.ERROR,
        exit_code: Exit = Exit.BAD_TOPOLOGY,
        line: int = 0,
    ) -> Problem:
        """A finding about what `path` (or `line`, where it is known) says."""
        line = line or self.line(path)
        return Problem(
            message, self.file, line, self.at(line), why, help, severity, exit_code, code
        )
