# SPDX-License-Identifier: BSD-3-Clause
"""A table that is read in parts, while it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpsup.builder.book import READERS, Book
from dpsup.builder.process import lives
from dpsup.builder.region import Region
from dpsup.errors import DpsupError
from dpsup.tables.fields import NO_NAMES
from dpsup.tables.model import declare


def test_all_parts_are_of_one_version(tmp_path: Path) -> None:
    (tmp_path / "routes.txt").write_text("0 10\n1 10\n2 10\n")
    region = Region(tmp_path / "fw", [declare("routes", "array", 64)], lives)
    source = str(tmp_path / "routes.txt")
    book = Book(region, 0, NO_NAMES, tmp_path / "fw=routes", source, "fw")
    book.begin()
    first, at = book.lines(0, 1)
    assert (first, at, book.version) == ("0 10\n", 1, 1)
    assert at is not None
    book.change("replace 0 20\nreplace 1 20\nreplace 2 20\n", "", "aa", dry_run=False)
    assert book.lines(at, 100, 1) == ("1 10\n2 10\n", None)
    assert book.lines(0, 100) == ("0 20\n1 20\n2 20\n", None)  # a reader that begins now sees it
    assert book.lines(at, 100, 1) == ("1 10\n2 10\n", None)
    for n in range(READERS):
        book.change(f"replace 0 {n}\n", "", f"b{n}", dry_run=False)
        assert book.lines(0, 100)[0].startswith(f"0 {n}\n")
    with pytest.raises(DpsupError) as caught:
        book.lines(at, 100, 1)
    assert caught.value.code == "E0529"
