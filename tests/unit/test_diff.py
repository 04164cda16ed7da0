# SPDX-License-Identifier: BSD-3-Clause
"""What a changed file comes to: every key has a class, and is found when it changes."""

from __future__ import annotations

import dataclasses
import re

import pytest
from unit.fakehost import FILE, machine

from dpsup.plan.diff import (
    CLASSES,
    LIVE_FIELDS,
    ROLLING_FIELDS,
    Change,
    Class,
    diff,
    keep,
    keys,
    pending,
)
from dpsup.plan.model import GroupPlan
from dpsup.plan.place import make_plan
from dpsup.topology.load import load
from dpsup.topology.model import Probe, Topology

TEXT = """\
version = 1
name = "edge"
[host]
[mempools.default]
[[ports]]
name = "wan"
vdev = "net_null0"
[[ports]]
name = "lan"
vdev = "net_null1"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
input = ["wan"]
max = 8
count = 2
scale = { min = 1, max = 4 }
[[workers]]
name = "nat"
plugin = "forward"
input = ["lan"]
[[chains]]
name = "edge"
path = ["wan", "fw", "nat", "lan"]
"""

# For each key another value, and after which line it is written.
WRITE = {
    "host.supervisor_cores": ("[host]", 'supervisor_cores = "0,2"'),
    "host.hugepages": ("[host]", 'hugepages = "1024MiB"'),
    "host.eal_extra": ("[host]", 'eal_extra = ["-v"]'),
    "host.runtime_dir": ("[host]", 'runtime_dir = "/tmp/x"'),
    "host.quarantine_dir": ("[host]", 'quarantine_dir = "/tmp/x"'),
    "host.tables_dir": ("[host]", 'tables_dir = "/tmp/x"'),
    "host.shared_cores": ("[host]", "shared_cores = true"),
    "host.watch": ("[host]", "watch = true"),
    "mempools.mbufs": ("[mempools.default]", "mbufs = 8191"),
    "mempools.data_room": ("[mempools.default]", "data_room = 4096"),
    "mempools.cache": ("[mempools.default]", "cache = 128"),
    "mempools.numa": ("[mempools.default]", "numa = 1"),
    "mempools.page_size": ("[mempools.default]", 'page_size = "1G"'),
    "ports.pci": ('vdev = "net_null0"', 'pci = "0000:3b:00.0"'),
    "ports.vdev": ('vdev = "net_null0"', 'vdev = "net_null0,size=128"'),
    "ports.mempool": ("[mempools.default]", "[mempools.other]"),
    "ports.required": ('name = "lan"', "required = false"),
    "ports.descriptors.rx": ('name = "lan"', "descriptors = { rx = 512 }"),
    "ports.descriptors.tx": ('name = "lan"', "descriptors = { tx = 512 }"),
    "ports.thresholds.rx_free": ('name = "lan"', "thresholds = { rx_free = 16 }"),
    "ports.thresholds.rx_drop": ('name = "lan"', "thresholds = { rx_drop = true }"),
    "ports.thresholds.tx_free": ('name = "lan"', "thresholds = { tx_free = 16 }"),
    "ports.mtu": ('name = "lan"', "mtu = 1400"),
    "ports.promiscuous": ('name = "lan"', "promiscuous = false"),
    "ports.rss.fields": ('name = "lan"', 'rss = { fields = ["ipv4"] }'),
    "ports.rss.inner": ('name = "lan"', 'rss = { inner = ["vxlan"] }'),
    "ports.rss.fragments": ('name = "lan"', 'rss = { fragments = "track" }'),
    "ports.rss.key": ('name = "lan"', 'rss = { key = "default" }'),
    "ports.kernel": ('name = "lan"', 'kernel = "tap"'),
    "io.cores": ('cores = "1"', 'cores = "2"'),
    "io.burst": ("[[io]]", "burst = 64"),
    "io.idle": ("[[io]]", 'idle = "poll"'),
    "workers.plugin": ('plugin = "forward"', 'plugin = "macswap"'),
    "workers.args": ('name = "fw"', 'args = { map = { wan = "lan" } }'),
    "workers.tables": (
        'name = "fw"',
        'tables = { routes = { kind = "ipv4", entries = 5 } }',
    ),
    "workers.control": ('name = "fw"', "control = true"),
    "workers.verify": ('name = "fw"', "verify = true"),
    "workers.confine": ('name = "fw"', 'confine = "off"'),
    "workers.files": ('name = "fw"', 'files = { routes = "routes.txt" }'),
    "workers.count": ("count = 2", "count = 3"),
    "workers.max": ("max = 8", "max = 9"),
    "workers.spares": ('name = "fw"', "spares = 2"),
    "workers.cores": ('name = "fw"', 'cores = "3"'),
    "workers.ring": ('name = "fw"', "ring = 2048"),
    "workers.on_full": ('name = "fw"', 'on_full = "hold"'),
    "workers.state": ('name = "fw"', 'state = 4096'),
    "workers.bucket_state": ('name = "fw"', 'bucket_state = 64'),
    "workers.at_zero": ('name = "fw"', 'at_zero = "drop"'),
    "workers.on_down": ('name = "fw"', 'on_down = "drop"'),
    "workers.scale.min": ("{ min = 1, max = 4 }", "scale = { min = 2, max = 4 }"),
    "workers.scale.max": ("{ min = 1, max = 4 }", "scale = { min = 1, max = 5 }"),
    "workers.scale.target_busy": (
        "{ min = 1, max = 4 }", "scale = { min = 1, max = 4, target_busy = 0.5 }"
    ),
    "workers.scale.cooldown": (
        "{ min = 1, max = 4 }", 'scale = { min = 1, max = 4, cooldown = "9s" }'
    ),
    "workers.scale.dry_run": (
        "{ min = 1, max = 4 }", "scale = { min = 1, max = 4, dry_run = true }"
    ),
    "workers.restart.policy": ('name = "fw"', 'restart = { policy = "never" }'),
    "workers.restart.strategy": ('name = "fw"', 'restart = { strategy = "all" }'),
    "workers.restart.intensity": ('name = "fw"', "restart = { intensity = 9 }"),
    "workers.restart.period": ('name = "fw"', 'restart = { period = "9s" }'),
    "workers.restart.backoff.initial": (
        'name = "fw"', 'restart = { backoff = { initial = "9ms" } }'
    ),
    "workers.restart.backoff.factor": ('name = "fw"', "restart = { backoff = { factor = 3 } }"),
    "workers.restart.backoff.max": ('name = "fw"', 'restart = { backoff = { max = "9s" } }'),
    "workers.restart.retry": ('name = "fw"', 'restart = { retry = "1m" }'),
    "workers.restart.backoff.jitter": (
        'name = "fw"', "restart = { backoff = { jitter = 0.5 } }"
    ),
    "workers.health.stall_after": ('name = "fw"', 'health = { stall_after = "1s" }'),
    "workers.health.stopped": ('name = "fw"', 'health = { stopped = "kill" }'),
    "chains.on_down": ("path =", 'on_down = "drop"'),
    "log.level": ("path =", '[log]\nlevel = "debug"'),
    "bus.keys": ("path =", '[bus]\nkeys = "keys"'),
    "bus.admin": ("path =", '[bus]\nadmin = ["alice"]'),
    "bus.read": ("path =", '[bus]\nread = ["@monitor"]'),
    "metrics.listen": ("path =", '[metrics]\nlisten = "127.0.0.1:9464"'),
}  # fmt: skip
# Whole tables under other names or in another order, what allows no other value, and what needs
# several keys beside it.
ELSEWHERE = {
    "version", "name", "ports.name", "workers.name", "workers.input", "chains.name",
    "chains.path", "bus.endpoint", "workers.follow",
    *(f"workers.probe.{key}" for key in Probe.model_fields),
}  # fmt: skip


