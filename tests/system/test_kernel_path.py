# SPDX-License-Identifier: BSD-3-Clause
"""A port's way to the kernel: two namespaces, `a` a client at the port, `b` the kernel that has the
port's TAP, and nothing between the two but dpsup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Run, dies, held_by, run, supervisor, wait_for
from jobs import build
from netns import Host, Transfer, raw_socket, sh, two_hosts
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

pytestmark = [pytest.mark.system, pytest.mark.beside]

# What is for the port's own MAC or for all is the kernel's; the rest goes out of the other port.
PUNTS = """
#include <dpsup_plugin.h>

static const struct dps_env *env;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return 0;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	if (p->len < 14)
		return dps_drop(0);
	if (p->data[0] & 1 || memcmp(p->data, env->ports[p->port].mac, 6) == 0)
		return dps_punt();
	return dps_out(1 - p->port);
}

static const char *const reasons[] = { "short", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "punts", .init = init, .packet = packet, .reasons = reasons,
};
"""

TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_af_packet0,iface={a.port}"
kernel = {{ netns = "{b.name}"{more} }}
[[ports]]
name = "lan"
vdev = "net_af_packet1,iface={b.port}"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "{plugin}"
input = ["wan", "lan"]
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
"""

KERNEL4, KERNEL6 = "10.98.0.254", "fd00:98::254"


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as pair:
        yield pair


def link(host: Host, name: str = "wan") -> dict[str, Any]:
    found = host.run("ip", "-j", "addr", "show", name, check=False).stdout
    return json.loads(found)[0] if found else {}


def wan(instance: Run) -> dict[str, Any]:
    return next(p for p in instance.status()["ports"] if p["name"] == "wan")


def join(
    instance: Run, hosts: tuple[Host, Host], tmp_path: Path, more: str = "", two: bool = False
) -> None:
    a, b = hosts
    text = TOPOLOGY.format(a=a, b=b, plugin=build(tmp_path, PUNTS), more=more)
    if two:
        _, wan, lan = text.partition("[[io]]")[0].split("[[ports]]")
        text = text.replace(f"[[ports]]{wan}[[ports]]{lan}", f"[[ports]]{lan}[[ports]]{wan}")
        text = text.replace("[[workers]]", '[[io]]\ncores = "0"\n[[workers]]')
    instance.start(text)
    for address in (f"{KERNEL4}/24", f"{KERNEL6}/64"):
        b.run("ip", "addr", "add", address, "dev", "wan", *(["nodad"] if ":" in address else []))
    a.run("ip", "addr", "add", "10.98.0.1/24", "dev", a.device)
    a.run("ip", "addr", "add", "fd00:98::1/64", "dev", a.device, "nodad")


@pytest.mark.parametrize("two", [False, True], ids=["one-io-core", "two-io-cores"])
def test_the_kernel_answers_at_the_port(
    instance: Run, hosts: tuple[Host, Host], tmp_path: Path, two: bool
) -> None:
    """ARP, neighbour discovery, ping and TCP of its addresses; every packet is in the account, and
    nothing stays behind. Of two io cores the one that gets the kernel's frames is not the one that
    owns the port's queues."""
    a, b = hosts
    join(instance, hosts, tmp_path, two=two)
    assert a.ping(KERNEL4) == a.ping(KERNEL6) == 5
    mac = sh("cat", f"/sys/class/net/{a.port}/address").stdout.strip()
    for address in (KERNEL4, KERNEL6):
        assert mac in a.run("ip", "neigh", "show", address).stdout
    here = link(b)
    assert (here["address"], here["mtu"]) == (mac, 1500)
    assert f"alias dpsup {instance.name} wan" in b.run("ip", "link", "show", "wan").stdout
    sent, received = Transfer.start(a, b, KERNEL4, 1_000_000).finish()
    assert (sent["bytes"], sent["sha256"]) == (received["bytes"], received["sha256"])
    port = wan(instance)
    assert port["kernel"]["carrier"] and not port["kernel"]["trouble"]
    assert port["to_kernel"] > 700 and port["from_kernel"] > 10
    assert [p["unexplained"] for p in instance.audit()["pools"]] == [0]

    def settled() -> bool:
        account = instance.stats()["account"]
        assert account["lost"] == 0 or account["in_flight"], account
        return account["in_flight"] == 0 and account["to_kernel"] > 700

    wait_for(settled)
    assert "TO KERNEL" in instance.do("ports").stdout
    # The link of the port is that of the TAP.
    sh("ip", "link", "set", a.port, "down")
    wait_for(lambda: "NO-CARRIER" in link(b)["flags"])
    sh("ip", "link", "set", a.port, "up")
    wait_for(lambda: "LOWER_UP" in link(b)["flags"])
    wait_for(lambda: a.ping(KERNEL4, count=1) == 1)
    # What is refused has a name, and so has its cure.
    b.run("ip", "link", "set", "wan", "down")
    a.run("ip", "neigh", "replace", KERNEL4, "lladdr", mac, "dev", a.device)

    def refused() -> bool:
        a.ping(KERNEL4, "-W", "0.1", count=1)
        return instance.stats()["account"]["dropped"].get("kernel_failed", 0) > 0

    wait_for(refused)
    instance.stop()
    assert link(b) == {}


