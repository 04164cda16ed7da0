# SPDX-License-Identifier: BSD-3-Clause
"""What a group's workers counted, added up."""

from __future__ import annotations

from typing import Any

import pytest
from unit import looks

from dpsup.instance.rates import picture
from dpsup.view import sections
from dpsup.view.columns import plain
from dpsup.view.sections import Screen


def edge(t: float) -> Any:
    return looks.edge(t)


def test_totals_are_the_sums_of_the_workers() -> None:
    fw, nat = edge(4.0)["status"]["groups"]
    assert fw["totals"]["rx_packets"] == 4 * 3000 + 2 * 96
    assert fw["totals"]["tx_packets"] == 4 * 3000
    assert fw["totals"]["dropped"] == {"lane_full": 2000, "runt": 28}
    assert fw["totals"]["counters"] == {"seen": 12000}
    assert fw["totals"]["outstanding"] == 192
    assert fw["totals"]["restarts"] == 3
    assert nat["totals"]["rx_packets"] == 4 * 3000 + 96


def test_drops_before_a_group_are_in_its_totals() -> None:
    def at(t: float, n: int) -> Any:
        look = edge(t)
        look["counters"]["groups"][0].update(no_worker=n, hold_full=2)
        group = look["status"]["groups"][0]
        group["totals"]["dropped"].update(no_worker=n, hold_full=2)
        return look

    fw = picture(at(3.0, 10), at(5.0, 50))["groups"][0]
    assert fw["drops"] == 2500 + 35 + 50 + 2
    assert fw["drops_new"] == {"lane_full": 1000, "runt": 14, "no_worker": 40}
    assert fw["drop_pps"] == pytest.approx(1054 / 2)
    assert fw["fault_pps"] == pytest.approx(40 / 2 + 500 + 3)  # as tests of its workers have it


def test_what_a_rule_drops_is_no_fault_of_the_group() -> None:
    before, after = edge(3.0), edge(5.0)
    for look, drops in ((before, 0), (after, 900)):
        slot = look["counters"]["slots"][1]
        slot |= {"dropped": {"rule": drops}, "dropped_policy": drops}
        look["status"]["groups"][0]["workers"][1] |= {
            "dropped": {"rule": drops}, "dropped_policy": drops
        }  # fmt: skip
    fw = picture(before, after)["groups"][0]
    assert fw["drop_pps"] - fw["fault_pps"] == pytest.approx(900 / 2)


def test_busy_shares_are_added_up() -> None:
    fw = picture(edge(3.0), edge(5.0))["groups"][0]
    assert fw["pps"] == pytest.approx(3000)
    assert fw["busy_sum"] == pytest.approx(3000 * 200 / looks.HZ)
    assert fw["busy"] == pytest.approx(fw["busy_sum"] / 2)
    assert picture(None, edge(5.0))["groups"][0]["busy_sum"] is None
    assert picture(None, edge(5.0))["groups"][0]["drop_pps"] is None


def test_a_supervisor_of_an_older_build_adds_nothing_up() -> None:
    look = edge(4.0)
    for group in look["status"]["groups"]:
        del group["totals"]
    assert picture(None, look)["groups"][0]["totals"]["rx_packets"] == 4 * 3000 + 2 * 96


def test_where_operators_look_the_sums_are() -> None:
    made = picture(edge(3.0), edge(4.0))
    head, fw, nat = plain(sections.groups(made, Screen(None))).splitlines()
    for word in ("WORKERS", "BUSY", "CORES BUSY", "PPS", "DROP/S", "RX", "WHY DROPPED"):
        assert word in head
    assert "2/2" in fw and "3.00k" in fw and "lane_full 2000, runt 28" in fw
    assert nat.split()[:2] == ["nat", "1/1"]
    status = plain(sections.status(made, Screen(None)))
    assert "GROUP" in status
    assert "fw seen: 12000" in plain(sections.stats(made, Screen(None)))
    # Where each group has one worker, its row says the same.
    for group in made["groups"]:
        group["desired"] = 1
    assert "GROUP" not in plain(sections.status(made, Screen(None)))
