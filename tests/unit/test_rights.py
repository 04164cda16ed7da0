# SPDX-License-Identifier: BSD-3-Clause
"""Which capabilities each process keeps: by the topology, and as docs/security.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dpsup.documents.plan import Plan
from dpsup.plan import rights

DOC = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def plan(*, extra: tuple[str, ...] = (), confine: str = "strict", **port: str) -> Plan:
    one = {"device": "net_x0", "vdev": "net_x0", "driver": "net_null", **port}
    made: dict[str, Any] = {
        "ports": [one],
        "groups": [{"confine": confine}],
        "eal_args": ["--proc-type=primary", "--no-pci", *extra],
        "metrics_listen": "127.0.0.1:9464",
    }
    return cast(Plan, made)


ALWAYS = {rights.SYS_NICE, rights.SYS_PTRACE}


@pytest.mark.parametrize(
    ("port", "more"),
    [
        ({}, set()),
        ({"driver": "net_memif"}, set()),
        ({"driver": "net_pcap", "vdev": "net_pcap0,rx_pcap=a"}, {rights.DAC_OVERRIDE}),
        (
            {"driver": "net_pcap", "vdev": "net_pcap0,iface=eth0"},
            {rights.DAC_OVERRIDE, rights.NET_RAW, rights.NET_ADMIN},
        ),
        ({"driver": "net_af_packet"}, {rights.NET_RAW, rights.NET_ADMIN, rights.IPC_LOCK}),
        ({"driver": "net_tap"}, {rights.NET_ADMIN}),
        ({"kernel_tap": "wan"}, {rights.NET_ADMIN}),
        ({"kernel_tap": "wan", "kernel_netns": "blue"}, {rights.NET_ADMIN, rights.SYS_ADMIN}),
        ({"driver": "net_unheard_of"}, {rights.EVERY}),
        ({"extra": ("--log-level=8",)}, set()),
        ({"extra": ("-d", "driver.so")}, {rights.EVERY}),
    ],
)
def test_what_the_ports_take(port: dict[str, Any], more: set[str]) -> None:
    assert rights.primary(plan(**port)) == ALWAYS | more


def test_a_pci_device_takes_more() -> None:
    one = plan(device="0000:3b:00.0", vdev="", driver="", extra=("-a", "0000:3b:00.0"))
    assert rights.primary(one) > ALWAYS | {rights.SYS_RAWIO, rights.SYS_ADMIN, rights.IPC_LOCK}
    assert rights.EVERY not in rights.primary(one)


def test_the_supervisor_can_start_all_others_again() -> None:
    for one in (plan(), plan(kernel_tap="t", kernel_netns="n"), plan(driver="net_af_packet")):
        kept = rights.supervisor(one)
        assert kept >= rights.primary(one) | rights.seed(one) | rights.follow(one)
        assert kept >= rights.builder() | rights.metrics("127.0.0.1:9464")


def test_a_group_that_is_not_confined_keeps_the_seeds() -> None:
    assert rights.seed(plan()) == set()
    assert rights.seed(plan(confine="off")) == {rights.EVERY}


@pytest.mark.parametrize(("listen", "kept"), [("", 0), ("[::]:9464", 0), ("127.0.0.1:80", 1)])
def test_a_low_port_is_roots(listen: str, kept: int) -> None:
    assert len(rights.metrics(listen)) == kept


def test_the_page_says_the_same() -> None:
    text = DOC.read_text()
    for process, why in rights.WHY.items():
        assert f"| {process} | {why} |" in text
