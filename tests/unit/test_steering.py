# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dpsup.supervisor.steering import (
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
    alone = spread(both, {1}, home=both)
    assert NOBODY not in alone
    assert moved(both, alone) == 256
    assert spread(alone, {0, 1}, home=both) == both


@given(st.integers(2, 12), st.data())
def test_all_back_is_the_map_that_it_was(n: int, data: st.DataObject) -> None:
    """Whoever dies in whatever order: no flow ends up elsewhere than where it was."""
    home = balance(EMPTY, range(n))
    current, up = home, set(range(n))
    for member in data.draw(st.lists(st.integers(0, n - 1), max_size=12)):
        up ^= {member}
        if not up:
            up = {member}
        before, current = current, spread(current, up, home=home)
        if up != set(home):
            assert moved(before, current) == moved(before, balance(before, up))  # the fewest
    assert spread(current, range(n), home=home) == home


def test_of_two_that_died_the_first_back_takes_its_own_first() -> None:
    home = balance(EMPTY, range(4))
    lent = spread(spread(home, {1, 2, 3}, home=home), {2, 3}, home=home)
    back = spread(lent, {0, 2, 3}, home=home)
    steps = list(zip(home, lent, back, strict=True))
    for m in (2, 3):
        kept = any(was == 0 and now == m for was, _, now in steps)
        gave = {was for was, before, now in steps if before == m != now}
        assert 0 in gave and (gave == {0} or not kept)


def test_a_new_member_gets_more_than_what_waits_for_one_who_is_stopped() -> None:
    home = balance(EMPTY, range(3))
    grown = spread(spread(home, {1, 2}, home=home), {1, 2, 3}, home=home)
    assert sum(was != 0 and now == 3 for was, now in zip(home, grown, strict=True)) > 50


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


@given(LOADS, st.integers(2, 8), st.data())
def test_loads_come_back_to_who_had_them(
    loads: tuple[int, ...], n: int, data: st.DataObject
) -> None:
    home = spread(balance(EMPTY, range(n)), range(n), loads)
    dead = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 1))
    up = set(range(n)) - dead
    lent = spread(home, up, loads, home)
    assert set(lent) <= up
    for m in sorted(dead):
        up.add(m)
        lent = spread(lent, up, loads, home)
        assert moved(lent, spread(lent, up, loads, home)) == 0
    if set(home) == up:
        assert lent == home


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
