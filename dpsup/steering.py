# SPDX-License-Identifier: BSD-3-Clause
"""Which member of a group serves each bucket. Pure arithmetic.

A map is a tuple of BUCKETS member indices, NOBODY where no member serves a bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

BUCKETS = 512
NOBODY = 255

Map = tuple[int, ...]

EMPTY: Map = (NOBODY,) * BUCKETS


def balance(old: Map, members: Collection[int]) -> Map:
    """Spread the buckets evenly over the members, moving as few as that allows.

    Shares differ by at most one bucket. Buckets of members that left move; of those that stay,
    only what exceeds their share. Without members nobody serves any bucket.
    """
    if not members:
        return EMPTY
    kept = Counter(m for m in old if m in members)
    low, extra = divmod(BUCKETS, len(members))
    # The larger shares go to those that already have most.
    ranked = sorted(members, key=lambda m: (-kept[m], m))
    share = {m: low + (i < extra) for i, m in enumerate(ranked)}
    new: list[int] = []
    have: Counter[int] = Counter()
    for m in old:
        stays = m in share and have[m] < share[m]
        new.append(m if stays else NOBODY)
        if stays:
            have[m] += 1
    wanting = [m for m in sorted(members) for _ in range(share[m] - have[m])]
    takers = iter(wanting)
    return tuple(next(takers) if m == NOBODY else m for m in new)


def moved(old: Map, new: Map) -> int:
    """How many buckets change hands."""
    return sum(a != b for a, b in zip(old, new, strict=True))
