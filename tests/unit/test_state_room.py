# SPDX-License-Identifier: BSD-3-Clause
"""What is reserved for state, what a rollout would forget of it, and what `verify` tells."""

from __future__ import annotations

from typing import Any

import pytest
from unit.fakehost import FILE, MINIMAL, FakeHost, machine

from dpsup.check.topology import check
from dpsup.host.plugin_file import NoPlugin, PluginFile
from dpsup.limits import AUTO_STATE, BUCKET_STATE, STATE
from dpsup.plan.diff import pending
from dpsup.plan.place import make_plan
from dpsup.plan.reserve import reserved, room
from dpsup.plan.text import format_plan
from dpsup.supervisor.notices import QUIET_S, UndeclaredWrites
from dpsup.supervisor.rollout import forgets
from dpsup.topology.load import load
from dpsup.topology.model import Topology

PLUGIN = "/etc/dpsup/fw.so"
BOTH = 'state = "auto"\nbucket_state = "auto"\n'


def read(found: PluginFile | Exception | None, more: str = BOTH) -> tuple[Topology, FakeHost]:
    text = f'{MINIMAL}plugin = "./fw.so"\ninput = ["wan"]\n{more}'
    plugins = {PLUGIN: found} if found is not None else {}
    host = machine(text, files={FILE: text, PLUGIN: ""}, plugins=plugins)
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    return topology, host


@pytest.mark.parametrize("size", [1, 8, 15, 16, 17, 64, 1000, BUCKET_STATE, STATE])
def test_auto_has_room_for_a_version_twice_as_large_and_for_the_way_back(size: int) -> None:
    assert reserved(size) >= max(room(size, 2 * size), room(2 * size, size))
    assert reserved(size) <= 4 * size + 48
    assert reserved(size) % 16 == 0
    # What is kept lies at the end, behind the larger of the two.
    assert room(size, 2 * size) >= 2 * size + size + 16


def test_auto_is_what_the_plugin_declares() -> None:
    topology, host = read(PluginFile(48, 16))
    (group,) = make_plan(topology, host).groups
    assert (group.state, group.bucket_state) == (reserved(48), reserved(16))
    assert not [p for p in check(topology, host) if p.code == "E0510"]
    said = " ".join(format_plan(make_plan(topology, host)).split())
    assert f"state of {reserved(48)} bytes a worker, {reserved(16)} bytes a bucket" in said
    # One of the two, with more or less than it declares.
    topology, host = read(PluginFile(48, 16), 'state = 64\nbucket_state = "auto"\n')
    (group,) = make_plan(topology, host).groups
    assert (group.state, group.bucket_state) == (64, reserved(16))


@pytest.mark.parametrize("found", [PluginFile(0, 0), NoPlugin("no"), PermissionError(13, "no")])
def test_auto_of_a_plugin_without_state_is_nothing(found: PluginFile | Exception) -> None:
    topology, host = read(found)
    (group,) = make_plan(topology, host).groups
    assert (group.state, group.bucket_state) == (0, 0)


def test_auto_of_a_built_in_plugin_is_nothing() -> None:
    text = f'{MINIMAL}plugin = "forward"\ninput = ["wan"]\n{BOTH}'
    topology, problems = load(FILE, machine(text))
    assert topology is not None, problems
    assert make_plan(topology, machine(text)).groups[0].bucket_state == 0


def test_auto_of_a_file_that_does_not_tell_is_refused() -> None:
    topology, host = read(None)
    (problem,) = [p for p in check(topology, host) if p.code == "E0510"]
    assert "does not say how many bytes" in problem.why and "as a number" in problem.help


def test_a_plugin_that_declares_more_by_now_is_no_change_of_auto() -> None:
    before, _ = read(PluginFile(48, 16))
    after, _ = read(PluginFile(64, 32))
    assert before.workers[0].state == AUTO_STATE
    assert pending(before, before, after) == []


@pytest.mark.parametrize("value", ["-1", '"Auto"', "true", '"64MB1"', str(STATE + 1)])
def test_what_is_no_number_of_bytes_is_refused(value: str) -> None:
    text = f'{MINIMAL}plugin = "forward"\ninput = ["wan"]\nstate = {value}\n'
    _, problems = load(FILE, machine(text))
    assert any("state" in p.message for p in problems)


def lost(**more: int) -> dict[str, int]:
    found = {"places": 0, "buckets": 0, "bytes": 0, "version": 1, "to": 2, "others": 0}
    return {**found, "place_room": 0, "bucket_room": 0, **more}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lost(), ""),
        (lost(buckets=1, bytes=64),
         "the state of 1 bucket, 64 bytes: their state_version is 1, its own 2, and it has no"),
        (lost(buckets=37, places=2, bytes=5000), "the state of 37 buckets and 2 workers, 5000"),
        (lost(places=1, bytes=8, others=1), "they belong to a plugin of another name"),
        (lost(buckets=3, bytes=8, bucket_room=80), '(bucket_state = 80, or "auto", reserves it'),
        (lost(places=3, bytes=8, place_room=96), '(state = 96, or "auto", reserves it'),
    ],
)  # fmt: skip
def test_what_a_version_would_forget_is_said(found: dict[str, int], said: str) -> None:
    text = forgets(found)
    assert (said in text) if said else text == ""
    assert not said or text.endswith("--forget-state allows that")


def counted(*undeclared: int, generation: int = 1, version: int = 0) -> Any:
    return {
        "generation": generation,
        "slots": [
            {"version": version, "undeclared": n, "undeclared_first": 20, "undeclared_last": 23,
             "undeclared_len": 60, "undeclared_port": 1, "undeclared_head": "0a0b"}
            for n in undeclared
        ],
    }  # fmt: skip


def test_undeclared_writes_are_told_once_for_each_worker_and_version() -> None:
    one = UndeclaredWrites(["fw/0", "fw/1"], ["wan", "lan"])
    assert one.observe(counted(0, 0), 0.0) == []
    ((slot, told),) = one.observe(counted(0, 5), 1.0)
    assert (slot, told["name"], told["packets"], told["length"]) == (1, "fw/1", 5, 60)
    assert told["port"] == "lan" and "bytes 20 to 23" in told["message"]
    assert "0a0b" in told["message"]
    assert one.observe(counted(0, 50), 2.0) == []
    assert [slot for slot, _ in one.observe(counted(3, 90), 3.0)] == [0]
    assert [slot for slot, _ in one.observe(counted(3, 95, version=1), 4.0)] == [1]
    assert [slot for slot, _ in one.observe(counted(3, 96), QUIET_S + 5.0)] == [1]
    # The primary of an older dpsup counts none.
    older: Any = {"generation": 1, "slots": [{"version": 0}]}
    assert UndeclaredWrites(["fw/0"], []).observe(older, 0.0) == []
