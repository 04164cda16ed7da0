# SPDX-License-Identifier: BSD-3-Clause
"""What speaks against a new version."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dpsup.supervisor.rollout_judge import (
    ALL,
    FEW,
    Margins,
    Sample,
    hard_sign,
    judge,
    sample,
)

OLD = Sample(packets=10_000, dropped=100, lane_full=0, cycles=1_000_000)
MARGINS = Margins(drops=0.01, lane_full=0.01, cycles=0.5)


def test_what_is_as_good_is_not_judged_worse() -> None:
    assert judge(OLD, OLD, MARGINS) == ""
    assert judge(OLD, Sample(100, 1, 0, 10_000), MARGINS) == ""
    assert judge(OLD, Sample(10_000, 190, 90, 1_490_000), MARGINS) == ""
    assert judge(OLD, Sample(), MARGINS) == ""  # no packet came


def test_each_margin_counts_by_itself() -> None:
    assert "drops 3.0%" in judge(OLD, Sample(1000, 30, 0, 100_000), MARGINS)
    assert "lane full" in judge(OLD, Sample(1000, 10, 20, 100_000), MARGINS)
    assert "cycles a packet" in judge(OLD, Sample(1000, 10, 0, 160_000), MARGINS)
    assert "found its lane full" in judge(OLD, Sample(0, 0, 500, 0), MARGINS)


def test_a_version_without_a_past_has_no_cost_to_be_compared_with() -> None:
    assert judge(Sample(), Sample(1000, 0, 0, 10**9), MARGINS) == ""
    assert "drops" in judge(Sample(), Sample(1000, 1000, 0, 0), MARGINS)


def test_bad_verdicts_and_a_version_that_forwards_nothing_are_hard_signs() -> None:
    all_dropped = Sample(ALL, ALL)
    assert "drops all of its 100" in hard_sign(OLD, all_dropped, MARGINS)
    assert hard_sign(OLD, Sample(ALL, ALL - 1), MARGINS) == ""  # the judge's business
    assert hard_sign(OLD, Sample(ALL - 1, ALL - 1), MARGINS) == ""
    # A policy that is meant to drop, an old version that drops nearly all, one not measured.
    assert hard_sign(OLD, all_dropped, Margins(drops=1.0)) == ""
    assert hard_sign(Sample(1000, 950), all_dropped, MARGINS) == ""
    assert hard_sign(None, all_dropped, MARGINS) == ""
    bad = Sample(10_000, FEW, bad=FEW)
    for margins in (MARGINS, Margins(drops=1.0)):
        for old in (OLD, None, Sample()):
            assert "20 of its 10000 verdicts have no meaning" in hard_sign(old, bad, margins)
    assert hard_sign(OLD, Sample(10_000, FEW - 1, bad=FEW - 1), MARGINS) == ""
    # Bad before, and no worse: a fault of the old version may be mended by a next one.
    assert hard_sign(Sample(10_000, FEW, bad=FEW), bad, MARGINS) == ""


@given(
    st.builds(Sample, *(st.integers(0, 10**6),) * 4),
    st.builds(Sample, *(st.integers(0, 10**6),) * 4),
)
def test_wider_margins_never_make_it_worse(old: Sample, new: Sample) -> None:
    if not judge(old, new, Margins(0, 0, 0)):
        assert not judge(old, new, Margins(0.5, 0.5, 2))
    if new.packets >= FEW:
        assert not judge(old, new, Margins(1e9, 1, 1e9))


def slot(**counts: Any) -> dict[str, Any]:
    zero = dict.fromkeys(
        ("collected", "requeued", "bad_verdict", "quarantined", "lane_full", "busy"), 0
    )
    return {**zero, "dropped": {}, **counts}


def test_a_sample_is_what_grew() -> None:
    before = {"slots": [slot(collected=10, dropped={"a": 1}), slot(collected=5)]}
    after = {
        "slots": [
            slot(collected=110, requeued=10, dropped={"a": 3, "b": 1}, bad_verdict=1, busy=700),
            slot(collected=6, lane_full=2, quarantined=1),
        ]
    }
    assert sample(before, after, [0]) == Sample(90, 4, 0, 700, bad=1)
    assert sample(before, after, [0, 1]) == Sample(91, 5, 2, 700, bad=1)


def test_what_a_rule_drops_is_no_sign_of_a_bad_version() -> None:
    def grown(old: int, new: int, policy_before: int, policy: int) -> Sample:
        before = slot(dropped={"rule": old}, dropped_policy=policy_before)
        after = slot(collected=1000, dropped={"rule": new}, dropped_policy=policy)
        return sample({"slots": [before]}, {"slots": [after]}, [0])

    sound = Sample(1000, 0)
    assert grown(50, 950, 50, 950) == sound
    assert grown(50, 950, 0, 900) == sound
    ruled = grown(0, 1000, 0, 1000)
    assert not judge(sound, ruled, Margins()) and not hard_sign(sound, ruled, Margins())
    # What it drops beside counts as ever.
    assert "it drops 10.0%" in judge(sound, grown(0, 1000, 0, 900), Margins())
    assert "it drops all" in hard_sign(sound, grown(0, 1000, 0, 0), Margins())
    # The primary of an older dpsup does not tell.
    old, new = slot(), slot(collected=100, dropped={"a": 3})
    assert sample({"slots": [old]}, {"slots": [new]}, [0]).dropped == 3


def test_a_version_that_begins_to_tick_is_no_slower_for_it() -> None:
    ticking = Sample(10_000, 100, 0, 50_000_000, ticks=500_000)
    assert judge(OLD, ticking, MARGINS) == ""
    assert "cycles a packet" in judge(OLD, Sample(10_000, 100, 0, 50_000_000), MARGINS)
