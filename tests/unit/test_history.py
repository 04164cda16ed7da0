# SPDX-License-Identifier: BSD-3-Clause
"""Which events are shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dpsup.documents.events import TYPES
from dpsup.errors import UsageError
from dpsup.instance.history import MOST, Wanted, _join, parse_types

SOURCES = Path(__file__).resolve().parents[2] / "dpsup"


def test_every_type_that_is_published_is_known() -> None:
    text = "".join(path.read_text() for path in SOURCES.rglob("*.py"))
    published = set(re.findall(r'\btype="([a-z_]+)"', text))
    assert published == TYPES.keys()


def test_types_are_checked() -> None:
    assert parse_types("death, scale") == {"death", "scale"}
    assert parse_types("") == frozenset()
    with pytest.raises(UsageError) as caught:
        parse_types("death,scal")
    assert 'did you mean "scale"' in caught.value.help


def test_entries_are_chosen_by_time_type_and_name() -> None:
    entries = [
        {"seq": i, "at": float(i), "type": ("death", "state")[i % 2], "name": f"fw/{i % 3}"}
        for i in range(2 * MOST)
    ]
    now = 2.0 * MOST
    assert len(Wanted().some(entries, now)) == MOST
    assert len(Wanted(since=now + 1).some(entries, now)) == 2 * MOST
    recent = Wanted(since=10.5, types={"death"}).some(entries, now)
    assert [e["seq"] for e in recent] == [1990, 1992, 1994, 1996, 1998]
    assert {e["name"] for e in Wanted(names=["fw/1"]).some(entries, now)} == {"fw/1"}


def test_record_and_memory_are_one() -> None:
    record = [{"seq": i} for i in (1, 2, 4)]
    live = [{"seq": i} for i in (2, 3, 4, 5)]
    assert [e["seq"] for e in _join(record, live)] == [1, 2, 3, 4, 5]
