# SPDX-License-Identifier: BSD-3-Clause
"""Ports while an io core does not answer: what failed is tried again, and said meanwhile."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from dpsup.host.interfaces import Interface
from dpsup.primary import ports
from dpsup.primary.ports import Ports
from dpsup.primary.shim import lib


class FakeLib:
    """The primary's C side; `late` is how many of those calls time out from now on."""

    def __init__(self) -> None:
        self.late = {"shut": 0, "close": 0}
        self.shut = [0]
        self.closed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def _answer(self, call: str) -> int:
        self.late[call] -= 1
        return -errno.ETIMEDOUT if self.late[call] >= 0 else 0

    def dps_port_info_get(self, _: int, info: Any) -> int:
        info.link_up = 1
        return 0

    def dps_view_update(self) -> int:
        return 0

    def dps_port_hashes(self, _: int) -> int:
        return int(lib.DPS_HASHES_NONE)

    def dps_port_shut(self, _: int, shut: int) -> int:
        self.shut.append(int(shut))
        return self._answer("shut")

    def dps_port_close(self, _: int) -> int:
        self.closed += 1
        return self._answer("close")


class Fake:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lib = FakeLib()
        monkeypatch.setattr(ports, "lib", self.lib)
        self.up = True
        self.number = 7
        kernel: Any = SimpleNamespace(fd=-1, deleted=set, find=self._find)
        port = {"name": "wan", "driver": "net_af_packet", "left_out": "",
                "vdev": "net_af_packet0,iface=eth0"}  # fmt: skip
        self.opened = 0
        plan: Any = SimpleNamespace(plan={"ports": [port]}, absent={}, open=self._open)
        self.ports = Ports(plan, kernel)
        self.now = 100.0
        self.ports.begin(self.now)

    def _find(self, name: str) -> Interface:
        return Interface(self.number, "" if self.up else f"interface {name} is down", self.up)

    def _open(self, _: int) -> tuple[int, str]:
        self.opened += 1
        return 0, ""

    def look(self) -> str:
        self.now += 60
        self.ports.observe(self.now)
        return self.ports.states()["wan"].trouble


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(monkeypatch)


def test_a_port_that_could_not_be_shut_is_shut_at_the_next_look(fake: Fake) -> None:
    fake.up, fake.lib.late["shut"] = False, 1
    assert "port_shut" in fake.look()
    assert "down" in fake.look() and fake.lib.shut == [0, 1, 1]
    fake.look()
    assert fake.lib.shut == [0, 1, 1], "once"


def test_a_port_that_is_up_again_is_served_whatever_failed_meanwhile(fake: Fake) -> None:
    fake.up, fake.lib.late["shut"] = False, 2
    fake.look()
    fake.up = True
    assert "port_shut" in fake.look(), "some io cores may have left it alone"
    assert fake.look() == "" and fake.lib.shut == [0, 1, 0, 0]


def test_a_port_that_could_not_be_opened_to_the_io_cores_is_said(fake: Fake) -> None:
    fake.number, fake.lib.late["shut"] = 8, 1
    assert "port_shut" in fake.look() and fake.lib.closed == 1
    assert fake.look() == "" and fake.lib.shut == [0, 0, 0]


def test_a_port_that_could_not_be_closed_goes_on_if_its_device_does(fake: Fake) -> None:
    """Closing shuts it first."""
    fake.number, fake.lib.late["close"] = 8, 1
    assert "port_close" in fake.look()
    fake.number = 7
    assert fake.look() == "" and fake.lib.shut == [0, 0]


def test_frames_that_failed_while_the_interface_was_down_are_not_sent_later(fake: Fake) -> None:
    """net_af_packet leaves them in its ring: a device that is opened anew has another one."""
    for _ in range(3):
        opened = fake.opened
        fake.up = False
        assert "is down" in fake.look() and fake.opened == opened
        fake.up = True
        assert fake.look() == "" and fake.opened == opened + 1
        assert fake.look() == "" and fake.opened == opened + 1, "once"
    assert fake.ports.states()["wan"].reopened == fake.lib.closed == 3


def test_a_port_is_opened_again_once_its_interface_is_up(fake: Fake) -> None:
    """A driver that refuses meanwhile would be tried later and later."""
    fake.number, fake.up = 8, False
    fake.look()
    fake.ports.observe(fake.now, news=True)
    assert fake.ports.states()["wan"].absent and fake.opened == 0
    fake.up = True
    fake.ports.observe(fake.now, news=True)
    assert not fake.ports.states()["wan"].absent and fake.opened == 1
