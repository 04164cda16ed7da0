# SPDX-License-Identifier: BSD-3-Clause
"""Live tables in a topology: how they are declared, checked and planned."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from unit.fakehost import FILE, MINIMAL, FakeHost, machine

from dpsup import limits
from dpsup.check.topology import check
from dpsup.errors import Problem
from dpsup.host.machine import Host
from dpsup.plan.diff import Class, diff
from dpsup.plan.place import make_plan
from dpsup.supervisor.adopt import plan_of
from dpsup.tables.model import FILE_HEAD, Table, declare
from dpsup.topology.load import load
from dpsup.topology.model import Topology

ROUTES = '{ routes = { kind = "ipv4", entries = "1k", file = "routes.txt" } }'
GROUP = '[[workers]]\nname = "fw"'


def text(tables: str) -> str:
    assert GROUP in MINIMAL
    return MINIMAL.replace(GROUP, f"{GROUP}\ntables = {tables}")


def read(tables: str) -> tuple[Topology | None, list[Problem]]:
    return load(FILE, machine(text(tables)))


def test_a_plan_says_where_tables_lie_and_what_they_are() -> None:
    topology, problems = read(ROUTES)
    assert topology is not None, problems
    plan = make_plan(topology, machine())
    group = plan.groups[0]
    words = ("routes", "ipv4", "1000", "", "u32", "/etc/dpsup/routes.txt", "", "", "0")
    assert group.tables == (words,)
    assert dict(group.args)[limits.TABLES] == f"{plan.runtime_dir}/tables/fw"
    assert plan_of(json.loads(json.dumps(dataclasses.asdict(plan)))) == plan
    assert limits.TABLES not in dict(make_plan(read("{}")[0] or topology, machine()).groups[0].args)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("7", "must be a table"),
        ("{ routes = 7 }", "declared as a table"),
        ('{ "a/b" = { kind = "ipv4", entries = 1 } }', "cannot be a table's name"),
        ("{ routes = { entries = 5 } }", "has no `kind`"),
        ('{ routes = { kind = "ipv4" } }', "has no `entries`"),
        ('{ routes = { kind = "ipv5", entries = 5 } }', "no table of the kind"),
        ('{ routes = { kind = 4, entries = 5 } }', "must be a text"),
        ('{ r = { kind = "own", entries = 5, key = "u8" } }', "needs `bytes`"),
        ('{ r = { kind = "own", entries = 5, key = "u8", bytes = "4 MB" } }', "a size is wanted"),
        ('{ r = { kind = "own", entries = 5, key = "u8", bytes = 0 } }', "a size is wanted"),
        ('{ r = { kind = "own", entries = 5, key = "u8", bytes = 8, learn = true } }', "cannot"),
        ('{ r = { kind = "ipv4", entries = 5, bytes = 8 } }', "no `bytes` to declare"),
        ('{ routes = { kind = "ipv4", entries = "5X" } }', "is not a number of entries"),
        ('{ routes = { kind = "ipv4", entries = 5, keys = "mac" } }', "did you mean `key`"),
        ('{ routes = { kind = "exact", entries = 5 } }', "needs the type of its key"),
        ('{ routes = { kind = "ipv4", entries = 5, value = "u64" } }', "is too long"),
        ('{ routes = { kind = "ipv4", entries = 5, file = "" } }', "must be a text"),
        ('{ routes = { kind = "ipv4", entries = 5, learn = "yes" } }', "true or false"),
        ('{ routes = { kind = "ipv4", entries = 5, persist = 1 } }', "true or false"),
        ('{ routes = { kind = "ipv4", entries = 5, age = "5s" } }', "learns nothing"),
        ('{ routes = { kind = "ipv4", entries = 5, learn = true, age = 5 } }', "not a duration"),
        ('{ routes = { kind = "ipv4", entries = 5, learn = true, age = "9ms" } }', "too short"),
        ('{ routes = { kind = "array", entries = 5, learn = true } }', "it is an array"),
        ('{ control = { kind = "array", entries = 5 } }', "cannot be a table's name"),
    ],
)  # fmt: skip
def test_a_faulty_declaration_is_told_with_its_line(tables: str, said: str) -> None:
    topology, problems = read(tables)
    assert topology is None
    assert len(problems) == 1
    found = problems[0]
    assert said in str(found)
    assert found.source.startswith("tables = ")


def test_what_learns_and_what_persists_and_an_operators_words() -> None:
    tables = """{
        a = { kind = "ipv4", entries = 5, learn = true },
        b = { kind = "ipv6", entries = 5, learn = true, age = "5m", persist = true },
        c = { kind = "ipv6", entries = 5, learn = false, persist = false },
    }""".replace("\n", " ").replace(",     }", " }")  # fmt: skip
    topology, problems = load(FILE, machine(text(tables) + "\ncontrol = true"))
    assert topology is not None, problems
    host = machine()
    group = make_plan(topology, host).groups[0]
    assert [one[6:8] for one in group.tables] == [
        ("learn 0", ""),
        ("learn 300", f"/var/lib/dpsup/{topology.name}/tables/fw=b"),
        ("", ""),
        ("control", ""),
    ]
    name, kind, entries, key, value, *_ = group.tables[3]
    record = declare(name, kind, int(entries), key=key, value=value).value
    assert sum(part.size for part in record) == 1024
    # In a directory of one's own; and without tables, for the words alone.
    own = text(tables) + '\n[host]\ntables_dir = "kept"\n'
    topology, _ = load(FILE, machine(own))
    assert topology is not None
    assert make_plan(topology, host).groups[0].tables[1][7] == "/etc/dpsup/kept/fw=b"
    topology, _ = load(FILE, machine(MINIMAL.replace(GROUP, f"{GROUP}\ncontrol = true")))
    assert topology is not None
    group = make_plan(topology, host).groups[0]
    assert [one[0] for one in group.tables] == ["control"]
    assert limits.TABLES in dict(group.args)


def test_too_many_tables_are_refused() -> None:
    one = '= { kind = "ipv4", entries = 1 }'
    many = ", ".join(f"t{i} {one}" for i in range(limits.TABLES_MOST + 1))
    assert "too many" in str(read(f"{{ {many} }}")[1][0])
    most = ", ".join(f"t{i} {one}" for i in range(limits.TABLES_MOST))
    assert read(f"{{ {most} }}")[0] is not None


def test_no_argument_has_the_key_of_the_tables() -> None:
    faulty = MINIMAL.replace(GROUP, f'{GROUP}\nargs = {{ "tables:" = "x" }}')
    topology, problems = load(FILE, machine(faulty))
    assert topology is None
    assert "stands for the group's tables" in str(problems[0])


def test_a_table_s_file_is_checked_line_by_line() -> None:
    topology, _ = read(ROUTES)
    assert topology is not None

    def found(content: str | None) -> list[str]:
        files = {FILE: text(ROUTES)}
        if content is not None:
            files["/etc/dpsup/routes.txt"] = content
        host = machine(text(ROUTES), files=files)
        return [str(p) for p in check(topology, host) if p.code.startswith("E052")]

    assert found("10.0.0.0/8 7\n") == []
    assert "cannot read /etc/dpsup/routes.txt" in found(None)[0]
    wrong = found("10.0.0.0/8 7\n10.0.0.1/8 7\n10.0.0.0/8 8\n")
    assert len(wrong) == 2
    assert "/etc/dpsup/routes.txt:2" in wrong[0]
    assert "first in line 1" in wrong[1]


class Files(FakeHost):
    """A machine whose files of tables are on this one's disk."""

    def read_data(self, path: str, most: int) -> str:
        return Host.read_data(self, path, most)


