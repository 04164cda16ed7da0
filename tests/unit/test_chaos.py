# SPDX-License-Identifier: BSD-3-Clause
"""The pure half of `dpsup chaos`: the schedule, what the checker sees, the figures."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsup.chaos.command import ONLY_OWN, faults_of
from dpsup.chaos.own import PREFIX, Own
from dpsup.chaos.report import Found, Injected, document, percentiles, phases_of, text, thinned
from dpsup.chaos.schedule import KINDS, USUAL, parse_faults, parse_rate, schedule
from dpsup.errors import UsageError
from dpsup.packets.pcap import CutError, read_pcap, write_pcap
from dpsup.packets.traffic import Count, Traffic, check, frame, swapped

TRAFFIC = Traffic(flows=5, numbers=16)


def came_out(packets: int) -> list[bytes]:
    """What a faultless instance makes of the first so many packets."""
    frames = [swapped(f) for f in TRAFFIC.frames()]
    return [frames[i % len(frames)] for i in range(packets)]


# --- schedule -----------------------------------------------------------------------------------


def test_a_schedule_is_a_function_of_what_is_asked() -> None:
    args = (7, USUAL, 20.0, 60.0)
    assert schedule(*args) == schedule(*args)
    assert schedule(8, *args[1:]) != schedule(*args)
    assert 1000 < len(schedule(*args)) < 1400
    assert all(0 <= f.at < 60 and 0 <= f.pick < 1 for f in schedule(*args))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = (schedule(3, tuple(KINDS), 5.0, d) for d in (10.0, 100.0))
    assert long[: len(short)] == short
    assert {f.kind for f in long} >= {"kill", "seed", "primary"}


@pytest.mark.parametrize(
    ("kind", "budget", "distance"), [("seed", "seed", 8), ("primary", "all", 15)]
)
def test_what_is_rationed_keeps_its_distance(kind: str, budget: str, distance: float) -> None:
    made = schedule(1, tuple(KINDS), 100.0, 300.0)
    at = {k: [f.at for f in made if f.kind == k] for k in KINDS}
    assert len(at[kind]) > 3
    shared = sorted(t for k in KINDS if KINDS[k][3] == budget for t in at[k])
    assert all(b - a >= distance for a, b in itertools.pairwise(shared))


def test_only_what_may_be_drawn_is_drawn() -> None:
    assert {f.kind for f in schedule(1, ("segv",), 10.0, 10.0)} == {"segv"}
    assert len(schedule(1, ("primary",), 100.0, 30.0)) <= 2


def test_the_usual_faults_are_those_that_the_topology_allows() -> None:
    assert faults_of(None, own_traffic=True) == USUAL
    others = faults_of(None, own_traffic=False)
    assert others and not set(others) & set(ONLY_OWN)
    assert faults_of("hang", own_traffic=True) == ("hang",)
    with pytest.raises(UsageError, match="hang"):
        faults_of("kill,hang", own_traffic=False)


def test_words_that_are_none() -> None:
    assert parse_faults("kill, segv,kill") == ("kill", "segv")
    assert (parse_rate("5/s"), parse_rate("30/m"), parse_rate("0.5")) == (5, 0.5, 0.5)
    for bad in ("", "kil"):
        with pytest.raises(UsageError, match="fault"):
            parse_faults(bad)
    for bad in ("", "0/s", "-1", "5/d", "1e9", "fast"):
        with pytest.raises(UsageError, match="rate"):
            parse_rate(bad)


# --- traffic ------------------------------------------------------------------------------------


def test_no_two_packets_are_alike() -> None:
    traffic = Traffic()
    frames = list(traffic.frames())
    assert len(set(frames)) == len(frames) == traffic.flows * traffic.numbers
    assert all(58 <= len(f) <= 118 for f in frames)
    header = frame(3, 9)[14:34]
    assert sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2)) % 0xFFFF == 0


@pytest.mark.parametrize("packets", [0, 1, 4, 5, 79, 80, 81, 1000])
def test_all_that_came_in_came_out(packets: int) -> None:
    assert check(TRAFFIC, came_out(packets), packets) == Count(sent=packets, arrived=packets)


def test_flows_may_pass_each_other() -> None:
    out = came_out(80)
    assert check(TRAFFIC, sorted(out, key=lambda p: p[11]), 80).clean


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda p: p[:30] + p[31:], {"lost": 1}),
        (lambda p: p[:-1], {"lost": 1}),
        (lambda p: p[:10] + p[90:], {"lost": 80}),  # a whole round of numbers
        (lambda p: p[:31] + p[30:], {"duplicated": 1}),
        (lambda p: [*p, p[-1]], {"duplicated": 1}),
        (lambda p: [*p[:30], p[35], *p[31:35], p[30], *p[36:]], {"reordered": 1}),
        (lambda p: [*p[:30], swapped(p[30]), *p[31:]], {"lost": 1, "damaged": 1}),
        (lambda p: [*p[:30], p[30][:6] + p[30][:6] + p[30][12:], *p[31:]],
         {"lost": 1, "damaged": 1}),
    ],
    ids=["lost", "lost at the end", "a round lost", "twice", "twice at the end", "out of order",
         "changed twice", "changed by half"],
)  # fmt: skip
def test_what_is_wrong_is_seen(
    change: Callable[[list[bytes]], list[bytes]], wrong: dict[str, int]
) -> None:
    out = change(came_out(200))
    found = check(TRAFFIC, out, 200)
    assert found == Count(sent=200, arrived=len(out), **wrong)
    assert not found.clean


def test_a_torn_run_may_end_anywhere_and_have_no_hole() -> None:
    assert check(TRAFFIC, came_out(123), None).clean
    out = came_out(123)
    assert check(TRAFFIC, out[:50] + out[51:], None).lost == 1


def test_captures_that_end_in_a_record(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    write_pcap(path, came_out(10))
    assert list(read_pcap(path)) == came_out(10)
    path.write_bytes(path.read_bytes()[:-5])
    assert list(read_pcap(path, torn=True)) == came_out(9)
    with pytest.raises(CutError):
        list(read_pcap(path))


# --- report -------------------------------------------------------------------------------------

STORY = {
    "pid": 5, "slot": 0, "successor": 6, "noticed_ns": 2_000_000, "repaired_ns": 2_010_000,
    "claimed_ns": 2_011_000, "seated_ns": 2_050_000, "first_ns": 2_100_000,
}  # fmt: skip


def test_phases_are_told_apart() -> None:
    assert phases_of(STORY, 1_900_000) == {
        "noticed": 100, "repaired": 10, "claimed": 1, "seated": 39, "first_packet": 50,
        "total": 200,
    }  # fmt: skip
    forked = {**STORY, "claimed_ns": 0, "seated_ns": 0, "successor": 0}
    assert phases_of(forked, None) == {"repaired": 10, "first_packet": 90}
    assert phases_of({**STORY, "first_ns": 0}, None).keys() == {"repaired", "claimed", "seated"}


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles(range(1, 101)) == {"n": 100, "p50": 50, "p99": 99, "max": 100}
    assert percentiles([3]) == {"n": 1, "p50": 3, "p99": 3, "max": 3}


def test_a_curve_is_thinned_to_means() -> None:
    assert thinned([(i, i) for i in range(10)], 5)[:2] == [(0, 0.5), (2, 2.5)]
    assert len(thinned([(i, 1.0) for i in range(5001)])) <= 1000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.problems.append("it did not come back"),
        lambda f: setattr(f.count, "lost", 1),
        lambda f: setattr(f.count, "duplicated", 1),
        lambda f: setattr(f.count, "reordered", 1),
        lambda f: setattr(f.count, "damaged", 1),
        lambda f: setattr(f, "leaked", 1),
    ],
)
def test_only_what_is_all_accounted_for_is_ok(spoil: Callable[[Found], None]) -> None:
    found = Found("c", True, [Injected(0.5, "kill", 1_900_000, 5)], deaths=[STORY])
    asked = {"seed": 1}
    doc = document(found, asked, {})
    assert doc["ok"] and text(doc).endswith("\nall is accounted for")
    assert doc["recovery_us"]["all"]["total"]["p99"] == 200
    spoil(found)
    doc = document(found, asked, {})
    assert not doc["ok"] and doc["problems"]
    assert text(doc).endswith("NOT all is accounted for")


def test_a_packet_in_quarantine_is_not_lost() -> None:
    found = Found("c", True, [Injected(0.5, "kill", 1_900_000, 5)], deaths=[STORY])
    found.count.lost = 2
    found.dropped["quarantine"] = 2
    doc = document(found, {"seed": 1}, {})
    assert doc["ok"] and doc["traffic"]["lost"] == 0
    found.dropped["quarantine"] = 1
    doc = document(found, {"seed": 1}, {})
    assert not doc["ok"] and doc["traffic"]["lost"] == 1
    found.dropped["quarantine"] = 3
    doc = document(found, {"seed": 1}, {})
    assert doc["problems"] == ["1 packets in quarantine came out all the same"]


def test_a_killed_run_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run removes it; what a living one has stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = [f"{PREFIX}{pid}-abc" for pid in (dead.pid, os.getpid())]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "in.pcap").touch()
    Own(Found("chaos1", True), print)
    left = {one.name for one in tmp_path.iterdir()}
    assert names[0] not in left
    assert names[1] in left
