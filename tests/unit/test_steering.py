# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dpsup.steering import (
    BUCKETS,
    EMPTY,
    NOBODY,
    balance,
    elephants,
    imbalance,
    moved,
    shares,
    spread,
)

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


LOADS = st.lists(st.integers(0, 1000), min_size=BUCKETS, max_size=BUCKETS).map(tuple)


@given(LOADS, st.sets(st.integers(0, 15), min_size=1, max_size=16))
def test_loads_are_spread_as_evenly_as_whole_buckets_allow(
    loads: tuple[int, ...], members: set[int]
) -> None:
    old = balance(EMPTY, {0, 1})
    new = spread(old, members, loads)
    assert set(new) <= members and NOBODY not in new
    have = shares(new, loads, members)
    assert sum(have.values()) == sum(loads)
    # Nobody is further above the mean than by his heaviest bucket.
    most = max(have, key=lambda m: have[m])
    heaviest = max((loads[b] for b in range(BUCKETS) if new[b] == most), default=0)
    assert have[most] - sum(loads) / len(members) <= max(heaviest, 0.02 * sum(loads))
    # Done again, nothing moves.
    assert moved(new, spread(new, members, loads)) == 0


def test_even_loads_are_spread_like_numbers() -> None:
    old = balance(EMPTY, {0, 1, 2, 3})
    new = spread(old, {0, 1, 2}, (7,) * BUCKETS)
    # 128 buckets lose their member, and nothing else needs to move.
    assert moved(old, new) == 128
    assert imbalance(new, (7,) * BUCKETS, {0, 1, 2}) < 1.02


def test_a_skewed_load_needs_few_moves() -> None:
    # All flows fell into the first half of what two members have.
    old = balance(EMPTY, {0, 1})
    loads = tuple(100 if m == 0 and b % 8 == 0 else 1 for b, m in enumerate(old))
    new = spread(old, {0, 1}, loads)
    assert imbalance(old, loads, {0, 1}) > 1.7
    assert imbalance(new, loads, {0, 1}) < 1.03
    assert moved(old, new) <= 20


def test_an_elephant_is_named_and_never_split() -> None:
    old = balance(EMPTY, {0, 1})
    loads = (10_000, *(1,) * (BUCKETS - 1))
    assert elephants(old, loads, {0, 1}) == [0]
    new = spread(old, {0, 1}, loads)
    # It stays alone with what cannot be moved away for free.
    assert shares(new, loads, {0, 1})[new[0]] >= 10_000


@given(LOADS)
def test_without_measurements_numbers_decide(loads: tuple[int, ...]) -> None:
    old = balance(EMPTY, {0, 1})
    assert spread(old, {0, 1, 2}) == balance(old, {0, 1, 2})
    assert spread(old, {0, 1, 2}, (0,) * BUCKETS) == balance(old, {0, 1, 2})
