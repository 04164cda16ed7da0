# SPDX-License-Identifier: BSD-3-Clause
"""Two reports are compared, or it is said why they cannot be."""

from __future__ import annotations

import pytest
from unit.benchdata import FAR, MOVED, NEAR, add, report

from dpsup.bench.compare import compare, why_not
from dpsup.bench.document import from_document
from dpsup.bench.model import Regime, Report
from dpsup.errors import DpsupError, Exit


def with_path(*values: float, apart: tuple[float, ...] = NEAR, **host: object) -> Report:
    return add(report(**host), "path/forward", *values, apart=apart)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"cpu_model": "Other 1"}, "CPU model: Nonesuch 3000 then, Other 1 now"),
        ({"cpus": 4}, "number of CPUs: 2 then, 4 now"),
        ({"dpdk": "24.11.1"}, "DPDK version: 22.11.7 then, 24.11.1 now"),
        ({"cores": {"io": 3, "worker": 2, "supervisor": 0}}, "cores used"),
    ],
)
def test_another_machine_is_refused_with_the_reason(host: dict[str, object], words: str) -> None:
    with pytest.raises(DpsupError) as refused:
        compare(with_path(80), with_path(80, **host))
    assert words in str(refused.value)
    assert refused.value.exit_code is Exit.FAILED


def test_another_distance_is_refused() -> None:
    with pytest.raises(DpsupError, match="near then, far now"):
        compare(with_path(80), with_path(50, apart=FAR))
    with pytest.raises(DpsupError, match="mixed then, mixed now"):
        compare(with_path(80, apart=MOVED), with_path(50, apart=MOVED))


def test_all_reasons_are_said_at_once() -> None:
    assert len(why_not(with_path(80), with_path(50, apart=FAR, cpus=4, dpdk="24.11"))) == 3


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(DpsupError, match="no figure is in both"):
        compare(with_path(80), add(report(), "idle/cpu", 0.01))


def test_only_common_regimes_are_compared() -> None:
    old = add(with_path(80, 80, 80), "path/forward", 50, 50, 50, apart=FAR)
    (change,) = compare(old, with_path(40, 40, 40, apart=FAR))
    assert change.regime is Regime.FAR
    assert change.ratio == pytest.approx(0.8)


def test_what_uses_one_core_is_compared_at_any_distance() -> None:
    def testpmd(apart: tuple[float, ...]) -> Report:
        return add(report(), "others/testpmd_io", 90, 90, 90, apart=apart, one_core=True)

    (change,) = compare(testpmd(NEAR), testpmd(FAR))
    assert change.verdict == "same"


@pytest.mark.parametrize(
    ("old", "new", "better", "verdict"),
    [
        ((80, 81, 82), (90, 91, 92), "higher", "better"),
        ((90, 91, 92), (80, 81, 82), "higher", "worse"),
        ((90, 91, 92), (80, 81, 82), "lower", "better"),
        ((90, 91, 92), (80, 81, 82), "", "differs"),
        ((60, 81, 99), (65, 91, 110), "higher", "same"),
        ((100, 100, 100), (100.5, 100.5, 100.5), "higher", "same"),
        ((80, 82), (90, 92), "higher", "too few runs"),
    ],
)
def test_a_difference_must_exceed_the_noise(
    old: tuple[float, ...], new: tuple[float, ...], better: str, verdict: str
) -> None:
    a = add(report(), "x", *old, better=better)
    b = add(report(), "x", *new, better=better)
    (change,) = compare(a, b)
    assert change.verdict == verdict


@pytest.mark.parametrize("doc", [{}, [], {"kind": "Status", "apiVersion": "dpsup/v1"}, 3])
def test_a_file_that_is_no_report_is_named(doc: object) -> None:
    with pytest.raises(DpsupError, match=r"old\.json is no document of `dpsup bench`"):
        from_document(doc, "old.json")
