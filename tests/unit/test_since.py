# SPDX-License-Identifier: BSD-3-Clause
"""Counters since a mark: what was counted after it, whatever became of the primary meanwhile."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from unit import looks

from dpsup.documents import counters
from dpsup.errors import NoSuchObject
from dpsup.instance import mark, since
from dpsup.instance.rates import picture
from dpsup.instance.runtime_dir import MARK, OURS, Runtime
from dpsup.view import sections
from dpsup.view.columns import plain
from dpsup.view.sections import Screen

# The other numbers of these documents: what is so now, and nothing that grows.
STATES = {
    "unwritten_bytes", "link_mbps", "size", "free", "low_water", "core", "held", "xfer",
    "tx_waiting", "kernel_waiting", "quarantine", "watched", "moving", "outstanding",
    "bad_word", "bad_len", "bad_version", "pid", "version", "needs", "perf", "ready_ns",
    "first_ns", "io", "slot",
    "undeclared_first", "undeclared_last", "undeclared_len", "undeclared_port",
}  # fmt: skip


def marked(t: float) -> Any:
    """As it comes back from its file."""
    look = looks.edge(t)
    kept = json.loads(json.dumps({k: look[k] for k in mark._KEPT}))
    kept["cpus"] = {int(k): v for k, v in kept["cpus"].items()}
    return {"at": 1e9, "look": kept}


def text(then: Any, now: Any, width: int | None = None) -> str:
    doc, made = since.document(then, now), picture(*since.looks(then, now))
    return plain(sections.since(made, doc, Screen(width)))


@pytest.mark.parametrize(
    "document",
    [
        counters.PortCounters, counters.PoolCounters, counters.Io, counters.GroupCounters,
        counters.Lane, counters.SlotCounters,
    ],
)  # fmt: skip
def test_of_each_number_is_known_whether_it_grows(document: type) -> None:
    """A counter that is added to these must be named in one of the two sets."""
    for name, of in get_type_hints(document).items():
        if of is int:
            assert (name in since.GROWS) != (name in STATES), name
        elif of not in (bool, str) and name not in ("gauges", "kernel"):
            assert name in since.TABLES, name


def test_only_what_came_after_the_mark_is_shown() -> None:
    doc: Any = since.document(marked(3.0), looks.edge(5.0))
    assert (doc["since"], doc["window_s"]) == ("mark", pytest.approx(2.0))
    wan, lan = doc["ports"]
    assert (wan["rx_packets"], lan["rx_packets"]) == (8000, 4000)
    assert wan["drops"] == {"tx_full": 60}
    assert wan["link_mbps"] == 10000
    first, second, unused, _ = doc["slots"]
    assert (first["id"], unused["id"]) == ("fw/0", "fw/2")
    assert (first["sent"], first["lane_full"], first["outstanding"]) == (2000, 1000, 96)
    assert second["dropped"] == {"runt": 14}
    assert second["counters"] == {"seen": 4000}
    assert doc["io"][0]["stage_cycles"]["steer"] == 2 * 1000 * 20
    assert doc["io"][0]["held"] == 0 and doc["io"][0]["xfer"] == 3
    assert doc["pools"][0]["starved"] == 0 and doc["pools"][0]["free"] == 8000
    assert doc["groups"][0]["pause"] == [0] * 40
    lane = next(one for one in doc["lanes"] if (one["io"], one["slot"]) == (1, 0))
    assert (lane["sent"], lane["lane_full"]) == (1200, 500)
    assert doc["account"]["received"] == 12000
    # At the mark some packets were in flight: how many were lost since is not known.
    assert doc["account"]["in_flight_before"] > 0 and doc["account"]["lost"] is None


def test_rates_are_means_since_the_mark() -> None:
    made = picture(*since.looks(marked(3.0), looks.edge(5.0)))
    assert made["window_s"] == pytest.approx(2.0)
    assert made["ports"][0]["rx_pps"] == pytest.approx(4000)
    assert made["ports"][0]["rx_packets"] == 8000
    one, two, _ = made["workers"]
    assert (one["rx_packets"], one["drops"]) == (2000, 1000)
    assert two["pps"] == pytest.approx(2000)
    assert two["busy"] == pytest.approx(2000 * 200 / looks.HZ)
    assert one["restarts"] == 0
    assert made["groups"][0]["totals"]["rx_packets"] == 6000
    assert made["cores"][1]["load"] == pytest.approx(0.6)
    shown = text(marked(3.0), looks.edge(5.0))
    assert shown.startswith("since the mark, 2s ago: 0 deaths of workers, 0 of the primary")
    assert "lost not known" in shown


def test_looking_at_it_changes_neither_look() -> None:
    then, now = marked(3.0), looks.edge(5.0)
    kept = copy.deepcopy((then, now))
    since.document(then, now)
    since.looks(then, now)
    assert (then, now) == kept


def other_generation() -> Any:
    """Started again: it counts from 0, and has counted less than at the mark."""
    now = looks.edge(1.0)
    now["status"]["generation"] = now["counters"]["generation"] = 2
    now["status"]["recovery"].update(deaths=9, primary_deaths=1)
    now["status"]["groups"][0]["workers"][0]["restarts"] = 4
    now["status"]["at_ns"] = now["counters"]["at_ns"] = int(300e9)
    return now


def test_of_another_generation_all_counts_are_told_and_it_is_said() -> None:
    doc: Any = since.document(marked(3.0), other_generation())
    assert (doc["since"], doc["window_s"]) == ("generation", None)
    assert doc["ports"][0]["rx_packets"] == 4000
    assert doc["slots"][0]["sent"] == 1096
    # These are the supervisor's, which has not died.
    assert (doc["deaths"], doc["primary_deaths"]) == (3, 1)
    made = picture(*since.looks(marked(3.0), other_generation()))
    assert made["ports"][0]["rx_pps"] is None
    assert made["workers"][0]["restarts"] == 3
    shown = text(marked(3.0), other_generation())
    assert "generation 1 then, 2 now" in shown and "not known" in shown


def negatives(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        # A gauge may be, in a plugin that says so.
        return [p for k, v in value.items() if k != "gauges" for p in negatives(v, f"{path}.{k}")]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in negatives(v, f"{path}[{i}]")]
    return [path] if isinstance(value, int | float) and value < 0 else []


@pytest.mark.parametrize("now", [looks.edge(0.0), other_generation(), looks.headless(1.0)])
def test_nothing_is_negative(now: Any) -> None:
    """Not even where every counter went back, which none should."""
    now["counters"]["at_ns"] = max(now["counters"]["at_ns"], int(103e9))
    assert not negatives(since.document(marked(3.0), now))
    assert not negatives(picture(*since.looks(marked(3.0), now)))


def test_a_clock_that_began_anew_is_another_generation() -> None:
    now = looks.edge(5.0)
    now["counters"]["at_ns"] = 7
    assert since.document(marked(3.0), now)["since"] == "generation"


def test_ports_are_known_by_name() -> None:
    now = looks.edge(5.0)
    now["counters"]["ports"].reverse()
    lan, wan = since.document(marked(3.0), now)["ports"]
    assert (wan["rx_packets"], lan["rx_packets"]) == (8000, 4000)


def test_losses_are_told_where_nothing_was_in_flight() -> None:
    then, now = marked(3.0), looks.edge(5.0)
    for look, lost in ((then["look"], 1), (now, 6)):
        for one in look["counters"]["slots"]:
            one["outstanding"] = 0
        for one in look["counters"]["io"]:
            one.update(held=0, xfer=0, tx_waiting=0)
        found = sum(p["rx_packets"] for p in look["counters"]["ports"])
        look["counters"]["ports"][0]["tx_packets"] = 0
        look["counters"]["ports"][1]["tx_packets"] = 0
        for one in look["counters"]["slots"]:
            one.update(lane_full=0, dropped={})
        look["counters"]["ports"][1]["drops"] = {}
        look["counters"]["ports"][0]["drops"] = {"port_down": found - lost}
    assert since.document(then, now)["account"]["lost"] == 5


# --- the file -------------------------------------------------------------------------------------


class FakeInstance:
    def __init__(self, where: Runtime) -> None:
        self.runtime = where

    def look(self) -> Any:
        return looks.edge(3.0)


def test_a_mark_is_kept_in_the_runtime_directory(tmp_path: Path) -> None:
    where = Runtime(str(tmp_path / "edge"), "edge")
    (tmp_path / "edge").mkdir(mode=0o700)
    with pytest.raises(NoSuchObject, match="has no mark"):
        mark.get(where)
    instance: Any = FakeInstance(where)
    mark.put(instance)
    again = mark.get(where)
    assert again["look"] == marked(3.0)["look"]
    # Else a start would refuse the directory, and the end of an instance leave it there.
    assert MARK in OURS
    for damaged in ("", "[]", "{}", '{"at": 1, "look": {"cpus": {}}}', '{"at": 1, "look": []}'):
        where.write(MARK, damaged)
        with pytest.raises(NoSuchObject, match="cannot be read") as e:
            mark.get(where)
        assert e.value.code == "E0760"
