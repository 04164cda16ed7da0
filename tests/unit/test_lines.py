# SPDX-License-Identifier: BSD-3-Clause
"""The line that a problem points at."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.fakehost import FULL

from dpsup.topology.lines import Path, Source

ODD = '''\
title = """
[not.a.table]
key = "no" """   # the text ends with a quote"
'lit.eral' . "quo\\"ted" = 1
day = 1979-05-27 07:32:00  # = [

[[workers]]
name = "a"
restart.backoff.max = "10s"
args = { map = { wan = "x" }, "odd.key" = [1, { deep = true }] }
[workers.restart.extra]
on = true
[[workers]]
input = [  # ]
  "one", # "two"
  """]""",

  "three" ]
[[workers.lanes]]
[[workers.lanes]]
n = 2
[a.b]
c = 1
[a]
d = \'\'\'
x'\'\'\'
e = ["""q""""", 5]
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 1),
        (("lit.eral",), 4),
        (("lit.eral", 'quo"ted'), 4),
        (("day",), 5),
        (("workers",), 7),
        (("workers", 0), 7),
        (("workers", 0, "name"), 8),
        (("workers", 0, "restart", "backoff", "max"), 9),
        (("workers", 0, "restart", "backoff"), 9),
        (("workers", 0, "args", "map", "wan"), 10),
        (("workers", 0, "args", "odd.key", 1, "deep"), 10),
        (("workers", 0, "restart", "extra"), 11),
        (("workers", 0, "restart", "extra", "on"), 12),
        (("workers", 1), 13),
        (("workers", 1, "input"), 14),
        (("workers", 1, "input", 0), 15),
        (("workers", 1, "input", 1), 16),
        (("workers", 1, "input", 2), 18),
        (("workers", 1, "lanes", 0), 19),
        (("workers", 1, "lanes", 1, "n"), 21),
        (("a", "b", "c"), 23),
        (("a",), 24),
        (("a", "d"), 25),
        (("a", "e", 1), 27),
        # What is not there is looked for where it would be.
        (("workers", 0, "restart", "backoff", "factor"), 9),
        (("workers", 1, "plugin"), 13),
        (("workers", 2), 7),
        (("ports",), 1),
        ((), 1),
    ],
)
def test_line_of_path(path: Path, line: int) -> None:
    tomllib.loads(ODD)
    assert Source.scan("odd.toml", ODD).line(path) == line


def test_windows_line_ends_count_once() -> None:
    source = Source.scan("x.toml", FULL.replace("\n", "\r\n"))
    line = source.line(("workers", 0, "restart", "backoff", "max"))
    assert source.at(line).startswith("restart = ")


def test_source_line_is_safe_to_print() -> None:
    source = Source.scan("x.toml", f"a = '\x1b[31m'\n\tb = '{'x' * 900}'")
    assert source.at(1) == "a = '\N{REPLACEMENT CHARACTER}[31m'"
    assert len(source.at(2)) == 200
    assert source.at(0) == source.at(3) == ""


@given(st.text(alphabet="[]{}=.,#\"'\\\n \tab1é", max_size=60))
@settings(max_examples=400)
def test_scan_of_any_text_ends_without_an_error(text: str) -> None:
    source = Source.scan("x.toml", text)
    assert 1 <= source.line(("a", 0, "b")) <= text.count("\n") + 1


def test_deep_nesting_ends_without_an_error() -> None:
    assert Source.scan("x.toml", "a = " + "[" * 100_000).line(("a",)) == 1


# A document that knows its own lines, written in every style that TOML has.
KEYS = st.one_of(
    st.sampled_from(["a", "b-c", "D_1", "7"]), st.text(alphabet='a.="#[]\\\n é', max_size=4)
)
SCALARS = st.one_of(
    st.integers(-99, 99),
    st.booleans(),
    st.text(alphabet="a\"'#[]{}=,\\\n", max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.one_of(
        VALUES,
        st.dictionaries(KEYS, VALUES, max_size=3),
        st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=3),
    ),
    max_size=4,
)


class Writer:
    """Writes data as TOML and remembers the line of every path."""

    def __init__(self, choose: st.DataObject) -> None:
        self.choose = choose
        self.text = ""
        self.lines: dict[Path, int] = {}

    def coin(self) -> bool:
        return bool(self.choose.draw(st.booleans()))

    def here(self, path: Path) -> None:
        self.lines[path] = self.text.count("\n") + 1

    def key(self, key: str) -> str:
        if key.isascii() and key.replace("-", "").replace("_", "").isalnum() and self.coin():
            return key
        literal = "'" not in key and "\n" not in key
        return f"'{key}'" if literal and self.coin() else json.dumps(key)

    def document(self, data: dict[str, Any]) -> None:
        later = []
        for key, value in data.items():
            tables = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
            if (isinstance(value, dict) or tables) and self.coin():
                later.append((key, value))
            else:
                self.pair((), key, value)
                self.text += "\n"
        for key, value in later:
            for i, table in enumerate(value if isinstance(value, list) else [value]):
                self.text += "# [[x]]\n" * self.coin()
                path: Path = (key, i) if isinstance(value, list) else (key,)
                self.here(path)
                header = f"[ {self.key(key)} ]"
                self.text += f"[{header}]\n" if isinstance(value, list) else f"{header}\n"
                for inner, item in table.items():
                    self.pair(path, inner, item)
                    self.text += " # = '\n" if self.coin() else "\n"

    def pair(self, table: Path, key: str, value: object) -> None:
        path = (*table, key)
        self.here(path)
        self.text += self.key(key)
        while isinstance(value, dict) and len(value) == 1 and self.coin():
            ((key, value),) = value.items()
            path = (*path, key)
            self.here(path)
            self.text += f" . {self.key(key)}"
        self.text += " = "
        self.value(path, value)

    def value(self, path: Path, value: object) -> None:
        if isinstance(value, dict):
            self.text += "{ "
            for i, (key, item) in enumerate(value.items()):
                self.text += ", " * bool(i)
                self.pair(path, key, item)
            self.text += " }"
        elif isinstance(value, list):
            self.text += "["
            for i, item in enumerate(value):
                self.text += "\n  # ],\n" * self.coin()
                self.here((*path, i))
                self.value((*path, i), item)
                self.text += ",\n" if self.coin() else ", "
            self.text += "]"
        elif isinstance(value, str):
            plain = "'" not in value and "\\" not in value
            if plain and "\n" not in value and self.coin():
                self.text += f"'{value}'"
            elif plain and self.coin():
                self.text += f"'''\n{value}'''"
            elif self.coin():
                escaped = value.replace("\\", "\\\\").replace('"', '\\"')
                self.text += f'"""\n{escaped}"""'
            else:
                self.text += json.dumps(value)
        else:
            self.text += json.dumps(value)


def leaves(value: object, path: Path = ()) -> Iterator[Path]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key)
        yield from leaves(inner, (*path, key))


@given(DOCUMENTS, st.data())
@settings(max_examples=300)
def test_every_path_that_tomllib_reads_is_found(
    data: dict[str, Any], choose: st.DataObject
) -> None:
    writer = Writer(choose)
    writer.document(data)
    assert tomllib.loads(writer.text) == data
    source = Source.scan("x.toml", writer.text)
    for path in leaves(data):
        if path in writer.lines:
            assert source.line(path) == writer.lines[path], (path, writer.text)
    assert set(writer.lines) <= set(leaves(data))
