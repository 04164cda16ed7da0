# SPDX-License-Identifier: BSD-3-Clause
"""One kind of NIC, three of them: all that dpsup says of ports must hold on their driver too."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Run, run, wait_for
from lab import guest
from lab.guest import PATIENCE, End, Nic, Outside

FORWARD = """
[[io]]
cores = "0"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
args = {{ map = {{ {map} }} }}
input = [{input}]
count = 2
cores = "2"
"""
DRIVERS = {"e1000e": "net_e1000_em", "virtio-net-pci": "net_virtio", "vmxnet3": "net_vmxnet3"}
# Its driver asks for several buffers a frame only with LRO: a frame must fit one mbuf.
LARGE = {"vmxnet3": 'mempool = "large"\n'}
POOL = """
[mempools.large]
mbufs = 16383
data_room = 9600
"""
NAMES = ("wan0", "lan0", "dmz0")
TO = {"wan0": "lan0", "lan0": "wan0", "dmz0": "wan0"}


class Lab:
    """The machine, its NICs and what is on their wires."""

    def __init__(self, nics: dict[str, Nic]) -> None:
        self.nics = nics
        self.model = nics["wan0"].model
        self.ends = {name: End(nics[f"far-{name}"], 9000) for name in ("wan", "lan", "dmz")}
        self.wan, self.lan, self.dmz = self.ends.values()

    def text(self, *names: str, more: str = "") -> str:
        """A topology that forwards from each of these ports."""
        there = [self.nics[name] for name in names if self.nics[name].there]
        blocks = {nic.name: guest.ports(nic) for nic in there}
        for name in names:
            pci = self.nics[name].pci
            blocks.setdefault(name, f'[[ports]]\nname = "{name}"\npci = "{pci}"\n')
        ways = ", ".join(f'{name} = "{TO[name]}"' for name in names)
        text = "".join(blocks[name] + more for name in names)
        return text + FORWARD.format(map=ways, input=", ".join(f'"{name}"' for name in names))

    def passes(self) -> None:
        """Each NIC's link comes up in its own time, and with it what that NIC receives."""
        guest.passes(self.wan, self.lan)
        guest.passes(self.lan, self.wan)

    def exchange(self, seed: int = 1, **more: Any) -> None:
        guest.exchange(self.wan, self.lan, seed=seed, **more)

    def tags(self) -> None:
        """Frames with a VLAN's tag, both ways, arrive with it."""
        for one, other in ((self.wan, self.lan), (self.lan, self.wan)):
            for vlan in (0, 1, 7, 4095):
                head = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x81\0" + vlan.to_bytes(2, "big")
                frame = (head + b"\x88\xb5" + vlan.to_bytes(4, "big")).ljust(64, b"\0")
                one.socket.send(frame)
                assert other.frames(1, 120) == [frame], vlan


@pytest.fixture(scope="module")
def lab(nics: dict[str, Nic]) -> Iterator[Lab]:
    one = Lab(nics)
    yield one
    for end in one.ends.values():
        end.close()


def port_of(instance: Run, name: str) -> dict[str, Any]:
    return next(port for port in instance.stats()["ports"] if port["name"] == name)


def info_of(instance: Run, name: str) -> dict[str, Any]:
    return next(port for port in instance.stats()["port_info"] if port["name"] == name)


def said(instance: Run, name: str) -> list[str]:
    return [e["message"] for e in instance.events() if e["type"] == "port" and e["name"] == name]


def exit_code(instance: Run) -> int:
    return instance.do("status", check=False).returncode


def accounted(instance: Run) -> None:
    doc = instance.audit()
    assert not any(pool["unexplained"] for pool in doc["pools"]), doc


def note(lab: Lab, info: dict[str, Any]) -> None:
    """For the table in docs/nics.md, which docs/make/nics.py makes."""
    told = {
        "model": lab.model,
        "dpdk": json.loads(run("version", "-o", "json").stdout)["dpdk"],
        "kernel": os.uname().release,
        **{key: info[key] for key in ("driver", "rx_queues", "reta_size", "hw_rss", "note")},
    }
    (guest.OUT / "nic.json").write_text(json.dumps(told))


