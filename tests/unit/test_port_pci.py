# SPDX-License-Identifier: BSD-3-Clause
"""Ports on PCI devices that the kernel takes away, and that come back."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.fakehost import FILE, MINIMAL, machine

from dpsup.host import pci
from dpsup.plan.place import make_plan
from dpsup.primary import ports
from dpsup.primary.layout import pci_spec
from dpsup.primary.ports import LOOK_S, RETRY_S, Ports
from dpsup.primary.shim import lib
from dpsup.topology.load import load

DEVICE = "0000:01:00.0"


class FakeLib:
    """The primary's C side."""

    def __init__(self) -> None:
        self.leaves = 0
        self.did: list[str] = []
        self.hashes = lib.DPS_HASHES_COMPARED

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def dps_view_update(self) -> int:
        return 0

    def dps_port_info_get(self, _: int, info: Any) -> int:
        info.link_up = 1
        return 0

    def dps_port_leaves(self, _: int) -> int:
        return self.leaves

    def dps_port_hashes(self, _: int) -> int:
        return int(self.hashes)

    def dps_port_shut(self, _: int, shut: int) -> int:
        self.did.append("shut" if shut else "serve")
        return 0

    def dps_port_close(self, _: int) -> int:
        self.did.append("close")
        return 0


def group(device: Path, folder: Path) -> None:
    """Its IOMMU group, number 7, and the file in /dev/vfio, which lie in one directory here."""
    (folder / "7").touch()
    (device / "iommu_group").unlink(missing_ok=True)
    (device / "iommu_group").symlink_to(folder / "7")


class Fake:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.lib = FakeLib()
        monkeypatch.setattr(ports, "lib", self.lib)
        monkeypatch.setattr(pci, "trouble", lambda device: trouble(device, folder, folder))
        self.device = folder / DEVICE
        self.answer = 0
        kernel: Any = SimpleNamespace(fd=-1, deleted=set, find=lambda _: None)
        port = {"name": "wan", "driver": "", "left_out": "", "vdev": "", "device": DEVICE}
        self.layout: Any = SimpleNamespace(plan={"ports": [port]}, absent={}, open=self._open)
        self.ports = Ports(self.layout, kernel)
        self.now = 100.0

    def _open(self, _: int) -> tuple[int, str]:
        self.lib.did.append("open")
        return self.answer, "no driver took it" if self.answer else ""

    def has(self, driver: str) -> None:
        self.device.mkdir(exist_ok=True)
        (self.device / "driver").unlink(missing_ok=True)
        if driver:
            (self.device / "driver").symlink_to(self.device.parent / driver)
            (self.device.parent / driver).mkdir(exist_ok=True)
        group(self.device, self.device.parent)

    def look(self, seconds: float = LOOK_S) -> Any:
        self.now += seconds
        self.ports.observe(self.now)
        return self.ports.states()["wan"]


trouble = pci.trouble


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return Fake(monkeypatch, tmp_path)


def test_a_device_that_is_taken_away_is_closed_and_opened_once_it_is_back(fake: Fake) -> None:
    fake.has("vfio-pci")
    fake.ports.begin(fake.now)
    assert not fake.look().absent
    fake.lib.leaves = 1
    state = fake.look()
    assert state.absent and "taken away" in state.trouble
    assert fake.lib.did == ["close"], "not opened while the kernel waits for it"
    shutil.rmtree(fake.device)
    assert fake.look(60).trouble == f"there is no PCI device {DEVICE}"
    fake.has("e1000e")
    assert "the kernel's e1000e" in fake.look(60).trouble
    fake.has("")
    assert "no driver" in fake.look(60).trouble
    assert fake.lib.did == ["close"]
    fake.has("vfio-pci")
    fake.lib.leaves = 0
    state = fake.look(60)
    assert (state.absent, state.trouble, state.reopened) == (False, "", 1)
    assert fake.lib.did == ["close", "open", "serve"]


def test_a_device_that_was_missing_is_opened_once_it_is_there(fake: Fake) -> None:
    fake.layout.absent["wan"] = "no such device"
    fake.ports.begin(fake.now)
    assert fake.look().absent
    fake.has("vfio-pci")
    fake.answer = -errno.ENODEV
    assert fake.look(60).trouble == "no driver took it"
    fake.answer = 0
    assert not fake.look(60).absent


def test_a_device_is_not_asked_for_at_once(fake: Fake) -> None:
    """The kernel has it only a moment after it is closed."""
    fake.has("vfio-pci")
    fake.ports.begin(fake.now)
    fake.lib.leaves = 1
    fake.look()
    fake.lib.leaves = 0
    assert RETRY_S > 0 and "open" not in fake.lib.did
    fake.look(RETRY_S + LOOK_S)
    assert "open" in fake.lib.did


def test_a_device_that_comes_back_has_its_arguments_again() -> None:
    text = MINIMAL.replace('vdev = "net_null0"', 'pci = "01:00.0,tx_pp=500,mprq_en=1"')
    topology, problems = load(FILE, machine(text))
    assert topology is not None, problems
    plan: Any = asdict(make_plan(topology, machine(text)))
    assert pci_spec(plan, DEVICE) == f"{DEVICE},tx_pp=500,mprq_en=1"
    plan["eal_args"] = ["-a", f"{DEVICE[:-1]}1,other=1"]
    assert pci_spec(plan, DEVICE) == DEVICE
    long = text.replace("mprq_en=1", f"mprq_en={'1' * 4096}")
    _, problems = load(FILE, machine(long))
    assert any("room for 4095" in p.why for p in problems)


@pytest.mark.parametrize(
    ("hashes", "said"),
    [("NONE", "none"), ("COMPARED", "compared"), ("USED", "used"), ("DIFFER", "differs")],
)
def test_what_became_of_a_nics_hashes_is_said(fake: Fake, hashes: str, said: str) -> None:
    fake.has("vfio-pci")
    fake.ports.begin(fake.now)
    fake.lib.hashes = getattr(lib, f"DPS_HASHES_{hashes}")
    assert fake.look().nic_hash == said


def test_why_vfio_does_not_give_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / DEVICE
    device.mkdir()
    (tmp_path / "vfio-pci").mkdir()
    (device / "driver").symlink_to(tmp_path / "vfio-pci")
    assert "has no IOMMU" in trouble(DEVICE, tmp_path, tmp_path)
    group(device, tmp_path)
    assert trouble(DEVICE, tmp_path, tmp_path) == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"this user cannot open {tmp_path}/7" in trouble(DEVICE, tmp_path, tmp_path)
    (tmp_path / "7").rename(tmp_path / "noiommu-7")
    (device / "iommu_group").unlink()
    (tmp_path / "groups" / "7").mkdir(parents=True)
    (device / "iommu_group").symlink_to(tmp_path / "groups" / "7")
    assert f"this user cannot open {tmp_path}/noiommu-7" in trouble(DEVICE, tmp_path, tmp_path)
