# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from unit.fakehost import FILE, machine

from dpsup.errors import Problem, Severity
from dpsup.plan.place import make_plan
from dpsup.plan.text import format_plan
from dpsup.topology.chains import hops, reach
from dpsup.topology.load import load
from dpsup.topology.model import Topology

CHAIN = """
version = 1
name = "edge"
[mempools.default]
[[ports]]
name = "wan"
vdev = "net_null0"
[[ports]]
name = "lan"
vdev = "net_null1"
[[ports]]
name = "dmz"
vdev = "net_null2"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
[[workers]]
name = "nat"
plugin = "macswap"
[[workers]]
name = "log"
plugin = "sink"
input = ["dmz"]
[[chains]]
name = "main"
path = ["wan", "fw", "nat", "lan"]
on_down = "bypass"
"""


def read(text: str) -> Topology:
    topology, problems = load(FILE, machine(text))
    assert topology is not None, "\n".join(map(str, problems))
    return topology


def errors(text: str) -> list[Problem]:
    return [p for p in load(FILE, machine(text))[1] if p.severity is Severity.ERROR]


def test_a_chain_is_fed_at_both_ends_and_leads_both_ways() -> None:
    topology = read(CHAIN)
    fw, nat, log = topology.workers
    assert (fw.input, nat.input, log.input) == (("wan",), ("lan",), ("dmz",))
    # by input port: wan, lan, dmz
    assert hops(topology) == (
        (("group", 1), ("port", 0), ("", -1)),
        (("port", 1), ("group", 0), ("", -1)),
        (("", -1), ("", -1), ("", -1)),
    )
    assert reach(topology, hops(topology)) == ((0, 1), (0, 1), (2,))
    plan = make_plan(topology, machine(CHAIN))
    assert [g.on_down for g in plan.groups] == ["bypass", "bypass", "hold"]
    assert [p.group for p in plan.ports] == [0, 1, 2]


def test_a_plugin_of_ones_own_may_send_anywhere() -> None:
    topology = read(CHAIN.replace('"sink"', '"./own.so"'))
    assert reach(topology, hops(topology))[2] == (0, 1, 2)


def test_a_map_says_where_packets_go_that_bypass_a_group() -> None:
    text = CHAIN[: CHAIN.index("[[chains]]")].replace(
        'plugin = "forward"',
        'plugin = "forward"\ninput = ["wan"]\nat_zero = "bypass"\nargs = { map = { wan = "lan" } }',
    )
    assert hops(read(text))[0][0] == ("port", 1)
    (problem,) = errors(text.replace('args = { map = { wan = "lan" } }', ""))
    assert "nothing says where packets go" in problem.message


WRONG = [
    ('["wan", "fw", "nat", "lan"]', '["wan", "lan"]', "2 names"),
    ('["wan", "fw", "nat", "lan"]', '["wan", "fw", "nat", "fw", "lan"]', "`fw` twice"),
    ('["wan", "fw", "nat", "lan"]', '["wan", "fw", "lan", "nat", "dmz"]', "no group `lan`"),
    ('["wan", "fw", "nat", "lan"]', '["wan", "fw", "nta", "lan"]', "no group `nta`"),
    ('["wan", "fw", "nat", "lan"]', '["fw", "nat", "lan"]', "no port `fw`"),
    ('["wan", "fw", "nat", "lan"]', '["wan", "fw", "nat", "wan"]', "begins and ends at"),
    ('["wan", "fw", "nat", "lan"]', '["wan", "fw", "nat", "dmz"]', "port `dmz` feeds"),
    ('on_down = "bypass"', 'on_down = "skip"', 'cannot be "skip"'),
    ('on_down = "bypass"', 'on_dwon = "drop"', "unknown key `on_dwon`"),
    (
        'on_down = "bypass"',
        '[[chains]]\nname = "two"\npath = ["wan", "log", "dmz"]',
        "port `wan` is the end of two chains",
    ),
    (
        'path = ["wan", "fw", "nat", "lan"]',
        'path = ["wan", "fw", "lan"]\n[[chains]]\nname = "two"\npath = ["dmz", "log", "fw", "lan"]',
        "end of two chains",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_wrong_chain(old: str, new: str, message: str) -> None:
    assert old in CHAIN
    found = errors(CHAIN.replace(old, new, 1))
    assert any(message in p.message for p in found), found
    assert all(p.line and p.why and p.help for p in found)


def test_chains_that_share_a_group_agree_about_it() -> None:
    text = CHAIN.replace('input = ["dmz"]', "") + (
        '[[ports]]\nname = "inn"\nvdev = "net_null3"\n'
        '[[chains]]\nname = "two"\npath = ["dmz", "log", "fw", "inn"]\non_down = "drop"\n'
    )
    (problem,) = errors(text)
    assert "disagree about `on_down`" in problem.message
    assert not errors(text.replace('name = "fw"', 'name = "fw"\non_down = "hold"'))


def test_a_group_without_a_chain_has_a_rule_of_its_own() -> None:
    text = CHAIN.replace('plugin = "sink"', 'plugin = "sink"\non_down = "drop"')
    plan = make_plan(read(text), machine(text))
    assert [g.on_down for g in plan.groups] == ["bypass", "bypass", "drop"]
    assert ", down: drop" in " ".join(format_plan(plan).split())


def test_a_groups_rule_goes_before_its_chains() -> None:
    text = CHAIN.replace('name = "fw"', 'name = "fw"\non_down = "hold"')
    plan = make_plan(read(text), machine(text))
    assert [g.on_down for g in plan.groups] == ["hold", "bypass", "hold"]


@pytest.mark.parametrize("key", ["at_zero", "on_down"])
def test_a_bypass_leads_somewhere(key: str) -> None:
    text = CHAIN[: CHAIN.index("[[chains]]")].replace(
        'plugin = "forward"',
        f'plugin = "forward"\ninput = ["wan"]\n{key} = "bypass"\n'
        'args = { map = { wan = "lan" } }',
    )
    assert not errors(text)
    (problem,) = errors(text.replace('args = { map = { wan = "lan" } }', ""))
    assert problem.code == "E0132" and f'{key} = "hold"' in problem.help
