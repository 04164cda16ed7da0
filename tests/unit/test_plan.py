# SPDX-License-Identifier: BSD-3-Clause
"""What a start will do."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.fakehost import FILE, FULL, GIB, MIB, MINIMAL, FakeHost, machine, swap

from dpsup import limits
from dpsup.host.machine import Host, Hugetlbfs, Pages, PciDevice
from dpsup.plan.memory import buckets_bytes, pool_bytes, slot_bytes
from dpsup.plan.model import Plan
from dpsup.plan.place import driver_of, make_plan
from dpsup.plan.text import format_plan
from dpsup.text import ranges
from dpsup.topology.load import load
from dpsup.topology.model import Group, Mempool, Topology


def read(text: str, host: Host) -> Topology:
    topology, problems = load(FILE, host)
    assert topology is not None, "\n".join(map(str, problems))
    return topology


def plan_of(text: str, generation: int = 1, **changes: Any) -> Plan:
    host = machine(text, **changes)
    return make_plan(read(text, host), host, generation)


def test_plan_of_the_minimal_file() -> None:
    plan = plan_of(MINIMAL, generation=7)
    assert (plan.name, plan.generation, plan.topology_file) == ("edge", 7, FILE)
    assert (plan.runtime_dir, plan.file_prefix) == ("/run/dpsup/edge", "dpsup-edge-g7")
    (io,) = plan.io
    assert (io.index, io.lcore, io.core, io.burst, io.idle) == (0, 1, 1, 32, "adaptive")
    (port,) = plan.ports
    assert (port.device, port.driver, port.pool, port.group) == ("net_null0", "net_null", 0, 0)
    assert port.rx_free is port.rx_drop is port.tx_free is None
    (group,) = plan.groups
    assert (group.first_slot, group.count, group.max, group.cores) == (0, 1, 1, (2,))
    assert (group.intensity, group.period, group.stall_after) == (5.0, 60.0, 0.2)
    assert (plan.n_slots, plan.supervisor_cores) == (1, (0,))
    size = plan.memory.total // MIB
    assert plan.eal_args == (
        "--proc-type=primary",
        "--file-prefix=dpsup-edge-g7",
        "--lcores=0@0,1@1",
        "--main-lcore=0",
        f"--socket-mem={size}",
        f"--socket-limit={size}",
        "--huge-dir=/dev/hugepages",
        "--no-pci",
    )


def test_plan_of_the_full_file() -> None:
    text = swap(FULL, "eal_extra = []", 'eal_extra = ["-n", "4"]')
    text = swap(text, 'cores = "1"', 'cores = "1-2"')
    text = swap(text, 'supervisor_cores = "0"', 'supervisor_cores = "0,3"')
    plan = plan_of(text + '[[workers]]\nname = "b"\nplugin = "x.so"\ninput = []\n')
    assert [(io.index, io.lcore, io.core) for io in plan.io] == [(0, 1, 1), (1, 2, 2)]
    assert "--lcores=0@(0,3),1@1,2@2" in plan.eal_args
    assert plan.eal_args[-4:] == ("-a", "0000:3b:00.0", "-n", "4")
    wan, lan = plan.ports
    assert (wan.device, wan.driver, wan.group) == ("0000:3b:00.0", "", 0)
    assert (wan.rx_free, wan.rx_drop, wan.tx_free) == (32, False, 32)
    assert (lan.device, lan.driver, lan.group) == ("net_pcap0", "net_pcap", 0)
    assert (wan.vdev, lan.vdev) == (
        "",
        "net_pcap0,rx_pcap=/etc/dpsup/in.pcap,tx_pcap=/etc/dpsup/out.pcap",
    )
    first, second = plan.groups
    assert (first.first_slot, second.first_slot, plan.n_slots) == (0, 4, 5)
    assert first.args == (("map.wan", "lan"), ("map.lan", "wan"))
    assert (first.plugin, first.plugin_path) == ("macswap", "")
    assert (second.plugin, second.plugin_path) == ("/etc/dpsup/x.so", "/etc/dpsup/x.so")


def test_port_that_feeds_no_group() -> None:
    plan = plan_of(swap(FULL, 'input = ["wan", "lan"]', 'input = ["lan"]'))
    assert [port.group for port in plan.ports] == [-1, 0]


@pytest.mark.parametrize(
    ("cpus", "workers", "cores"),
    [
        (8, "count = 3\nmax = 5", [(2, 3, 4, 5, 6)]),
        (4, "count = 3\nmax = 5", [(2, 3, 2, 3, 2)]),
        (2, "count = 3", [(0, 0, 0)]),
        (8, 'count = 2\nmax = 5\ncores = "6,3"', [(6, 3, 6, 3, 6)]),
        # Those that start choose before those that may come.
        (6, 'max = 3\n[[workers]]\nname = "b"\ncount = 2\ninput = []', [(2, 5, 2), (3, 4)]),
        # Named CPUs are left to whom they are named for.
        (5, 'cores = "2"\n[[workers]]\nname = "b"\ncount = 2\ninput = []', [(2,), (3, 4)]),
        (3, 'cores = "2"\n[[workers]]\nname = "b"\ninput = []', [(2,), (2,)]),
    ],
)
def test_cpus_of_workers(cpus: int, workers: str, cores: list[tuple[int, ...]]) -> None:
    plan = plan_of(MINIMAL + 'input = ["wan"]\n' + workers + "\n", cpus=cpus)
    assert [group.cores for group in plan.groups] == cores


def test_machine_of_one_cpu_still_has_a_plan() -> None:
    plan = plan_of(swap(MINIMAL, 'cores = "1"', 'cores = "0"'), cpus=1)
    assert plan.groups[0].cores == (0,)
    assert "--lcores=0@0,1@0" in plan.eal_args


def test_workers_stay_on_allowed_cpus_near_their_packets() -> None:
    numa = {0: frozenset(range(4)), 1: frozenset(range(4, 8))}
    text = swap(MINIMAL, "[mempools.default]", "[mempools.default]\nnuma = 1") + "count = 5\n"
    plan = plan_of(text, numa=numa, allowed=frozenset({0, 1, 2, 3, 5, 6}))
    assert plan.groups[0].cores == (5, 6, 2, 3, 5)


@pytest.mark.parametrize(
    ("env", "root", "key", "folder"),
    [
        ({}, True, "auto", "/run/dpsup/edge"),
        ({"RUNTIME_DIRECTORY": "/run/a"}, True, "auto", "/run/a"),
        ({"RUNTIME_DIRECTORY": "/run/a:/run/b"}, True, "auto", "/run/a"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, True, "auto", "/run/dpsup/edge"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, False, "auto", "/run/user/7/dpsup/edge"),
        ({}, False, "auto", "/tmp/dpsup-7/edge"),
        ({"RUNTIME_DIRECTORY": "/run/a"}, True, "here", "/etc/dpsup/here"),
        ({"RUNTIME_DIRECTORY": "/run/a"}, True, "/there", "/there"),
    ],
)
def test_runtime_folder(env: dict[str, str], root: bool, key: str, folder: str) -> None:
    text = swap(FULL, 'runtime_dir = "auto"', f'runtime_dir = "{key}"')
    assert plan_of(text, env=env, is_root=root, uid=0 if root else 7).runtime_dir == folder


@pytest.mark.parametrize(
    ("env", "root", "key", "folder"),
    [
        ({}, True, "auto", "/var/lib/dpsup/edge/quarantine"),
        ({"STATE_DIRECTORY": "/var/lib/a:/b"}, True, "auto", "/var/lib/a/quarantine"),
        ({"HOME": "/h"}, False, "auto", "/h/.local/state/dpsup/edge/quarantine"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, False, "auto", "/s/dpsup/edge/quarantine"),
        ({}, False, "auto", "/var/tmp/dpsup-7/edge/quarantine"),
        ({"STATE_DIRECTORY": "/var/lib/a"}, True, "here", "/etc/dpsup/here"),
        ({}, True, "/there", "/there"),
    ],
)
def test_quarantine_folder(env: dict[str, str], root: bool, key: str, folder: str) -> None:
    text = swap(FULL, 'quarantine_dir = "auto"', f'quarantine_dir = "{key}"')
    assert plan_of(text, env=env, is_root=root, uid=0 if root else 7).quarantine_dir == folder


@pytest.mark.parametrize(
    ("vdev", "kernel_driver", "apart"),
    [
        ("net_null0", "", True),
        ("net_af_xdp0,iface=eth0", "", False),
        ("net_bonding0,mode=1", "", False),
        ("", "vfio-pci", True),
        ("", "", True),
        ("", "mlx5_core", False),
    ],
)
def test_headers_lie_apart_where_the_driver_does_not_mind(
    vdev: str, kernel_driver: str, apart: bool
) -> None:
    text = MINIMAL
    if vdev:
        text = text.replace("net_null0", vdev)
    else:
        text = text.replace('vdev = "net_null0"', 'pci = "0000:3b:00.0"')
    # Another pool's packets are nothing to it.
    text += "\n[mempools.other]\n"
    pmds = {name: "" for name in ("net_null", "net_af_xdp", "net_bonding")}
    plan = plan_of(text, pmds=pmds, pci={"0000:3b:00.0": PciDevice(0, kernel_driver)})
    assert [pool.apart for pool in plan.pools] == [apart, True]
    assert ("its driver wants them there" in " ".join(format_plan(plan).split())) is not apart


def test_memory_holds_what_was_measured() -> None:
    # DPDK 22.11: 16,383 headers of 3 lines of 64 bytes, and as many rooms of 35, for 2,176 bytes.
    assert 16383 * (192 + 2240) < pool_bytes(Mempool()) < 43 * MIB
    # An even number of lines gets one more.
    assert pool_bytes(Mempool(data_room=2176)) == pool_bytes(Mempool(data_room=2240))
    assert slot_bytes(Group(), 1) == 2 * MIB
    assert slot_bytes(Group(ring=32768), 2) == 4 * MIB
    assert slot_bytes(Group(state=2 * MIB), 1) == 4 * MIB
    assert buckets_bytes(Group()) == 0
    assert buckets_bytes(Group(bucket_state=48)) == 2 * MIB
    # 512 times 4096 bytes, the head of 16 included; then a line more each.
    assert buckets_bytes(Group(bucket_state=4080)) == 2 * MIB
    assert buckets_bytes(Group(bucket_state=4081)) == 4 * MIB
    memory = plan_of(FULL).memory
    assert memory.slots == (1 + 4) * 2 * MIB
    assert memory.total == memory.pools + memory.slots + memory.reserve
    assert memory.total == memory.pages_needed * memory.page_size
    assert memory.reserve >= 32 * MIB
    assert memory.pages_free == 1024


def test_memory_as_told() -> None:
    plan = plan_of(swap(FULL, 'hugepages = "auto"', 'hugepages = "513M"'))
    assert plan.memory.total == 514 * MIB
    assert "--socket-mem=514" in plan.eal_args


def test_memory_in_large_pages() -> None:
    mounts = (
        Hugetlbfs("/dev/hugepages", 2 * MIB, writable=True),
        Hugetlbfs("/mnt/ro", GIB, writable=False),
        Hugetlbfs("/mnt/rw", GIB, writable=True),
    )
    plan = plan_of(
        swap(FULL, 'page_size = "2M"', 'page_size = "1G"'),
        hugetlbfs=mounts,
        hugepages={GIB: Pages(4, 3)},
    )
    assert (plan.memory.page_size, plan.memory.pages_free) == (GIB, 3)
    assert plan.memory.total == plan.memory.pages_needed * GIB
    assert plan.hugepage_dir == "/mnt/rw"


def test_memory_of_two_nodes() -> None:
    text = swap(
        FULL, '[[ports]]\nname = "wan"', '[mempools.far]\nnuma = 1\n[[ports]]\nname = "wan"'
    )
    plan = plan_of(text, pci={"0000:3b:00.0": PciDevice(2, "")})
    (mem,) = [arg for arg in plan.eal_args if arg.startswith("--socket-mem=")]
    sizes = [int(size) for size in mem.partition("=")[2].split(",")]
    assert len(sizes) == 3
    assert sum(sizes) * MIB == plan.memory.total
    assert sizes[2] >= 32  # the device's driver
    assert mem.replace("mem", "limit") in plan.eal_args


def test_memory_is_near_what_uses_it() -> None:
    """Slots lie on the node of their group's packets; a group that others send to: of the pools."""
    numa = {0: frozenset(range(2)), 1: frozenset(range(2, 8))}
    far = swap(MINIMAL, "[mempools.default]", "[mempools.default]\nnuma = 1")
    far = swap(far, 'cores = "1"', 'cores = "2"')
    plan = plan_of(far + '[[workers]]\nname = "b"\ninput = []\n', numa=numa)
    assert [group.numa for group in plan.groups] == [1, 1]
    assert all(core in numa[1] for group in plan.groups for core in group.cores)
    assert [io.numa for io in plan.io] == [1]
    shown = " ".join(format_plan(plan).split())
    assert "CPU 2 of NUMA node 1, a queue of each port" in shown
    assert "lanes) on NUMA node 1" in shown or "lane) on NUMA node 1" in shown
    (mem,) = [arg for arg in plan.eal_args if arg.startswith("--socket-mem=")]
    assert mem.startswith("--socket-mem=8,")  # EAL's own, near the supervisor
    # Of two pools' groups, each group's slots are where its own packets are.
    ports = '[[ports]]\nname = "lan"\nvdev = "net_null1"\nmempool = "near"\n[mempools.near]\n'
    group = '[[workers]]\nname = "b"\ninput = ["lan"]\nstate = "64MiB"\n'
    two = plan_of(far + 'input = ["wan"]\n' + group + ports, numa=numa)
    assert [group.numa for group in two.groups] == [1, 0]
    without = plan_of(
        far + 'input = ["wan"]\n' + group.replace("64MiB", "64KiB") + ports, numa=numa
    )
    more, less = (
        [int(size) for size in one.eal_args[4].partition("=")[2].split(",")]
        for one in (two, without)
    )
    assert more[0] - less[0] == 64
    assert more[1] == less[1]
    assert "NUMA node 0" in " ".join(format_plan(plan_of(MINIMAL)).split())
    assert "of NUMA node" not in format_plan(plan_of(MINIMAL))


