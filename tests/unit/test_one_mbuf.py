# SPDX-License-Identifier: BSD-3-Clause
"""Fast free is for packets of one mbuf, whichever port they came from."""

from __future__ import annotations

from typing import Any

import pytest

from dpsup.primary.layout import fits_one_mbuf


@pytest.mark.parametrize(
    ("mtus", "rooms", "fits"),
    [
        ([1500], [2176], True),
        ([1500, 9000], [2176], False),
        ([9000, 1500], [2176], False),
        ([9000], [9216], True),
        ([9066], [9216], True),
        ([9067], [9216], False),
        ([1500], [9216, 1024], False),
    ],
)
def test_the_longest_frame_fits_the_smallest_mbuf(
    mtus: list[int], rooms: list[int], fits: bool
) -> None:
    plan: Any = {"ports": [{"mtu": n} for n in mtus], "pools": [{"data_room": n} for n in rooms]}
    assert fits_one_mbuf(plan) is fits
