# SPDX-License-Identifier: BSD-3-Clause
"""Offloads of the kernel's interfaces are told with the line that switches them off."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from unit.fakehost import FILE, MINIMAL, machine

from dpsup.check.topology import check
from dpsup.doctor import devices
from dpsup.doctor.finding import Finding, Level
from dpsup.errors import Problem, Severity
from dpsup.host.offloads import Offloads, features, read
from dpsup.topology.load import load

ON = ("tx", "tso", "gso", "gro")
LINE = "ethtool -K eth1 tx off tso off gso off gro off"


def judged(vdev: str, found: Offloads | None) -> tuple[list[Problem], list[Finding]]:
    text = MINIMAL.replace("net_null0", vdev)
    features = {} if found is None else {"eth1": found}
    base = machine(text)
    drivers = {**base.pmds, "net_af_packet": "iface=<s>", "net_tap": "iface=<s> remote=<s>",
               "net_af_xdp": "iface=<s>"}  # fmt: skip
    host = dataclasses.replace(
        base, features=features, interfaces=frozenset({"eth1"}), pmds=drivers
    )
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    needs: Any = SimpleNamespace(topology=topology)
    at: Any = SimpleNamespace(host=host)
    told = [p for p in check(topology, host) if p.code == "D29"]
    return told, list(devices.offloads(at, needs))


@pytest.mark.parametrize(
    "vdev",
    ["net_af_packet0,iface=eth1", "net_tap0,iface=t0,remote=eth1", "net_pcap0,iface=eth1"],
)
def test_what_is_on_is_told_with_its_command(vdev: str) -> None:
    (problem,), (finding,) = judged(vdev, Offloads(ON))
    assert problem.severity is Severity.WARNING and problem.help == LINE
    assert LINE in problem.in_one_line, "a start shows no more than one line"
    assert finding.level is Level.WARN and finding.fix == (LINE,) and not finding.manual


def test_both_ends_of_a_veth_pair_count() -> None:
    there = Offloads((), "eth1p", ("tx", "tso"), is_veth=True)
    (problem,), (finding,) = judged("net_af_packet0,iface=eth1", there)
    assert problem.help == "ethtool -K eth1p tx off tso off"
    assert finding.fix == ("ethtool -K eth1p tx off tso off",)
    elsewhere = Offloads(("gro",), is_veth=True)
    (problem,), (finding,) = judged("net_af_packet0,iface=eth1", elsewhere)
    assert finding.fix == ("ethtool -K eth1 gro off",)
    ends = "other end, in that network namespace: ethtool -K NAME tx off tso off gso off"
    assert ends in problem.help and ends in finding.manual


def test_what_is_off_or_unknown_or_goes_past_the_kernel_is_no_fault() -> None:
    problems, (finding,) = judged("net_af_packet0,iface=eth1", Offloads(()))
    assert not problems and finding.level is Level.OK
    for vdev in ("net_af_xdp0,iface=eth1", "net_null0"):
        problems, (finding,) = judged(vdev, Offloads(ON))
        assert not problems and finding.level is Level.OK
    problems, (finding,) = judged("net_af_packet0,iface=eth1", None)  # another machine's files
    assert not problems and finding.level is Level.SKIP
    problems, (finding,) = judged("net_af_packet0,iface=eth1", Offloads((), is_veth=True))
    assert not problems and finding.level is Level.INFO and "ethtool" in finding.read


def test_this_machine_answers() -> None:
    assert set(features("lo")) <= {"tx", "tso", "gso", "gro", "lro"}
    assert "gso" in features("lo") or features("lo") == ()
    assert features("no-such-one") == ()
    assert read("lo").peer == "" and not read("lo").is_veth


SWITCH = """
version = 1
name = "edge"
[[ports]]
name = "a"
vdev = "net_af_packet0,iface=eth1"
[[ports]]
name = "b"
vdev = "net_af_packet1,iface=eth2"
[[io]]
cores = "1"
[[workers]]
name = "switch"
plugin = "switch"
input = ["a", "b"]
ARGS
[workers.tables.macs]
kind = "exact"
key = "be16+mac"
value = "port"
entries = "1k"
learn = true
[mempools.default]
mbufs = 8191
"""


@pytest.mark.parametrize(
    ("one", "other", "args", "why"),
    [
        (Offloads((), "eth2", is_veth=True), Offloads((), "eth1", is_veth=True), "", "one veth"),
        (Offloads((), bridge="br0"), Offloads((), bridge="br0"), "", "bridge br0"),
        (Offloads((), bridge="br0"), Offloads((), bridge="br1"), "", ""),
        (Offloads((), "v1", is_veth=True), Offloads((), "v2", is_veth=True), "", ""),
        (Offloads((), bridge="br0"), Offloads((), bridge="br0"), "access = { a = 1, b = 2 }", ""),
        (
            Offloads((), bridge="br0"),
            Offloads((), bridge="br0"),
            "access = { a = 1, b = 1 }",
            "br0",
        ),
    ],
)
def test_a_loop_of_a_switch_is_seen(one: Offloads, other: Offloads, args: str, why: str) -> None:
    text = SWITCH.replace("ARGS", f"args = {{ {args} }}" if args else "")
    base = machine(text)
    host = dataclasses.replace(
        base, features={"eth1": one, "eth2": other}, interfaces=frozenset({"eth1", "eth2"}),
        pmds={**base.pmds, "net_af_packet": "iface=<s>"},
    )  # fmt: skip
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    told = [p for p in check(topology, host) if p.code == "E0455"]
    assert [p.message for p in told] == [m for p in told if why and why in (m := p.message)]
    assert bool(told) == bool(why)