@pytest.mark.parametrize(
    ("device", "driver"),
    [
        ("net_pcap0", "net_pcap"),
        ("eth_pcap1", "net_pcap"),
        ("net_pcap_in", "net_pcap"),
        ("net_bonding0", "net_bonding"),
        ("eth_bond0", "net_bonding"),
        ("net_bogus12", "net_bogus"),
    ],
)
def test_driver_of_device(device: str, driver: str) -> None:
    assert driver_of(device, machine()) == driver


def test_plan_is_json() -> None:
    plan = plan_of(FULL)
    assert json.loads(json.dumps(dataclasses.asdict(plan)))["groups"][0]["max"] == 4


def test_state_is_reserved_and_said() -> None:
    before = plan_of(FULL).memory
    text = FULL.replace('on_full = "drop"', 'on_full = "drop"\nstate = "2MiB"\nbucket_state = 64')
    plan = plan_of(text)
    # A page more for each of four slots, and one for the group's buckets.
    assert plan.memory.slots - before.slots == (4 + 1) * 2 * MIB
    assert plan.memory.total - before.total == (4 + 1) * 2 * MIB
    said = " ".join(format_plan(plan).split())
    assert "state of 2097152 bytes a worker, 64 bytes a bucket" in said


def test_plan_for_people() -> None:
    text = format_plan(plan_of(FULL))
    for word in (
        "edge, generation 1",
        "/run/dpsup/edge",
        "CPU 1, a queue of each port",
        "16383 mbufs",
        "wan: 0000:3b:00.0, feeds fw",
        "2 workers of 4, slots 0-3",
        "CPU 2-5",
        "rings of 1024 (4 lanes)",
        "1024 free",
    ):
        assert word in " ".join(text.split()), word
    assert max(map(len, text.splitlines())) <= 80


