# SPDX-License-Identifier: BSD-3-Clause
"""Tables as text: files, operations, differences; an error names its line."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsup.error_codes import CODES
from dpsup.errors import Problem
from dpsup.tables import batch, file
from dpsup.tables.batch import Operation, Verb
from dpsup.tables.fields import FIELDS, Names, Unreadable, field
from dpsup.tables.model import Entries, Key, Match, declare, entries_of

NAMES = Names(("wan", "lan"), ("fw", "nat"))
ROUTES = declare("routes", "ipv4", "1M", value="port")
ROUTES6 = declare("routes6", "ipv6", 100)
MACS = declare("macs", "exact", "10k", key="mac+be16", value="port")
HOPS = declare("hops", "array", 16, value="mac+port+u32")


def entries(table: object, text: str) -> Entries:
    reading = file.parse(text, table, NAMES, "t.txt")  # type: ignore[arg-type]
    assert not reading.problems, [str(p) for p in reading.problems]
    return reading.entries


def problems(table: object, text: str) -> list[Problem]:
    reading = file.parse(text, table, NAMES, "t.txt")  # type: ignore[arg-type]
    assert reading.problems
    assert not reading.entries
    assert all(p.file == "t.txt" and p.message and p.why and p.help for p in reading.problems)
    assert all(p.code in CODES for p in reading.problems)
    return reading.problems


def test_a_file_of_each_kind() -> None:
    text = """
    # the default, by name
    default       wan
    10.0.0.0/8    lan    # inside
    192.0.2.1     wan
    """
    assert entries(ROUTES, text) == {
        Key(bytes(4), 0): 0,
        Key(bytes([10, 0, 0, 0]), 8): 1,
        Key(bytes([192, 0, 2, 1]), 32): 0,
    }
    assert entries(ROUTES6, "::/0 1\n2001:DB8::/32 4294967294\r\n") == {
        Key(bytes(16), 0): 1,
        Key(bytes.fromhex("20010db8") + bytes(12), 32): 2**32 - 2,
    }
    assert entries(MACS, "02:00:00:00:00:01,80 lan") == {
        Key(bytes.fromhex("0200000000010050"), 64): 1
    }
    assert entries(HOPS, "7 02:00:00:00:00:01,lan,0x10\n") == {
        Key(bytes([0, 0, 0, 7]), 32): bytes.fromhex("02000000000101001000 0000".replace(" ", ""))
    }
    assert entries(ROUTES, "") == entries(ROUTES, "# nothing\n\n") == {}


@pytest.mark.parametrize(
    ("table", "line", "says", "helps"),
    [
        (ROUTES, "10.0.0.1/8 wan", "bits set behind its length", "write 10.0.0.0/8"),
        (ROUTES6, "2001:db8::1/32 1", "bits set behind its length", "write 2001:db8::/32"),
        (ROUTES, "10.0.0.0/33 wan", '"/33" is no prefix length', "/0 to /32"),
        (ROUTES, "10.0.0.0/08 wan", '"/08" is no prefix length', "/0 to /32"),
        (ROUTES, "10.0.0.0/ wan", '"/" is no prefix length', "/0 to /32"),
        (ROUTES, "10.0.0/24 wan", "is not an IPv4 address", "192.0.2.1"),
        (ROUTES, "10.0.0.300/32 wan", "is not an IPv4 address", "192.0.2.1"),
        (ROUTES, "010.0.0.0/8 wan", "is not an IPv4 address", "192.0.2.1"),
        (ROUTES, "2001:db8::/32 wan", "is an IPv6 address", "IPv4"),
        (ROUTES6, "10.0.0.0/8 1", "is an IPv4 address", "IPv6"),
        (ROUTES6, "fe80::1%eth0 1", "is not an IPv6 address", "2001:db8::1"),
        (ROUTES, "10.0.0.0/8 wam", 'there is no port "wam"', 'did you mean "wan"?'),
        (ROUTES, "10.0.0.0/8 7", "port 7 has no name in this topology", "a port: wan and lan"),
        (ROUTES, "10.0.0.0/8 zz", 'there is no port "zz"', "the ports are wan and lan"),
        (ROUTES, "10.0.0.0/8", "this one has 1 word", "a comment begins with #"),
        (ROUTES, "10.0.0.0/8 wan lan", "this one has 3 words", "a comment begins with #"),
        (ROUTES6, "::/0 4294967295", "is too large", "0 to 4294967294"),
        (ROUTES6, "::/0 4294967296", "does not fit 32 bits", "0 to 4294967295"),
        (ROUTES6, "::/0 -1", "is not a number", "0x1f"),
        (ROUTES6, "::/0 1e3", "is not a number", "0x1f"),
        (ROUTES6, "::/0 ٣", "is not a number", "0x1f"),
        (MACS, "02:00:00:00:00:01 wan", "has 1 parts, and should have 2", "mac,be16"),
        (MACS, "02:00:00:00:00,80 wan", "is not a MAC address", "02:00:00:00:00:01"),
        (MACS, "02:00-00:00:00:01,80 wan", "is not a MAC address", "02:00:00:00:00:01"),
        (MACS, "02:00:00:00:00:01,65536 wan", "does not fit 16 bits", "65535"),
        (HOPS, "16 02:00:00:00:00:01,lan,0", "has no index 16", "0 to 15"),
        (HOPS, "-1 02:00:00:00:00:01,lan,0", "is not a number", "0 or more"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(
    table: object, line: str, says: str, helps: str
) -> None:
    problem = problems(table, f"# one\n\n{line}\n")[0]
    assert says in problem.message
    assert helps in problem.help
    assert (problem.line, problem.source) == (3, line)
    assert "t.txt:3" in str(problem)


def test_a_key_that_is_there_twice_names_the_first() -> None:
    (problem,) = problems(ROUTES, "10.0.0.0/8 wan\n\n# and\n10.0.0.0/8 lan")
    assert problem.line == 4
    assert "first in line 1" in problem.message


def test_a_file_that_is_too_long_names_the_first_line_that_does_not_fit() -> None:
    small = declare("few", "ipv4", 2)
    (problem,) = problems(small, "1.0.0.0/8 1\n2.0.0.0/8 1\n3.0.0.0/8 1\n4.0.0.0/8 1\n")
    assert problem.line == 3
    assert len(entries(small, "1.0.0.0/8 1\n2.0.0.0/8 1\n")) == 2


def test_all_problems_are_found_and_the_first_are_shown() -> None:
    found = problems(ROUTES, "\x00\x1b[31m nonsense\n" * 5000)
    assert len(found) == file.MOST_PROBLEMS + 1
    assert found[0].source.isprintable()
    assert found[-1].message == "4980 more lines cannot be used"


def test_a_declaration_is_checked() -> None:
    for words, says in (
        (("t", "exakt", 5), "there is no table of the kind"),
        (("t", "exact", 5), "needs the type of its key"),
        (("t", "ipv4", 0), "is not a number of entries"),
        (("t", "ipv4", "1G"), "is not a number of entries"),
        (("t", "ipv4", True), "is not a number of entries"),
        (("t", "ipv4", "500M"), "are too many"),
    ):
        with pytest.raises(Unreadable, match=says):
            declare(*words)
    for key, value, says in (
        ("mac+hex59", "u8", "is too long"),
        ("mak", "u8", "there is no type"),
        ("mac", "u64+u8", "is too long"),
        ("mac", "hex0", "there is no type"),
    ):
        with pytest.raises(Unreadable, match=says):
            declare("t", "exact", 5, key=key, value=value)
    with pytest.raises(Unreadable, match="has no key to declare"):
        declare("t", "ipv4", 5, key="mac")
    with pytest.raises(Unreadable, match="is too long"):
        declare("t", "ipv6", 5, value="u64")
    assert [entries_of(v) for v in (1, "4096", "200k", "1M")] == [1, 4096, 200_000, 1_000_000]


# --- operations -----------------------------------------------------------------------------------


def test_operations_are_read_with_their_lines() -> None:
    text = (
        "add 10.0.0.0/8 wan\n# then\nreplace 10.0.0.0/8 lan\ndel default\nset default lan\nclear\n"
    )
    found = batch.parse(text, ROUTES, NAMES, "ops.txt")
    assert not found.problems
    assert [(o.verb, o.line) for o in found.operations] == [
        (Verb.ADD, 1), (Verb.REPLACE, 3), (Verb.DEL, 4), (Verb.SET, 5), (Verb.CLEAR, 6),
    ]  # fmt: skip
    again = batch.parse(batch.text(ROUTES, found.operations, NAMES), ROUTES, NAMES)
    assert [o[:3] for o in again.operations] == [o[:3] for o in found.operations]


@pytest.mark.parametrize(
    ("line", "says", "helps"),
    [
        ("ad 10.0.0.0/8 wan", 'there is no operation "ad"', "did you mean add?"),
        ("10.0.0.0/8 wan", "there is no operation", "add, replace, set, del, clear"),
        ("del 10.0.0.0/8 wan", "`del` has 2 words behind it", "write del 192.0.2.0/24"),
        ("add 10.0.0.0/8", "`add` has 1 word behind it", "write add 192.0.2.0/24 wan"),
        ("clear all", "`clear` has 1 word behind it", "write clear"),
        ("set 10.0.0.0/8 nowhere", 'no port "nowhere"', "wan and lan"),
    ],
)
def test_an_operation_that_cannot_be_read(line: str, says: str, helps: str) -> None:
    found = batch.parse(f"\n{line}", ROUTES, NAMES, "ops.txt")
    assert not found.operations
    assert says in found.problems[0].message
    assert helps in found.problems[0].help
    assert found.problems[0].line == 2


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("del default\nadd 10.0.0.0/8 wan\nadd 10.0.0.0/8 lan", "is there already", 3),
        ("del 10.0.0.0/8", "is not there", 1),
        ("set default lan\nreplace 10.0.0.0/8 lan", "is not there", 2),
        ("clear\ndel 0.0.0.0/0", "is not there", 2),
        ("add 1.0.0.0/8 wan\nadd 2.0.0.0/8 wan\nadd 3.0.0.0/8 wan", "the table is full", 3),
    ],
)
def test_a_batch_is_applied_whole_or_not_at_all(text: str, says: str, line: int) -> None:
    table = declare("routes", "ipv4", 3, value="port")
    before = entries(table, "default wan")
    found = batch.parse(text, table, NAMES, "ops.txt")
    outcome = batch.apply(before, found.operations, table, NAMES, "ops.txt")
    assert outcome.entries == {Key(bytes(4), 0): 0} == before
    (problem,) = outcome.problems
    assert says in problem.message
    assert (problem.file, problem.line) == ("ops.txt", line)
    assert problem.source == text.split("\n")[line - 1]


def test_a_replacement_fits_into_a_full_table() -> None:
    table = declare("routes", "ipv4", 1, value="port")
    set_ = [Operation(Verb.SET, Key(bytes(4), 0), 1)]
    outcome = batch.apply(entries(table, "default wan"), set_, table, NAMES)
    assert outcome.entries == {Key(bytes(4), 0): 1}


prefixes4 = st.builds(
    lambda a, n: Key((a >> (32 - n) << (32 - n)).to_bytes(4, "big"), n),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
states = st.dictionaries(prefixes4, st.integers(0, 1), max_size=20)


@given(states, states)
def test_a_difference_makes_the_one_of_the_other(old: Entries, new: Entries) -> None:
    """Even where the table has room for the larger one alone."""
    table = declare("routes", "ipv4", max(1, len(old), len(new)), value="port")
    operations = batch.diff(old, new)
    assert batch.apply(old, operations, table, NAMES) == (new, [])
    assert not batch.diff(new, new)
    assert len(operations) <= len(old.keys() | new.keys())


@given(states)
def test_what_is_written_is_read_back(state: Entries) -> None:
    assert entries(ROUTES, file.text(ROUTES, state, NAMES)) == state


@given(st.lists(st.sampled_from([*FIELDS, "hex5"]), min_size=1, max_size=3), st.data())
def test_each_type_is_read_back(names: list[str], data: st.DataObject) -> None:
    table = declare("t", "array", 100, value="+".join(names))
    raw = b""
    for name in names:
        part = field(name)
        one = data.draw(st.binary(min_size=part.size, max_size=part.size))
        raw += bytes([one[0] % 2, 0]) if name in ("port", "group") else one
    state: Entries = {Key(bytes([0, 0, 0, 5]), 32): raw}
    assert entries(table, file.text(table, state, NAMES)) == state


@given(st.text(max_size=200))
def test_no_text_is_too_odd(text: str) -> None:
    for table in (ROUTES, ROUTES6, MACS, HOPS):
        for reading in (file.parse(text, table, NAMES), file.parse(f"{text} {text}", table)):
            assert not (reading.problems and reading.entries)
            assert all(str(p) for p in reading.problems)
        assert all(str(p) for p in batch.parse(text, table, NAMES).problems)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_prefixes_are_those_of_the_standard_library(
    address: ipaddress.IPv4Address, length: int
) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    text = f"{network} wan"
    assert entries(ROUTES, text) == {Key(network.network_address.packed, length): 0}
    if network.network_address != address:
        assert problems(ROUTES, f"{address}/{length} wan")


def test_kinds_are_those_of_the_headers() -> None:
    assert [str(kind) for kind in Match] == ["exact", "ipv4", "ipv6", "array", "own"]


RULES = declare("rules", "own", 10, key="be32", value="words40", size=4096)


def test_a_value_of_words_is_the_rest_of_its_line() -> None:
    said = "10 permit  tcp\tfrom any   # web\n20 deny 100%25,%20x\n"
    reading = file.parse(said, RULES)
    assert not reading.problems
    values = [value for _, value in sorted(reading.entries.items())]
    assert [bytes(value).rstrip(b"\0") for value in values] == [  # type: ignore[arg-type]
        b"permit tcp from any", b"deny 100%, x"
    ]  # fmt: skip
    again = file.text(RULES, reading.entries)
    assert again == "10 permit tcp from any\n20 deny 100%25, x\n"
    assert file.parse(again, RULES).entries == reading.entries
    done = batch.parse("set 10 permit udp\ndel 20\n", RULES)
    assert not done.problems and batch.text(RULES, done.operations) == "set 10 permit udp\ndel 20\n"
    assert file.parse("10\n", RULES).problems and batch.parse("del 10 x", RULES).problems


@pytest.mark.parametrize(("key", "value"), [("words8", "u8"), ("u8", "u8+words8")])
def test_words_are_a_whole_value(key: str, value: str) -> None:
    with pytest.raises(Unreadable, match="words"):
        declare("rules", "own", 10, key=key, value=value, size=4096)
