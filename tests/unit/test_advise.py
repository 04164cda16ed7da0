# SPDX-License-Identifier: BSD-3-Clause
"""Advice from looks at an instance that never was: each condition planted alone is found, with the
change that helps and a figure; a healthy instance is left in peace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from unit import looks
from unit.fakehost import FILE, FULL, machine

from dpsup.advise import KINDS, report
from dpsup.advise.lanes import uneven
from dpsup.advise.piece import Piece
from dpsup.advise.window import Window, mersenne, pool_need
from dpsup.check.memory import pool_needs
from dpsup.plan.place import make_plan
from dpsup.primary.process import plan_document
from dpsup.supervisor.notices import Notices
from dpsup.topology.load import load
from dpsup.view import sections
from dpsup.view.columns import plain
from dpsup.view.sections import Screen

Doc = dict[str, Any]
Fault = Callable[[Doc, float], None]  # of a look after so many seconds

POOL = {"mbufs": 16383, "data_room": 2176, "cache": 256, "numa": 0}
PORT = {"pool": 0, "rx_desc": 1024, "tx_desc": 1024, "mtu": 1500}
AUDIT = {"size": 16383, "free": 1000, "cached": 300, "rx_rings": 2048, "tx_rings": 1024,
         "lanes": 11000, "io": 5, "quarantine": 0, "unexplained": 0}  # fmt: skip


def sound(t: float) -> Doc:
    """As looks.edge, with all well: half busy, nothing dropped, no pool low."""
    look = looks.edge(t)
    plan, counters = look["plan"], look["counters"]
    plan["pools"][0] |= POOL
    for port in plan["ports"]:
        port |= PORT
    for io in plan["io"]:
        io |= {"burst": 32, "idle": "adaptive", "table": 0}
    for group in plan["groups"]:
        group |= {"on_full": "drop"}
    for slot in counters["slots"]:
        slot["lane_full"] = 0
        slot["busy"] = int(t * looks.HZ * 0.5)
    for port in counters["ports"]:
        port["drops"] = {}
    counters["pools"][0]["starved"] = 0
    for pool in look["status"]["mempools"]:
        pool |= {"alloc_failures": 0, "low_water": 7000}
    for info in look["port_info"]:
        info["numa"] = 0
    for cpu in range(7, 10):
        look["cpus"][cpu] = {"total": int(t * 100), "busy": 0, "steal": 0, "numa": 0}
    return look


def window(*faults: Fault, steps: int = 10, **more: Any) -> Window:
    made = []
    for i in range(steps + 1):
        look = copy.deepcopy(sound(3.0 + i / steps))
        for fault in faults:
            fault(look, i / steps)
        made.append(look)
    return Window(made, **more)


def only(found: list[Piece], kind: str) -> Piece:
    assert [p.kind for p in found] == [kind], [(p.kind, p.seen) for p in found]
    return found[0]


def advise(*faults: Fault, **more: Any) -> list[Piece]:
    return report.pieces(window(*faults, **more))


def change(piece: Piece) -> Doc:
    return piece.document()["changes"][0]


# --- what is planted ------------------------------------------------------------------------------


def pool_of(**status: int) -> Fault:
    def plant(look: Doc, t: float) -> None:
        look["status"]["mempools"][0] |= {k: v for k, v in status.items() if k != "fails"}
        look["status"]["mempools"][0]["alloc_failures"] = int(status.get("fails", 0) * t)

    return plant


def shrinking(look: Doc, t: float) -> None:
    look["status"]["mempools"][0]["in_use"] = 8000 + int(3000 * t)


def key(table: str, name: str | int, key: str, value: Any) -> Fault:
    def plant(look: Doc, _: float) -> None:
        plan = look["plan"]
        if table == "io":
            for one in plan["io"]:
                one[key] = value
        else:
            next(one for one in plan[table] if one["name"] == name)[key] = value

    return plant


def busy_io(share: float, batch: float = 8.0, rest: int = 0) -> Fault:
    def plant(look: Doc, t: float) -> None:
        for io in look["counters"]["io"]:
            io["busy_cycles"] = int(t * looks.HZ * share)
            io["busy_loops"] = int(t * 3000 / batch)
            if rest:
                io["stage_cycles"]["rest"] = int((3 + t) * 1000 * rest)

    return plant


def missed(rate: float, *, bursts: bool) -> Fault:
    def plant(look: Doc, t: float) -> None:
        n = int(rate * (t >= 0.5) if bursts else rate * t)
        for where in (look["counters"]["ports"][0], look["status"]["ports"][0]):
            where["rx_missed"] = n

    return plant


def work(slots: dict[int, tuple[float, float]]) -> Fault:
    """By slot: busy share, packets a second that find its lane full."""

    def plant(look: Doc, t: float) -> None:
        for slot, (busy, full) in slots.items():
            look["counters"]["slots"][slot] |= {
                "busy": int(t * looks.HZ * busy), "lane_full": int(full * t),
            }  # fmt: skip
        for lane in look["lanes"]:
            if lane["slot"] in slots:
                lane["lane_full"] = int(slots[lane["slot"]][1] * t / 2)

    return plant


def more_packets(slot: int, rate: int) -> Fault:
    def plant(look: Doc, t: float) -> None:
        look["counters"]["slots"][slot]["collected"] = int(rate * t)

    return plant


def loads(shares: dict[int, float]) -> Fault:
    """What the kernel says that CPUs were used."""

    def plant(look: Doc, t: float) -> None:
        for cpu, share in shares.items():
            look["cpus"][cpu]["busy"] = int(share * (3 + t) * 100)

    return plant


def nodes(of: dict[int, int]) -> Fault:
    def plant(look: Doc, _: float) -> None:
        for cpu, node in of.items():
            look["cpus"][cpu]["numa"] = node

    return plant


# --- what is said ---------------------------------------------------------------------------------


def test_nothing_is_invented_on_a_healthy_instance() -> None:
    assert advise() == []
    doc = report.document(window())
    assert doc["advice"] == []
    assert "Nothing to change." in plain(report.lines(doc, Screen(80)))
    assert doc["bottleneck"]["times_the_load"] == pytest.approx(2.0, rel=0.05)


def test_an_empty_pool_says_who_has_its_mbufs() -> None:
    piece = only(advise(pool_of(low_water=0, fails=500), audits={"default": AUDIT}), "pool-empty")
    assert change(piece)["path"] == ["mempools", "default", "mbufs"]
    assert change(piece)["value"] == 32767
    assert "11000 in lanes" in piece.seen
    assert "500 allocations a second" in piece.seen
    assert (piece.effect.now, piece.effect.then) == (pytest.approx(500), 0)
    assert piece.level == "losing"


def test_a_pool_that_is_low_or_shrinks_is_told_before_it_is_empty() -> None:
    piece = only(advise(pool_of(low_water=700)), "pool-low")
    assert piece.effect.metric == ("mempools", "default", "low_water")
    assert piece.effect.then == 700 + 16384
    piece = only(advise(shrinking, steps=12), "pool-low")
    assert "empty in 2 s" in piece.seen


def test_caches_that_hold_the_pool_are_made_smaller_instead() -> None:
    piece = only(
        advise(
            pool_of(low_water=100),
            key("pools", "default", "cache", 512),
            audits={"default": {**AUDIT, "cached": 6000}},
        ),
        "pool-cache",
    )
    assert change(piece)["value"] == 128
    assert piece.effect.then > piece.effect.now


def test_a_cache_below_a_burst_is_made_larger() -> None:
    piece = only(advise(key("pools", "default", "cache", 16)), "pool-cache")
    assert change(piece)["value"] == 256
    assert piece.effect.then < piece.effect.now
    assert piece.level == "faster"
    idle = advise(key("pools", "default", "cache", 16), busy_io(0.1))
    assert idle == []


def test_bursts_ask_for_longer_rx_queues_and_steady_loss_for_io_cores() -> None:
    piece = only(advise(missed(3000, bursts=True)), "rx-queue")
    assert change(piece)["path"] == ["ports", "wan", "descriptors", "rx"]
    assert change(piece)["value"] == 4096
    assert piece.effect.then == 0
    piece = only(advise(missed(1000, bursts=False), busy_io(1.0)), "io-cores")
    assert change(piece)["path"] == ["io", 0, "cores"]
    assert change(piece)["value"] == "1,2,7"
    assert piece.effect.then < piece.effect.now


def test_io_cores_are_not_advised_without_queues_or_cpus() -> None:
    def one_queue(look: Doc, _: float) -> None:
        for info in look["port_info"]:
            info["max_rx_queues"] = 2

    assert advise(missed(1000, bursts=False), busy_io(1.0), one_queue) == []

    def no_cpu(look: Doc, _: float) -> None:
        for cpu in range(7, 10):
            del look["cpus"][cpu]

    assert advise(missed(1000, bursts=False), busy_io(1.0), no_cpu) == []


def test_an_io_core_that_naps_is_told_to_poll_where_queues_are_long_already() -> None:
    faults = (missed(3000, bursts=True), key("ports", "wan", "rx_desc", 4096))
    assert advise(*faults) == []

    def naps(look: Doc, t: float) -> None:
        for io in look["counters"]["io"]:
            io["sleeps"] = int(2000 * t)

    piece = only(advise(*faults, naps), "idle")
    assert change(piece)["value"] == "poll"


def test_small_bursts_are_made_larger_where_turns_cost() -> None:
    small = key("io", 0, "burst", 4)
    piece = only(advise(small, busy_io(1.0, batch=3.9, rest=40)), "io-burst")
    assert change(piece) | {"text": ""} == {
        "kind": "toml", "path": ["io", 0, "burst"], "value": 32, "old": 4, "text": "",
    }  # fmt: skip
    assert piece.effect.now - piece.effect.then == pytest.approx(40 * 7 / 8, rel=0.01)
    assert advise(small, busy_io(0.5, batch=3.9, rest=40)) == []
    assert advise(small, busy_io(1.0, batch=2.0, rest=40)) == []
    behind = work({0: (1.0, 500), 1: (1.0, 500)})
    assert "io-burst" not in {p.kind for p in advise(small, busy_io(1.0, 3.9, 40), behind)}


def test_what_others_take_of_a_cpu_is_no_cost_of_packets() -> None:
    def preempted(look: Doc, t: float) -> None:
        if t >= 0.5:
            for io in look["counters"]["io"]:
                io["stage_cycles"]["rest"] += 10_000_000

    quiet, disturbed = window(), window(preempted)
    assert disturbed.picture["io"][0]["cycles_per_packet"] > 1000
    cycles = [w.io["io/0"]["cycles_per_packet"] for w in (quiet, disturbed)]
    assert cycles[0] == pytest.approx(cycles[1], rel=0.05)


def test_full_lanes_of_workers_with_time_are_made_longer() -> None:
    calm = loads({3: 0.3, 4: 0.3})
    piece = only(advise(work({0: (0.3, 1000), 1: (0.3, 1000)}), calm), "lane-ring")
    assert change(piece)["path"] == ["workers", "fw", "ring"]
    assert change(piece)["value"] == 2048
    assert piece.effect.then == 0
    # Where the io core is late, packets wait for it, not for the worker.
    late = (work({0: (0.3, 1000), 1: (0.3, 1000)}), busy_io(1.0))
    piece = only(advise(*late), "io-cores")
    assert piece.effect.metric == ("groups", "fw", "lane_full_pps")
    assert piece.effect.then < piece.effect.now
    assert change(piece)["value"] == "1,2,7"


def drowning(look: Doc, t: float) -> None:
    """fw/0 shares its CPU, which has no time left: half busy by its own account, its lane full."""
    work({0: (0.5, 700)})(look, t)
    loads({3: 1.0})(look, t)
    look["plan"]["supervisor_cores"] = [3]
    for lane in look["lanes"]:
        if lane["slot"] == 0:
            lane["outstanding"] = 980


def test_a_worker_that_drowns_on_a_shared_cpu_does_not_keep_up() -> None:
    """Neither says that it has time: a longer lane is full a moment later."""

    def no_cpu(look: Doc, _: float) -> None:
        for cpu in (0, *range(7, 10)):
            del look["cpus"][cpu]

    made = window(drowning, no_cpu)
    doc = report.document(made)
    assert doc["advice"] == [], doc["advice"]
    said = plain(report.lines(doc, Screen(None)))
    assert "fw/0 shares CPU 3 with supervisor" in said and "keep up" not in said
    made.picture["workers"][0]["fill"] = 1.0
    (hint,) = (h for h in sections.hints(made.picture) if "keep up" in h)
    assert "other threads use the rest of their CPU" in hint
    piece = only(report.pieces(window(drowning)), "crowded")
    assert change(piece)["path"] == ["workers", "fw", "cores"]
    assert change(piece)["value"].startswith("7,4")
    assert piece.effect.then < piece.effect.now


def test_what_changes_cost_is_said() -> None:
    calm = loads({3: 0.3, 4: 0.3})
    (doc,) = report.document(window(work({0: (0.3, 1000), 1: (0.3, 1000)}), calm))["advice"]
    assert doc["memory_bytes"] == 1024 * 40 * 2 * 3 + 16384 * (2176 + 192)
    made = report.document(window(pool_of(low_water=700)))
    (pool,) = made["advice"]
    assert "37 MiB more of hugepages" in plain(report.lines(made, Screen(None)))
    assert pool["memory_bytes"] == 16384 * (2176 + 192)


def test_workers_that_are_busy_all_the_time_get_help_where_a_cpu_has_room() -> None:
    full = work({0: (1.0, 300), 1: (1.0, 600)})
    piece = only(advise(full, loads({5: 0.0})), "workers")
    assert change(piece)["argv"] == ["dpsup", "-n", "edge", "scale", "fw", "3"]
    assert piece.effect.now == pytest.approx(900)
    assert piece.effect.then < 900

    def no_cpu(look: Doc, _: float) -> None:
        for cpu in (5, 7, 8, 9):
            del look["cpus"][cpu]

    doc = report.document(window(full, no_cpu))
    assert doc["advice"] == []
    assert "no change of this topology" in plain(report.lines(doc, Screen(None)))
    crowded = loads({5: 1.0, 7: 1.0, 8: 1.0, 9: 1.0})

    def polling(look: Doc, _: float) -> None:
        look["plan"]["groups"][0]["cores"] = [3, 4, 1]  # the third shares an io core's CPU
        for io in look["plan"]["io"]:
            io["idle"] = "poll"

    found = advise(full, crowded, polling)
    assert "workers" not in {p.kind for p in found}


def test_more_than_max_is_a_change_of_the_file() -> None:
    def two(look: Doc, _: float) -> None:
        look["plan"]["groups"][0] |= {"max": 2, "cores": [3, 4]}

    piece = only(advise(work({0: (1.0, 300), 1: (1.0, 600)}), two), "workers")
    assert [c["path"][-1] for c in piece.document()["changes"]] == ["max", "count"]


def test_lossless_workers_are_added_for_throughput() -> None:
    def full(look: Doc, _: float) -> None:
        for group in look["status"]["groups"]:
            for w in group["workers"]:
                w["outstanding"] = 1900

    piece = only(
        advise(work({0: (1.0, 0), 1: (1.0, 0)}), key("groups", "fw", "on_full", "hold"), full),
        "workers",
    )
    assert piece.effect.metric == ("groups", "fw", "pps")
    assert piece.effect.then > piece.effect.now


SPREAD = {
    "packets": 5000, "imbalance": 1.8, "imbalance_predicted": 1.05, "buckets_moved": 40,
    "before": {"fw/0": 0.9, "fw/1": 0.1}, "elephants": [],
}  # fmt: skip


def test_a_skewed_group_is_rebalanced_not_scaled() -> None:
    faults = (work({0: (1.0, 900), 1: (0.1, 0)}), more_packets(0, 9000), more_packets(1, 1000))
    assert uneven(window(*faults)) == ["fw"]
    piece = only(advise(*faults, spreads={"fw": SPREAD}), "skew")
    assert change(piece)["argv"][-2:] == ["rebalance", "fw"]
    assert (piece.effect.now, piece.effect.then) == (1.8, 1.05)
    # Both are busy, and one loses packets: spread first, then look whether that is enough.
    both = (work({0: (1.0, 900), 1: (0.75, 0)}), *faults[1:])
    assert "workers" in {p.kind for p in advise(*both)}
    only(advise(*both, spreads={"fw": SPREAD}), "skew")
    elephant = {**SPREAD, "imbalance_predicted": 1.79}
    assert "skew" not in {p.kind for p in advise(*faults, spreads={"fw": elephant})}


def test_numa_crossings_are_counted_and_moved_where_there_are_cpus() -> None:
    far = nodes({1: 1, 2: 1, 3: 0, 4: 0, 6: 0})
    piece = only(advise(far), "numa")
    # Two ports with two io cores, two io cores with three workers.
    assert piece.effect.now == 2 * 2 + 2 * 3
    assert change(piece)["value"] == "7,8"
    assert piece.effect.then == 0
    pool = only(advise(nodes({9: 1}), key("pools", "default", "numa", 1)), "numa")
    assert change(pool)["path"] == ["mempools", "default", "numa"]
    assert advise(key("pools", "default", "numa", 1)) == []  # one node: nothing crosses


def test_polling_on_a_shared_cpu_is_told_to_give_it_back() -> None:
    def shared(look: Doc, t: float) -> None:
        for io in look["plan"]["io"]:
            io |= {"idle": "poll", "core": 3}
        for io in look["counters"]["io"]:
            io["core"] = 3
        look["cpus"][3]["busy"] = look["cpus"][3]["total"]
        look["processes"] = {"primary": {"cpu_seconds": 2 * t, "rss_bytes": 1}}

    quiet = work({0: (0.1, 0)})
    found = [p for p in advise(shared, quiet, busy_io(0.1)) if p.kind == "idle"]
    assert change(found[0])["value"] == "adaptive"
    assert found[0].effect.now == pytest.approx(2.0)
    assert found[0].effect.then < 1.6


def test_every_kind_is_known_and_what_loses_packets_comes_first() -> None:
    found = advise(pool_of(low_water=700), key("pools", "default", "cache", 16),
                   work({0: (1.0, 300), 1: (1.0, 600)}))  # fmt: skip
    assert {p.kind for p in found} <= set(KINDS)
    assert [p.level for p in found] == ["losing", "risk", "faster"]
    doc = report.document(Window([sound(3.0), sound(4.0)]))
    assert doc["kind"] == "Advice"


@pytest.mark.parametrize("width", [80, 200])
def test_people_read_it_in_any_width(width: int) -> None:
    full = work({0: (1.0, 300), 1: (1.0, 600)})
    made = window(pool_of(low_water=0, fails=10), full, loads({5: 0.0}))
    text = plain(report.lines(report.document(made), Screen(width)))
    assert all(len(line) <= width for line in text.splitlines()), text
    for word in ("seen", "why", "change", "then", "mbufs = ", "dpsup -n edge scale fw"):
        assert word in text


def test_one_look_or_none_of_a_primary_is_no_window() -> None:
    for some in ([sound(3.0)], [looks.starting(), looks.starting()]):
        doc = report.document(Window(some))
        assert doc["advice"] == []
        assert "No advice" in plain(report.lines(doc, Screen(80)))
    again = sound(4.0)
    again["counters"]["generation"] = 2
    assert report.document(Window([sound(3.0), again]))["measured"] is None


def test_the_need_of_a_pool_is_what_check_says() -> None:
    import json

    host = machine(FULL)
    topology, _ = load(FILE, host)
    assert topology is not None
    plan = json.loads(plan_document(make_plan(topology, host, 1)))
    for index, name in enumerate(topology.mempools):
        least, full = pool_needs(topology, name)
        assert max(least, pool_need(plan, index)) == full
    assert [mersenne(n) for n in (1023, 1024, 1)] == [1023, 2047, 1]


# --- what the supervisor notices by itself --------------------------------------------------------


def counted(t: float, starved: int = 0, full: int = 0, generation: int = 1) -> Doc:
    counters = copy.deepcopy(sound(t)["counters"])
    counters["generation"] = generation
    counters["pools"][0]["starved"] = starved
    counters["slots"][0]["lane_full"] = full
    return counters


def notices() -> Notices:
    return Notices("edge", ["default"], [("fw", range(3)), ("nat", range(3, 4))])


def test_nothing_is_noticed_where_all_is_well() -> None:
    one = notices()
    assert [one.observe(counted(3.0 + i), float(i)) for i in range(10)] == [[]] * 10


def test_an_empty_pool_is_told_once_in_ten_minutes() -> None:
    one = notices()
    found = [e for i in range(5) for e in one.observe(counted(3.0 + i, starved=i), float(i))]
    assert [e["name"] for e in found] == ["default"]
    assert "dpsup -n edge advise" in found[0]["message"]
    assert one.observe(counted(9.0, starved=99), 700.0)


def test_lanes_that_are_full_for_long_are_told_and_one_burst_is_not() -> None:
    one = notices()
    burst = [one.observe(counted(3.0 + i, full=500 * (i > 2)), float(i)) for i in range(8)]
    assert burst == [[]] * 8
    one = notices()
    found = [e for i in range(8) for e in one.observe(counted(3.0 + i, full=500 * i), float(i))]
    assert [e["name"] for e in found] == ["fw"]
    assert found[0]["message"].startswith("14% of its packets")


def test_another_generation_is_nothing_to_compare_with() -> None:
    one = notices()
    assert one.observe(counted(3.0), 0.0) == []
    assert one.observe(counted(4.0, starved=5, generation=2), 1.0) == []