def topology(text: str) -> Topology:
    found, problems = load(FILE, machine(text))
    assert found is not None, "\n".join(map(str, problems))
    return found


def changed(key: str) -> str:
    """The text with another value of that key."""
    at, line = WRITE[key]
    lines = TEXT.splitlines()
    i = next(i for i, one in enumerate(lines) if at in one)
    # A key that is there is written anew.
    is_same = line.split("=")[0].strip() == lines[i].split("=")[0].strip()
    if is_same or key == "ports.pci":
        lines[i] = line
    else:
        lines.insert(i + 1, line)
    text = "\n".join(lines) + "\n"
    if key.startswith("ports.rss"):  # one hash for all ports
        text = text.replace('name = "wan"\n', f'name = "wan"\n{line}\n')
    if key == "ports.mempool":
        for old in ("wan", "lan"):
            text = text.replace(f'name = "{old}"\n', f'name = "{old}"\nmempool = "other"\n', 1)
    return text


def test_every_key_has_a_class_and_a_mutation() -> None:
    """A new key without a class, or without a case here, fails."""
    assert set(keys()) == set(CLASSES)
    assert set(keys()) == set(WRITE) | ELSEWHERE


def plain(name: str) -> str:
    """ "workers.fw.count" -> "workers.count"."""
    return re.sub(r"^(mempools|ports|io|workers|chains)\.[^.]+\.", r"\1.", name)


