# SPDX-License-Identifier: BSD-3-Clause
"""Each promise names the test that keeps it, and that test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("SECURITY.md", "docs/packages.md")
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page: str) -> None:
    found = NAMED.findall((ROOT / page).read_text())
    assert found
    for file, test in found:
        text = (ROOT / file).read_text()
        assert not test or re.search(rf"^(?:async )?def {test}\(", text, re.M), f"{file}::{test}"


def test_each_promise_is_kept_by_a_test_and_belongs_to_somebody() -> None:
    threats, promises = (ROOT / "SECURITY.md").read_text().split("## Promises")
    listed = dict(re.findall(r"^\| (P\d+) \|(.*)$", promises, re.M))
    assert set(re.findall(r"\bP\d+\b", threats)) == set(listed)
    assert [one for one, row in listed.items() if not NAMED.search(row)] == []
