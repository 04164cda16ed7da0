# SPDX-License-Identifier: BSD-3-Clause
"""Ports and pools: what the driver can do, what tx refuses, what runs short."""

from __future__ import annotations

import json
import re

import pytest
from harness import NULL, Run, leftovers, run

pytestmark = pytest.mark.beside

ONE = """
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
args = { map = { wan = "lan" } }
input = ["wan"]
"""

MEMIF = 'vdev = "net_memif0,role=server,socket={socket},socket-abstract=no"'


def test_what_the_driver_can_do_is_said(instance: Run) -> None:
    text = NULL.replace('cores = "1"', 'cores = "0-1"')
    instance.start(text)
    doc = instance.stats()
    info = doc["port_info"][0]
    assert info["driver"] == "net_null"
    assert len(info["mac"].split(":")) == 6
    assert info["max_rx_queues"] >= 2
    assert (info["rx_queues"], info["tx_queues"]) == (2, 2)
    assert info["rss_offloads"] > 0
    # The indirection table is spread over both io cores' queues.
    assert info["reta_size"] == len(info["reta"]) > 0
    assert set(info["reta"]) == {0, 1}
    assert info["reta"].count(0) == info["reta"].count(1)
    assert not info["hw_rss"]
    assert "hashed in software" in info["note"]
    instance.until(lambda s: all(io["busy_loops"] for io in s["io"]))
    assert instance.audit()["pools"][0]["unexplained"] == 0
    assert "hashed in software" in instance.do("stats").stdout


def test_what_tx_refuses_is_counted_and_freed(instance: Run) -> None:
    memif = MEMIF.format(socket=instance.folder / "memif.sock")
    instance.start(
        '[[ports]]\nname = "wan"\nvdev = "net_null0"\n[[ports]]\nname = "lan"\n' + memif + ONE
    )
    doc = instance.until(lambda s: s["ports"][1]["tx_dropped"] > 100_000 and s)
    assert doc["ports"][1]["tx_packets"] == 0
    assert not doc["ports"][1]["link_up"]
    pool = instance.audit()["pools"][0]
    assert pool["unexplained"] == 0
    assert pool["io"] + pool["tx_rings"] + pool["lanes"] < 16383
    instance.stop()
    assert leftovers(instance.name) == []


@pytest.mark.fault(29)
def test_an_empty_pool_is_counted_and_nothing_breaks(instance: Run) -> None:
    """Two lanes can hold more than the pool has, and the worker that has most of it is stopped."""
    text = NULL.replace("count = 2", "count = 1").replace(
        'input = ["wan", "lan"]', 'input = ["wan", "lan"]\nring = 32768'
    )
    instance.start(text)
    import os
    import signal

    pid = instance.worker("fw/0")["pid"]
    os.kill(pid, signal.SIGSTOP)
    doc = instance.until(lambda s: s["mempools"][0]["alloc_failures"] > 0 and s)
    assert doc["mempools"][0]["low_water"] < 300
    assert instance.audit()["pools"][0]["unexplained"] == 0
    os.kill(pid, signal.SIGCONT)
    sent = doc["ports"][0]["tx_packets"]
    instance.until(lambda s: s["ports"][0]["tx_packets"] > sent + 100_000)
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_a_port_that_is_not_required_may_be_missing(instance: Run) -> None:
    extra = '[[ports]]\nname = "gone"\nvdev = "net_af_packet0,iface=nowhere0"\nrequired = false\n'
    # Even one that the map sends to: what would leave there is dropped, by name.
    instance.start(extra + NULL.replace('lan = "wan"', 'lan = "gone"'))
    doc = instance.status()
    assert [(p["name"], p["absent"]) for p in doc["ports"]] == [
        ("wan", False), ("lan", False), ("gone", True)
    ]  # fmt: skip
    shown = instance.do("ports").stdout
    assert re.search(r"^gone +absent ", shown, re.MULTILINE)
    assert "hint: port gone is absent" in shown
    instance.until(lambda s: s["state"] == "degraded")
    assert instance.do("status", check=False).returncode == 5
    assert any("gone" in e.get("message", "") for e in instance.events() if e["type"] == "warning")
    instance.until(lambda s: s["ports"][1]["tx_packets"] > 0)


def test_a_required_port_that_does_not_come_up_says_why(instance: Run) -> None:
    bad = 'vdev = "net_tap0,mac=zz"'
    instance.write('[[ports]]\nname = "gone"\n' + bad + NULL)
    done = run("start", str(instance.file))
    assert done.returncode == 1, done.stderr
    assert 'port "gone"' in done.stderr
    assert "net_tap0" in done.stderr
    assert leftovers(instance.name) == []


def test_mtu_beyond_the_driver_is_refused_with_the_limit(instance: Run) -> None:
    instance.write(NULL.replace('vdev = "net_null0"', 'vdev = "net_memif0"\nmtu = 64000'))
    done = run("start", str(instance.file))
    assert done.returncode != 0
    assert "mtu" in done.stderr
    assert leftovers(instance.name) == []


def test_json_of_every_reading_command_is_one_document(instance: Run) -> None:
    instance.start(NULL)
    for command in ("status", "stats", "audit", "events", "logs"):
        json.loads(instance.do(command, "-o", "json").stdout)
    for command in ("check", "plan"):
        json.loads(run(command, str(instance.file), "-o", "json").stdout)
    json.loads(run("version", "-o", "json").stdout)
