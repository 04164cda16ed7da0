# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup table`: what it prints of an answer."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from click.testing import CliRunner

from dpsup.cli import table


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