def test_traffic_and_kills(lab: Lab, instance: Run) -> None:
    """Both ways byte-identical, tags of VLANs included; a worker and the primary killed between."""
    instance.write(lab.text("wan0", "lan0"))
    check = run("check", str(instance.file))
    assert check.returncode == 0, check.stdout + check.stderr
    planned = json.loads(run("plan", str(instance.file), "-o", "json", check=True).stdout)
    assert [one["device"] for one in planned["ports"]] == [
        lab.nics[n].pci for n in ("wan0", "lan0")
    ]
    instance.start()
    lab.passes()
    lab.exchange()
    info = info_of(instance, "wan0")
    note(lab, info)
    lab.tags()
    assert info["driver"] == DRIVERS[lab.model]
    assert info["rx_queues"] == 2  # one of each io core, with RSS or without
    assert set(info["reta"]) <= set(range(info["rx_queues"]))
    assert len(info["reta"]) == info["reta_size"]
    killed = instance.worker("fw/0")["pid"]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: instance.worker("fw/0")["pid"] not in (0, None, killed), PATIENCE)
    lab.exchange(seed=7)
    accounted(instance)
    primary = instance.status()["primary"]["pid"]
    os.kill(primary, signal.SIGKILL)
    wait_for(lambda: instance.status()["primary"]["pid"] not in (0, None, primary), PATIENCE)
    instance.until(lambda status: status["state"] == "running", PATIENCE)
    lab.passes()
    lab.exchange(seed=9)
    accounted(instance)


def test_jumbo_frames(lab: Lab, instance: Run) -> None:
    """Frames of up to 9000 bytes, over several mbufs where the driver can."""
    text = lab.text("wan0", "lan0", more="mtu = 9000\n" + LARGE.get(lab.model, ""))
    instance.start(text + (POOL if lab.model in LARGE else ""))
    lab.passes()
    lab.exchange(jumbo=9014)
    accounted(instance)


@pytest.mark.fault(31)
def test_a_cable_is_pulled(lab: Lab, instance: Run, outside: Outside) -> None:
    instance.start(lab.text("wan0", "lan0"))
    lab.passes()
    wait_for(lambda: port_of(instance, "lan0")["link_up"], PATIENCE)
    outside.ask("cable", nic="lan0", up=False)
    try:
        wait_for(lambda: not port_of(instance, "lan0")["link_up"], PATIENCE)
        wait_for(lambda: said(instance, "lan0")[-1:] == ["its link is down"], PATIENCE)
        assert exit_code(instance) == 5
    finally:
        outside.ask("cable", nic="lan0", up=True)
    wait_for(lambda: exit_code(instance) == 0, PATIENCE)
    assert said(instance, "lan0")[-1] == "it forwards again"
    lab.passes()
    lab.exchange()


@contextlib.contextmanager
def taken_out(lab: Lab, outside: Outside, name: str) -> Iterator[None]:
    lab.nics[name].bind("")
    assert outside.ask("unplug", nic=name)
    try:
        yield
    finally:
        if not lab.nics[name].there:
            outside.ask("plug", nic=name)
            wait_for(lambda: lab.nics[name].there, PATIENCE)


def test_missing_at_the_start(lab: Lab, instance: Run, outside: Outside) -> None:
    """`required = false`: the others forward; fitted and bound later, the port is opened."""
    with taken_out(lab, outside, "dmz0"):
        text = lab.text(*NAMES)
        instance.write(text)
        refused = run("start", str(instance.file), "--detach", timeout=PATIENCE)
        assert refused.returncode == 6, refused.stderr
        assert "there is no PCI device" in refused.stderr
        dmz = f'name = "dmz0"\npci = "{lab.nics["dmz0"].pci}"\n'
        instance.start(text.replace(dmz, dmz + "required = false\n"))
        assert exit_code(instance) == 5
        lab.passes()
        lab.exchange()
        outside.ask("plug", nic="dmz0")
        wait_for(lambda: lab.nics["dmz0"].there, PATIENCE)
        lab.nics["dmz0"].bind("vfio-pci")
        wait_for(lambda: exit_code(instance) == 0, PATIENCE)
        guest.passes(lab.dmz, lab.wan)
        accounted(instance)


@pytest.mark.fault(32)
def test_removed_under_load(lab: Lab, instance: Run, outside: Outside) -> None:
    """An event, the port absent, exit code 5; the others lose nothing. Back again: it is opened."""
    instance.start(lab.text(*NAMES))
    lab.passes()
    guest.passes(lab.dmz, lab.wan)
    primary = instance.status()["primary"]["pid"]
    end = threading.Event()

    def load() -> None:
        frame = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x03\x88\xb5".ljust(60, b"\0")
        while not end.wait(0.005):
            lab.dmz.socket.send(frame)

    sender = threading.Thread(target=load)
    sender.start()
    try:
        assert outside.ask("unplug", nic="dmz0"), "the kernel did not get its device back"
    finally:
        end.set()
        sender.join()
    assert exit_code(instance) == 5
    assert port_of(instance, "dmz0")["absent"]
    assert said(instance, "dmz0")
    lab.passes()
    accounted(instance)
    outside.ask("plug", nic="dmz0")
    wait_for(lambda: lab.nics["dmz0"].there, PATIENCE)
    lab.nics["dmz0"].bind("vfio-pci")
    wait_for(lambda: exit_code(instance) == 0, PATIENCE)
    guest.passes(lab.dmz, lab.wan)
    accounted(instance)
    lab.wan.drain()
    lab.exchange()
    accounted(instance)
    assert instance.status()["primary"]["pid"] == primary
