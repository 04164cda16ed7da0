# SPDX-License-Identifier: BSD-3-Clause
"""Operations on a table: read from text, found as the difference of two states, and applied all or
not at all."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

from dpsup.errors import Problem
from dpsup.tables.fields import NO_NAMES, Names
from dpsup.tables.file import Findings, Line, Reader, lines, whole
from dpsup.tables.model import Entries, Key, Table, Value
from dpsup.text import plural, show, suggest


class Verb(enum.StrEnum):
    ADD = "add"  # refused if the key is there
    REPLACE = "replace"  # refused if it is not
    SET = "set"  # either
    DEL = "del"  # refused if it is not there
    CLEAR = "clear"


_WORDS = {Verb.ADD: 3, Verb.REPLACE: 3, Verb.SET: 3, Verb.DEL: 2, Verb.CLEAR: 1}
_VERBS = {str(verb): (verb, n) for verb, n in _WORDS.items()}


class Operation(NamedTuple):
    verb: Verb
    key: Key | None = None
    value: Value | None = None
    line: int = 0  # of the file that it is from, or 0


class Batch(NamedTuple):
    operations: list[Operation]  # empty if there are problems
    problems: list[Problem]


class Outcome(NamedTuple):
    entries: Entries  # as they were if there are problems
    problems: list[Problem]


def parse(text: str, table: Table, names: Names = NO_NAMES, file: str = "") -> Batch:
    """Lines such as "add 10.0.0.0/8 7", "del 10.0.0.0/8", "clear"."""
    found = Findings(file)
    reader = Reader(table, names, found)
    operations = []
    for line in lines(text):
        words = line.words
        word = words[0]
        verb, n = _VERBS.get(word, (None, 0))
        if verb is None:
            close = suggest(word, list(Verb))
            found.add(
                line,
                f"there is no operation {show(word)}",
                code="E0521",
                why="a line begins with what to do",
                help=f"did you mean {close}?" if close else f"write {', '.join(Verb)}",
            )
            continue
        if n > 2:
            words = whole(words, n, table)
        if len(words) != n:
            found.add(
                line,
                f"`{verb}` has {plural(len(words) - 1, 'word')} behind it",
                code="E0521",
                why=f"{verb} takes {('nothing', 'a key', 'a key and a value')[n - 1]}",
                help=f"write {verb} {' '.join(table.example.split()[: n - 1])}".rstrip(),
            )
            continue
        key = reader.key(line, words[1]) if n > 1 else None
        value = reader.value(line, words[2]) if n > 2 and key is not None else None
        operations.append(Operation(verb, key, value, line.at))
    problems = found.all()
    return Batch([] if problems else operations, problems)


def text(table: Table, operations: Iterable[Operation], names: Names = NO_NAMES) -> str:
    """The lines that say these operations."""
    out = []
    for verb, key, value, _ in operations:
        words: list[str] = [verb]
        if key is not None:
            words.append(table.show_key(key, names))
        if value is not None:
            words.append(table.show_value(value, names))
        out.append(" ".join(words) + "\n")
    return "".join(out)


def diff(old: Entries, new: Entries) -> list[Operation]:
    """What makes `new` of `old`: deletions first, so that a full table has room for what comes."""
    gone = [Operation(Verb.DEL, key) for key in sorted(old.keys() - new.keys())]
    if gone and not new:
        return [Operation(Verb.CLEAR)]
    other = [
        Operation(Verb.REPLACE, key, new[key])
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key]
    ]
    fresh = [Operation(Verb.ADD, key, new[key]) for key in sorted(new.keys() - old.keys())]
    return [*gone, *other, *fresh]


def apply(
    entries: Entries,
    operations: Sequence[Operation],
    table: Table,
    names: Names = NO_NAMES,
    file: str = "",
) -> Outcome:
    """The entries after all operations in order; or as they were, with what refuses the batch."""
    after = dict(entries)
    problems, _ = change(after, operations, table, names, file)
    return Outcome(entries if problems else after, problems)


# What a change replaced: a key with its value, None where there was none; or, without a key, all.
Undo = list[tuple[Key | None, Value | Entries | None]]


def change(
    entries: Entries,
    operations: Sequence[Operation],
    table: Table,
    names: Names = NO_NAMES,
    file: str = "",
) -> tuple[list[Problem], Undo]:
    """The same in place: what takes as long as the batch is, however large the table is. With
    problems the entries are as they were; else `restore` would make them so."""
    found = Findings(file)
    undo: Undo = []
    for operation in operations:
        verb, key, value, at = operation
        if verb is Verb.CLEAR:
            undo.append((None, dict(entries)))
            entries.clear()
            continue
        assert key is not None, "only clear has no key"
        if verb is Verb.DEL and key in entries:
            undo.append((key, entries.pop(key)))
        elif refusal := _refusal(verb, key in entries, len(entries) >= table.entries):
            message, code, help = refusal
            line = text(table, [operation], names).rstrip()
            found.add(
                Line(at, line, []),
                f"{show(table.show_key(key, names))} {message}",
                code=code,
                why="a batch is applied whole or not at all: the table is as it was",
                help=help,
            )
        else:
            assert value is not None, "only clear and del have no value"
            undo.append((key, entries.get(key)))
            entries[key] = value
    problems = found.all()
    if problems:
        restore(entries, undo)
    return problems, undo


def restore(entries: Entries, undo: Undo) -> None:
    for key, value in reversed(undo):
        if key is None:
            entries.clear()
            entries.update(cast(Entries, value))
        elif value is None:
            del entries[key]
        else:
            entries[key] = cast(Value, value)


def carry_out(entries: Entries, operations: Iterable[Operation]) -> None:
    """Operations that were accepted before."""
    for verb, key, value, _ in operations:
        if key is None:
            entries.clear()
        elif verb is Verb.DEL:
            entries.pop(key, None)
        else:
            assert value is not None, "only clear and del have no value"
            entries[key] = value


def _refusal(verb: Verb, is_there: bool, is_full: bool) -> tuple[str, str, str] | None:
    if verb is Verb.ADD and is_there:
        return "is there already", "E0524", "write replace, or set, which does either"
    if verb in (Verb.REPLACE, Verb.DEL) and not is_there:
        help = (
            "leave this `del` out" if verb is Verb.DEL else "write add, or set, which does either"
        )
        return "is not there", "E0524", help
    if not is_there and is_full:
        return "does not fit: the table is full", "E0523", "give the table more `entries`"
    return None
