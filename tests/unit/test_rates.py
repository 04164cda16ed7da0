# SPDX-License-Identifier: BSD-3-Clause
"""Two looks made into rates."""

from __future__ import annotations

import copy

import pytest
from unit import looks

from dpsup.instance.rates import picture


def test_rates_are_what_was_counted_between_two_looks() -> None:
    made = picture(looks.edge(3.0), looks.edge(5.0))
    assert made["window_s"] == pytest.approx(2.0)
    wan, _ = made["ports"]
    assert wan["rx_pps"] == pytest.approx(4000)
    assert wan["rx_bps"] == pytest.approx(4000 * 64 * 8)
    assert wan["drop_pps"] == pytest.approx(30)
    assert wan["drops_new"] == {"tx_full": 60}
    one, two, _ = made["workers"]
    assert (one["id"], two["id"]) == ("fw/0", "fw/1")
    assert one["pps"] == pytest.approx(1000)
    assert one["drop_pps"] == pytest.approx(500)
    assert two["drop_pps"] == pytest.approx(7)
    # What the plugin's rules drop is no fault.
    assert one["fault_pps"] == pytest.approx(500)
    assert two["fault_pps"] == pytest.approx(3)
    assert two["busy"] == pytest.approx(2000 * 200 / looks.HZ)
    assert two["cycles_per_packet"] == pytest.approx(200)
    assert two["batch"] == pytest.approx(40)
    assert two["fill"] == pytest.approx(96 / (2 * (1024 - 65)))
    assert two["since_s"] == pytest.approx(65.0)
    io = made["io"][0]
    assert io["busy"] == pytest.approx(0.5)
    assert io["stage_cycles_per_packet"]["steer"] == pytest.approx(20)
    lane = made["lanes"][0]
    assert (lane["io"], lane["worker"]) == ("io/0", "fw/0")
    assert lane["full_pps"] == pytest.approx(250)
    core = {c["core"]: c for c in made["cores"]}
    assert core[3]["roles"] == ["fw/0"]
    assert core[1]["load"] == pytest.approx(0.6)
    assert core[1]["stolen"] == pytest.approx(0.05)


def test_ways_lead_from_ports_through_groups() -> None:
    fw, nat = picture(None, looks.edge(1.0))["groups"]
    assert (fw["inputs"], fw["next"]) == (["wan", "nat"], ["nat", "wan"])
    assert (nat["inputs"], nat["next"]) == (["lan", "fw"], ["lan", "fw"])


def test_one_look_gives_no_rate() -> None:
    made = picture(None, looks.edge(1.0))
    assert made["window_s"] is None
    assert made["ports"][0]["rx_pps"] is None
    assert made["workers"][0]["busy"] is None
    assert made["ports"][0]["rx_packets"] == 4000


def test_another_generation_counts_anew() -> None:
    after = looks.edge(2.0)
    after["counters"]["generation"] = 2
    made = picture(looks.edge(1.0), after)
    assert made["window_s"] is None
    assert made["workers"][0]["pps"] is None


def test_a_counter_that_went_back_is_no_rate() -> None:
    before, after = looks.edge(1.0), looks.edge(2.0)
    before["counters"]["slots"][0]["collected"] = 10**9
    made = picture(before, after)
    assert made["workers"][0]["pps"] is None
    assert made["workers"][1]["pps"] == pytest.approx(2000)


@pytest.mark.parametrize("before", [None, looks.starting(), looks.edge(1.0)])
def test_without_a_primary_there_is_a_picture_all_the_same(before: dict[str, object]) -> None:
    made = picture(copy.deepcopy(before), looks.starting())
    assert made["state"] == "starting"
    assert made["ports"] == []
    assert [w["pps"] for w in made["workers"]] == [None] * 3


def test_headless_rates_go_on() -> None:
    made = picture(looks.headless(1.0), looks.headless(2.0))
    assert made["supervisor"]["pid"] is None
    assert made["workers"][0]["pps"] == pytest.approx(1000)
    assert made["up_s"] is None
