# SPDX-License-Identifier: BSD-3-Clause
"""Medians, spreads, regimes, which runs count, and in what order they are made."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.benchdata import FAR, MOVED, NEAR, add, report

from dpsup.bench.model import Conditions, Reading, Regime, Report, regime_of
from dpsup.bench.stats import (
    growth,
    in_regime,
    interleave,
    median,
    percentile,
    relative_iqr,
    slowest_tenth,
    summaries,
)

values = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("apart", "regime"),
    [
        ((), Regime.UNKNOWN),
        (NEAR, Regime.NEAR),
        (FAR, Regime.FAR),
        ((199.9, 199.9), Regime.NEAR),
        ((200.0,), Regime.FAR),
        (MOVED, Regime.MIXED),
        ((90.0, 345.0, 90.0), Regime.MIXED),
    ],
)
def test_the_regime_is_that_of_all_distances(apart: tuple[float, ...], regime: Regime) -> None:
    assert regime_of(apart) is regime


def test_a_run_is_noisy_when_the_cores_moved_or_time_was_stolen_or_others_worked() -> None:
    assert Conditions(NEAR, steal=0.02, waited=0.05).noise == ""
    assert "moved" in Conditions(MOVED).noise
    assert "stolen" in Conditions(NEAR, steal=0.021).noise
    assert "other work" in Conditions(NEAR, waited=0.06).noise


@given(values)
def test_percentiles_are_in_order_and_within(found: list[float]) -> None:
    at = [percentile(found, p) for p in (0, 25, 50, 75, 99, 100)]
    assert at[0] == min(found)
    assert at[-1] == max(found)
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(at))
    # Without a unit. A power of two rounds nothing.
    assert relative_iqr([1024 * x for x in found]) == relative_iqr(found)


def test_percentiles_lie_between_neighbours() -> None:
    assert median([4, 1, 3, 2]) == 2.5
    assert percentile([0, 10], 99) == pytest.approx(9.9)
    assert relative_iqr([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert relative_iqr([0, 0]) == 0


def test_each_regime_is_summed_up_for_itself() -> None:
    made = add(report(), "path/forward", 80, 82, 84)
    add(made, "path/forward", 50, apart=FAR)
    add(made, "path/forward", 1, apart=MOVED)
    near, far, mixed = summaries(made.figures["path/forward"])
    assert (near.regime, near.median, near.low, near.high, near.runs) == ("near", 82, 80, 84, 3)
    assert (far.regime, far.median, far.runs, far.tainted) == ("far", 50, 1, False)
    assert (mixed.regime, mixed.tainted) == ("mixed", True)


def test_noisy_runs_count_only_where_there_is_no_other() -> None:
    made = add(report(), "a", 80, 82)
    add(made, "a", 20, steal=0.5)
    (only,) = summaries(made.figures["a"])
    assert (only.median, only.runs, only.noisy, only.tainted) == (81, 2, 1, False)

    made = add(report(), "a", 20, steal=0.5)
    (only,) = summaries(made.figures["a"])
    assert (only.median, only.runs, only.noisy, only.tainted) == (20, 1, 1, True)


def test_samples_of_all_runs_make_the_percentiles() -> None:
    made = report()
    for samples in ((1.0, 2.0, 3.0), (4.0, 5.0, 100.0)):
        made.add(Reading("start/a", 2, "ms", "lower", samples), Conditions(NEAR))
    (only,) = summaries(made.figures["start/a"])
    assert only.median == 3.5
    assert only.most == 100
    assert only.p99 is not None
    assert 90 < only.p99 < 100


def test_a_reading_that_has_its_own_distances_goes_by_them() -> None:
    made = report()
    made.add(Reading("a", 1, "Mpps", apart=FAR), Conditions(MOVED))
    (run,) = made.figures["a"].runs
    assert run.conditions.regime is Regime.FAR
    assert run.conditions.noise == ""
    made.add(Reading("b", 1, "Mpps", waited=0.3), Conditions(NEAR))
    assert "30%" in made.figures["b"].runs[0].conditions.noise


def test_what_uses_one_core_counts_in_every_regime() -> None:
    made = add(report(), "others/testpmd_io", 90, 92, one_core=True)
    add(made, "path/forward", 80)
    found = in_regime(made.figures["others/testpmd_io"], Regime.FAR)
    assert found is not None
    assert found.median == 91
    assert in_regime(made.figures["path/forward"], Regime.FAR) is None
    assert in_regime(None, Regime.FAR) is None


def test_runs_are_interleaved_and_some_steps_end_early() -> None:
    order = "".join(interleave([("A", 0), ("B", 0), ("C", 1)], 3))
    assert order == "ABCABAB"


@given(st.floats(0.1, 3), st.floats(0.01, 100))
def test_growth_finds_the_exponent(exponent: float, factor: float) -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert growth(sizes, [factor * s**exponent for s in sizes]) == pytest.approx(exponent)


def test_growth_needs_two_sizes() -> None:
    assert growth([2, 2], [1, 5]) is None
    assert growth([1, 2], [0, 5]) is None


def test_the_slowest_tenth_is_at_least_one_window() -> None:
    assert slowest_tenth([10, 10, 10, 5]) == 0.5
    assert slowest_tenth([100.0] * 18 + [50, 70]) == pytest.approx(0.6)
    assert slowest_tenth([0, 0]) == 0


def test_a_report_survives_json() -> None:
    import json

    from dpsup.bench.document import from_document, to_document

    made = add(report(), "path/forward", 80, 82, samples=(79.0, 83.0))
    add(made, "others/testpmd_io", 90, apart=MOVED, one_core=True)
    made.notes.append("no dpdk-test")
    doc = json.loads(json.dumps(to_document(made)))
    back = from_document(doc, "a.json")
    assert isinstance(back, Report)
    assert back == made
    assert to_document(back) == to_document(made)