@pytest.mark.parametrize("key", sorted(WRITE))
def test_each_key_is_found_with_its_class_and_line(key: str) -> None:
    text = changed(key)
    old, new = topology(TEXT), topology(text)
    assert diff(old, old) == []
    found = {plain(c.key): c for c in diff(old, new)}
    if key == "ports.mempool":  # a pool of another name is another pool
        assert found["mempools"].kind is Class.RESTART
    change = found[key]
    assert change.kind is CLASSES[key]
    word = key.rpartition(".")[2]
    assert word in text.splitlines()[change.line - 1], change
    assert str(change).startswith(change.key)
    if CLASSES[key] is not Class.RESTART and key not in ("log.level", "host.watch"):
        plans = [make_plan(t, machine(TEXT)).groups for t in (old, new)]
        differing = [
            f.name
            for f in dataclasses.fields(GroupPlan)
            if [getattr(g, f.name) for g in plans[0]] != [getattr(g, f.name) for g in plans[1]]
        ]
        # What is carried out covers it.
        assert differing and set(differing) <= {*LIVE_FIELDS, *ROLLING_FIELDS, "cores"}, differing


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ({'"nat"': '"tan"'}, "workers"),
        ({'"lan"': '"len"'}, "ports"),
        ({'"edge"\npath': '"core"\npath'}, "chains"),
        ({'["lan"]': "[]", '"fw", "nat", "lan"]': '"nat", "fw", "lan"]'}, "chains.edge.path"),
        ({'cores = "1"': 'cores = "1"\n[[io]]\ncores = "2"'}, "io"),
    ],
)
def test_tables_that_come_and_go_need_a_restart(words: dict[str, str], key: str) -> None:
    text = TEXT
    for old, new in words.items():
        text = text.replace(old, new)
    if key == "chains.edge.path":
        text = text.replace('input = ["wan"]', "input = []")
    found = {c.key: c for c in diff(topology(TEXT), topology(text))}
    assert found[key].kind is Class.RESTART


def test_more_workers_than_there_is_room_for_need_a_restart() -> None:
    text = TEXT.replace("max = 8", "max = 12").replace("count = 2", "count = 10")
    text = text.replace("max = 4", "max = 12")
    found = {c.key: c for c in diff(topology(TEXT), topology(text))}
    assert found["workers.fw.count"].kind is Class.RESTART
    assert "room for 8" in found["workers.fw.count"].why
    text = TEXT.replace("max = 8", "max = 12").replace("max = 4", "max = 10")
    found = {c.key: c for c in diff(topology(TEXT), topology(text))}
    assert found["workers.fw.scale.max"].kind is Class.RESTART


def test_a_group_that_is_to_follow_its_load() -> None:
    without = TEXT.replace("scale = { min = 1, max = 4 }\n", "")
    found = {c.key: c for c in diff(topology(without), topology(TEXT))}
    assert found["workers.fw.scale.target_busy"].old is None
    assert {c.kind for c in found.values()} == {Class.LIVE}


def test_what_was_done_is_not_said_again_and_what_was_not_is() -> None:
    started = topology(TEXT)
    new = topology(TEXT.replace("count = 2", "count = 3").replace("max = 8", "max = 9"))
    assert [c.key for c in pending(started, started, new)] == [
        "workers.fw.max",
        "workers.fw.count",
    ]
    assert [c.key for c in pending(started, new, new)] == ["workers.fw.max"]
    assert [c.key for c in pending(started, new, started)] == ["workers.fw.count"]


def test_the_next_generation_keeps_what_was_changed() -> None:
    old, new = topology(TEXT), topology(changed("workers.plugin"))
    plan = make_plan(old, machine(TEXT), 2)
    now = [dataclasses.replace(g, max=99, spares=7) for g in make_plan(new, machine(TEXT)).groups]
    kept = keep(plan, now)
    assert (kept.groups[0].plugin, kept.groups[0].spares) == ("macswap", 7)
    assert kept.groups[0].max == 8 and kept.generation == 2


def test_a_change_says_itself() -> None:
    one = Change("workers.fw.args", Class.ROLLING, (), (("map.wan", "lan"),), 3)
    assert str(one) == 'workers.fw.args: [] -> { map.wan = "lan" }'
