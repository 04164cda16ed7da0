# SPDX-License-Identifier: BSD-3-Clause
"""CPUs and PCI addresses that a topology leaves to the machine."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unit.fakehost import FILE, MINIMAL, FakeHost, machine, swap

from dpsup.check.topology import check, prepare
from dpsup.errors import Exit, Problem, TopologyError
from dpsup.host.machine import PciDevice, read_host
from dpsup.instance import remains
from dpsup.plan.place import make_plan
from dpsup.topology.load import load, parse, read
from dpsup.topology.model import Topology

AUTO = swap(MINIMAL, 'cores = "1"', 'cores = "auto"').replace(
    "[mempools.default]", '[host]\nsupervisor_cores = "auto"\n[mempools.default]'
)
WAN, LAN = "0000:3b:02.0", "0000:3b:0a.1"
PCI = """
version = 1
name = "edge"
[mempools.default]
[[ports]]
name = "wan"
pci = "env:PCIDEVICE_EXAMPLE_COM_WAN"
[[ports]]
name = "lan"
pci = "env:PCIDEVICE_EXAMPLE_COM_WAN,representor=[0-3]"
[[io]]
cores = "1"
[[workers]]
name = "fw"
input = ["wan", "lan"]
"""


def topology_of(host: FakeHost) -> Topology:
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    return topology


def problem_of(host: FakeHost) -> Problem:
    topology, problems = load(FILE, host)
    assert topology is None
    (problem,) = problems
    return problem


def cores(host: FakeHost) -> tuple[tuple[int, ...], list[int]]:
    topology = topology_of(host)
    return topology.host.supervisor_cores, [core for core, _ in topology.io_cores]


def test_auto_takes_the_cpus_that_the_process_may_use() -> None:
    host = machine(AUTO, cpus=16, allowed=frozenset({5, 7, 11}))
    assert cores(host) == ((5,), [7])
    assert not check(topology_of(host), host)
    assert make_plan(topology_of(host), host).groups[0].cores == (11,)


def test_auto_takes_as_many_as_are_asked_for_in_the_order_of_the_file() -> None:
    text = AUTO.replace('cores = "auto"\n\n', 'cores = "auto:2"\n[[io]]\ncores = "auto:3"\n\n')
    assert cores(machine(text)) == ((0,), [1, 2, 3, 4, 5])


def test_what_the_file_gives_to_others_is_not_taken() -> None:
    text = AUTO.replace('name = "fw"', 'name = "fw"\ncores = "0-2"')
    assert cores(machine(text)) == ((3,), [4])
    text = swap(MINIMAL, 'cores = "1"', 'cores = "auto"')
    assert cores(machine(text)) == ((0,), [1]), "the supervisor's default"


def test_auto_is_near_the_ports() -> None:
    numa = {0: frozenset(range(4)), 1: frozenset(range(4, 8))}
    text = AUTO.replace('vdev = "net_null0"', 'pci = "0000:3b:00.0"')
    host = machine(text, numa=numa, pci={"0000:3b:00.0": PciDevice(1, "vfio-pci")})
    assert cores(host) == ((4,), [5])
    # A virtual device has no node: its mempool's memory does.
    text = AUTO.replace("[mempools.default]", "[mempools.default]\nnuma = 1")
    assert cores(machine(text, numa=numa)) == ((4,), [5])
    # Few are near: the others follow.
    text = AUTO.replace('cores = "auto"\n\n', 'cores = "auto:2"\n\n')
    host = machine(text, numa=numa, allowed=frozenset({1, 2, 6, 7}))
    assert cores(host) == ((1,), [2, 6])


def test_io_cores_have_physical_cores_of_their_own() -> None:
    pairs = {cpu: frozenset({cpu % 4, cpu % 4 + 4}) for cpu in range(8)}
    host = machine(AUTO, siblings=pairs, allowed=frozenset({2, 3, 6, 7}))
    assert cores(host) == ((2,), [3])
    host = machine(AUTO, siblings=pairs, allowed=frozenset({1, 5, 6}))
    assert cores(host) == ((1,), [6]), "5 is the supervisor's core"
    host = machine(AUTO, siblings=pairs, allowed=frozenset({1, 5}))
    assert cores(host) == ((1,), [5]), "where there is no other"


def test_too_few_cpus_are_refused_with_numbers() -> None:
    text = AUTO.replace('cores = "auto"\n\n', 'cores = "auto:2"\n\n')
    problem = problem_of(machine(text, allowed=frozenset({3, 4})))
    assert (problem.code, problem.exit_code) == ("E0481", Exit.HOST)
    assert "needs 3 CPUs" in problem.message and "2 are free" in problem.message
    assert "it has CPUs 3-4" in problem.why
    assert problem.source == 'supervisor_cores = "auto"'
    with pytest.raises(TopologyError) as raised:
        prepare(FILE, machine(text, allowed=frozenset({3, 4})))
    assert raised.value.exit_code is Exit.HOST
    assert [p.code for p in raised.value.problems] == ["E0481"]


def test_shared_cores_let_one_cpu_do() -> None:
    text = swap(AUTO, "[host]\n", "[host]\nshared_cores = true\n")
    host = machine(text, allowed=frozenset({6}))
    assert cores(host) == ((6,), [6])
    assert make_plan(topology_of(host), host).io[0].core == 6


@pytest.mark.parametrize("wrong", ["auto:0", "auto:9999", "auto:", "auto:-1", "auto,3", "AUTO"])
def test_other_words_are_refused(wrong: str) -> None:
    assert (
        load(FILE, machine(AUTO.replace('cores = "auto"\n\n', f'cores = "{wrong}"\n\n')))[0] is None
    )


def test_without_a_machine_it_stays_open() -> None:
    reading = parse(AUTO, FILE, FILE)
    assert reading.sound and reading.topology is not None
    assert reading.topology.io[0].cores == (-1,)


def test_ports_take_the_addresses_of_a_variable_in_order() -> None:
    host = machine(
        PCI,
        env={"PCIDEVICE_EXAMPLE_COM_WAN": f"{WAN}, {LAN}"},
        pci={WAN: PciDevice(0, "vfio-pci"), LAN: PciDevice(0, "vfio-pci")},
    )
    topology = topology_of(host)
    assert [port.pci for port in topology.ports] == [WAN, f"{LAN},representor=[0-3]"]
    assert not [p for p in check(topology, host) if p.exit_code is not Exit.BAD_TOPOLOGY]
    args = make_plan(topology, host).eal_args
    assert [args[i + 1] for i, word in enumerate(args) if word == "-a"] == [
        WAN,
        f"{LAN},representor=[0-3]",
    ]


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "PCIDEVICE_EXAMPLE_COM_WAN is not set"),
        ({"PCIDEVICE_EXAMPLE_COM_WAN": ""}, "PCIDEVICE_EXAMPLE_COM_WAN is empty"),
        ({"PCIDEVICE_EXAMPLE_COM_WAN": ","}, "PCIDEVICE_EXAMPLE_COM_WAN is empty"),
        ({"PCIDEVICE_EXAMPLE_COM_WAN": "eth0,0000:3b:0a.1"}, '"eth0"'),
        ({"PCIDEVICE_EXAMPLE_COM_WAN": WAN}, "holds 1 address"),
    ],
)
def test_a_variable_without_an_address_is_named(env: dict[str, str], said: str) -> None:
    host = machine(PCI, env=env, pci={WAN: PciDevice(0, ""), LAN: PciDevice(0, "")})
    reading = read(FILE, host)
    assert not reading.sound
    first = reading.problems[0]
    assert (first.code, first.exit_code, first.line > 0) == ("E0480", Exit.HOST, True)
    assert said in first.message
    with pytest.raises(TopologyError) as raised:
        prepare(FILE, host)
    assert raised.value.exit_code is Exit.HOST
    assert {p.code for p in raised.value.problems} == {"E0480"}


def test_one_device_in_two_variables_is_refused() -> None:
    text = PCI.replace("env:PCIDEVICE_EXAMPLE_COM_WAN,representor=[0-3]", "env:PCIDEVICE_LAN")
    host = machine(text, env={"PCIDEVICE_EXAMPLE_COM_WAN": WAN, "PCIDEVICE_LAN": WAN})
    assert problem_of(host).code == "E0115"


@pytest.mark.parametrize("wrong", ["env:", "env:1X", "env:A B", "env:A-B", "ENV:A", "env:A[1]"])
def test_a_name_that_is_none_is_refused(wrong: str) -> None:
    text = PCI.replace("env:PCIDEVICE_EXAMPLE_COM_WAN,representor=[0-3]", wrong)
    topology, problems = load(FILE, machine(text, env={"PCIDEVICE_EXAMPLE_COM_WAN": WAN}))
    assert topology is None and "is not a PCI address" in problems[0].message


def test_the_environment_of_this_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCIDEVICE_TEST", WAN)
    host = read_host()
    assert host.variable("PCIDEVICE_TEST") == WAN
    assert host.variable("PCIDEVICE_NONE") is None


PINNED = """
import os
from dpsup.host import machine, process
before = os.sched_getaffinity(0)
process.pin((min(before),))
assert os.sched_getaffinity(0) == {min(before)}
assert machine.read_host().allowed == before, machine.read_host().allowed
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU")
def test_a_pinned_supervisor_still_knows_its_cpus() -> None:
    """It plans the next generation: workers would share its CPU."""
    words: list[Any] = [sys.executable, "-P", "-c", PINNED]
    subprocess.run(words, check=True, timeout=60)


def test_pages_that_a_process_of_elsewhere_holds_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remains, "hugetlbfs", lambda: [tmp_path])
    for name in ("dpsup-edge-g1map_0", "dpsup-edge-g3map_7", "dpsup-edge2-g1map_0", "rtemap_0"):
        (tmp_path / name).touch()
    assert remains.in_use("edge") == []
    for name in ("dpsup-edge-g3map_7", "dpsup-edge2-g1map_0"):
        fcntl.flock(os.open(tmp_path / name, os.O_RDWR), fcntl.LOCK_SH)  # as EAL does
    assert remains.in_use("edge") == [str(tmp_path / "dpsup-edge-g3map_7")]
