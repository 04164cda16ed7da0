# SPDX-License-Identifier: BSD-3-Clause
"""DPDK's own tools against a running instance: dpdk-telemetry.py and dpdk-proc-info, as
docs/dpdk-tools.md says how. What they print is what dpsup counts; the instance is unharmed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, Run, wait_for
from netns import two_hosts

pytestmark = pytest.mark.beside

NULL = """
[[ports]]
name = "wan"
vdev = "net_null0"
[[ports]]
name = "lan"
vdev = "net_null1"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
args = { map = { wan = "lan", lan = "wan" } }
input = ["wan", "lan"]
count = 2
restart = { intensity = 100, backoff = { initial = "10ms", factor = 1 } }
"""

VETH = """
[[ports]]
name = "wan"
vdev = "net_af_packet0,iface={wan}"
[[ports]]
name = "lan"
vdev = "net_af_packet1,iface={lan}"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
args = {{ map = {{ wan = "lan", lan = "wan" }} }}
input = ["wan", "lan"]
count = 2
"""


def prefix(instance: Run) -> str:
    return f"dpsup-{instance.name}-g{instance.status()['generation']}"


def tool(*argv: str, stdin: str = "") -> str:
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def telemetry(instance: Run, command: str) -> Any:
    """The answer to one telemetry command, as a pipe to dpdk-telemetry.py gets it."""
    answer = json.loads(tool("dpdk-telemetry.py", "-f", prefix(instance), stdin=f"{command}\n"))
    return answer[command.partition(",")[0]]


def proc_info(instance: Run, *options: str) -> str:
    return tool("dpdk-proc-info", f"--file-prefix={prefix(instance)}", "--no-pci", "--", *options)


def nic_statistics(text: str) -> list[tuple[int, int]]:
    """Packets received and sent, per port."""
    per_port = text.split("NIC statistics for port")[1:]
    return [
        (int(found[1]), int(found[2]))
        for one in per_port
        if (found := re.search(r"RX-packets: (\d+) .*?TX-packets: (\d+) ", one, re.DOTALL))
    ]


def sockets(instance: Run) -> list[str]:
    return sorted(p.name for p in Path("/var/run/dpdk", prefix(instance)).glob("mp_socket*"))


def counted(instance: Run) -> list[tuple[int, int]]:
    return [(p["rx_packets"], p["tx_packets"]) for p in instance.status()["ports"]]


def assert_between(
    before: list[tuple[int, int]], seen: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    assert len(seen) == len(before)
    for low, n, high in zip(before, seen, after, strict=True):
        assert low[0] <= n[0] <= high[0]
        assert low[1] <= n[1] <= high[1]


@pytest.mark.long
def test_telemetry_shows_what_dpsup_counts(instance: Run) -> None:
    instance.start(NULL)
    instance.until(lambda s: all(p["tx_packets"] for p in s["ports"]))
    assert telemetry(instance, "/ethdev/list") == [0, 1]
    assert telemetry(instance, "/mempool/list") == ["default"]
    assert f"--file-prefix={prefix(instance)}" in telemetry(instance, "/eal/params")
    before = counted(instance)
    seen = [telemetry(instance, f"/ethdev/stats,{port}") for port in (0, 1)]
    assert_between(before, [(s["ipackets"], s["opackets"]) for s in seen], counted(instance))


def test_proc_info_shows_what_dpsup_counts_and_leaves_nothing(instance: Run) -> None:
    instance.start(NULL)
    instance.until(lambda s: all(p["tx_packets"] for p in s["ports"]))
    start = instance.status()
    before, files = counted(instance), sockets(instance)
    heap = instance.stats()["heap_bytes"]
    for _ in range(2):
        seen = nic_statistics(proc_info(instance, "--stats"))
        after = counted(instance)
        assert_between(before, seen, after)
        before = after
    assert "rx_good_packets" in proc_info(instance, "--xstats")
    assert "driver net_null device net_null1" in proc_info(instance, "--show-port")
    # One that ends as it should gives all back: shared heap and its socket.
    assert instance.stats()["heap_bytes"] == heap
    assert sockets(instance) == files

    # The same processes, still forwarding; and one that dies is still replaced.
    now = instance.until(lambda s: s["ports"][1]["tx_packets"] > after[1][1] and s)
    assert now["state"] == "running"
    for key in ("generation", "supervisor", "primary", "seed"):
        assert now[key] == start[key]
    pids = [[w["pid"] for w in s["groups"][0]["workers"]] for s in (start, now)]
    assert pids[0] == pids[1]
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_proc_info_disturbs_no_kernel_port(instance: Run) -> None:
    with two_hosts() as (a, b):
        instance.start(VETH.format(wan=a.port, lan=b.port))
        assert a.ping(b.ipv4) == 5
        wait_for(lambda: nic_statistics(proc_info(instance, "--stats")) == counted(instance))
        assert a.ping(b.ipv6) == 5
        ports = instance.status()["ports"]
        assert all(port["link_up"] for port in ports)
        assert instance.stats()["account"]["dropped"] == {}


@pytest.mark.fault(25)
def test_tools_of_another_generation_find_nobody(instance: Run) -> None:
    instance.start(NULL)
    done = subprocess.run(
        ["dpdk-proc-info", f"--file-prefix=dpsup-{instance.name}-g2", "--no-pci", "--", "--stats"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert instance.status()["state"] == "running"
