# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dpsup.steering import BUCKETS, EMPTY, NOBODY, balance, moved

MEMBERS = st.sets(st.integers(0, 63), max_size=64)


@given(st.lists(MEMBERS, min_size=1, max_size=8))
def test_shares_are_even_and_moves_fewest(steps: list[set[int]]) -> None:
    current = EMPTY
    for members in steps:
        new = balance(current, members)
        if not members:
            assert new == EMPTY
        else:
            counts = Counter(new)
            assert set(counts) == members
            assert max(counts.values()) - min(counts.values()) <= 1
            # A bucket moves only if its member left, or has more than the larger share.
            low, extra = divmod(BUCKETS, len(members))
            kept = sorted((Counter(current)[m] for m in members), reverse=True)
            stays = sum(min(n, low + (i < extra)) for i, n in enumerate(kept))
            assert moved(current, new) == BUCKETS - stays
        current = new


def test_the_same_members_move_nothing() -> None:
    first = balance(EMPTY, {0, 1, 2})
    assert balance(first, {2, 1, 0}) == first


def test_a_lent_share_comes_back_whole_for_two() -> None:
    both = balance(EMPTY, {0, 1})
    alone = balance(both, {1})
    assert NOBODY not in alone
    assert moved(both, alone) == 256
    assert moved(alone, balance(alone, {0, 1})) == 256
