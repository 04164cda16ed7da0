# SPDX-License-Identifier: BSD-3-Clause
"""Which member of a group serves each bucket. Pure arithmetic.

A map is a tuple of BUCKETS member indices, NOBODY where no member serves a bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from dpsup import _abi

BUCKETS = _abi.DPS_BUCKETS
NOBODY = _abi.DPS_NO_SLOT

Map = tuple[int, ...]
Loads = tuple[int, ...]  # packets of each bucket over some time

EMPTY: Map = (NOBODY,) * BUCKETS
EVEN: Loads = ()  # not measured: each bucket counts as much as any other

WORTHWHILE = 0.1  # of a share: what a rebalance must take off the busiest member
_EVEN_ENOUGH = 0.02  # of a share, between the most and the least loaded


def balance(old: Map, members: Collection[int], home: Map = EMPTY) -> Map:
    """Spread the buckets evenly over the members, moving as few as that allows.

    Shares differ by at most one bucket. Buckets of members that left move; of those that stay,
    only what exceeds their share, and first what is at home with another one. Without members
    no member serves any bucket.
    """
    if not members:
        return EMPTY

    # What is at home with a member that is not there counts as one's own: where that one is only
    # stopped, the packets wait for it, and a new member would be given nothing else.
    def is_lent(bucket: int) -> bool:
        return home[bucket] != old[bucket] and home[bucket] in members

    kept = Counter(m for m in old if m in members)
    low, extra = divmod(BUCKETS, len(members))
    # The larger shares go to those that already have most.
    ranked = sorted(members, key=lambda m: (-kept[m], m))
    share = {m: low + (i < extra) for i, m in enumerate(ranked)}
    new = [NOBODY] * BUCKETS
    have: Counter[int] = Counter()

    def seat(buckets: Iterable[int], wishes: Map) -> None:
        for b in buckets:
            m = wishes[b]
            if new[b] == NOBODY and m in share and have[m] < share[m]:
                new[b] = m
                have[m] += 1

    seat(sorted(range(BUCKETS), key=is_lent), old)
    seat(range(BUCKETS), home)
    takers = iter([m for m in sorted(members) for _ in range(share[m] - have[m])])
    return tuple(next(takers) if m == NOBODY else m for m in new)


def moved(old: Map, new: Map) -> int:
    """How many buckets move to another member."""
    return sum(a != b for a, b in zip(old, new, strict=True))


def shares(map_: Map, loads: Loads, members: Collection[int]) -> dict[int, int]:
    """The load of each member: of buckets that were not measured, their number."""
    found = dict.fromkeys(sorted(members), 0)
    for bucket, m in enumerate(map_):
        if m in found:
            found[m] += loads[bucket] if loads else 1
    return found


def spread(old: Map, members: Collection[int], loads: Loads = EVEN, home: Map = EMPTY) -> Map:
    """`balance` by measured load instead of by number: the buckets of members that left go to the
    least loaded ones, the heaviest first; then buckets move from the most to the least loaded
    while that evens them out. A bucket is never split: one that is more than a member's share
    stays where it is.

    `home` is the map of when no member was down: one that comes back gets its own buckets, and once
    all are there again the map is that one, to the bucket.
    """
    if members and set(members) == set(home):
        return home
    if not loads or not any(loads) or not members:
        return balance(old, members, home)
    back = set(members) - set(old)
    new = [
        h if h in back else m if m in members else NOBODY for m, h in zip(old, home, strict=True)
    ]
    have = shares(tuple(new), loads, members)
    orphans = [b for b in range(BUCKETS) if new[b] == NOBODY]
    for bucket in sorted(orphans, key=lambda b: (-loads[b], b)):
        least = min(have, key=lambda m: (have[m], m))
        new[bucket] = least
        have[least] += loads[bucket]
    # Each move evens out two members, so this ends; the bound is against a slip of ours.
    for _ in range(BUCKETS * len(have)):
        most = max(have, key=lambda m: (have[m], -m))
        least = min(have, key=lambda m: (have[m], m))
        gap = have[most] - have[least]
        # Of those that help, the one nearest to half of the gap: few moves, even shares.
        helpful = [b for b in range(BUCKETS) if new[b] == most and 0 < loads[b] < gap]
        if not helpful or gap * len(have) <= sum(have.values()) * _EVEN_ENOUGH:
            break
        best = min(helpful, key=lambda b: (abs(2 * loads[b] - gap), b))
        new[best] = least
        have[most] -= loads[best]
        have[least] += loads[best]
    return tuple(new)


def imbalance(map_: Map, loads: Loads, members: Collection[int]) -> float:
    """The most loaded member's load over the mean: 1 is even."""
    have = shares(map_, loads, members).values()
    total = sum(have)
    return max(have) * len(have) / total if total else 1.0


def elephants(map_: Map, loads: Loads, members: Collection[int]) -> list[int]:
    """Buckets that alone are more than an even share: no map can even them out."""
    total = sum(shares(map_, loads, members).values())
    return [b for b, load in enumerate(loads) if load * len(members) > total > 0]
