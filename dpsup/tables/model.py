# SPDX-License-Identifier: BSD-3-Clause
"""A table: what its keys and values are, and its entries. Its C side is `dpsup_table.h`."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NamedTuple

from dpsup.tables.fields import Field, Names, Unreadable, field, number, prefix, show_prefix
from dpsup.text import show

KEY_BYTES = 64
RECORD_BYTES = 65536  # of an array
OWN_BYTES = 16 << 30  # that a plugin makes of a table of its own kind
FILE_HEAD, LINE_REST = 4 << 20, 256  # bytes of a file beside its words


class Match(enum.StrEnum):
    EXACT = "exact"
    IPV4 = "ipv4"  # longest prefix
    IPV6 = "ipv6"
    ARRAY = "array"
    OWN = "own"  # bytes that the plugin makes of its entries


# The most entries that the tables take, and the first number that is no value of theirs.
_MOST = {
    Match.EXACT: 2**31 - 1,
    Match.IPV4: 2**27,
    Match.IPV6: 2**27,
    Match.ARRAY: 2**31,
    Match.OWN: 2**27,
}
_KEYED = (Match.EXACT, Match.OWN)
_RECORDS = (Match.ARRAY, Match.OWN)  # whose values are bytes
_VALUES = {Match.EXACT: 2**64 - 1, Match.IPV4: 2**32 - 1, Match.IPV6: 2**32 - 1}


class Key(NamedTuple):
    """In order: as it is written, shorter prefixes first. An array's is its index, big-endian."""

    data: bytes
    length: int  # bits


# An exact match's and a prefix's is a number, others' are bytes.
Value = int | bytes
Entries = dict[Key, Value]


@dataclass(frozen=True)
class Table:
    name: str
    match: Match
    entries: int  # at most
    key: tuple[Field, ...]  # none for prefixes and arrays
    value: tuple[Field, ...]
    bytes: int = 0  # that the plugin makes of a table of its own kind

    def read_key(self, word: str, names: Names) -> Key:
        """Raises: Unreadable."""
        if self.match is Match.ARRAY:
            index = number(word)
            if index >= self.entries:
                raise Unreadable(
                    f"the table has no index {show(index)}", f"write 0 to {self.entries - 1}"
                )
            return Key(index.to_bytes(4, "big"), 32)
        if not self.key:
            return Key(*prefix(word, 32 if self.match is Match.IPV4 else 128))
        data = _read(word, self.key, names, "the key")
        return Key(data, 8 * len(data))

    def read_value(self, word: str, names: Names) -> Value:
        """Raises: Unreadable."""
        data = _read(word, self.value, names, "the value")
        if self.match in _RECORDS:
            return data
        value = int.from_bytes(data, "little")
        if value >= _VALUES[self.match]:
            raise Unreadable(f"{show(word)} is too large", f"write 0 to {_VALUES[self.match] - 1}")
        return value

    def show_key(self, key: Key, names: Names) -> str:
        if self.match is Match.ARRAY:
            return str(int.from_bytes(key.data, "big"))
        if self.key:
            return _write(key.data, self.key, names)
        return show_prefix(*key)

    def show_value(self, value: Value, names: Names) -> str:
        data = value.to_bytes(8, "little") if isinstance(value, int) else value
        return _write(data, self.value, names)

    @property
    def has_words(self) -> bool:
        """Its value is the rest of a line."""
        return self.value[-1].has_spaces

    @property
    def file_most(self) -> int:
        """Bytes that its file may have: of each entry its words, as long as they can be, and a
        comment; and a large head. Only what is no file of this table has more."""
        longest = sum(72 + 4 * part.size for part in (*self.key, *self.value))
        return FILE_HEAD + self.entries * (LINE_REST + longest)

    @property
    def example(self) -> str:
        """A line of its file."""
        key = {Match.IPV4: "192.0.2.0/24", Match.IPV6: "2001:db8::/32", Match.ARRAY: "0"}
        of_key = key.get(self.match) or ",".join(part.example for part in self.key)
        return f"{of_key} {','.join(part.example for part in self.value)}"


def _read(word: str, fields: tuple[Field, ...], names: Names, what: str) -> bytes:
    if len(fields) == 1:
        return fields[0].read(word, names)
    words = word.split(",")
    if len(words) != len(fields):
        raise Unreadable(
            f"{what} {show(word)} has {len(words)} parts, and should have {len(fields)}",
            f"write {','.join(part.name for part in fields)}, without spaces",
        )
    return b"".join(part.read(one, names) for part, one in zip(fields, words, strict=True))


def _write(data: bytes, fields: tuple[Field, ...], names: Names) -> str:
    words, at = [], 0
    for part in fields:
        words.append(part.write(data[at : at + part.size], names))
        at += part.size
    return ",".join(words)


def entries_of(value: object) -> int:
    """ "200k", "1M", 4096: a number of entries, in powers of ten. Raises: Unreadable."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = re.fullmatch(r"([1-9][0-9]{0,11})([kM]?)", text) if isinstance(text, str) else None
    if found is None:
        raise Unreadable(f"{show(value)} is not a number of entries", 'write 4096, "200k" or "1M"')
    return int(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]]


def declare(
    name: str, match: str, entries: object, *, key: str = "", value: str = "u32", size: int = 0
) -> Table:
    """A table from the words of its declaration. Raises: Unreadable."""
    if match not in set(Match):
        raise Unreadable(
            f"there is no table of the kind {show(match)}", f"write {', '.join(Match)}"
        )
    kind, most = Match(match), entries_of(entries)
    if most > _MOST[kind]:
        raise Unreadable(f"{show(entries)} entries are too many", f"at most {_MOST[kind]}")
    if (kind in _KEYED) != bool(key):
        say = "needs the type of its key" if kind in _KEYED else "has no key to declare"
        raise Unreadable(
            f"a table of the kind {kind} {say}",
            'write key = "mac" for the kinds exact and own alone',
        )
    if (kind is Match.OWN) != bool(size):
        say = "needs `bytes`" if kind is Match.OWN else "has no `bytes` to declare"
        raise Unreadable(
            f"a table of the kind {kind} {say}",
            'write bytes = "4MiB": what the plugin makes of a table of the kind own',
        )
    if size > OWN_BYTES:
        raise Unreadable(f"{size} bytes are too many", f"at most {OWN_BYTES >> 30} GiB")
    keys = tuple(field(part) for part in key.split("+")) if key else ()
    values = tuple(field(part) for part in value.split("+"))
    if len(values) > 1 and any(part.has_spaces for part in values):
        raise Unreadable(
            f"the value {show(value)} has words and more", "wordsN is a whole value: write textN"
        )
    if any(part.has_spaces for part in keys):
        raise Unreadable(f"the key {show(key)} has words", "a key has no spaces: write textN")
    if sum(part.size for part in keys) > KEY_BYTES:
        raise Unreadable(f"the key {show(key)} is too long", f"at most {KEY_BYTES} bytes")
    room = {Match.EXACT: 8}.get(kind, RECORD_BYTES if kind in _RECORDS else 4)
    if sum(part.size for part in values) > room:
        raise Unreadable(
            f"the value {show(value)} is too long",
            f"at most {room} bytes; an array holds more, at the index that the value says",
        )
    return Table(name, kind, most, keys, values, size)
