# SPDX-License-Identifier: BSD-3-Clause
"""What a topology file alone can get right and wrong.

Over 600 lines: a table of faulty files and what is said about each.
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.fakehost import FILE, FULL, MINIMAL, machine, swap

from dpsup import limits
from dpsup.check.topology import check, prepare
from dpsup.errors import Exit, Problem, Severity, TopologyError
from dpsup.plan.place import make_plan
from dpsup.plan.text import format_plan
from dpsup.topology.load import load
from dpsup.topology.model import Topology
from dpsup.topology.values import parse_vdev


def read(text: str) -> Topology:
    topology, problems = load(FILE, machine(text))
    assert topology is not None, "\n".join(map(str, problems))
    return topology


def problems_of(text: str) -> list[Problem]:
    """All problems, each of them complete: where, what, why and what to write."""
    topology, problems = load(FILE, machine(text))
    errors = [p for p in problems if p.severity is Severity.ERROR]
    assert (topology is None) == bool(errors)
    for problem in problems:
        lines = text.split("\n")
        assert problem.file == FILE
        assert 1 <= problem.line <= len(lines)
        assert problem.source == lines[problem.line - 1].strip()[:200]
        assert problem.message
        assert problem.why
        assert problem.help
        assert f"{FILE}:{problem.line}" in str(problem)
        assert problem.exit_code is Exit.BAD_TOPOLOGY
    return problems


def the_problem(text: str) -> Problem:
    (problem,) = problems_of(text)
    return problem


# --- what is right ------------------------------------------------------------------------------


def test_minimal_file_has_the_documented_defaults() -> None:
    topology = read(MINIMAL)
    (port,), (io,), (group,) = topology.ports, topology.io, topology.workers
    pool = topology.mempools["default"]
    assert (pool.mbufs, pool.data_room, pool.cache) == (16383, 2176, 512)
    assert (pool.numa, pool.page_size) == (0, 2 << 20)
    assert (port.mempool, port.required, port.mtu, port.promiscuous) == (
        "default",
        True,
        1500,
        True,
    )
    assert (port.descriptors.rx, port.descriptors.tx) == (1024, 1024)
    assert port.thresholds.rx_free is port.thresholds.rx_drop is port.thresholds.tx_free is None
    assert port.rss.fields == ("ipv4", "ipv6", "tcp", "udp")
    assert port.rss.key == "symmetric"
    assert (io.cores, io.burst, io.idle) == ((1,), 32, "adaptive")
    assert (group.plugin, group.args, group.input) == ("macswap", (), ("wan",))
    assert (group.count, group.max, group.spares, group.cores) == (1, 1, 1, ())
    assert (group.ring, group.on_full, group.health.stall_after) == (1024, "drop", 0.2)
    restart = group.restart
    assert (restart.policy, restart.intensity, restart.period) == ("always", 5, 60.0)
    backoff = restart.backoff
    assert (backoff.initial, backoff.factor, backoff.max) == (0.05, 2, 10.0)
    host = topology.host
    assert (host.supervisor_cores, host.hugepages, host.eal_extra) == ((0,), 0, ())
    assert (host.runtime_dir, host.shared_cores) == ("auto", False)
    assert (topology.bus.endpoint, topology.metrics.listen, topology.log.level) == (
        "ipc",
        "",
        "info",
    )
    assert topology.file == FILE


def test_full_file_says_what_the_defaults_are() -> None:
    text = swap(FULL, 'pci = "0000:3b:00.0"', 'vdev = "net_null0"')
    assert read(text).ports[0].thresholds.rx_free == 32
    topology = read(text)
    plain = read(MINIMAL)
    assert topology.mempools == plain.mempools
    assert topology.host == plain.host
    assert topology.io == plain.io
    assert topology.ports[0].rss == plain.ports[0].rss
    assert topology.workers[0].restart == plain.workers[0].restart


@pytest.mark.parametrize(
    ("old", "new", "attribute", "value"),
    [
        ("count = 2\nmax = 4", "count = 3", "max", 3),
        ("count = 2\nmax = 4", "max = 3", "count", 1),
        ('cores = "auto"', 'cores = "3-6, 8"', "cores", (3, 4, 5, 6, 8)),
        ('cores = "auto"', 'cores = "7,2"', "cores", (7, 2)),
        ('stall_after = "200ms"', 'stall_after = "1.5ms"', "health.stall_after", 0.0015),
        ('stall_after = "200ms"', 'stall_after = "2h"', "health.stall_after", 7200.0),
        ('period = "60s"', 'period = "2m"', "restart.period", 120.0),
        ('period = "60s"', "intensity = 1000000", "restart.intensity", 1e6),
        ('period = "60s"', "intensity = 0", "restart.intensity", 0.0),
        ('initial = "50ms"', 'initial = "50us"', "restart.backoff.initial", 50e-6),
        ('initial = "50ms"', "factor = 1", "restart.backoff.factor", 1.0),
        ('initial = "50ms"', "factor = 1.5", "restart.backoff.factor", 1.5),
        ('plugin = "macswap"', 'plugin = "x.so"', "plugin", "/etc/dpsup/x.so"),
        ('plugin = "macswap"', 'plugin = "../x/y.so"', "plugin", "/etc/x/y.so"),
        ('plugin = "macswap"', 'plugin = "/opt/y"', "plugin", "/opt/y"),
        ('plugin = "macswap"', 'plugin = "sink"', "plugin", "sink"),
    ],
)
def test_value_of_a_group(old: str, new: str, attribute: str, value: object) -> None:
    here: Any = read(swap(FULL, old, new)).workers[0]
    for name in attribute.split("."):
        here = getattr(here, name)
    assert here == pytest.approx(value) if isinstance(value, float) else here == value


@pytest.mark.parametrize(
    ("size", "value"),
    [("512MiB", 512 << 20), ("1G", 1 << 30), ("2M", 2 << 20), ("0.5G", 512 << 20), ("auto", 0)],
)
def test_hugepages(size: str, value: int) -> None:
    assert read(swap(FULL, 'hugepages = "auto"', f'hugepages = "{size}"')).host.hugepages == value


def test_a_table_may_be_partial() -> None:
    text = swap(FULL, '{ initial = "50ms", max = "10s" }', '{ max = "3s" }')
    text = swap(text, "{ rx_free = 32, rx_drop = false, tx_free = 32 }", "{ rx_free = 16 }")
    text = swap(text, "{ rx = 1024, tx = 1024 }", "{ tx = 64 }")
    topology = read(text)
    assert topology.workers[0].restart.backoff.max == 3.0
    assert topology.workers[0].restart.backoff.initial == 0.05
    assert topology.ports[0].thresholds.rx_free == 16
    assert topology.ports[0].thresholds.tx_free is None
    assert topology.ports[0].descriptors.rx == 1024


def test_args_reach_the_plugin_as_text() -> None:
    args = (
        '{ map = { wan = "lan", "a.b" = "c" }, n = 5, x = 0.5, '
        'on = true, off = false, l = [1, "b"] }'
    )
    text = swap(FULL, '{ map = { wan = "lan", lan = "wan" } }', args)
    assert dict(read(text).workers[0].args) == {
        "map.wan": "lan",
        "map.a.b": "c",
        "n": "5",
        "x": "0.5",
        "on": "1",
        "off": "0",
        "l": "1,b",
    }


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("net_pcap0,rx_pcap=in.pcap,iface=lo", "net_pcap0,rx_pcap=/etc/dpsup/in.pcap,iface=lo"),
        ("net_pcap0,tx_pcap=/out.pcap", "net_pcap0,tx_pcap=/out.pcap"),
        ("eth_pcap1,rx_pcap=../a,rx_pcap=b", "eth_pcap1,rx_pcap=/etc/a,rx_pcap=/etc/dpsup/b"),
        ("net_memif0,socket=m.sock", "net_memif0,socket=/etc/dpsup/m.sock"),
        (
            "net_memif0,socket=m.sock,socket-abstract=yes",
            "net_memif0,socket=m.sock,socket-abstract=yes",
        ),
        ("net_null0,rx_pcap=x", "net_null0,rx_pcap=x"),
    ],
)
def test_paths_begin_at_the_file(given: str, meant: str) -> None:
    assert read(swap(MINIMAL, "net_null0", given)).ports[0].vdev == meant


def test_relative_topology_path_begins_at_the_working_directory() -> None:
    topology, _ = load("sub/../edge.toml", machine(MINIMAL))
    assert topology is not None
    assert topology.file == FILE
    assert topology.source.file == "sub/../edge.toml"


def test_pci_address_is_written_as_eal_does() -> None:
    text = swap(MINIMAL, 'vdev = "net_null0"', 'pci = "3B:00.1,queues=4"')
    port = read(text).ports[0]
    assert (port.device, port.pci) == ("0000:3b:00.1", "0000:3b:00.1,queues=4")


def test_parse_vdev() -> None:
    assert parse_vdev("net_x0") == ("net_x0", ())
    assert parse_vdev("net_x0,a=1,b,c=d=e") == ("net_x0", (("a", "1"), ("b", ""), ("c", "d=e")))


def test_only_pool_is_every_ports_pool() -> None:
    assert read(swap(MINIMAL, "mempools.default", "mempools.big")).ports[0].mempool == "big"


def test_rss_key_of_hex_digits() -> None:
    key = ":".join(["6D"] * 40)
    port = read(swap(MINIMAL, '"net_null0"', f'"net_null0"\nrss = {{ key = "{key}" }}')).ports[0]
    assert port.rss.key == "6d" * 40


def test_same_keys_are_the_same_topology_wherever_they_stand() -> None:
    assert read(MINIMAL) == read("# a comment\n" + MINIMAL)
    assert read(MINIMAL) != read(swap(MINIMAL, "edge", "core"))


# --- what is wrong ------------------------------------------------------------------------------

WRONG = [
    # (what is written, what instead, the offending text, words of the message, words of the help)
    ("version = 1", "version = 2", "version = 2", "`version` 2 is not known", "version = 1"),
    ("version = 1", 'version = "1"', 'version = "1"', "whole number", "version = 1"),
    ("version = 1", "", "", "`version` is missing", "version = 1"),
    ('name = "edge"', "", "version", "`name` is missing", 'name = "edge"'),
    ('name = "edge"', 'name = "Edge"', '"Edge"', '"Edge" cannot be the name', "lower case"),
    ('name = "edge"', 'name = "a/b"', "a/b", "cannot be the name", "name = "),
    ('name = "edge"', f'name = "{"e" * 32}"', "eeee", "cannot be the name", "name = "),
    ('name = "edge"', "name = edge", "name = edge", "not TOML: Invalid value", "quotes"),
    ('name = "edge"', 'name = "edge', "name", "not TOML: Illegal character", "quote|line"),
    ('name = "edge"', 'nam = "edge"', "nam", "unknown key `nam`", "`name`"),
    # hosts
    ('supervisor_cores = "0"', "supervisor_cores = 0", "= 0", "CPUs in quotes", '"0"'),
    ('supervisor_cores = "0"', 'supervisor_cores = "a"', '"a"', "not a list of CPUs", '"0"'),
    ('supervisor_cores = "0"', 'supervisor_cores = "3-1"', "3-1", "backwards", '"1-3"'),
    ('supervisor_cores = "0"', 'supervisor_cores = "1,1"', "1,1", "listed twice", "once"),
    ('supervisor_cores = "0"', 'supervisor_cores = "0-9999"', "9999", "CPU 9999", '"0"'),
    ('supervisor_cores = "0"', 'supervisor_cores = ""', '""', "not a list of CPUs", '"0"'),
    ('hugepages = "auto"', 'hugepages = "lots"', "lots", '"lots" is not a size', "512MiB"),
    ('hugepages = "auto"', "hugepages = 512", "512", "512 is not a size", "512MiB"),
    ('hugepages = "auto"', 'hugepages = "5MB"', "5MB", "not a size", "512MiB"),
    ("eal_extra = []", 'eal_extra = "-n 4"', "-n 4", "must be an array", "[]"),
    ("eal_extra = []", "eal_extra = [4]", "[4]", "element 1 of `eal_extra`", "[]"),
    ("shared_cores = false", "shared_cores = 0", "= 0", "must be true or false", "true"),
    ('runtime_dir = "auto"', 'runtime_dir = ""', '""', "`runtime_dir` of [host] is empty", "auto"),
    # mempools
    ("mbufs = 16383", "mbufs = 0", "mbufs = 0", "at least 1", "16383"),
    ("mbufs = 16383", "mbufs = 1e4", "1e4", "whole number", "16383"),
    ("mbufs = 16383", "mbufs = true", "true", "whole number, not true", "16383"),
    ("mbufs = 16383", "mbufs = 0x" + "f" * 5000, "fff", "number of that size", "16383"),
    ("mbufs = 16383", "mbuf = 16383", "mbuf = ", "unknown key `mbuf`", "`mbufs`"),
    ("mbufs = 16383", "burst = 5", "burst = 5", "unknown key `burst`", "key of [[io]]"),
    ("mbufs = 16383", "flavour = 5", "flavour", "unknown key `flavour`", "data_room"),
    ("data_room = 2176", "data_room = 191", "191", "at least 192", "2176"),
    ("cache = 512", "cache = 513", "513", "at most 512", "512"),
    ("numa = 0", "numa = -1", "-1", "at least 0", "0"),
    ('page_size = "2M"', "page_size = 0x" + "f" * 5000, "fff", "is not a size", '"1G"'),
    ('page_size = "2M"', 'page_size = "4M"', "4M", "no page size", '"1G"'),
    ("[mempools.default]", "[mempools]", "mbufs", "without a name", "[mempools.default]"),
    ("[mempools.default]", "[mempools.'a b']", "'a b'", "cannot be a name", "letters"),
    ("[mempools.default]", f"[mempools.{'p' * 25}]", "ppp", "too long", "24"),
    # ports
    ('name = "wan"\n', "\n", "[[ports]]", "`name` is missing in [[ports]]", 'name = "wan"'),
    ('name = "wan"', 'name = "w n"', '"w n"', "cannot be a name", "letters"),
    ('name = "wan"', "name = 1", "name = 1", "text in quotes, not 1", '"wan"'),
    ('name = "wan"', 'name = "lan"', '"lan"', "two [[ports]] are named `lan`", "own"),
    ('pci = "0000:3b:00.0"', 'pci = "3b:00"', "3b:00", "not a PCI address", "0000:3b:00.0"),
    ('pci = "0000:3b:00.0"', "", "[[ports]]", "no device", "vdev"),
    ('pci = "0000:3b:00.0"', 'vdev = "net_pcap0"', "net_pcap0", "two ports use", "another"),
    ('pci = "0000:3b:00.0"', 'vdev = ",x=1"', ",x=1", "does not begin with", "net_pcap0"),
    ('pci = "0000:3b:00.0"', 'vdev = "net_null0,,"', "net_null0", "empty device arg", "vdev"),
    ("mtu = 1500", "mtu = 67", "67", "at least 68", "1500"),
    ("mtu = 1500", "mtu = 9711", "9711", "at most 9710", "9000"),
    ("mtu = 1500", "mtu = 65536", "65536", "at most 65535", "1500"),
    ("mtu = 1500", "mtu = inf", "inf", "whole number", "1500"),
    ("required = true", 'required = "yes"', "yes", 'true or false, not "yes"', "true"),
    ("{ rx = 1024, tx = 1024 }", "{ rx = 0 }", "rx = 0", "`rx` of `descriptors` of", "1024"),
    ("{ rx = 1024, tx = 1024 }", "{ rxx = 9 }", "rxx", "unknown key `rxx`", "`rx`"),
    ("{ rx = 1024, tx = 1024 }", "1024", "1024", "must be a table, not 1024", "rx = 1024"),
    ("{ rx_free = 32, rx_drop", "{ rx_free = 1024, rx_drop", "1024", "1024 descr", "rx_free = 32"),
    ('fields = ["ipv4", "ipv6", "tcp", "udp"]', 'fields = ["ipv5"]', "ipv5", '"ipv5"', '"ipv4"'),
    ('fields = ["ipv4", "ipv6", "tcp", "udp"]', "fields = []", "[]", "empty", "ipv4"),
    ('fields = ["ipv4", "ipv6", "tcp", "udp"]', 'fields = ["tcp"]', "tcp", "no addresses", "ipv4"),
    ('key = "symmetric"', 'key = "6d5a"', "6d5a", "2 bytes long", "80 or 104"),
    ('key = "symmetric"', f'key = "{"6d" * 41}"', "6d6d", "41 bytes long", "80 or 104"),
    ('key = "symmetric"', 'key = "symetric"', "symetric", "not an RSS key", "symmetric"),
    # io
    ('cores = "1"', 'cores = "auto"', "auto", "not a list of CPUs", '"1"'),
    ("burst = 32", "burst = 129", "129", "at most 128", "32"),
    ("burst = 32", "burst = 0", "= 0", "at least 1", "32"),
    ('idle = "adaptive"', 'idle = "adaptiv"', "adaptiv", "cannot be", 'did you mean "adaptive"'),
    # workers
    ('name = "fw"\n', "\n", "[[workers]]", "`name` is missing in [[workers]]", 'name = "fw"'),
    ('plugin = "macswap"', 'plugin = ""', '""', "is empty", "macswap"),
    ('plugin = "macswap"', 'builtin = "x"', "builtin", "unknown key `builtin`", "remove it"),
    ("args = {", 'args = "x" #', '"x"', "`args` must be a table", "text, number"),
    ('{ wan = "lan", lan = "wan" }', "1979-05-27", "1979", "`map` of `args`", "text, number"),
    ('{ wan = "lan", lan = "wan" }', '["a,b"]', "a,b", "comma", "comma"),
    ('{ wan = "lan", lan = "wan" }', "[[1]]", "[[1]]", "cannot be given an array", "text"),
    ('{ wan = "lan", lan = "wan" }', r'"a\nb"', "a", "control characters", "text"),
    ('{ wan = "lan", lan = "wan" }', "nan", "nan", "cannot be given nan", "text"),
    ('input = ["wan", "lan"]', 'input = ["wan", "lam"]', "lam", "no port `lam`", "`lan`"),
    ('input = ["wan", "lan"]', 'input = ["wan", "wan"]', "wan", "listed twice", "one"),
    ('input = ["wan", "lan"]', 'input = "wan"', "wan", "must be an array", '["wan"]'),
    ("count = 2", "count = 0", "= 0", "at least 1", "1"),
    ("count = 2", "count = 65", "65", "at most 64", "1"),
    ("count = 2", "count = 5", "max = 4", "below `count`", "max = 5"),
    ("spares = 1", "spares = -1", "-1", "at least 0", "1"),
    ("ring = 1024", "ring = 1000", "1000", "not a power of two", "512 or 1024"),
    ("ring = 1024", "ring = 2097152", "2097152", "at most 1048576", "1024"),
    ("ring = 1024", "ring = 128", "128", "at least 256", "1024"),
    ('on_full = "drop"', 'on_full = "wait"', "wait", 'cannot be "wait"', '"hold"'),
    ('policy = "always"', 'policy = "sometimes"', "sometimes", "of `restart` of", "never"),
    ('policy = "always"', 'polcy = "always"', "polcy", "unknown key `polcy`", "`policy`"),
    ('period = "60s"', "period = 60", "60", "60 is not a duration", '"60s"'),
    ('period = "60s"', 'period = "60 sec"', "60 sec", "not a duration", '"60s"'),
    ('period = "60s"', 'period = "-1s"', "-1s", "not a duration", '"60s"'),
    ('period = "60s"', 'period = "0s"', "0s", "shorter than 1ms", '"60s"'),
    ('period = "60s"', 'period = "99999h"', "99999h", "longer than a year", '"60s"'),
    ('period = "60s"', "intensity = -1", "-1", "at least 0", "5"),
    ('period = "60s"', "intensity = nan", "nan", "finite", "5"),
    ('initial = "50ms"', "factor = 0.9", "0.9", "at least 1", "2"),
    ('initial = "50ms"', 'initial = "11s"', "11s", "above its `max`", "lower initial"),
    ('stall_after = "200ms"', 'stall_after = "0s"', "0s", "shorter than 1ms", "200ms"),
    # later, and elsewhere
    ('on_full = "drop"', 'at_zero = "park"', "at_zero", 'cannot be "park"', "hold"),
    ('on_full = "drop"', "scale = { max = 9 }", "scale", "`max` of the group is 4", "max = 9"),
    ('on_full = "drop"', "scale = { min = 3 }", "scale", "`count` is 2", "from 3 to 4"),
    ('on_full = "drop"', "scale = { target_busy = 1 }", "scale", "at most 0.95", "0.7"),
    ("[bus]", '[[chains]]\nname = "n"\n[bus]', "[[chains]]", "has no path", '"wan"'),
    ('on_full = "drop"', 'state = "a lot"', "a lot", "is not a size", '"64KiB"'),
    ('on_full = "drop"', "state = -1", "state = -1", "state", "64KiB"),
    ('on_full = "drop"', 'bucket_state = "65KiB"', "65KiB", "bucket_state", "64"),
    ('endpoint = "ipc"', 'endpoint = "tcp://1.2.3.4:5"', "tcp", "cannot be", "ipc"),
    ('listen = ""', 'listen = "9464"', "9464", "not an address and a port", "127.0.0.1"),
    ('level = "info"', 'level = "warn"', "warn", 'cannot be "warn"', '"warning"'),
    ("[log]", "[logs]", "[logs]", "unknown key `logs`", "`log`"),
    ("[[io]]", "[io]", "[io]", "`io` must be an array, not a table", "[[io]]"),
    ("[log]", "[log", "[log", "not TOML", "TOML|header|\\]"),
    ("mtu = 1500", "mtu = 1500\nmtu = 9000", "9000", "not TOML: Cannot overwrite", "twice"),
    ("numa = 0", "numa 0", "numa 0", "not TOML", "key = value"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "offending", "message", "help"), WRONG)
def test_wrong_value(old: str, new: str, offending: str, message: str, help: str) -> None:
    text = FULL.replace(old, new, 1)
    problem = problems_of(text)[0]
    assert offending in problem.source
    assert message in problem.message
    assert any(word in problem.help for word in help.split("|")), problem.help


@pytest.mark.parametrize("row", WRONG)
def test_one_fault_is_one_problem(row: tuple[str, ...]) -> None:
    text = FULL.replace(row[0], row[1], 1)
    # A name that changed is still referred to, which is a fault of its own.
    problems = problems_of(text)
    own = [p for p in problems if not p.message.startswith("there is no ")]
    assert len(own or problems) == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[mempools.default]\n", "[mempools.default] is missing"),
        ('[[ports]]\nname = "wan"\nvdev = "net_null0"\n', "[[ports]] is missing"),
        ('[[io]]\ncores = "1"\n', "[[io]] is missing"),
        ('[[workers]]\nname = "fw"\n', "[[workers]] is missing"),
    ],
)
def test_missing_table(table: str, message: str) -> None:
    assert message in the_problem(swap(MINIMAL, table, "")).message


def test_misspelt_table_is_not_also_missing() -> None:
    problem = the_problem(swap(MINIMAL, "[[workers]]", "[[worker]]"))
    assert problem.message == "unknown key `worker` in the file's first level"
    assert "`workers`" in problem.help


def test_empty_file_lacks_everything() -> None:
    text = "\n".join(p.message for p in problems_of(""))
    for word in ("version", "name", "mempools", "ports", "io", "workers"):
        assert word in text


def test_port_without_a_pool_among_several() -> None:
    text = swap(MINIMAL, "[mempools.default]", "[mempools.a]\n[mempools.b]")
    assert "names no mempool" in the_problem(text).message
    text = swap(MINIMAL, "[mempools.default]", "[mempools.default]\n[mempools.b]")
    assert read(text).ports[0].mempool == "default"


def test_unknown_mempool() -> None:
    problem = the_problem(
        swap(FULL, 'mempool = "default"\nrequired', 'mempool = "defalt"\nrequired')
    )
    assert "no mempool `defalt`" in problem.message
    assert "`default`" in problem.help


def test_pages_of_two_sizes() -> None:
    text = swap(MINIMAL, "[mempools.default]", '[mempools.default]\n[mempools.b]\npage_size = "1G"')
    assert "other pages" in the_problem(text).message
    text = swap(
        MINIMAL, "[mempools.default]", '[mempools.default]\n[mempools.b]\npage_size = "2MiB"'
    )
    assert problems_of(text) == []


def test_port_that_feeds_two_groups() -> None:
    problem = the_problem(FULL + '[[workers]]\nname = "nat"\ninput = ["lan"]\n')
    assert "`lan` feeds two groups" in problem.message
    assert 'group "fw"' in problem.why


def test_same_name_for_two_groups() -> None:
    problem = the_problem(FULL + '[[workers]]\nname = "fw"\ninput = []\n')
    assert "two [[workers]] are named `fw`" in problem.message


def test_port_with_two_devices() -> None:
    problem = the_problem(swap(FULL, "mtu = 1500", 'vdev = "net_null0"'))
    assert "both `pci` and `vdev`" in problem.message


def test_two_ports_with_one_pci_device_in_two_spellings() -> None:
    text = FULL.replace('vdev = "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"', 'pci = "3B:00.0"')
    assert "two ports use the device 0000:3b:00.0" in the_problem(text).message


PORT = '[[ports]]\nname = "p{0}"\nvdev = "net_null{0}"\n'
GROUP = '[[workers]]\nname = "g{0}"\ninput = []\n'


@pytest.mark.parametrize(
    ("old", "new", "most", "offending"),
    [
        ('[[io]]\ncores = "1"\n', '[[io]]\ncores = "1-{0}"\n', 8, 'cores = "1-9"'),
        ("[[io]]\n", '[[io]]\ncores = "2-{0}"\n[[io]]\n', 8, 'cores = "1"'),
        ("[[io]]\n", "{ports}[[io]]\n", 16, "[[ports]]"),
        ("[[workers]]\n", "{groups}[[workers]]\n", 16, "[[workers]]"),
        ("[mempools.default]\n", "[mempools.default]\n{pools}", 8, "[mempools.p9]"),
        (
            'name = "fw"\n',
            'name = "fw"\nmax = 32\n[[workers]]\nname = "b"\ninput = []\nmax = {32}\n',
            64, "max = 33",
        ),
        ('name = "fw"\n', 'name = "fw"\nmax = 64\n{group}', 64, "[[workers]]"),
    ],
)  # fmt: skip
def test_no_more_than_shared_memory_has_room_for(
    old: str, new: str, most: int, offending: str
) -> None:
    def text(n: int) -> str:
        numbers = range(2, n + 1)
        written = (
            new.replace("{0}", str(n))
            .replace("{32}", str(n - 32))
            .replace("{ports}", "".join(PORT.format(i) for i in numbers))
            .replace("{groups}", "".join(GROUP.format(i) for i in numbers))
            .replace("{pools}", "".join(f"[mempools.p{i}]\n" for i in numbers))
            .replace("{group}", GROUP.format(2) * (n - 64))
        )
        return swap(MINIMAL, old, written)

    assert problems_of(text(most)) == []
    problem = the_problem(text(most + 1))
    assert f"{most + 1} " in problem.message
    assert f"at most {most}" in problem.help
    assert problem.source == offending


HEADERS = ("abi.h", "dpsup.h", "shim.h", "primary.h")


def test_limits_are_those_of_shared_memory() -> None:
    shim = Path(__file__).parents[2] / "shim"
    headers = "".join((shim / name).read_text() for name in HEADERS)
    found = re.findall(r"(\w+) = (\d[ \d+*]*)[,\s]", headers)
    abi = {name: sum(math.prod(map(int, p.split("*"))) for p in n.split("+")) for name, n in found}
    assert {
        "DPS_MAX_IO": limits.IO_CORES,
        "DPS_MAX_SLOTS": limits.SLOTS,
        "DPS_MAX_SPARES": limits.SPARES,
        "DPS_MAX_PORTS": limits.PORTS,
        "DPS_MAX_GROUPS": limits.GROUPS,
        "DPS_MAX_POOLS": limits.MEMPOOLS,
        "DPS_BURST": limits.BURST,
        "DPS_IO_BURST": limits.IO_BURST,
        "DPS_RING_MOST": limits.RING,
        "DPS_NAME": limits.NAME + 1,
        "DPS_PATH": limits.PLUGIN_PATH + 1,
        "DPS_VDEV": limits.DEVICE + 1,
        "DPS_ARGS": limits.ARGS,
        "ETHER_MOST": limits.FRAME_MORE,
    }.items() <= abi.items()


@pytest.mark.parametrize("length", [limits.ARGS - 4, limits.ARGS - 3])
def test_arguments_of_a_group_have_a_limit(length: int) -> None:
    # "é" is one character and two bytes; key and value are closed with a NUL each.
    text = MINIMAL + f'args = {{ é = "{"x" * length}" }}\n'.replace("é", '"é"')
    if length + 4 <= limits.ARGS:
        assert problems_of(text) == []
    else:
        problem = the_problem(text)
        assert "8193 bytes" in problem.message
        assert "8192" in problem.why


@pytest.mark.parametrize("length", [limits.PLUGIN_PATH, limits.PLUGIN_PATH + 1])
def test_path_of_a_plugin_has_a_limit(length: int) -> None:
    name = "x" * (length - len("/etc/dpsup/.so"))
    text = MINIMAL + f'plugin = "{name}.so"\n'
    if length <= limits.PLUGIN_PATH:
        assert problems_of(text) == []
    else:
        assert "1 byte too long" in the_problem(text).message


@pytest.mark.parametrize("length", [limits.DEVICE, limits.DEVICE + 1])
def test_device_with_its_arguments_has_a_limit(length: int) -> None:
    device = "net_pcap0,rx_pcap=/etc/dpsup/"
    text = swap(MINIMAL, "net_null0", f"net_pcap0,rx_pcap={'x' * (length - len(device))}")
    if length <= limits.DEVICE:
        assert problems_of(text) == []
    else:
        assert "1 byte too long" in the_problem(text).message


def test_device_name_has_a_limit() -> None:
    assert problems_of(swap(MINIMAL, "net_null0", "net_null" + "0" * 23)) == []
    assert "32 bytes" in the_problem(swap(MINIMAL, "net_null0", "net_null" + "0" * 24)).message


def test_ports_that_feed_workers_have_one_hash() -> None:
    text = swap(FULL, 'key = "symmetric" }', 'key = "default" }')
    problem = the_problem(text)
    assert "`rss` of port `lan` is not that of port `wan`" in problem.message
    assert "hash in software" in problem.why
    assert 'key = "default"' in text.split("\n")[int(problem.why.split()[1]) - 1]
    # A port that feeds nobody may have any; the order of fields says nothing.
    assert problems_of(swap(text, 'input = ["wan", "lan"]', 'input = ["wan"]')) == []
    other = 'fields = ["udp", "tcp", "ipv6", "ipv4"]'
    assert problems_of(swap(FULL, 'fields = ["ipv4", "ipv6", "tcp", "udp"]', other)) == []


def test_sctp_is_hashed_when_asked_for() -> None:
    rss = 'rss = { fields = ["ipv4", "sctp"] }'
    topology = read(swap(MINIMAL, '"net_null0"', f'"net_null0"\n{rss}'))
    assert topology.ports[0].rss.fields == ("ipv4", "sctp")


def test_tunnels_to_look_into() -> None:
    def of(words: str) -> str:
        return swap(MINIMAL, '"net_null0"', f'"net_null0"\nrss = {{ inner = [{words}] }}')

    topology = read(of('"vxlan:8472", "mpls", "vxlan:4789", "vxlan", "vxlan:1"'))
    assert topology.ports[0].rss.inner == ("vxlan:8472", "mpls", "vxlan", "vxlan:1")
    for words in ('"vxlan:0"', '"vxlan:65536"', '"vxlan:"', '"gre:5"', '"vxlan: 8472"', '"ipsec"'):
        (problem,) = problems_of(of(words))
        assert "vxlan:PORT" in (problem.help or "")
    (problem,) = problems_of(of(", ".join(f'"vxlan:{port}"' for port in range(1, 5))))
    assert "at most 3" in str(problem)


def test_every_problem_is_reported_at_once() -> None:
    text = FULL
    edits = [
        ("mbufs = 16383", 'mbufs = "many"'),
        ("cache = 512", "cach = 512"),
        ('name = "lan"', 'name = "wan"'),
        ("burst = 32", "burst = 129"),
        ('on_full = "drop"', 'at_zero = "park"'),
        ('period = "60s"', 'period = "60"'),
        ('input = ["wan", "lan"]', 'input = ["wan", "dmz"]'),
        ("count = 2", "count = 9"),
        ('level = "info"', "level = 5"),
    ]
    for old, new in edits:
        text = swap(text, old, new)
    problems = problems_of(text)
    assert len(problems) == len(edits)
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    for _, new in edits:
        if not new.startswith("count"):  # its problem is `max`
            assert any(new in p.source for p in problems), new


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('listen = ""', 'listen = "0.0.0.0:9464"', "to any peer that reaches it"),
        ("eal_extra = []", 'eal_extra = ["-n", "4"]', "unchecked"),
    ],
)
def test_warning(old: str, new: str, message: str) -> None:
    problem = the_problem(swap(FULL, old, new))
    assert problem.severity is Severity.WARNING
    assert message in problem.message
    assert new in problem.source


@pytest.mark.parametrize("path", ["/no/such.toml", "gone.toml", "/etc/\0"])
def test_unreadable_file(path: str) -> None:
    topology, (problem,) = load(path, machine())
    assert topology is None
    assert path in problem.message
    assert problem.help
    assert problem.exit_code is Exit.BAD_TOPOLOGY


def test_syntax_error_at_the_end_points_at_the_last_line() -> None:
    problem = the_problem(MINIMAL + "a = [1,\n")
    assert problem.source == "a = [1,"


def test_nesting_without_end_is_a_problem_not_a_crash() -> None:
    assert "not TOML" in the_problem("a = " + "[" * 50_000).message


# --- fuzz ---------------------------------------------------------------------------------------

ODD = (
    "true", "-1", "0", "1e400", "inf", "nan", '""', '"auto"', "[]", "{}", "[[]]", "[{}]", "[0]",
    '"\\u0000"', "1979-05-27", "07:32:00", "0x" + "f" * 5000, "9" * 5000, "{ a = { b = 1 } }",
    '["x", 1]', '"é{}"', "'%s {0} {name}'", '"9-0"', '"0-99999999"', '"' + "x" * 300 + '"',
    "[1, 2]", '"0.0000000001us"', '[{ name = "wan" }]', '"fw"', "1.0", '"1.0e5s"',
    '"999999999999999999T"', '"net_null0,"',
)  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_odd_value_anywhere_never_raises(odd: str) -> None:
    whole = swap(FULL, 'period = "60s"', 'period = "60s", intensity = 5')
    whole = swap(whole, 'initial = "50ms"', 'initial = "50ms", factor = 2')
    values = r'(\w+ = )("[^"]*"|\[[^]]*\]|\w+)', r"(\w+ = )(\{.*\})", r"(\w+ = )(\{[^{}]*\})"
    for key in (key for value in values for key in re.finditer(value, whole)):
        text = whole[: key.start()] + key[1] + odd + whole[key.end() :]
        try:
            prepare(FILE, machine(text))
        except TopologyError as error:
            assert all(p.message and p.why and p.help for p in error.problems)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from([FULL, MINIMAL]))
    for _ in range(draw(st.integers(1, 6))):
        lines = text.split("\n")
        i = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                del lines[i]
            case 1:
                lines.insert(draw(st.integers(0, len(lines))), lines[i])
            case 2 if "=" in lines[i]:
                lines[i] = f"{lines[i].partition('=')[0]}= {draw(st.sampled_from(ODD))}"
            case 3:
                key = draw(st.sampled_from(["name", "cores", "x", "max", "args.a", "pci", "host"]))
                lines.insert(i, f"{key} = {draw(st.sampled_from(ODD))}")
            case _:
                at = draw(st.integers(0, len(lines[i])))
                cut = draw(st.integers(0, 3))
                new = draw(st.text(alphabet="[]{}=.,#\"'\\ a1-é\x00", max_size=3))
                lines[i] = lines[i][:at] + new + lines[i][at + cut :]
        text = "\n".join(lines)
    return text


@given(mutated(), st.integers(1, 8))
@settings(max_examples=300)
def test_mutated_topology_never_raises(text: str, cpus: int) -> None:
    host = machine(text, cpus=cpus)
    topology, problems = load(FILE, host)
    for problem in problems:
        assert problem.message and problem.why and problem.help
        assert 1 <= problem.line <= text.count("\n") + 1
        assert problem.source.isprintable()
    assert (topology is None) == any(p.severity is Severity.ERROR for p in problems)
    if topology is not None:
        assert tomllib.loads(text)
        assert all(str(problem) for problem in check(topology, host))
        plan = make_plan(topology, host)
        assert max(map(len, format_plan(plan).splitlines())) <= 80
