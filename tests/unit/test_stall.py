# SPDX-License-Identifier: BSD-3-Clause
"""A data plane that stands still is said once, with its cause, and once when it goes on."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dpsup.supervisor.stall import AFTER_S, Stall

PORT: dict[str, Any] = {"drops": {}, "rx_packets": 0, "tx_packets": 0}


class Plane:
    """Two ports, two mempools, a group of two workers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.counters: Any = {
            "generation": 1,
            "ports": [{"name": "wan", **copy.deepcopy(PORT)}, {"name": "lan", **PORT, "drops": {}}],
            "pools": [{"name": n, "size": 1000, "free": 900, "starved": 0} for n in ("a", "b")],
            "io": [{"tx_waiting": 0, "xfer": 0}],
            "groups": [{"held": 0}],
            "slots": [{"outstanding": 0, "collected": 0} for _ in range(2)],
        }
        self.stall = Stall("edge", [("a", ["wan"]), ("b", ["lan"])], ["fw/0", "fw/1"], ["fw"])
        self.said: list[tuple[str, str]] = []

    def pass_(self, seconds: float, **each: Any) -> list[tuple[str, str]]:
        """Time passes; `each` look some counters have grown."""
        said = []
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            for path, n in each.items():
                kind, index, key = path.split("_", 2)
                self.counters[kind][int(index)][key] += n
            found = self.stall.observe(copy.deepcopy(self.counters), self.now)
            said += [(n["name"], n["message"]) for n in found]
        return said


@pytest.fixture
def plane() -> Plane:
    return Plane()


def test_an_idle_plane_and_one_that_moves_are_fine(plane: Plane) -> None:
    assert not plane.pass_(30)
    plane.counters["slots"][0]["outstanding"] = 50
    assert not plane.pass_(30, ports_0_rx_packets=9, slots_0_collected=9, ports_1_tx_packets=9)
    assert not plane.pass_(30, ports_0_rx_packets=9, slots_0_collected=9), "a plugin that drops"


def test_packets_that_wait_for_a_worker_are_said_once(plane: Plane) -> None:
    plane.counters["slots"][1]["outstanding"] = 7
    plane.counters["groups"][0]["held"] = 3
    assert not plane.pass_(AFTER_S)
    ((name, message),) = plane.pass_(60, ports_0_rx_packets=1)
    assert name == "edge" and "7 packets in the lanes of fw/1, 3 for a worker of fw" in message
    assert plane.pass_(5, slots_1_collected=1) == [("edge", "packets move again")]


def test_a_port_that_takes_nothing_is_the_cause(plane: Plane) -> None:
    plane.counters["io"][0]["tx_waiting"] = 1024
    ((_, message),) = plane.pass_(20)
    assert message == "no packet leaves: 1024 for a port that takes none"


def test_a_leaking_pool_is_named_while_the_other_flows(plane: Plane) -> None:
    """One stray write into an mbuf's refcnt is enough; everything else looks healthy."""
    plane.counters["pools"][0]["free"] = 0
    ((name, message),) = plane.pass_(20, pools_0_starved=4, ports_1_rx_packets=9)
    assert name == "a" and "0 of 1000 mbufs" in message and "leaked" in message
    plane.counters["pools"][0]["free"] = 10
    assert plane.pass_(5, ports_0_rx_packets=4) == [("a", "packets move again")]


def test_a_pool_that_is_all_under_way_has_not_leaked(plane: Plane) -> None:
    plane.counters["slots"][0]["outstanding"] = 1000
    ((name, message),) = plane.pass_(20, pools_0_starved=4)
    assert name == "a" and message.endswith("1000 packets are under way")


def test_a_pool_that_runs_out_now_and_then_is_no_stall(plane: Plane) -> None:
    assert not plane.pass_(30, pools_0_starved=4, ports_0_rx_packets=100, ports_1_tx_packets=1)


def test_a_new_generation_begins_anew(plane: Plane) -> None:
    plane.counters["slots"][1]["outstanding"] = 7
    assert not plane.pass_(AFTER_S - 1)
    plane.counters["generation"] = 2
    assert not plane.pass_(AFTER_S)
