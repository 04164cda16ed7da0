# SPDX-License-Identifier: BSD-3-Clause
"""A table's file: lines of a key and a value. Read whole, or refused with all that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dpsup.errors import Problem
from dpsup.tables.fields import NO_NAMES, Names, Unreadable
from dpsup.tables.model import Entries, Key, Table, Value
from dpsup.text import plural, show

MOST_PROBLEMS = 20  # that are shown: a file of another kind has one in each line


class Reading(NamedTuple):
    entries: Entries  # empty if there are problems
    problems: list[Problem]


class Line(NamedTuple):
    at: int
    text: str
    words: list[str]


def lines(text: str) -> Iterator[Line]:
    """The lines that say something. A comment begins with # where a word could."""
    for at, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if "#" in line:
            for i, word in enumerate(words):
                if word.startswith("#"):
                    del words[i:]
                    break
        if words:
            yield Line(at, line, words)


def whole(words: list[str], n: int, table: Table) -> list[str]:
    """The n words of a line, of which the last, a value, may have spaces."""
    if table.has_words and len(words) > n:
        return [*words[: n - 1], " ".join(words[n - 1 :])]
    return words


class Findings:
    """The problems of one file, the first of them in words."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.more = 0

    def add(self, line: Line, message: str, *, code: str, why: str, help: str) -> None:
        if len(self.problems) >= MOST_PROBLEMS:
            self.more += 1
            return
        source = line.text.rstrip()
        if not source.isprintable():
            source = source.encode("unicode_escape").decode()
        self.problems.append(
            Problem(message, self.file, line.at, source[:200], why=why, help=help, code=code)
        )

    def all(self) -> list[Problem]:
        if not self.more:
            return self.problems
        rest = Problem(
            f"{plural(self.more, 'more line')} cannot be used",
            self.file,
            why="the first ones are shown",
            help="mend those, and read the file again",
            code="E0521",
        )
        return [*self.problems, rest]


class Reader:
    """Words to keys and values; what was read once is not read again."""

    def __init__(self, table: Table, names: Names, found: Findings) -> None:
        self.table = table
        self.names = names
        self.found = found
        self.values: dict[str, Value] = {}

    def key(self, line: Line, word: str) -> Key | None:
        try:
            return self.table.read_key(word, self.names)
        except Unreadable as e:
            self._refuse(line, e)
            return None

    def value(self, line: Line, word: str) -> Value | None:
        if (known := self.values.get(word)) is not None:
            return known
        try:
            value = self.values[word] = self.table.read_value(word, self.names)
            return value
        except Unreadable as e:
            self._refuse(line, e)
            return None

    def _refuse(self, line: Line, e: Unreadable) -> None:
        self.found.add(
            line,
            e.message,
            code="E0521",
            why=f"table {show(self.table.name)} takes lines such as: {self.table.example}",
            help=e.help,
        )


def parse(text: str, table: Table, names: Names = NO_NAMES, file: str = "") -> Reading:
    """The entries of a table's file."""
    found = Findings(file)
    reader = Reader(table, names, found)
    entries: Entries = {}
    first: dict[Key, int] = {}
    for line in lines(text):
        words = whole(line.words, 2, table)
        if len(words) != 2:
            found.add(
                line,
                f"a line has a key and a value: this one has {plural(len(line.words), 'word')}",
                code="E0521",
                why=f"table {show(table.name)} takes lines such as: {table.example}",
                help="write the key, a space, and the value; a comment begins with #",
            )
            continue
        key = reader.key(line, words[0])
        value = None if key is None else reader.value(line, words[1])
        if key is None or value is None:
            continue
        if key in first:
            found.add(
                line,
                f"{show(table.show_key(key, names))} is there twice: first in line {first[key]}",
                code="E0522",
                why="an entry has one value, and dpsup does not guess which",
                help="remove one of the two lines",
            )
            continue
        first[key] = line.at
        entries[key] = value
        if len(entries) == table.entries + 1:
            found.add(
                line,
                f"there is no room for this line: `entries` of the table is {table.entries}",
                code="E0523",
                why="a file is used whole or not at all",
                help=f"give table {show(table.name)} more `entries` in the topology file",
            )
    problems = found.all()
    return Reading({} if problems else entries, problems)


def text(table: Table, entries: Entries, names: Names = NO_NAMES) -> str:
    """The file that says these entries, in order."""
    return "".join(
        f"{table.show_key(key, names)} {table.show_value(entries[key], names)}\n"
        for key in sorted(entries)
    )
