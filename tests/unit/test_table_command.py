# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup table`: what it prints of an answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from dpsup.cli import table
from dpsup.documents.describe import keys_of
from dpsup.documents.tables import Table


@pytest.mark.parametrize(("operations", "rest"), [(2, ""), (7, "# 5 more follow")])
def test_a_dry_run_says_where_it_prints_only_the_first_operations(
    monkeypatch: pytest.MonkeyPatch, operations: int, rest: str
) -> None:
    class Live:
        def table_load(self, *_: Any, dry_run: bool) -> dict[str, Any]:
            assert dry_run
            text = "del 10.0.0.0/8\nclear\n"
            return {
                "group": "fw", "table": "routes", "operations": operations, "removed": 1,
                "entries": 9, "version": 1, "dry_run": True, "text": text,
            }  # fmt: skip

    monkeypatch.setattr(table, "connect", lambda _: contextlib.nullcontext(Live()))
    found = CliRunner().invoke(table.table, ["routes", "diff"], obj={})
    assert found.exit_code == 0, found
    assert "del 10.0.0.0/8\nclear\n" in found.output
    assert ("more follow" in found.output) == bool(rest)
    assert rest in found.output and "nothing was changed" in found.output


@pytest.mark.parametrize(
    "pages",
    [
        [],
        [[]],
        [["10.0.0.0/8 7"]],
        [["10.0.0.0/8 7"], ["10.1.0.0/16 0,lan"], ['10.2.0.0/16 "x"', "::/0 9"]],
    ],
)
def test_a_table_is_printed_as_a_document(
    monkeypatch: pytest.MonkeyPatch, pages: list[list[str]]
) -> None:
    class Live:
        name = "edge"

        def table_pages(self, table: str, key: str = "") -> Iterator[Any]:
            assert table == "routes"
            for page in [[key + " 1"]] if key else pages or [[]]:
                text = "".join(f"{line}\n" for line in page)
                yield {"group": "fw", "table": "routes", "version": 3, "text": text}

    monkeypatch.setattr(table, "connect", lambda _: contextlib.nullcontext(Live()))
    found = CliRunner().invoke(table.table, ["routes", "show", "-o", "json"], obj={})
    assert found.exit_code == 0, found
    document = json.loads(found.output)
    assert document == {
        "apiVersion": "dpsup/v1", "kind": "Table", "name": "edge", "group": "fw",
        "table": "routes", "version": 3,
        "entries": [
            {"key": line.split()[0], "value": line.split()[1]} for page in pages for line in page
        ],
    }  # fmt: skip
    assert document.keys() == {k.split(".")[0].removesuffix("[]") for k in keys_of(Table)}
    found = CliRunner().invoke(table.table, ["routes", "get", "a", "-o", "json"], obj={})
    assert json.loads(found.output)["entries"] == [{"key": "a", "value": "1"}]
