# SPDX-License-Identifier: BSD-3-Clause
"""Orders that are called off late, and ports whose device is open although its closing failed."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from dpsup.primary import layout, process
from dpsup.primary.layout import Layout
from dpsup.primary.process import Primary
from dpsup.primary.shim import lib


def test_an_old_ticket_cancels_no_newer_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lib.dps_sitter_pid(3, 99) == -errno.ESTALE
    asked: list[int] = []
    fake = SimpleNamespace(
        dps_sitter_pid=lambda _, ticket: 0 if ticket == 5 else -errno.ESTALE,
        dps_sitter_fate=lambda berth, _: asked.append(berth) or 0,
    )
    monkeypatch.setattr(process, "lib", fake)
    one: Any = None
    assert Primary.do_call_off(one, {"berth": 3, "ticket": 4}) == 0 and not asked
    assert Primary.do_call_off(one, {"berth": 3, "ticket": 5}) == 0 and asked == [3]


def test_a_device_that_is_still_open_is_closed_before_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_open, closed = True, 0

    def close(_: int) -> int:
        nonlocal is_open, closed
        is_open, closed = False, closed + 1
        return 0

    fake = SimpleNamespace(
        DPS_TEXT=lib.DPS_TEXT,
        dps_strerror=lib.dps_strerror,
        dps_port_open=lambda *_: -errno.EINVAL if is_open else 0,
        dps_port_close=close,
    )
    monkeypatch.setattr(layout, "lib", fake)
    monkeypatch.setattr(layout, "clear_socket", lambda _: None)
    port = {"name": "wan", "driver": "net_tap", "vdev": "net_tap0"}

    def none(_: Any) -> None:
        pass

    one: Any = SimpleNamespace(
        plan={"ports": [port], "io": [0]}, _conf=none, _claim=none, _give_back=none, _follow=none
    )
    assert Layout.open(one, 0)[0] == -errno.EINVAL and closed == 1
    assert Layout.open(one, 0) == (0, "") and closed == 1
