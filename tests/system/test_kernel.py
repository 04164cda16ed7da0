# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's own traffic through dpsup: two namespaces joined by it over veth and net_af_packet.

What net_af_packet (22.11) is and is not, as far as it shows here. Its ring's frames have 2048 bytes
(`framesz`, two to a block of `blocksz` = 4096, `framecnt` = 512) and it states that no frame is
larger than 1514, whatever `framesz` says: `mtu` is 1500 at most. It always joins a fanout group
with PACKET_FANOUT_FLAG_DEFRAG, so the kernel puts IPv4 fragments together before they get here: a
datagram beyond the MTU arrives as one frame, cut to the ring's, and is counted as oversize. IPv6's
arrive as they are. The kernel takes the outer VLAN tag off and the driver puts it back as 0x8100,
whatever it was: 802.1ad's 0x88a8 does not survive. What the kernel drops for a full ring the driver
does not report.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from harness import Run, run, wait_for
from netns import Host, Transfer, raw_socket, sh, two_hosts
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether

from dpsup import connect

pytestmark = pytest.mark.beside

MEGABYTE = 1_000_000

TOPOLOGY = """
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
max = 4
restart = {{ intensity = 1000, backoff = {{ initial = "10ms", factor = 1 }} }}
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as pair:
        yield pair


def join(instance: Run, hosts: tuple[Host, Host]) -> None:
    """dpsup between the two."""
    instance.start(TOPOLOGY.format(wan=hosts[0].port, lan=hosts[1].port))


def dropped(instance: Run) -> dict[str, int]:
    return instance.stats()["account"]["dropped"]


def test_the_io_core_rings_for_parked_workers(instance: Run, hosts: tuple[Host, Host]) -> None:
    join(instance, hosts)
    a, b = hosts
    a.ping(b.ipv4)  # addresses are known from here on
    before = instance.stats()["io"][0]["rings"]

    def rung() -> bool:
        """One after the other, until it has found them asleep so often."""
        assert a.ping(b.ipv4, count=1) == 1
        return bool(instance.stats()["io"][0]["rings"] >= before + 8)

    wait_for(rung, step=0.1)


def woken(instance: Run) -> list[int]:
    return [io["woken"] for io in instance.stats()["io"]]


def one_way(hosts: tuple[Host, Host], more: str = "") -> str:
    """From wan to lan alone; lan is not polled."""
    text = TOPOLOGY.format(wan=hosts[0].port + more, lan=hosts[1].port)
    return text.replace(', lan = "wan"', "").replace('["wan", "lan"]', '["wan"]')


@pytest.mark.parametrize("two", [False, True], ids=["one-io-core", "two-io-cores"])
def test_a_packet_wakes_its_io_core(instance: Run, hosts: tuple[Host, Host], two: bool) -> None:
    """Of two io cores each is woken by its own of the driver's sockets alone.

    To which socket the kernel gives a flow it decides by a hash with a key that it draws at boot:
    so there are many flows, one frame of each, and each wakes one io core, whichever it is.
    """
    a, b = hosts
    text = one_way(hosts, ",qpairs=2" if two else "")
    if two:
        text = text.replace("[[workers]]", '[[io]]\ncores = "0"\n[[workers]]')
    instance.start(text)
    frames = [
        bytes(Ether(src=a.mac, dst=b.mac) / IP(src=a.ipv4, dst=b.ipv4) / UDP(sport=1000 + i))
        for i in range(24)
    ]
    before = instance.stats()
    sent = 0

    def often() -> bool:
        """A packet that comes between two sleeps ends none; if one ended two, there would be more
        than packets. All at one of two io cores: one time in millions."""
        nonlocal sent
        s.send(frames[sent % len(frames)])
        sent += 1
        wait_for(lambda: instance.stats()["ports"][1]["tx_packets"] >= sent, step=0.005)
        after = instance.stats()
        received = after["account"]["received"] - before["account"]["received"]
        found = [
            io["woken"] - was["woken"] for io, was in zip(after["io"], before["io"], strict=True)
        ]
        assert sum(found) <= received
        return sum(found) >= 16 and all(found)

    with raw_socket(a) as s:
        wait_for(often, step=0.05)  # by then all sleep again


def test_an_interface_that_was_down_wakes_its_io_core_again(
    instance: Run, hosts: tuple[Host, Host]
) -> None:
    """The kernel keeps its error for the socket; a port that sends nothing never takes it."""
    a, b = hosts
    instance.start(one_way(hosts))
    sh("ip", "link", "set", a.port, "down")
    sh("ip", "link", "set", a.port, "up")
    frame = bytes(Ether(src=a.mac, dst=b.mac) / IP() / UDP() / bytes(100))
    with raw_socket(a) as s:
        wait_for(lambda: s.send(frame) and instance.stats()["account"]["received"] > 5)
        (before,) = woken(instance)
        wait_for(lambda: s.send(frame) and woken(instance)[0] >= before + 8, step=0.1)


def test_what_is_not_polled_wakes_nobody(instance: Run, hosts: tuple[Host, Host]) -> None:
    """Packets that wait at a port whose group is scaled to nothing are there all the time."""
    a, b = hosts
    more = 'on_full = "hold"\nat_zero = "hold"\n'
    instance.start(TOPOLOGY.format(wan=a.port, lan=b.port) + more)
    a.ping(b.ipv4)
    instance.do("scale", "fw", "0", "--wait")
    a.ping(b.ipv4, "-W", "0.2", count=3)
    before = sum(woken(instance))
    time.sleep(1)
    assert sum(woken(instance)) <= before + 10
    instance.do("scale", "fw", "2", "--wait")
    assert a.ping(b.ipv4) == 5


def test_ping_goes_through_with_ipv4_and_ipv6(instance: Run, hosts: tuple[Host, Host]) -> None:
    join(instance, hosts)
    a, b = hosts
    assert a.ping(b.ipv4) == 5
    assert a.ping(b.ipv6) == 5
    assert b.ping(a.ipv4) == 5
    # As large as the MTU allows, not to be fragmented, every byte checked by ping.
    assert a.ping(b.ipv4, "-M", "do", "-s", "1472", "-p", "5a") == 5
    assert a.ping(b.ipv6, "-M", "do", "-s", "1452", "-p", "5a") == 5
    doc = instance.stats()["account"]
    # ARP, neighbour discovery and 25 pings both ways.
    assert doc["received"] >= 52
    assert doc["dropped"] == {}
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_fragmented_ping_goes_through(instance: Run, hosts: tuple[Host, Host]) -> None:
    join(instance, hosts)
    a, b = hosts
    assert a.ping(b.ipv6, "-s", "20000") == 5
    assert dropped(instance) == {}
    # Small IPv4 fragments: the driver's socket has them put together, and forwards the whole.
    a.run("ip", "route", "replace", "10.99.0.0/24", "dev", a.device, "mtu", "lock", "700")
    assert a.ping(b.ipv4, "-s", "1400") == 5
    assert dropped(instance) == {}
    # Beyond the MTU what was put together cannot be forwarded: said so, by name.
    a.ping(b.ipv4, "-s", "20000", "-W", "1", count=2)
    assert dropped(instance) == {"oversize": 2}
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_tagged_frames_keep_their_tags(instance: Run, hosts: tuple[Host, Host]) -> None:
    join(instance, hosts)
    a, b = hosts
    b.reflect()
    ether = Ether(src=a.mac, dst=b.mac)
    ping = IP(src="10.99.7.1", dst="10.99.7.2") / ICMP() / bytes(range(64))
    frames = [
        bytes(frame)
        for frame in (
            ether / Dot1Q(vlan=7, prio=5) / ping,
            ether / Dot1Q(vlan=0, prio=7) / ping,
            ether / Dot1Q(vlan=4094) / ARP(),
            ether / Dot1Q(vlan=7) / Dot1Q(vlan=8) / ping,
            # A tag more than what fills the MTU, and untagged for comparison.
            ether / Dot1Q(vlan=7) / IP() / UDP() / bytes(1500 - 28),
            ether / ping,
        )
    ]
    for sent, received in zip(frames, a.exchange(frames), strict=True):
        assert received == sent[6:12] + sent[:6] + sent[12:]
    assert dropped(instance) == {}


def test_vlan_tagged_ping_goes_through(instance: Run, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    if not a.add_vlan(7, "10.99.7.1/24"):
        pytest.skip("this kernel has no VLAN interfaces (CONFIG_VLAN_8021Q)")
    b.add_vlan(7, "10.99.7.2/24")
    join(instance, hosts)
    assert a.ping("10.99.7.2") == 5
    # A tag more than an untagged frame of the same MTU.
    assert a.ping("10.99.7.2", "-M", "do", "-s", "1472") == 5
    # The tag is what joins them: with another, nobody answers.
    b.run("ip", "link", "del", f"{b.device}.7")
    b.add_vlan(8, "10.99.7.2/24")
    a.run("ip", "neigh", "flush", "all")
    assert a.ping("10.99.7.2", "-W", "1", count=1) == 0
    assert dropped(instance) == {}


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_tcp_transfer_arrives_whole_while_workers_die_and_scale(
    instance: Run, hosts: tuple[Host, Host], family: str
) -> None:
    join(instance, hosts)
    a, b = hosts
    with connect(instance.name) as live:

        def arrived() -> int:
            return int(live.status()["ports"][0]["rx_packets"])

        transfer = Transfer.start(a, b, getattr(b, family), 100 * MEGABYTE)
        for deaths, (worker, count) in enumerate((("fw/0", 3), ("fw/1", 1), ("fw/0", 4)), 1):
            seen = arrived()
            wait_for(lambda seen=seen: arrived() > seen + 1000)
            live.kill(worker)
            wait_for(
                lambda n=deaths: (
                    (s := live.status())["recovery"]["deaths"] == n and s["state"] == "running"
                )
            )
            live.scale("fw", count)
            seen = arrived()
            wait_for(lambda seen=seen: arrived() > seen + 1000)
            assert transfer.runs
    sent, received = transfer.finish()
    assert sent["bytes"] >= 100 * MEGABYTE
    assert received["bytes"] == sent["bytes"]
    assert received["sha256"] == sent["sha256"]
    print(f"{family}: {received['bytes'] * 8 / received['seconds'] / 1e6:.0f} Mbit/s")
    doc = instance.status()
    assert doc["recovery"]["lost"] == 0
    assert doc["recovery"]["deaths"] == 3
    assert instance.stats()["account"]["received"] >= 100 * MEGABYTE // 1500
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_mtu_beyond_the_driver_is_refused_with_what_it_takes(
    instance: Run, hosts: tuple[Host, Host]
) -> None:
    text = TOPOLOGY.format(wan=hosts[0].port, lan=hosts[1].port)
    instance.write(text.replace('name = "wan"', 'name = "wan"\nmtu = 1800'))
    done = run("start", str(instance.file))
    assert done.returncode != 0
    assert "mtu 1800 is more than the driver takes" in done.stderr


def test_missing_interface_is_refused_by_name(instance: Run, hosts: tuple[Host, Host]) -> None:
    text = TOPOLOGY.format(wan="nosuchdev0", lan=hosts[1].port)
    instance.write(text)
    done = run("start", str(instance.file))
    assert done.returncode != 0
    assert "net_af_packet0" in done.stderr
