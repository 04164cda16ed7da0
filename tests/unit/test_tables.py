# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup.view.tables import Column, ago, counts, percent, plain, si, spark, table, wrap


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (0.25, "0.2"), (7, "7"), (999, "999"), (999.6, "1.00k"),
        (1000, "1.00k"), (14_200, "14.2k"), (99_960, "100k"), (142_000, "142k"),
        (999_600, "1.00M"), (2_373_211, "2.37M"), (-1500, "-1.50k"), (1e20, "100000P"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert si(value) == text


@given(st.floats(min_value=0, max_value=1e17))
def test_numbers_are_short_and_near(value: float) -> None:
    text = si(value)
    assert len(text) <= 5
    power = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}.get(text[-1], 1)
    assert float(text.rstrip("kMGTP")) * power == pytest.approx(value, rel=0.006, abs=0.51)


def test_shares_and_times() -> None:
    assert [percent(v) for v in (None, 0, 0.001, 0.5, 1)] == ["-", "0%", "<1%", "50%", "100%"]
    assert [ago(v) for v in (None, 41.9, 61, 3700, 93784)] == ["-", "41s", "1m01s", "1h01m", "1d2h"]
    assert counts({"runt": 2, "lane_full": 30, "none": 0}) == "lane_full 30, runt 2"
    assert counts({}) == "-"


def test_sparklines() -> None:
    assert spark([0, 5, 10], 5) == "  ▁▅█"
    assert spark([None, 1], 3, ascii_only=True) == "  #"
    assert spark([0, 0], 2) == "▁▁"
    assert spark(range(100), 4) == "████"


COLUMNS = [
    Column("NAME", left=True),
    Column("A", rank=2),
    Column("B", rank=1),
    Column("WHY", rank=3, left=True, flexible=True),
    Column("C"),
]
ROWS = [["fw/0", "12345678", "12345678", "a long story about it", "1"]] * 2


def test_what_matters_least_goes_first() -> None:
    def head(width: int | None) -> list[str]:
        return plain(table(COLUMNS, ROWS, width)).splitlines()[0].split()

    assert head(None) == ["NAME", "A", "B", "WHY", "C"]
    assert head(48) == ["NAME", "A", "B", "WHY", "C"]  # its text is cut before it goes
    assert head(30) == ["NAME", "A", "B", "C"]
    assert head(20) == ["NAME", "B", "C"]
    assert head(5) == ["NAME", "C"]
    assert "a long sto…" in plain(table(COLUMNS, ROWS, 40))
    assert "…" not in plain(table(COLUMNS, ROWS, 40, ascii_only=True))


@given(
    st.lists(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=30),
                      min_size=5, max_size=5), max_size=6),
    st.integers(min_value=48, max_value=200),
)  # fmt: skip
def test_a_table_never_leaves_its_width(rows: list[list[str]], width: int) -> None:
    # Of rank 0 are two columns of at most 30: they fit in 62.
    lines = table(COLUMNS, rows, max(width, 62))
    assert all(sum(len(text) for text, _ in line) <= max(width, 62) for line in lines)
    assert len(lines) == len(rows) + 1


@given(st.text(st.characters(codec="ascii", categories=["L", "Zs"]), max_size=300))
def test_wrapping_keeps_every_word(text: str) -> None:
    lines = wrap([("hint: ", "warn"), (text, "")], 40)
    said = " ".join(plain(lines).split())
    assert said == " ".join(f"hint: {text}".split())
    for line in plain(lines).splitlines():
        assert len(line) <= 40 or len(line.split()) == 1