def on_disk(folder: Path, entries: str) -> tuple[Topology, Host]:
    """A topology with a file of routes in a directory, on a machine that reads files."""
    declared = ROUTES.replace("1k", entries).replace("routes.txt", str(folder / "routes.txt"))
    topology, problems = load(FILE, machine(text(declared)))
    assert topology is not None, problems
    return topology, Files(
        **{f.name: getattr(machine(), f.name) for f in dataclasses.fields(FakeHost)}
    )


def test_a_large_file_of_a_table_is_checked_to_its_end(tmp_path: Path) -> None:
    topology, host = on_disk(tmp_path, "10k")
    comment = f"#{'x' * 1022}\n"
    # A topology file may have 4 MiB.
    (tmp_path / "routes.txt").write_text(f"{comment * 5120}10.0.0.0/8 1\n10.0.0.0/99 1\n")
    found = [p for p in check(topology, host) if p.code.startswith("E052")]
    assert [p.line for p in found] == [5122]
    # `reload` leaves them to the builder, which is another process.
    assert not [p for p in check(topology, host, tables=False) if p.code.startswith("E052")]


def test_a_fifo_as_the_file_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    topology, host = on_disk(tmp_path, "1k")
    os.mkfifo(tmp_path / "routes.txt")
    found = [p for p in check(topology, host) if p.code == "E0521"]
    assert len(found) == 1 and "not a regular file" in found[0].message


@pytest.mark.parametrize(
    "table",
    [
        declare("t", "ipv6", 1),
        declare("t", "array", 1, value="hex65536"),
        declare("t", "exact", 1, key="+".join(["ipv6"] * 4), value="u64"),
    ],
)
def test_a_table_s_longest_line_fits_its_file(table: Table) -> None:
    longest = {"ipv6": "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "u64": f"0x{'0' * 16}"}
    words = [longest.get(p.name, "0" * (2 * p.size)) for p in (*table.key, *table.value)]
    assert len(" ".join(words)) < table.file_most - FILE_HEAD


def test_another_declaration_needs_a_restart() -> None:
    old, new = read(ROUTES)[0], read(ROUTES.replace("1k", "2k"))[0]
    assert old is not None
    assert new is not None
    changes = diff(old, new)
    assert [(c.key, c.kind) for c in changes] == [("workers.fw.tables", Class.RESTART)]
    assert "routes" in str(changes[0])
