# SPDX-License-Identifier: BSD-3-Clause
"""Ports whose device goes and comes back, and drivers that sleep."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Run, wait_for
from netns import sh

pytestmark = pytest.mark.beside

MEMIF = "socket={socket},socket-abstract=no"
REST = """
[[ports]]
name = "other"
vdev = "net_null0"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
args = {{ map = {{ other = "lan", lan = "other" }} }}
input = ["other", "lan"]
"""


def topology(vdev: str, more: str = "") -> str:
    return f'[[ports]]\nname = "lan"\nvdev = "{vdev}"\n{more}' + REST.format()


def lan(instance: Run) -> dict[str, Any]:
    return next(p for p in instance.status()["ports"] if p["name"] == "lan")


def said(instance: Run) -> list[str]:
    return [e["message"] for e in instance.events() if e["type"] == "port" and e["name"] == "lan"]


def exit_code(instance: Run) -> int:
    return instance.do("status", check=False).returncode


def forwards(instance: Run) -> None:
    """More than the port's driver had before is taken by it now."""
    before = lan(instance)["tx_packets"]
    instance.until(lambda s: s["ports"][0]["tx_packets"] > before + 1000)


@contextlib.contextmanager
def veth(name: str) -> Iterator[None]:
    sh("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        sh("ip", "link", "set", name, "up")
        sh("ip", "link", "set", f"{name}p", "up")
        yield
    finally:
        sh("ip", "link", "del", name, check=False)


@pytest.fixture
def interface() -> str:
    return f"dps{os.getpid()}"


@pytest.mark.fault(31, 32)
def test_an_interface_goes_down_is_deleted_and_comes_back(instance: Run, interface: str) -> None:
    with veth(interface):
        instance.start(topology(f"net_af_packet0,iface={interface}"))
        instance.until(lambda s: s["state"] == "running")
        forwards(instance)
        for change, why in (("down", "is down"), ("up", "")):
            sh("ip", "link", "set", interface, change)
            wait_for(lambda why=why: why in (found := lan(instance))["trouble"] or not found)
            wait_for(lambda why=why: exit_code(instance) == (5 if why else 0))
            assert lan(instance)["link_up"] is not bool(why)
        forwards(instance)
        # So is one whose peer is down.
        sh("ip", "link", "set", f"{interface}p", "down")
        wait_for(lambda: any("no carrier" in message for message in said(instance)))
    wait_for(lambda: lan(instance)["absent"])
    dropped = lan(instance)["dropped"].get("port_down", 0)
    instance.until(lambda _: lan(instance)["dropped"].get("port_down", 0) > dropped)
    wait_for(lambda: any("is gone" in message for message in said(instance)))
    wait_for(lambda: exit_code(instance) == 5)
    with veth(interface):
        instance.until(lambda s: s["state"] == "running")
        forwards(instance)
        assert instance.audit()["pools"][0]["unexplained"] == 0
        assert instance.status()["generation"] == 1
        # The primary dies while the interface is away: the rest goes on.
        sh("ip", "link", "del", interface)
        wait_for(lambda: lan(instance)["absent"])
        os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
        instance.until(lambda s: s["generation"] == 2 and s["state"] == "degraded")
    with veth(interface):
        instance.until(lambda s: s["state"] == "running")
        forwards(instance)


def test_an_output_that_is_opened_again_lacks_what_it_had(instance: Run, interface: str) -> None:
    out = instance.folder / "out.pcap"
    text = topology(f"net_pcap0,rx_iface={interface},tx_pcap={out}")
    with veth(interface):
        instance.start(text.replace("net_null0", "net_pcap1,rx_iface=lo,tx_pcap=/dev/null"))
        sh("ping", "-c", "5", "-i", "0.01", "127.0.0.1")
        instance.until(lambda _: lan(instance)["tx_packets"] >= 10)
        assert lan(instance)["unwritten_bytes"] == 0
    wait_for(lambda: lan(instance)["absent"])
    before = lan(instance)
    with veth(interface):
        wait_for(lambda: not lan(instance)["absent"])
        after = lan(instance)
        # What the driver counts goes on with its next device.
        assert all(after[key] >= before[key] for key in before if key.startswith(("rx_", "tx_")))
        instance.until(lambda _: lan(instance)["unwritten_bytes"] >= 10 * (16 + 98))
        wait_for(lambda: exit_code(instance) == 5)


def test_a_memif_server_outlives_its_primary_and_a_client_its_server(instance: Run) -> None:
    socket = instance.folder / "memif.sock"
    at = MEMIF.format(socket=socket)
    instance.start(topology(f"net_memif0,role=server,{at}"))
    other = Run(f"{instance.name}c", Path(instance.folder / "client"))
    other.folder.mkdir()
    try:
        other.start(topology(f"net_memif1,role=client,{at}"))
        other.until(lambda s: s["state"] == "running")
        forwards(other)
        os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
        # A socket without a listener is removed, and the client finds the next server.
        instance.until(lambda s: s["generation"] == 2 and s["state"] == "running")
        other.until(lambda s: s["state"] == "running" and lan(other)["link_up"])
        forwards(other)
        instance.stop()
        assert not socket.exists()
        other.until(lambda s: s["state"] == "degraded")
        assert "no server" in lan(other)["trouble"]
        other.stop()
        # Without its server it starts all the same.
        other.start()
        other.until(lambda s: s["state"] == "degraded")
        assert lan(other)["absent"]
    finally:
        other.stop()


def test_a_driver_that_sleeps_is_left_out_of_later_generations(instance: Run) -> None:
    """A FIFO in place of the file stands for every file whose writer may be put to sleep; `check`
    refuses those that it sees."""
    out = instance.folder / "out.pcap"
    instance.start(topology(f"net_pcap0,tx_pcap={out}"))
    instance.until(lambda s: s["state"] == "running")
    out.unlink()
    os.mkfifo(out)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
        instance.until(lambda s: s["generation"] == 4 and s["state"] == "degraded")
        port = lan(instance)
        assert port["absent"]
        assert "put an io core to sleep" in port["trouble"]
        assert any("again: it is left out" in message for message in said(instance))
        # The others are forwarded from: the io core drops what is for that port, by name.
        instance.until(lambda _: lan(instance)["dropped"].get("port_down", 0) > 1000)
        wait_for(lambda: exit_code(instance) == 5)
    finally:
        os.close(reader)


def test_a_slow_qdisc_holds_up_its_own_port_only(instance: Run, interface: str) -> None:
    with veth(interface):
        sh("tc", "qdisc", "add", "dev", interface, "root", "tbf", "rate", "16kbit", "burst", "2k",
           "latency", "60s")  # fmt: skip
        instance.start(topology(f"net_af_packet0,iface={interface},qdisc_bypass=0"))
        instance.until(lambda s: s["ports"][0]["tx_dropped"] > 100_000)
        assert instance.status()["generation"] == 1
        loops = instance.stats()["io"][0]["loops"]
        instance.until(lambda s: s["io"][0]["loops"] > loops + 1000)
