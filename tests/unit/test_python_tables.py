# SPDX-License-Identifier: BSD-3-Clause
"""Plugins in Python look things up in live tables, tell what they learn, and hear an operator."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpsup.testing import Plugin

SOURCE = """
from dpsup import plugin as dps

counters = ["limit"]
gauges = ["limit"]


def init(env):
    global hops, macs
    hops, macs = env.table("hops"), env.table("macs")
    if hops is None or env.table("none") is not None:
        raise ValueError("no table")


def packet(p):
    macs.tell(p.data[6:12], p.port)
    port = macs.get(p.data[:6])
    return dps.drop() if port is None else dps.out(port)


def control(text):
    if text == "fail":
        raise RuntimeError(text)
    dps.gauge(0, int(text) + hops.get(3)[0])
"""


def test_a_plugin_finds_tells_and_hears(tmp_path: Path) -> None:
    (tmp_path / "br.py").write_text(SOURCE)
    tables = {"macs": {b"\x02\0\0\0\0\1": 1}, "hops": {3: b"\x05\0"}}
    br = Plugin(tmp_path / "br.py", tables=tables)
    from_two = b"\x02\0\0\0\0\2"
    assert br.packet(b"\x02\0\0\0\0\1" + from_two + bytes(48)).port == "lan"
    assert br.packet(from_two + from_two + bytes(48)).verdict == "drop"
    assert br.tables["macs"].told == [(from_two, 0)] * 2
    br.control("100")
    assert br.counters == {"limit": 105}
    with pytest.raises(RuntimeError):
        br.control("fail")


def test_a_plugin_without_control_hears_nothing(tmp_path: Path) -> None:
    (tmp_path / "br.py").write_text("def packet(p):\n    return 0\n")
    with pytest.raises(ValueError, match="no control"):
        Plugin(tmp_path / "br.py").control("x")
