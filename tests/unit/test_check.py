# SPDX-License-Identifier: BSD-3-Clause
"""What a machine makes of a topology."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.fakehost import FILE, FULL, GIB, MIB, MINIMAL, machine, pcap, swap

from dpsup import limits
from dpsup.check.memory import pool_needs
from dpsup.check.topology import check, prepare
from dpsup.errors import Exit, Problem, Severity, TopologyError
from dpsup.host.machine import Host, Hugetlbfs, Pages, PciDevice
from dpsup.plan.paths import runtime_dir
from dpsup.plan.place import args_of
from dpsup.topology.load import load
from dpsup.topology.model import Topology

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def read(text: str, host: Host) -> Topology:
    topology, problems = load(FILE, host)
    assert topology is not None, "\n".join(map(str, problems))
    return topology


def findings(text: str, **changes: Any) -> list[Problem]:
    """All findings, each of them complete: where, what, why and what to do."""
    host = machine(text, **changes)
    problems = check(read(text, host), host)
    for problem in problems:
        assert problem.file == FILE
        assert problem.source == text.split("\n")[problem.line - 1].strip()
        assert problem.message
        assert problem.why
        assert problem.help
    return problems


def the_finding(text: str, **changes: Any) -> Problem:
    (problem,) = findings(text, **changes)
    return problem


def code_of(text: str, **changes: Any) -> Exit:
    """The exit code of a start."""
    with pytest.raises(TopologyError) as error:
        prepare(FILE, machine(text, **changes))
    return Exit(error.value.exit_code)


def test_sound_files_on_a_sound_machine() -> None:
    assert findings(MINIMAL) == findings(FULL) == []


# --- one change of the file ---------------------------------------------------------------------

PCAP = "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"

FILES = [
    # (what is written, what instead, severity, exit code, offending text, message, help)
    ('r_cores = "0"', 'r_cores = "0,8-9"', ERROR, Exit.HOST, "8-9", "CPUs 8-9 for the sup", "0-7"),
    ('cores = "1"', 'cores = "9"', ERROR, Exit.HOST, '"9"', "CPU 9 for an io core is not", "0-7"),
    ('cores = "auto"', 'cores = "7-8"', ERROR, Exit.HOST, "7-8", "CPU 8 for group `fw`", "0-7"),
    ('cores = "1"', 'cores = "0-1"', WARNING, Exit.OK, 'r_cores = "0"', "shares CPU 0", "CPU 0"),
    ('cores = "auto"', 'cores = "1-2"', ERROR, Exit.BAD_TOPOLOGY, '"1-2"', "CPU 1", "shared_cores"),
    ('cores = "auto"', 'cores = "2"', WARNING, Exit.OK, 'cores = "2"', "share CPU 2", "as many"),
    ("numa = 0", "numa = 1", ERROR, Exit.HOST, "numa = 1", "NUMA node 1", "numa = 0"),
    # devices
    ("3b:00.0", "3b:00.1", ERROR, Exit.HOST, "3b:00.1", "no PCI device 0000:3b:00.1", "required"),
    (
        '"0000:3b:00.0"\nmempool = "default"\nrequired = true',
        '"0000:3b:00.1"\nrequired = false',
        WARNING, Exit.OK, "3b:00.1", "no PCI device", "dpdk-devbind",
    ),
    (PCAP, "net_pcpa0", ERROR, Exit.BAD_TOPOLOGY, "net_pcpa0", "no driver", "`net_pcap0`"),
    (PCAP, "pcap3", ERROR, Exit.BAD_TOPOLOGY, "pcap3", "no driver", "`net_pcap3`"),
    (PCAP, "net_zzzzzz", ERROR, Exit.BAD_TOPOLOGY, "net_zzzzzz", "no driver", "net_null0"),
    (PCAP, "crypto_null0", ERROR, Exit.BAD_TOPOLOGY, "crypto_null0", "no driver", "net_null0"),
    (PCAP, "net_ixgbe0", ERROR, Exit.BAD_TOPOLOGY, "net_ixgbe0", "PCI devices", "pci = "),
    (PCAP, "net_null0,sise=64", WARNING, Exit.OK, "sise", "parameter `sise`", "`size`"),
    (PCAP, "net_null0,no-rx=1,copy=0", None, Exit.OK, "", "", ""),
    (PCAP, "net_null0,rx=1", WARNING, Exit.OK, "rx=1", "parameter `rx`", "leave it out|no-rx"),
    (PCAP, "net_memif0,bsize=2048,mac=x,id=1", None, Exit.OK, "", "", ""),
    (PCAP, "net_af_packet0,iface=eth0", None, Exit.OK, "", "", ""),
    (PCAP, "net_af_packet0,iface=eth1", ERROR, Exit.HOST, "eth1", "no network interf", "`eth0`"),
    (PCAP, "eth_pcap0,iface=xyz", ERROR, Exit.HOST, "xyz", "no network interface xyz", "ip link"),
    (PCAP, "net_ring0,any=thing", None, Exit.OK, "", "", ""),
    (PCAP, "eth_bond0,mode=1", None, Exit.OK, "", "", ""),
    ("in.pcap", "x/no.pcap", ERROR, Exit.BAD_TOPOLOGY, "no.pcap", "file /etc/dpsup/x/n", "rx_pcap"),
    ("out.pcap", "x/o.pcap", ERROR, Exit.BAD_TOPOLOGY, "x/o.pcap", "/etc/dpsup/x does", "mkdir"),
    (
        'in.pcap,tx_pcap=out.pcap"',
        'no.pcap"\nrequired = false',
        WARNING, Exit.OK, "no.pcap", "no file", "rx_pcap",
    ),
    # plugins
    ('"macswap"', '"macsawp"', ERROR, Exit.BAD_TOPOLOGY, "macsawp", "no built-in", "`macswap`"),
    ('"macswap"', '"zzz"', ERROR, Exit.BAD_TOPOLOGY, "zzz", "no built-in", "./NAME.so"),
    ('"macswap"', '"./fw.so"', ERROR, Exit.BAD_TOPOLOGY, "fw.so", "/etc/dpsup/fw.so", "build it"),
    ('{ wan = "lan"', '{ wan = "lna"', ERROR, Exit.BAD_TOPOLOGY, "lna", 'there: "lna"', "`lan`"),
    ('{ wan = "lan"', '{ zzz = "lan"', ERROR, Exit.BAD_TOPOLOGY, "zzz", 'there: "zzz"', "ports"),
    ('{ wan = "lan"', '{ wan = "fw"', ERROR, Exit.BAD_TOPOLOGY, '"fw"', 'there: "fw"', "port"),
    (
        '{ wan = "lan", lan = "wan" }', '"lan"',
        ERROR, Exit.BAD_TOPOLOGY, 'map = "lan"', "not a table", "map = {",
    ),
    ('"macswap"', '"sink"', None, Exit.OK, "", "", ""),
    ('"macswap"\nargs = { map = { wan = "lan"', '"x"\nargs = { map = { wan = "lna"',
     ERROR, Exit.BAD_TOPOLOGY, "lna", 'there: "lna"', "`lan`"),
    ('["wan", "lan"]', '["lan"]', None, Exit.OK, "", "", ""),
    ('["wan", "lan"]', "[]", WARNING, Exit.OK, "input = []", "no port feeds group `fw`", "input"),
    # mempools: 2 ports x 2,048 descriptors, a burst, 384 in a cache, 4 lanes x 64
    ("= 16383", "= 5151", ERROR, Exit.BAD_TOPOLOGY, "5151", "at least 5152", "mbufs = 8191"),
    ("= 16383", "= 5152", WARNING, Exit.OK, "5152", "6814 are in use", "mbufs = 8191"),
    ("= 16383", "= 6814", None, Exit.OK, "", "", ""),
    # memory
    ('s = "auto"', 's = "64MiB"', ERROR, Exit.BAD_TOPOLOGY, "64MiB", "and the topology needs", "8"),
    ('s = "auto"', 's = "1G"', None, Exit.OK, "", "", ""),
    ('s = "auto"', 's = "4G"', ERROR, Exit.HOST, "4G", "2048 hugepages of 2 MiB", "echo 2048 >"),
    ('"2M"', '"1G"', ERROR, Exit.HOST, "mbufs", "1 hugepage of 1 GiB needed", "hugepagesz=1G"),
    ("= 16383", "= 2000000", ERROR, Exit.HOST, "2000000", "of 2 MiB needed", "host-setup"),
    # runtime folder
    (
        'runtime_dir = "auto"', f'runtime_dir = "/{"r" * 94}"',
        ERROR, Exit.BAD_TOPOLOGY, "rrr", "1 byte too long", "shorter",
    ),
    ('runtime_dir = "auto"', f'runtime_dir = "/{"r" * 93}"', None, Exit.OK, "", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "severity", "code", "offending", "message", "help"),
    FILES,
)
def test_file(
    old: str,
    new: str,
    severity: Severity | None,
    code: Exit,
    offending: str,
    message: str,
    help: str,
) -> None:
    text = FULL.replace(old, new, 1)
    assert text != FULL
    if severity is None:
        assert findings(text) == []
        return
    problem = next(p for p in findings(text) if message in p.message)
    assert problem.severity is severity
    assert offending in problem.source
    assert any(word in problem.help for word in help.split("|")), problem.help
    if severity is ERROR:
        assert problem.exit_code is code
        assert code_of(text) is code
    else:
        _, _, warnings = prepare(FILE, machine(text))
        assert problem in warnings


# --- one change of the machine ------------------------------------------------------------------

TWO_NODES = {0: frozenset(range(4)), 1: frozenset(range(4, 8))}
EMPTY = Pages(0, 0)

MACHINES = [
    # (what is different, severity, exit code, offending text, message, help)
    ({"allowed": frozenset({0, 2, 3})}, ERROR, Exit.HOST, '"1"', "may not use CPU 1", "taskset"),
    ({"cpus": 2}, WARNING, Exit.OK, 'cores = "auto"', "share CPU 0", "more CPUs"),
    ({"cpus": 3}, WARNING, Exit.OK, 'cores = "auto"', "share CPU 2", "more CPUs"),
    (
        {"pci": {"0000:3b:00.0": PciDevice(0, "ixgbe")}},
        WARNING, Exit.OK, "3b:00.0", "kernel's ixgbe", "dpdk-devbind.py -b vfio-pci 0000:3b:00.0",
    ),
    (
        {"hugepages": {2 * MIB: Pages(50, 10)}},
        ERROR, Exit.HOST, "mbufs = 16383", "44 hugepages of 2 MiB needed, and 10 free",
        "echo 84 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages, or ./deploy/host-setup",
    ),
    ({"hugepages": {}}, ERROR, Exit.HOST, "mbufs", "no hugepages of 2 MiB", "hugetlbfs"),
    (
        {
            "numa": TWO_NODES,
            "node_hugepages": {0: {2 * MIB: Pages(10, 10)}, 1: {2 * MIB: Pages(990, 990)}},
        },
        ERROR, Exit.HOST, "mbufs", "NUMA node 0, and 10 free", "/node/node0/hugepages/",
    ),
    (
        {"hugetlbfs": ()},
        ERROR, Exit.HOST, "mbufs", "no hugetlbfs with pages of 2M",
        "mount -t hugetlbfs -o pagesize=2M nodev /dev/hugepages",
    ),
    (
        {"hugetlbfs": (Hugetlbfs("/mnt", GIB, writable=True),)},
        ERROR, Exit.HOST, "mbufs", "no hugetlbfs with pages of 2M", "mount -t hugetlbfs",
    ),
    (
        {"hugetlbfs": (Hugetlbfs("/mnt", 2 * MIB, writable=False),)},
        ERROR, Exit.HOST, "mbufs", "may not write in /mnt", "remount,rw",
    ),
    (
        {"hugetlbfs": (Hugetlbfs("/mnt", 2 * MIB, writable=False),), "is_root": False, "uid": 7},
        ERROR, Exit.NOT_PERMITTED, "mbufs", "may not write in /mnt", "uid=7",
    ),
    (
        {"writable": frozenset({"/home"}), "is_root": False, "uid": 7},
        ERROR, Exit.NOT_PERMITTED, 'runtime_dir = "auto"', "/tmp/dpsup-7/edge", "run as root",
    ),
    (
        {"writable": frozenset()},
        ERROR, Exit.HOST, 'runtime_dir = "auto"', "/run/dpsup/edge", "read-write",
    ),
    (
        {"env": {"RUNTIME_DIRECTORY": "/run/" + "x" * 90}},
        ERROR, Exit.BAD_TOPOLOGY, 'runtime_dir = "auto"', "1 byte too long", "shorter",
    ),
    (
        {"env": {"RUNTIME_DIRECTORY": "/run/" + "x" * 60}},
        ERROR, Exit.BAD_TOPOLOGY, 'name = "edge"', "too long: /", "$RUNTIME_DIRECTORY",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "severity", "code", "offending", "message", "help"), MACHINES)
def test_machine(
    changes: dict[str, Any],
    severity: Severity,
    code: Exit,
    offending: str,
    message: str,
    help: str,
) -> None:
    problem = next(p for p in findings(FULL, **changes) if message in p.message)
    assert problem.severity is severity
    assert offending in problem.source
    assert help in problem.help
    if severity is ERROR:
        assert problem.exit_code is code
        assert code_of(FULL, **changes) is code


def test_machine_without_a_driver_folder_is_not_asked_about_drivers() -> None:
    assert findings(swap(FULL, PCAP, "net_zzz0"), pmds={}, pci_drivers=frozenset()) == []


def test_user_with_rights_needs_no_root() -> None:
    env = {"XDG_RUNTIME_DIR": "/run/user/7"}
    writable = frozenset({"/run/user/7"})
    assert findings(FULL, is_root=False, uid=7, env=env, writable=writable) == []


# --- CPUs ---------------------------------------------------------------------------------------


def test_two_io_cores_on_one_cpu() -> None:
    text = MINIMAL + '[[io]]\ncores = "2,1"\n'
    problem = the_finding(text)
    assert problem.message == "CPU 1 is an io core already"
    assert "line 11" in problem.why
    assert 'cores = "1"' in text.split("\n")[10]
    assert findings(text + "[host]\nshared_cores = true\n") == []


def test_shared_cores_are_allowed_when_asked_for() -> None:
    text = swap(FULL, 'cores = "auto"', 'cores = "1,2"')
    assert findings(swap(text, "shared_cores = false", "shared_cores = true")) == []


def test_auto_shares_an_io_core_only_when_there_is_no_other() -> None:
    text = swap(FULL, 'cores = "1"', 'cores = "0"')
    found = findings(text, cpus=1)
    assert [p.severity for p in found] == [WARNING, WARNING]
    assert "an io core" in found[1].why


def test_groups_that_share_a_cpu() -> None:
    text = swap(MINIMAL, 'vdev = "net_null0"', 'vdev = "net_null0"\n[[ports]]\nname = "lan"\n'
                'vdev = "net_null1"')  # fmt: skip
    text += 'cores = "3"\ninput = ["wan"]\n[[workers]]\nname = "b"\ncores = "3"\n'
    problem = the_finding(text + 'input = ["lan"]\n')
    assert "group `b` share CPU 3" in problem.message
    assert problem.why.startswith("fw/0 and b/0 take turns")


def test_groups_that_share_are_named_in_one_warning() -> None:
    text = MINIMAL + 'input = ["wan"]\n'
    text += "".join(f'[[workers]]\nname = "g{i}"\ninput = []\n' for i in range(6))
    found = [p for p in findings(text, cpus=3) if "share" in p.message]
    assert [p.message for p in found] == [
        "workers of groups `g0`, `g1`, `g2` and 3 more share CPU 2"
    ]
    assert found[0].source == "[[workers]]"


def test_slots_without_a_worker_share_silently() -> None:
    assert findings(swap(FULL, "max = 4", "max = 64"), cpus=4) == []


# --- ports and groups ---------------------------------------------------------------------------


def test_port_that_nobody_uses() -> None:
    text = swap(FULL, '{ map = { wan = "lan", lan = "wan" } }', "{}")
    text = swap(text, 'input = ["wan", "lan"]', 'input = ["wan"]')
    problem = the_finding(text)
    assert "port `lan` feeds no group" in problem.message
    assert problem.severity is WARNING
    # Nobody knows where a plugin of one's own sends to.
    own = swap(text, '"macswap"', '"./fw.so"')
    files = {FILE: own, "/etc/dpsup/fw.so": "", "/etc/dpsup/in.pcap": ""}
    assert findings(own, files=files) == []


# --- captures -----------------------------------------------------------------------------------

IN = "/etc/dpsup/in.pcap"
SHORT, LONG, TOP = (60, 60), (1523, 1523), (1522, 1522)


@pytest.mark.parametrize(
    ("capture", "message", "help"),
    [
        (pcap([SHORT, TOP]), "", ""),
        (pcap([SHORT, (96, 1500), (96, 99)]), "2 of 3 packets in", "tcpdump -s 0"),
        (pcap([SHORT, LONG, (9014, 9014)]), "2 of 3 packets in", "write mtu = 9000"),
        (pcap([(70000, 70000)]), "1 of 1 packet in", "no mtu is that large"),
        (pcap([SHORT], link_type=113), "no Ethernet header (link type 113)", "`any`"),
        (pcap([SHORT, SHORT])[:-1], "is damaged after 1 packet", "editcap"),
    ],
)
def test_what_a_capture_holds(capture: bytes, message: str, help: str) -> None:
    captures = {IN: capture}
    if not message:
        assert findings(FULL, captures=captures) == []
        return
    problem = the_finding(FULL, captures=captures)
    assert problem.severity is WARNING
    assert message in problem.message
    assert help in problem.help
    assert "in.pcap" in problem.source


def test_number_of_the_first_odd_packet() -> None:
    cut, long = findings(FULL, captures={IN: pcap([SHORT, (96, 97), LONG])})
    assert "cut at capture, the first is number 2" in cut.message
    assert "too long for the port, the first is number 3" in long.message
    assert "oversize" in long.why
    # The first port's mtu is another matter.
    assert findings(swap(FULL, "mtu = 1500", "mtu = 100"), captures={IN: pcap([TOP])}) == []


@pytest.mark.parametrize("required", [True, False])
def test_file_that_is_no_capture(required: bool) -> None:
    text = FULL if required else swap(FULL, 'out.pcap"', 'out.pcap"\nrequired = false')
    problem = the_finding(text, captures={IN: b"version = 1\n" * 9})
    assert "is no capture file" in problem.message
    assert problem.severity is (ERROR if required else WARNING)
    if required:
        assert code_of(text, captures={IN: b""}) is Exit.BAD_TOPOLOGY


# --- mempools -----------------------------------------------------------------------------------


def test_what_a_pool_needs() -> None:
    text = swap(FULL, 'cores = "1"', 'cores = "1-2"')
    topology = read(text, machine(text))
    held = 2 * 2 * 2048 + 2 * 32 + 2 * 768
    assert pool_needs(topology, "default") == (held + 2 * 4 * 64, held + 2 * 2 * 959)


def test_pool_that_nobody_uses_needs_only_its_cache() -> None:
    text = swap(MINIMAL, "[mempools.default]", "[mempools.default]\n[mempools.idle]\nmbufs = 800")
    assert pool_needs(read(text, machine(text)), "idle") == (768, 768)
    assert findings(text) == []


def test_cache_that_takes_the_whole_pool() -> None:
    text = swap(MINIMAL, "[mempools.default]", "[mempools.default]\nmbufs = 300")
    found = findings(text)
    assert [p.severity for p in found] == [ERROR, ERROR]
    cache = next(p for p in found if "`cache`" in p.message)
    assert "cache = 200" in cache.help


# --- all together -------------------------------------------------------------------------------


def test_prepare_returns_warnings() -> None:
    topology, plan, warnings = prepare(FILE, machine(FULL, cpus=2), generation=3)
    assert topology.name == plan.name == "edge"
    assert plan.generation == 3
    assert [p.severity for p in warnings] == [WARNING]


def test_prepare_reads_this_machine_when_none_is_given(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("version = 1\n")
    with pytest.raises(TopologyError):
        prepare(str(path))


def test_faults_of_file_and_machine_are_reported_at_once() -> None:
    text = swap(FULL, "mbufs = 16383", 'mbufs = "x"')
    text = swap(text, "in.pcap", "no.pcap")
    text = swap(text, '"macswap"', '"macswop"')
    text = swap(text, 'cores = "1"', 'cores = "99"')
    with pytest.raises(TopologyError) as error:
        prepare(FILE, machine(text))
    problems = error.value.problems
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    assert len(problems) == 4
    assert error.value.exit_code is Exit.BAD_TOPOLOGY
    for problem in problems:
        assert str(problem) in str(error.value)
        assert f"{FILE}:{problem.line}" in str(error.value)


def test_default_in_place_of_a_faulty_value_is_not_judged() -> None:
    text = swap(FULL, 'cores = "1"', "cores = 0")
    with pytest.raises(TopologyError) as error:
        prepare(FILE, machine(text, cpus=1))
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("text", ["", "version = 1\n[", "\0"])
def test_prepare_of_a_broken_file(text: str) -> None:
    assert code_of(text) is Exit.BAD_TOPOLOGY


def test_missing_file_is_a_bad_topology() -> None:
    with pytest.raises(TopologyError) as error:
        prepare("gone.toml", machine())
    assert error.value.exit_code is Exit.BAD_TOPOLOGY
    assert "No such file" in str(error.value)


def test_own_faults_come_before_the_machines() -> None:
    text = swap(FULL, '"macswap"', '"macswop"')
    assert code_of(text, hugepages={2 * MIB: EMPTY}) is Exit.BAD_TOPOLOGY
    assert code_of(FULL, hugepages={2 * MIB: EMPTY}, writable=frozenset(), is_root=False) is (
        Exit.NOT_PERMITTED
    )


def test_paths_of_files_count_among_the_arguments() -> None:
    """They are those of the private copies, in the runtime directory."""
    names = [f"f{n}.txt" for n in range(80)]
    own = f"{MINIMAL}[workers.files]\n" + "".join(f'f{n} = "f{n}.txt"\n' for n in range(80))
    long = own.replace("[mempools", f'[host]\nruntime_dir = "/run/{"d" * 60}"\n\n[mempools')
    for text, too_many in ((own, False), (long, True)):
        found = findings(text, files={FILE: text, **{f"/etc/dpsup/{n}": "" for n in names}})
        assert ["is handed takes" in p.message for p in found] == [True] * too_many


@pytest.mark.parametrize("with_file", [True, False])
def test_where_tables_lie_counts_among_the_arguments(with_file: bool) -> None:
    """Of arguments that just fit, those of the tables make too many."""
    table = 'tables = { t = { kind = "ipv4", entries = 1 } }\n'
    file = 'files = { a = "a.txt" }\n' if with_file else ""

    def handed(length: int, more: str) -> tuple[int, list[Problem]]:
        text = f'{MINIMAL}{file}{more}args = {{ a = "{"x" * length}" }}\n'
        files = {FILE: text, "/etc/dpsup/a.txt": ""}
        topology, problems = load(FILE, machine(text, files=files))
        assert topology is not None, problems
        group = topology.workers[0]
        size = limits.args_size(args_of(group, runtime_dir(topology, machine())))
        return size, [p for p in check(topology, machine(text, files=files)) if p.code == "E0511"]

    room = limits.ARGS - handed(0, "")[0]
    while handed(room, "")[1]:  # the path of a file's copy is longer than the file's
        room -= 1
    (found,) = handed(room, table)[1]
    assert "is handed takes" in found.message
    assert found.line > 0 and found.source
    assert found.source.startswith("files = " if with_file else "args = ")


@pytest.mark.parametrize(
    ("plugin", "why"),
    [("fw.py", ""), ("sink", "built-in plugin `sink`"), ("fw.so", "")],
)
def test_tables_that_no_plugin_looks_up_are_a_warning(plugin: str, why: str) -> None:
    table = 'tables = { t = { kind = "ipv4", entries = 1 } }\n'
    text = f'{MINIMAL}plugin = "{plugin}"\n{table}'
    found = [p for p in findings(text) if p.code == "E0534"]
    assert [p.severity for p in found] == [Severity.WARNING] * bool(why)
    assert all(why in p.why and p.line > 0 for p in found)
