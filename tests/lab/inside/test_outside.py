# SPDX-License-Identifier: BSD-3-Clause
"""What a test inside asks of the world outside happens to this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from lab.guest import OUT, PATIENCE, End, Nic, Outside, Refused

from dpsup.packets.pcap import read_pcap


def has_carrier(nic: Nic) -> bool:
    return Path(f"/sys/class/net/{nic.netdev()}/carrier").read_text().strip() == "1"


def test_a_cable_is_pulled_and_plugged_in(outside: Outside, nics: dict[str, Nic]) -> None:
    end = End(nics["far-wan"])
    wait_for(lambda: has_carrier(end.nic), PATIENCE, 0.2)
    outside.ask("cable", nic="far-wan", up=False)
    wait_for(lambda: not has_carrier(end.nic), PATIENCE, 0.2)
    outside.ask("cable", nic="far-wan", up=True)
    wait_for(lambda: has_carrier(end.nic), PATIENCE, 0.2)
    end.close()


def test_a_wire_is_listened_to(outside: Outside, nics: dict[str, Nic]) -> None:
    end = End(nics["far-wan"])
    name = outside.ask("dump", nic="far-wan")
    frame = bytes(12) + b"\x88\xb5" + b"heard outside".ljust(46, b".")
    end.socket.send(frame)
    wait_for(lambda: frame in (OUT / name).read_bytes(), PATIENCE, 0.2)
    outside.ask("undump", nic="far-wan")
    assert frame in list(read_pcap(OUT / name))
    end.close()


def test_a_nic_is_taken_out_and_put_back(outside: Outside, nics: dict[str, Nic]) -> None:
    nic = nics["far-lan"]
    assert nic.there
    assert outside.ask("unplug", nic=nic.name)
    wait_for(lambda: not nic.there, PATIENCE, 0.2)
    outside.ask("plug", nic=nic.name)
    wait_for(lambda: nic.there, PATIENCE, 0.2)
    assert nic.netdev()


def test_all_cpus_stand_still(outside: Outside) -> None:
    before = time.monotonic()
    outside.ask("pause", seconds=1)
    assert outside.ask("qmp", execute="query-status")["running"]
    assert time.monotonic() > before


def test_what_cannot_be_done_is_said(outside: Outside) -> None:
    with pytest.raises(Refused, match="no verb"):
        outside.ask("explode")
    with pytest.raises(Refused, match="set_link"):
        outside.ask("cable", nic="none", up=False)


def test_a_cpu_is_taken_out(outside: Outside, machine: dict[str, Any]) -> None:
    """The last test, as it stays out."""
    last = machine["cpus"] - 1
    cpu = Path(f"/sys/devices/system/cpu/cpu{last}")
    assert cpu.exists()
    assert outside.ask("unplug_cpu", cpu=last)
    wait_for(lambda: not cpu.exists(), PATIENCE, 0.2)
