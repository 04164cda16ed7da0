# SPDX-License-Identifier: BSD-3-Clause
"""The figures to reach, and how a report looks."""

from __future__ import annotations

import pytest
from unit.benchdata import FAR, NEAR, add, report

from dpsup.bench.model import Regime, Report
from dpsup.bench.rows import TARGETS, Row, rows
from dpsup.bench.text import as_markdown, lane_table, markdown, number, text

CSMP = "forward against client_server_mp"


def row(made: Report, name: str, regime: Regime = Regime.NEAR) -> Row:
    (found,) = [r for r in rows(made.figures) if r.name == name and r.regime is regime]
    return found


def side_by_side(ours: float, theirs: float, apart: tuple[float, ...] = NEAR) -> Report:
    made = add(report(), "path/forward", ours, apart=apart)
    return add(made, "others/client_server_mp", theirs, apart=apart)


@pytest.mark.parametrize(
    ("ours", "apart", "regime", "reached"),
    [
        (39, NEAR, Regime.NEAR, "no"),
        (52.1, NEAR, Regime.NEAR, "yes"),
        (80, NEAR, Regime.NEAR, "aim"),
        (80, FAR, Regime.FAR, "no"),
        (141, FAR, Regime.FAR, "yes"),
        (280, FAR, Regime.FAR, "aim"),
    ],
)
def test_each_regime_has_its_own_bounds(
    ours: float, apart: tuple[float, ...], regime: Regime, reached: str
) -> None:
    found = row(side_by_side(ours, 40, apart), CSMP, regime)
    assert found.value == pytest.approx(ours / 40)
    assert found.reached == reached


def test_a_ratio_is_taken_within_one_regime() -> None:
    made = add(report(), "path/forward", 80)
    add(made, "others/client_server_mp", 11, apart=FAR)
    assert row(made, CSMP).reached == "not measured"


def test_one_core_stands_for_both_regimes() -> None:
    made = add(report(), "path/forward", 72, apart=FAR)
    add(made, "others/testpmd_io", 90, one_core=True)
    found = row(made, "forward against testpmd io on one core", Regime.FAR)
    assert found.value == pytest.approx(0.8)
    assert found.reached == "aim"


def test_lower_is_better_where_it_is() -> None:
    made = add(
        report(), "idle/wake", 50, better="lower", unit="us", samples=(50.0,) * 99 + (900.0,)
    )
    found = row(made, "wake-up of an idle instance, p99")
    assert found.value is not None
    assert 50 < found.value < 900
    made = add(report(), "start/fork_ready", 2.5, better="lower", unit="ms")
    assert row(made, "a worker forked to ready, p50").reached == "yes"


def test_noise_is_handed_on() -> None:
    made = add(report(), "path/forward", 80)
    add(made, "others/client_server_mp", 40, steal=0.2)
    assert row(made, CSMP).tainted


def test_every_target_has_a_row_whatever_was_measured() -> None:
    assert {r.name for r in rows({})} == {t.name for t in TARGETS}
    assert all(r.reached == "not measured" for r in rows({}))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0, "0"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"),
     (0.00123, "0.00123"), (-12.34, "-12.3"), (19137.0, "19137")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_text_and_markdown_say_all_that_counts() -> None:
    made = add(side_by_side(80, 40), "path/forward", 1, steal=0.5)
    made.host["command"] = "dpsup bench path"
    made.notes.append("no dpdk-test found")
    for shown in (text(made, None), markdown(made, None, plot="path.svg")):
        for word in (
            "Nonesuch 3000", "dpsup bench path", "path/forward", "80.0 Mpps", "1 (+1 noisy)",
            CSMP, "2.00 ×", "aim", "no dpdk-test found",
        ):  # fmt: skip
            assert word in shown
    assert "](path.svg)" in markdown(made, None, plot="path.svg")


def test_a_markdown_table_has_as_many_cells_in_each_line() -> None:
    lines = as_markdown((["a", "b"], [["1", "2"], ["3", "4"]])).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| 1 | 2 |", "| 3 | 4 |"]


def test_lanes_are_one_table_with_a_column_for_each_size() -> None:
    made = report()
    for ring, cycles in ((256, 11.0), (1024, 8.5)):
        name = f"lane/none/burst32/ring{ring}"
        add(made, f"{name}/cycles", cycles, unit="cycles", better="lower")
        add(made, f"{name}/mpps", 2600 / cycles, steal=0.5)
    titles, lines = lane_table(made)
    assert titles[2:] == ["256 words", "1024 words"]
    assert lines == [["none, burst 32", "near", "11.0 (236*)", "8.50 (306*)"]]
    assert text(made, None).count("none, burst 32") == 1
    assert "lane/none" not in text(made, None)


def test_a_loss_that_drowns_in_noise_is_called_unclear() -> None:
    name = "loss with 3 subscribers at 10 Hz beyond the readers' CPU time"
    for samples, reached in (
        ((0.0,) * 20, "aim"),
        ((0.002, 0.0025, 0.003) * 10, "yes"),
        ((0.02, 0.021, 0.022) * 10, "no"),
        ((-0.1, 0.001, 0.1) * 5, "unclear"),
    ):
        made = add(report(), "bus/loss_beyond", 0.0, better="lower", unit="", samples=samples)
        assert row(made, name).reached == reached
