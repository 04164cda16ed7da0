# SPDX-License-Identifier: BSD-3-Clause
"""What two ports, or two instances, must not share; outputs and buffers that cannot be right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from unit.fakehost import FILE, FULL, machine

from dpsup.check.buffers import cuts_memif
from dpsup.check.topology import check
from dpsup.errors import Problem, Severity
from dpsup.host.machine import read_host
from dpsup.host.neighbours import Neighbour
from dpsup.topology.load import load

PCI = 'pci = "0000:3b:00.0"'
LAN = 'vdev = "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"'
IN, OUT = "/etc/dpsup/in.pcap", "/etc/dpsup/out.pcap"


def found(lan: str, wan: str = PCI, more: str = "", **changes: Any) -> list[Problem]:
    """What is said of a topology with these devices, as far as it is of this file."""
    text = FULL.replace(PCI, f'vdev = "{wan}"' if wan != PCI else PCI).replace(
        LAN, f'vdev = "{lan}"'
    )
    text = text.replace("[bus]", f"{more}\n[bus]")
    host = machine(text, **{"files": {FILE: text, IN: "", "/etc/dpsup/fw.so": ""}, **changes})
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    return [p for p in check(topology, host) if p.code[:4] == "E044" and p.code != "E0446"]


def the_one(*args: Any, **changes: Any) -> Problem:
    (problem,) = found(*args, **changes)
    assert problem.why
    assert problem.help
    return problem


# --- files ----------------------------------------------------------------------------------------

OVERWRITES = [
    ("net_pcap0,rx_pcap=in.pcap,tx_pcap=in.pcap", PCI, {}),
    ("net_pcap0,rx_pcap=in.pcap,tx_pcap=./x/../in.pcap", PCI, {}),
    ("net_pcap0,tx_pcap=in.pcap,rx_pcap=in.pcap", PCI, {}),
    ("net_pcap0,rx_pcap=in.pcap,tx_pcap=link.pcap", PCI, {"same": {"/etc/dpsup/link.pcap": IN}}),
    ("net_pcap0,rx_iface=eth0,tx_pcap=in.pcap", "net_pcap1,rx_pcap=in.pcap,infinite_rx=1", {}),
    ("net_pcap0,tx_pcap=out.pcap", "net_pcap1,tx_pcap=out.pcap", {}),
    ("net_pcap0,tx_pcap=out.pcap,tx_pcap=out.pcap", PCI, {}),
    ("eth_pcap0,tx_pcap=out.pcap", "net_pcap1,tx_pcap=o", {"same": {"/etc/dpsup/o": OUT}}),
    ("net_pcap0,tx_pcap=edge.toml", PCI, {}),
    ("net_pcap0,tx_pcap=l", PCI, {"same": {"/etc/dpsup/l": FILE}}),
]


@pytest.mark.parametrize(("lan", "wan", "changes"), OVERWRITES)
def test_an_output_overwrites_nothing_in_use(lan: str, wan: str, changes: dict[str, Any]) -> None:
    problem = the_one(lan, wan, **changes)
    assert problem.code == "E0440"
    assert problem.severity is Severity.ERROR


def test_an_output_is_no_plugin() -> None:
    more = '[[workers]]\nname = "own"\nplugin = "./fw.so"\ninput = []'
    assert the_one("net_pcap0,tx_pcap=fw.so", PCI, more).code == "E0440"


def test_an_output_is_no_file_that_a_plugin_reads() -> None:
    more = '[[workers]]\nname = "own"\nplugin = "sink"\ninput = []\nfiles = { a = "list.txt" }'
    problem = the_one("net_pcap0,tx_pcap=list.txt", more=more)
    assert (problem.code, problem.why[:25]) == ("E0440", "the plugin of group `own`")


def test_an_output_is_no_live_table() -> None:
    head = '[[workers]]\nname = "own"\nplugin = "sink"\ninput = []\ntables = { r = { '
    more = f'{head}kind = "ipv4", entries = "1k", file = "r.txt" }} }}'
    (problem,) = (p for p in found("net_pcap0,tx_pcap=r.txt", more=more) if p.code == "E0440")
    assert "table r of `own`" in problem.why
    folders = frozenset({"/var/lib/dpsup/edge/tables"})
    text = "net_pcap0,tx_pcap=/var/lib/dpsup/edge/tables/own=r"
    assert the_one(text, folders=folders).code == "E0440"


@pytest.mark.parametrize("stream", ["/dev/stdout", "/dev/stderr"])
def test_an_output_is_not_where_the_command_writes(stream: str) -> None:
    """`dpsup start edge.toml 2>out.pcap`: its lines would overwrite the first packets."""
    lan = "net_pcap0,tx_pcap=out.pcap"
    files = {stream: "", FILE: FULL.replace(LAN, f'vdev = "{lan}"')}
    problem = the_one(lan, files=files, same={stream: OUT})
    assert problem.code == "E0440"


def test_an_output_is_no_quarantined_packet() -> None:
    at = "/var/lib/dpsup/edge/quarantine"
    folders = frozenset({at})
    problem = the_one(f"net_pcap0,tx_pcap={at}/1.pcap", folders=folders)
    assert problem.code == "E0440"


def test_an_output_is_no_file_of_the_runtime_directory() -> None:
    folders = frozenset({"/etc/dpsup", "/run/dpsup/edge"})
    problem = the_one("net_pcap0,tx_pcap=/run/dpsup/edge/state.json", folders=folders)
    assert problem.code == "E0440"


@pytest.mark.parametrize("vdev", ["net_pcap0,rx_pcap=/etc/dpsup/out.pcap", "net_pcap0,tx_pcap=/o"])
def test_nor_a_file_of_another_instance(vdev: str) -> None:
    other = Neighbour("other", "/run/dpsup/other", "/o.toml", ("", vdev))
    problem = the_one("net_pcap0,tx_pcap=out.pcap", others=(other,), same={"/o": OUT})
    assert problem.code == "E0440"
    assert '"other"' in problem.why


@pytest.mark.parametrize(
    ("lan", "wan", "changes"),
    [
        ("net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap", PCI, {}),
        # two readers do each other no harm
        ("net_pcap0,rx_pcap=in.pcap", "net_pcap1,rx_pcap=in.pcap", {}),
        ("net_pcap0,tx_pcap=/dev/null", "net_pcap1,tx_pcap=/dev/null",
         {"kinds": {"/dev/null": "null"}, "folders": frozenset({"/dev", "/etc/dpsup"})}),
        # itself, which runs
        ("net_pcap0,tx_pcap=out.pcap", PCI,
         {"others": (Neighbour("edge", "/run/dpsup/edge", "", (f"net_pcap0,tx_pcap={OUT}",)),)}),
        ("net_pcap0,tx_pcap=out.pcap", PCI,
         {"others": (Neighbour("edge", "/tmp/x/edge", FILE, (f"net_pcap0,tx_pcap={OUT}",)),)}),
        ("net_pcap0,rx_iface=eth0", "net_pcap1,tx_iface=eth0", {}),
        ("net_pcap0,rx_iface=eth0,tx_iface=eth0", PCI, {}),
        ("net_tap0,iface=t0", "net_tap1,iface=t1", {}),
        ("net_memif0,role=server,id=1", "net_memif1,role=server,id=2", {}),
        ("net_memif0,role=server", "net_memif1,role=client", {}),
    ],
)  # fmt: skip
def test_what_may_be_shared(lan: str, wan: str, changes: dict[str, Any]) -> None:
    assert found(lan, wan, **changes) == []


@pytest.mark.parametrize("kind", ["other", "socket"])
def test_an_output_is_a_file(kind: str) -> None:
    problem = the_one("net_pcap0,tx_pcap=out.pcap", kinds={OUT: kind})
    assert problem.code == "E0442"


def test_what_files_are(tmp_path: Path) -> None:
    host = read_host()
    file, link, hard, gone, dangling = (tmp_path / n for n in ("f", "l", "h", "g", "d"))
    file.touch()
    link.symlink_to(file)
    hard.hardlink_to(file)
    dangling.symlink_to(gone)
    (tmp_path / "x").mkdir()
    os.mkfifo(tmp_path / "p")
    assert host.file_id(str(file)) == host.file_id(str(link)) == host.file_id(str(hard))
    assert host.file_id(str(tmp_path / "x" / ".." / "f")) == host.file_id(str(file))
    assert host.file_id(str(dangling)) == host.file_id(str(gone)) != host.file_id(str(file))
    kinds = {str(file): "file", str(tmp_path): "other", str(tmp_path / "p"): "fifo",
             str(gone): "absent", "/dev/null": "null", "/dev/full": "other", "/dev/zero": "other",
             "/dev/stdout": "other", "/dev/fd/1": "other", "/proc/self/fd/1": "other"}  # fmt: skip
    assert {path: host.kind_of(path) for path in kinds} == kinds


# --- interfaces -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lan", "wan"),
    [
        ("net_af_packet0,iface=eth0", "net_af_packet1,iface=eth0"),
        ("net_af_packet0,iface=eth0", "net_pcap1,iface=eth0"),
        ("net_pcap0,rx_iface=eth0", "net_pcap1,rx_iface_in=eth0"),
        ("net_pcap0,rx_iface=eth0,rx_iface=eth0", PCI),
        ("net_tap0,iface=t0", "net_tap1,iface=t0"),
        ("eth_vhost0,iface=/v", "net_vhost1,queues=2,iface=/v"),
        ("net_memif0,role=server,id=1", "net_memif1,id=1,role=master"),
        ("net_memif0,socket=/s", "net_memif1,socket=/s,id=0"),
    ],
)
def test_an_interface_feeds_one_port(lan: str, wan: str) -> None:
    problem = the_one(lan, wan)
    assert problem.code == "E0441"
    assert problem.severity is Severity.ERROR


def test_an_interface_of_another_instance_is_warned_of() -> None:
    other = Neighbour("other", "/run/dpsup/other", "/o.toml", ("net_pcap0,iface=eth0",))
    problem = the_one("net_af_packet0,iface=eth0", others=(other,))
    assert problem.code == "E0441"
    assert problem.severity is Severity.WARNING
    assert '"other"' in problem.message


# --- buffers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lan", "code", "help"),
    [
        ("net_af_packet0,iface=eth0", None, ""),
        ("net_af_packet0,iface=eth0,framesz=1600,blocksz=8192,framecnt=510", None, ""),
        ("net_af_packet0,iface=eth0,framesz=1584", "E0443", "framesz=2048"),
        ("net_af_packet0,iface=eth0,framesz=1024", "E0443", "mtu = 935"),
        ("net_memif0,id=1", None, ""),
        ("net_memif0,id=1,bsize=1522", None, ""),
        ("net_memif0,id=1,bsize=1521", "E0444", "bsize=1522"),
        ("net_memif0,id=1,bsize=512", "E0444", "mtu = 490"),
        ("net_memif0,id=1,bsize=64", "E0444", "bsize=1522"),
    ],
)
def test_a_frame_fits_its_buffer(lan: str, code: str | None, help: str) -> None:
    if code is None:
        assert found(lan) == []
        return
    problem = the_one(lan)
    assert problem.code == code
    assert problem.severity is Severity.ERROR
    assert help in problem.help


def test_the_defaults_are_too_small_for_jumbo_frames() -> None:
    for device, code in (("net_memif0,id=1", "E0444"), ("net_af_packet0,iface=eth0", "E0443")):
        jumbo = f'{device}"\nmtu = 9000 #'
        assert the_one(jumbo).code == code


def test_a_newer_dpdk_s_memif_is_right() -> None:
    assert found("net_memif0,bsize=512", dpdk_version="24.11.5") == []
    old = ("20.11", "22.11.11", "23.11.6", "24.11", "24.11.4", "25.03", "25.07.0")
    new = ("24.11.5", "24.11.10", "25.11", "25.11.1", "26.03.0-rc1")
    assert [cuts_memif(v) for v in (*old, *new)] == [True] * len(old) + [False] * len(new)


# --- what has no effect ---------------------------------------------------------------------------


def test_a_log_level_is_warned_of() -> None:
    for level, codes in (("info", []), ("debug", ["E0150"]), ("error", ["E0150"])):
        text = FULL.replace('level = "info"', f'level = "{level}"')
        host = machine(text)
        topology, _ = load(FILE, host)
        assert topology is not None
        assert [p.code for p in check(topology, host)] == codes


def test_neighbours_are_read_from_their_plans(tmp_path: Path) -> None:
    """Of processes that look like a primary; nothing that such a one names can hold anybody up."""
    plan = {"name": "n", "runtime_dir": "/r", "topology_file": "/t", "ports": [{"vdev": "net_x"}]}
    whole, torn, fifo = (tmp_path / name for name in ("plan.json", "torn.json", "fifo"))
    whole.write_text(json.dumps(plan))
    torn.write_text(json.dumps(plan)[:-9])
    os.mkfifo(fifo)
    plans = [whole, torn, fifo, tmp_path / "gone", tmp_path]
    ours = [
        subprocess.Popen(
            [sys.executable, "-c", "input()", "-m", "dpsup.primary", str(path)],
            stdin=subprocess.PIPE,
        )
        for path in plans
    ]
    try:
        deadline = time.monotonic() + 60
        expected = Neighbour("n", "/r", "/t", ("net_x",))
        while expected not in (found := read_host().neighbours()):
            assert time.monotonic() < deadline
        assert found.count(expected) == 1
    finally:
        for one in ours:
            one.communicate(b"\n")