def test_connections_survive_every_death(
    instance: Run, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """One TCP connection, and the TAP with its address and carrier, through the deaths of the
    worker, the supervisor and the primary; numbered bytes, none of them lost or out of order."""
    a, b = hosts
    join(instance, hosts, tmp_path)
    transfer = Transfer.start(a, b, KERNEL4, 100_000)
    index = link(b)["ifindex"]

    def moves() -> None:
        before = wan(instance)["to_kernel"]
        wait_for(lambda: wan(instance)["to_kernel"] > before + 100)

    moves()
    worker = instance.worker("fw/0")["pid"]
    dies(worker)
    wait_for(lambda: instance.worker("fw/0")["pid"] not in (0, None, worker))
    moves()
    dies(supervisor(instance))
    moves()
    instance.start()
    wait_for(lambda: "/dev/net/tun" in held_by(supervisor(instance)))
    primary = instance.status()["primary"]["pid"]
    dies(primary)

    def again() -> bool:
        here = link(b)
        assert here["ifindex"] == index and "LOWER_UP" in here["flags"], here
        assert KERNEL4 in [one["local"] for one in here["addr_info"]]
        doc = instance.status()
        return doc["state"] == "running" and doc["generation"] == 2

    wait_for(again, step=0.02)
    wait_for(lambda: wan(instance)["to_kernel"] > 100)
    assert transfer.runs
    sent, received = transfer.finish()
    assert (sent["bytes"], sent["sha256"]) == (received["bytes"], received["sha256"])
    # All at once: what is left is found by its mark, and goes on or is removed.
    doc = instance.status()
    for pid in (doc["supervisor"]["pid"], doc["primary"]["pid"]):
        dies(pid)
    assert link(b)["ifindex"] == index
    done = run("-n", instance.name, "clean")
    assert "removed interface wan" in done.stdout + done.stderr
    assert link(b) == {}


def test_a_flood_for_the_kernel_costs_no_data(
    instance: Run, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """Beyond the rate packets for the kernel are dropped by name; those that go from port to port
    all arrive, and the kernel still answers."""
    a, b = hosts
    join(instance, hosts, tmp_path, ", rate = 100")
    mac = sh("cat", f"/sys/class/net/{a.port}/address").stdout.strip()
    flood = bytes(Ether(src=a.mac, dst=mac) / IP(dst=KERNEL4) / UDP(dport=9) / bytes(100))
    data = bytes(Ether(src=a.mac, dst=b.mac) / IP(dst="10.97.0.1") / UDP(dport=9) / bytes(100))
    with raw_socket(a) as wire, raw_socket(b) as sink:
        sink.settimeout(10.0)
        for number in range(200):
            for _ in range(10):
                wire.send(flood)
            wire.send(data + number.to_bytes(4, "big"))
            frame = b""
            while not frame.startswith(data):
                frame = sink.recv(2048)
            assert frame[len(data) :] == number.to_bytes(4, "big")

    def settled() -> dict[str, int]:
        account = instance.stats()["account"]
        done = account["to_kernel"] + account["dropped"].get("kernel_rate", 0) >= 2000
        return account if done and not account["in_flight"] else {}

    account = wait_for(settled)
    assert account["lost"] == 0 and account["dropped"]["kernel_rate"] > 0, account
    wait_for(lambda: a.ping(KERNEL4, count=1) == 1)


def test_a_tap_that_is_deleted_comes_back(
    instance: Run, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    a, b = hosts
    join(instance, hosts, tmp_path)
    index = link(b)["ifindex"]
    b.run("ip", "link", "del", "wan")
    wait_for(lambda: link(b).get("ifindex", index) != index)
    b.run("ip", "addr", "add", f"{KERNEL4}/24", "dev", "wan")
    wait_for(lambda: a.ping(KERNEL4, count=1) == 1)


def test_another_interface_is_left_alone(
    instance: Run, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    a, b = hosts
    b.run("ip", "tuntap", "add", "dev", "wan", "mode", "tap", "multi_queue")
    before = link(b)
    plugin = build(tmp_path, PUNTS)
    text = TOPOLOGY.format(a=a, b=b, plugin=plugin, more="")
    done = run("start", str(instance.write(text)), "--detach")
    assert done.returncode == 6 and "E0448" in done.stderr, done.stderr
    assert link(b)["flags"] == before["flags"] and link(b)["ifindex"] == before["ifindex"]
