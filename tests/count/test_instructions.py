# SPDX-License-Identifier: BSD-3-Clause
"""The guard against loops that grow unnoticed: instructions per packet, by callgrind, within 5 % of
what was last recorded. These VMs have no hardware counters, and times on them say little."""

from __future__ import annotations

from pathlib import Path

import pytest
from count.instructions import Counted, Unable, baseline, build, cases, count, moved, table

# On two CPUs that others use too.
pytestmark = pytest.mark.timeout(600)


class Counts:
    """All cases, counted once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = build(folder / "build")
        self.case = {case: self.again(case) for case in cases(self.program)}
        self.figures = {case: one.figures for case, one in self.case.items()}
        (self.toolchain,) = {one.toolchain for one in self.case.values()}

    def again(self, case: str) -> Counted:
        return count(self.program, case, self.folder)


def test_the_loops_cost_what_they_did(tmp_path: Path) -> None:
    """One test: each process of pytest-xdist that had a part of it would count anew, for 40 s."""
    try:
        counts = Counts(tmp_path)
    except Unable as e:
        pytest.fail(str(e), pytrace=False)
    assert counts.again("hashed-forward") == counts.case["hashed-forward"], "counts are exact"
    holds_with_any_compiler(counts.figures)
    before = baseline(counts.toolchain)
    if not before:
        pytest.skip(
            f"no baseline for {counts.toolchain}: only ratios were checked; "
            "`python tests/count/instructions.py --write` records one"
        )
    text = table(before, counts.figures, only_moved=True)
    if text:
        pytest.fail(
            f"{counts.toolchain}\n{text}\n"
            "If this is meant: `python tests/count/instructions.py --write`, and commit "
            "baseline.json with the change; the commit says why.\n"
            f"By line: callgrind_annotate {counts.folder}/CASE.out",
            pytrace=False,
        )


def holds_with_any_compiler(f: dict[str, dict[str, float]]) -> None:
    assert f["lone-forward"]["worker"] < 80
    assert f["lone-forward"]["worker"] < f["lone-macswap"]["worker"]  # that saves bytes
    assert f["lone-forward"]["worker"] < f["meta"]["worker"]
    assert f["lone-forward"]["io"] < f["lone-split"]["io"]  # whose verdicts do not go together
    assert f["lone-forward"]["io"] < f["hashed-forward"]["io"] / 2
    assert f["lone-forward"]["io"] < f["meta"]["io"] / 2
    for case, figures in f.items():
        # A burst is 32 packets: what is called for each of them would be 1.
        assert figures["io calls"] < 0.5, case
    assert f["lone-forward"]["worker calls"] == 0


def test_five_percent_either_way_is_a_change() -> None:
    assert not moved(100, 104.9) and not moved(100, 95.1)
    assert moved(100, 105.1) and moved(100, 94.9)
    assert moved(None, 1) and moved(1, None)
    assert moved(0, 1) and not moved(0, 0)
    assert "+6.0%" in table({"a": {"io": 100.0}}, {"a": {"io": 106.0}}, only_moved=True)
    assert table({"a": {"io": 100.0}}, {"a": {"io": 104.0}}, only_moved=True) == ""
