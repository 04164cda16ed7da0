# SPDX-License-Identifier: BSD-3-Clause
"""Captures of what is dropped: which reasons there are, and what is said of a packet."""

from __future__ import annotations

import io
from typing import Any

import pytest

from dpsup import _abi
from dpsup.errors import NoSuchObject
from dpsup.inspect.capture import BACK, DROP, Captured, Clock, Lines, Names
from dpsup.primary.capture import find_reasons

CLOCK = Clock(1000, 1_700_000_000_000_000_000, 2_000_000_000)
REASONS = {0: {0: ["runt", "policy"]}, 1: {0: ["policy"], 1: ["fine", "policy"]}}


def names(*dropped: str, target: str = "") -> Names:
    by_group: list[dict[str, list[str]]] = [
        {str(version): some for version, some in versions.items()} for versions in REASONS.values()
    ]
    workers = {0: "nat/0", 1: "fw/0"}
    return Names(target, ["wan", "lan"], ["nat", "fw"], by_group, 0, workers, dropped)


def seen(what: int, **more: Any) -> Captured:
    fields = dict.fromkeys(("length", "index", "verdict", "io", "port", "slot", "version"), 0)
    fields |= {"bad": False, "data": bytes(14), "tsc": 1000, **more}
    return Captured(what=what, **fields)


def line(names: Names, one: Captured) -> str:
    return Lines(io.BytesIO(), names, CLOCK).line(one).partition(" ")[2].partition(":")[0]


def test_reasons_are_dpsups_own_or_plugins() -> None:
    assert find_reasons(["oversize", "bad_verdict"], REASONS) == (
        1 << _abi.DPS_DROP_OVERSIZE | 1 << _abi.DPS_DROP_BAD_VERDICT,
        {0: 0, 1: 0},
    )
    assert find_reasons(["policy"], REASONS) == (0, {0: 0b10, 1: 0b11}), "of both versions"
    own, theirs = find_reasons(["any"], REASONS)
    assert own == (1 << len(_abi.DPS_DROP_NAMES)) - 1 and theirs == {0: 0xFFFF, 1: 0xFFFF}
    assert find_reasons([], REASONS) == (0, {0: 0, 1: 0})


@pytest.mark.parametrize(
    ("name", "said"),
    [("oversise", 'did you mean "oversize"'), ("tx_failed", "driver"), ("", "there are: any")],
)
def test_what_is_no_reason_is_refused(name: str, said: str) -> None:
    with pytest.raises(NoSuchObject) as e:
        find_reasons([name], REASONS)
    assert e.value.code == "E0738" and said in f"{e.value} {e.value.help}"


def test_a_line_says_where_and_why() -> None:
    some = names("any")
    at_port = seen(DROP, verdict=_abi.DPS_DROP_OVERSIZE, index=1, slot=_abi.DPS_NO_SLOT)
    assert line(some, at_port) == "lan io/0 dropped, oversize, from wan"
    of_group = seen(DROP, verdict=_abi.DPS_DROP_WORKER_HELD, index=1, slot=_abi.DPS_NO_SLOT)
    assert line(some, of_group) == "fw io/0 dropped, worker_held, from wan"
    lane = seen(DROP, verdict=_abi.DPS_DROP_LANE_FULL, index=1, slot=1)
    assert line(some, lane) == "fw/0 io/0 dropped, lane_full, from wan"
    by_plugin = seen(BACK, verdict=_abi.DPS_V_DROP | 1, slot=1, version=1)
    assert line(some, by_plugin) == "fw/0 io/0 dropped, policy, from wan"
    bad = seen(BACK, verdict=0xF000, slot=0, bad=True)
    assert line(some, bad) == "nat/0 io/0 dropped, bad_verdict, from wan"


def test_another_versions_reason_of_the_same_number_is_left_out() -> None:
    some = names("policy")
    old = seen(BACK, verdict=_abi.DPS_V_DROP, slot=1, version=0)
    new = seen(BACK, verdict=_abi.DPS_V_DROP, slot=1, version=1)
    assert (some.is_wanted(old), some.is_wanted(new)) == (True, False)
