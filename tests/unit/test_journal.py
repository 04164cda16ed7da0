# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from dpsup.supervisor.journal import Journal, Throttle


def test_a_flood_of_lines_is_cut_and_said() -> None:
    throttle = Throttle(per_second=3)
    kept = [k for i in range(10) for k in throttle.admit(f"line {i}", 0.1 * i)]
    assert kept == ["line 0", "line 1", "line 2"]
    assert throttle.admit("next", 1.5) == ["(7 lines left out)", "next"]
    assert throttle.admit("quiet", 5.0) == ["quiet"]


def test_a_journal_is_bounded_and_numbered() -> None:
    numbers = iter(range(1, 100_000))
    journal = Journal("log", lambda _topic, _entry: next(numbers))
    for i in range(5000):
        journal.add(line=str(i))
    assert len(journal.since(0)) == 2000
    assert [e["seq"] for e in journal.since(4998)] == [4999, 5000]
    assert [e["line"] for e in journal.since(0, most=1)] == ["4999"]
