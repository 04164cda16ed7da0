# SPDX-License-Identifier: BSD-3-Clause
"""What virtual drivers refuse without saying why is known to `check`."""

from __future__ import annotations

from typing import Any

import pytest
from unit.fakehost import FILE, FULL, machine, pcap, swap

from dpsup.check.topology import check
from dpsup.errors import Problem, Severity
from dpsup.topology.load import load

LAN = "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"
IN = "/etc/dpsup/in.pcap"
ENDLESS = "net_pcap0,rx_pcap=in.pcap,infinite_rx=1"
MEMIF = "net_memif0,socket=/run/m,socket-abstract=no"


def found(lan: str, room: int = 2176, **changes: Any) -> list[Problem]:
    text = swap(swap(FULL, LAN, lan), "data_room = 2176", f"data_room = {room}")
    folders = frozenset({"/etc/dpsup", "/", "/run"})
    host = machine(text, **{"folders": folders, **changes})
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    return check(topology, host)


@pytest.mark.parametrize(
    ("lan", "code", "said", "helped"),
    [
        ("net_af_packet0,iface=eth0,qpairs=64", "", "", ""),
        ("net_af_packet0,iface=eth0,qpairs=65", "E0430", "65 queues", "qpairs = 1"),
        ("net_af_packet0,iface=eth0,qpairs=0", "E0430", "0 queues", "qpairs = 1"),
        ("net_af_packet0,iface=eth0,framesz=2080,blocksz=12288,framecnt=510", "", "", ""),
        ("net_af_packet0,iface=eth0,framesz=1700", "E0451", "no ring", "framesz=1712,blocksz=4096"),
        ("net_af_packet0,iface=eth0,framesz=2080,blocksz=2048", "E0451", "", "blocksz=4096"),
        ("net_af_packet0,iface=eth0,blocksz=6000", "E0451", "", "blocksz=8192,framecnt=512"),
        ("net_af_packet0,iface=eth0,blocksz=0", "E0451", "", "blocksz=4096"),
        ("net_af_packet0,iface=eth0,framecnt=3", "E0451", "", "framecnt=4"),
        ("net_af_packet0,iface=eth0,framecnt=no", "E0451", "", "framecnt=2"),
        ("net_af_packet0,iface=eth0,framesz= 1024", "E0443", "1024", "framesz=2048"),
        ("net_af_packet0,iface=eth0,framesz=1024k", "E0443", "1024", "framesz=2048"),
        ("net_af_packet0,iface=eth0,framesz=k", "E0443", "0 bytes", "framesz=2048"),
        ("net_af_packet0", "E0406", "names no network interface", "iface=NAME"),
        ("net_af_packet0,iface=eth0,framesz=4096", "E0431", "4064 bytes", "data_room = 4192"),
        ("net_pcap0" + ",rx_pcap=in.pcap" * 16, "", "", ""),
        ("net_pcap0" + ",rx_pcap=in.pcap" * 17, "E0430", "17 times `rx_pcap`", "mergecap"),
        (
            "net_pcap0" + "".join(f",tx_pcap={i}.pcap" for i in range(17)),
            "E0430",
            "17 times `tx_pcap`",
            "mergecap",
        ),
        ("net_memif0", "", "", ""),
        (f"{MEMIF},role=server", "", "", ""),
        (f"{MEMIF},role= server", "", "", ""),
        (f"{MEMIF},role=server,bsize= 512", "E0444", "one buffer of 512", "bsize=1522"),
        (f"{MEMIF},role=client", "E0437", "no process listens", "role=server"),
        (MEMIF, "E0437", "no process listens", "role=server"),
        (MEMIF.replace("/run/m", "/no/m"), "E0436", "/no/m does not exist", "mkdir -p /no"),
        (MEMIF.replace("/run/m", f"/run/{'m' * 103}"), "E0436", "1 byte too long", "shorter"),
    ],
)
def test_arguments(lan: str, code: str, said: str, helped: str) -> None:
    problems = [p for p in found(lan) if p.code != "E0405"]
    assert {p.code for p in problems} == ({code} if code else set())
    for problem in problems:
        assert said in problem.message
        assert helped in problem.help


def test_a_small_data_room_refuses_the_usual_ring() -> None:
    (problem,) = found("net_af_packet0,iface=eth0", 1792)
    assert problem.code == "E0431"


def test_a_capture_that_is_repeated() -> None:
    def codes(lan: str, packets: list[tuple[int, int]], mbufs: int = 16383) -> list[str]:
        text = swap(FULL, LAN, lan).replace("mbufs = 16383", f"mbufs = {mbufs}")
        host = machine(text, captures={IN: pcap(packets)})
        topology, problems = load(FILE, host)
        assert topology is not None, problems
        return [p.code for p in check(topology, host) if p.severity is Severity.ERROR]

    assert codes(ENDLESS, [(60, 60)] * 10) == []
    assert codes(ENDLESS, []) == ["E0433"]
    assert codes(ENDLESS.replace("infinite_rx=1", "infinite_rx=0"), []) == []
    assert codes(ENDLESS, [(2048, 2048)]) == []
    assert codes(ENDLESS, [(2049, 2049)]) == ["E0434"]
    # 5,152 for descriptors, bursts, lanes and caches.
    assert codes(ENDLESS, [(60, 60)] * 1848, 7000) == []
    assert codes(ENDLESS, [(60, 60)] * 1849, 7000) == ["E0432"]
    assert codes(f"{ENDLESS},rx_pcap=in.pcap", [(60, 60)] * 925, 7000) == ["E0432"]


def test_what_lies_where_a_socket_or_a_capture_is_to_be() -> None:
    assert found(MEMIF, kinds={"/run/m": "socket"}) == []
    (problem,) = found(MEMIF, kinds={"/run/m": "fifo"})
    assert problem.code == "E0436"
    (problem,) = found("net_pcap0,tx_pcap=out.pcap", kinds={"/etc/dpsup/out.pcap": "fifo"})
    assert (problem.code, problem.severity) == ("E0435", Severity.ERROR)


@pytest.mark.parametrize(
    ("lan", "said"),
    [
        ("net_af_xdp0,iface=eth0", "net_af_xdp is not tested"),
        ("net_pcap0,iface=eth0", "net_pcap sending to an interface is not tested"),
        ("net_pcap0,rx_pcap=in.pcap,tx_iface=eth0", "net_pcap sending to an interface"),
        ("net_pcap0,rx_iface=eth0,tx_pcap=out.pcap", ""),
        ("net_af_packet0,iface=eth0", ""),
    ],
)
def test_a_driver_that_is_not_tested_is_named(lan: str, said: str) -> None:
    """A warning: it may work."""
    xdp = {**machine(FULL).pmds, "net_af_xdp": "iface=<string>"}
    warned = [p for p in found(lan, pmds=xdp) if p.code == "E0446"]
    assert [p.severity for p in warned] == [Severity.WARNING] * bool(said)
    assert all(said in p.message for p in warned)


def test_a_driver_that_this_dpdk_lacks_is_refused() -> None:
    (problem,) = (p for p in found("net_af_xdp0,iface=eth0") if p.severity is Severity.ERROR)
    assert problem.code == "E0404"
    without = {k: v for k, v in machine(FULL).pmds.items() if k != "net_pcap"}
    (problem,) = (p for p in found("net_pcap0,iface=eth0", pmds=without) if p.code == "E0404")
    assert problem.severity is Severity.ERROR
