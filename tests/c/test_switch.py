# SPDX-License-Identifier: BSD-3-Clause
"""The function `switch`, by `dpsup try`: which ports a frame leaves by, and with which tag.
Addresses stand in the table here; tests/system/test_switch.py has what workers learn."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet
from tried import Step, Tried

ALL = "ff:ff:ff:ff:ff:ff"
ONE = "02:00:00:00:00:01"


def switch(
    tmp_path: Path, args: str = "", macs: str = "", ports: tuple[str, ...] = ("a", "b", "c")
) -> Tried:
    (tmp_path / "macs.txt").write_text(macs)
    group = f"""state = "auto"
args = {{ {args} }}
[workers.tables.macs]
kind = "exact"
key = "be16+mac"
value = "port"
entries = "1k"
learn = true
age = "300s"
file = "{tmp_path}/macs.txt"
"""
    return Tried(tmp_path, "switch", ports, group)


def frame(dst: str = ALL, src: str = ONE, tag: int | None = None, prio: int = 0) -> Packet:
    ether = Ether(dst=dst, src=src)
    if tag is not None:
        ether /= Dot1Q(vlan=tag, prio=prio)
    return ether / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / bytes(26)


def form(packet: Packet) -> tuple[int, int] | None:
    return (packet[Dot1Q].vlan, packet[Dot1Q].prio) if Dot1Q in packet else None


def test_a_frame_goes_where_its_address_is_and_else_to_all(tmp_path: Path) -> None:
    trial = switch(tmp_path, macs=f"0,{ONE} a\n0,02:00:00:00:00:02 b\n0,02:00:00:00:00:03 c\n")
    steps: list[Step] = [
        (0, "a", frame("02:00:00:00:00:02")),
        (0, "a", frame("02:00:00:00:00:03", tag=7)),
        (0, "a", frame("02:00:00:00:00:01")),  # hairpin
        (0, "a", frame("02:00:00:00:00:09")),
        (0, "a", frame("01:00:5e:00:00:01")),
        *((0, "a", frame(f"01:80:c2:00:00:{i:02x}")) for i in range(17)),
        (0, "a", frame(src="03:00:00:00:00:01")),
        (0, "a", frame(src="00:00:00:00:00:00")),
        (0, "a", bytes(frame())[:13]),
    ]
    doc, left = trial.run(steps, "--kill-sweep")
    to = [[port for port, p in left if p.dst == dst] for dst in
          ("02:00:00:00:00:02", "02:00:00:00:00:03", "01:80:c2:00:00:10")]  # fmt: skip
    assert to[:2] == [["b"], ["c"]]
    assert doc["counters"]["flooded"] == 3 and doc["counters"]["flooded_copies"] == 6
    assert doc["counters"]["learned"] == 0, "the table has the source"
    assert {k: n for k, n in doc["dropped"].items() if n} == {
        "reserved": 16, "same_port": 1, "malformed": 3,
    }  # fmt: skip
    assert doc["sweep"]["points"] > 20


MODES = {
    "access": ('access.{p} = 10', 10, {10: False}),
    "other": ('access.{p} = 20', 20, {20: False}),
    "trunk": ('trunk.{p} = "10,30-32"', None, {10: True, 30: True, 31: True, 32: True}),
    "native": ('trunk.{p} = "20", native.{p} = 10', 10, {10: False, 20: True}),
    "all": ('trunk.{p} = "all"', None, dict.fromkeys(range(1, 4095), True)),
    "default": ("", 1, {1: False}),
}  # fmt: skip


def test_vlans_of_each_mode_to_each_mode(tmp_path: Path) -> None:
    """One port in for each mode, one out for each; a frame without a tag, and with several."""
    names = [f"{way}{mode}" for mode in MODES for way in ("i", "o")]
    args = ", ".join(MODES[n[1:]][0].format(p=n) for n in names if MODES[n[1:]][0])
    trial = switch(tmp_path, args, ports=tuple(names))
    tags = (None, 0, 1, 10, 20, 30, 33, 4095)
    steps: list[Step] = []
    expected: dict[str, set[tuple[str, tuple[int, int] | None]]] = {}
    for i, (mode, tag) in enumerate(itertools.product(MODES, tags)):
        src = f"02:00:00:00:01:{i:02x}"
        steps.append((i, f"i{mode}", frame(src=src, tag=tag, prio=0 if tag is None else 5)))
        _, pvid, carried = MODES[mode]
        vlan = tag or pvid
        is_access = mode in ("access", "other", "default")
        expected[src] = set()
        if vlan not in carried or (is_access and tag):
            continue
        for name in names:
            is_tagged = MODES[name[1:]][2].get(vlan)
            if is_tagged is not None and name != f"i{mode}":
                prio = 0 if tag is None else 5
                expected[src].add((name, (vlan, prio) if is_tagged else None))
    _, left = trial.run(steps)
    seen: dict[str, list[tuple[str, tuple[int, int] | None]]] = {src: [] for src in expected}
    for port, packet in left:
        seen[packet.src].append((port, form(packet)))
        assert bytes(packet[IP]) == bytes(frame()[IP])
    assert {src: set(to) for src, to in seen.items()} == expected
    assert all(len(set(to)) == len(to) for to in seen.values()), "one copy a port"


def test_unicast_has_the_tag_of_its_port_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    macs = "".join(
        f"{v},02:00:00:00:00:0{i} {p}\n" for i, p in ((2, "b"), (3, "c")) for v in (10, 20)
    )
    args = 'access.a = 10, trunk.b = "10,20", trunk.c = "all", native.c = 10'
    steps: list[Step] = [
        (0, "a", frame("02:00:00:00:00:02")),
        (0, "b", frame("02:00:00:00:00:03", tag=10)),
        (0, "b", frame("02:00:00:00:00:03", tag=20, prio=3)),
        (0, "c", frame("02:00:00:00:00:02", tag=0, prio=6)),
        (0, "b", frame("02:00:00:00:00:03", tag=30)),
        (0, "b", frame("02:00:00:00:00:03")),
        (0, "b", bytes(frame(tag=10))[:16]),
    ]
    doc, left = switch(tmp_path, args, macs).run(steps, "--kill-sweep")
    assert [(port, form(p)) for port, p in left] == [
        ("b", (10, 0)), ("c", None), ("c", (20, 3)), ("b", (10, 6)),
    ]  # fmt: skip
    assert {k: n for k, n in doc["dropped"].items() if n} == {"vlan": 2, "malformed": 1}


def test_a_storm_has_its_rate(tmp_path: Path) -> None:
    steps: list[Step] = [(i / 1000, "a", frame()) for i in range(2001)]
    steps += [(2.001, "b", frame(src="02:00:00:00:00:02"))]
    doc, _ = switch(tmp_path, "storm = 100").run(steps, "--burst", "1")
    # 100 at once and 100 a second; b has its own
    assert abs(doc["counters"]["flooded"] - 301) <= 2
    assert doc["dropped"]["storm"] == 2002 - doc["counters"]["flooded"]


def test_an_address_that_flaps_is_held_where_it_was(tmp_path: Path) -> None:
    steps: list[Step] = [(i / 1000, "ab"[i % 2], frame()) for i in range(20)]
    steps += [(1, "c", frame()), (5, "a", frame()), (12, "b", frame())]
    doc, _ = switch(tmp_path, "flaps = 3").run(steps, "--burst", "1", "--kill-sweep")
    # The fourth move begins ten seconds in which b and c are refused; a is where it was.
    assert doc["counters"]["loops"] == 1
    assert doc["counters"]["moved"] == 4 and doc["counters"]["learned"] == 2
    assert doc["dropped"]["loop"] == 8 + 1
    assert doc["counters"]["flooded"] == len(steps) - 9


def test_sixteen_ports_of_two_forms_get_a_frame_each(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(16)]
    for tagged in (1, 7, 8, 14):
        args = ", ".join(f'trunk.p{i} = "1"' for i in range(1, 1 + tagged))
        doc, left = switch(tmp_path, args, ports=tuple(names)).run([(0, "p0", frame())])
        assert doc["counters"]["flooded_copies"] == 15 and doc["counters"]["not_copied"] == 0
        assert sorted(port for port, _ in left) == sorted(names[1:])
        assert all((form(p) is not None) == (int(port[1:]) <= tagged) for port, p in left)


WRONG = [
    ("access.d = 1", "has no port"),
    ("access.a = 0", "is not a VLAN"),
    ("access.a = 4095", "is not a VLAN"),
    ('trunk.a = "10-5"', "neither a VLAN"),
    ('trunk.a = "x"', "neither a VLAN"),
    ("native.a = 1", "only a trunk"),
    ('trunk.a = "1", access.a = 1', "write one of them"),
    ('ports = "a,a"', "stands there twice"),
    ('ports = "x"', "there is no port"),
    ('storm = "x"', "write a number"),
    ("age = 1", "it has no argument"),
]


@pytest.mark.parametrize(("args", "why"), WRONG, ids=[args for args, _ in WRONG])
def test_wrong_arguments_are_refused_with_a_reason(tmp_path: Path, args: str, why: str) -> None:
    assert why in switch(tmp_path, args).refusal()