def test_ranges() -> None:
    assert ranges(()) == ""
    assert ranges((3, 4, 5, 8, 1)) == "3-5,8,1"


NAMES = ("a", "b", "c")


@st.composite
def files(draw: st.DrawFn) -> tuple[str, FakeHost]:
    cpus = draw(st.integers(2, 16))
    io = draw(st.integers(1, min(cpus - 1, limits.IO_CORES)))
    text = swap(MINIMAL, 'cores = "1"', f'cores = "1-{io}"').rpartition("[[workers]]")[0]
    for name in NAMES[: draw(st.integers(1, 3))]:
        count = draw(st.integers(1, 9))
        text += f'[[workers]]\nname = "{name}"\ncount = {count}\n'
        text += f"max = {count + draw(st.integers(0, 9))}\n"
        text += f"ring = {draw(st.sampled_from([256, 8192]))}\n"
        text += f'cores = "{draw(st.sampled_from(["auto", "0", f"0-{cpus - 1}"]))}"\n'
    return text, machine(text, cpus=cpus)


@given(files())
@settings(max_examples=100)
def test_slots_are_numbered_and_placed(case: tuple[str, FakeHost]) -> None:
    text, host = case
    plan = make_plan(read(text, host), host)
    slots = [group.first_slot + i for group in plan.groups for i in range(group.max)]
    assert slots == list(range(plan.n_slots))
    io = {one.core for one in plan.io}
    lanes = 0
    for group in plan.groups:
        assert len(group.cores) == group.max
        assert set(group.cores) <= host.allowed
        lanes += group.max * group.ring * len(plan.io)
    assert plan.memory.slots >= lanes * 40  # a word and its meta
    auto = [
        c
        for g, t in zip(plan.groups, read(text, host).workers, strict=True)
        if not t.cores
        for c in g.cores
    ]
    assert not io & set(auto)
