# SPDX-License-Identifier: BSD-3-Clause
"""What an older dpsup wrote or answers lacks the keys that came later, and is understood."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from dpsup.cli import change
from dpsup.primary import layout
from dpsup.primary.ports import Ports
from dpsup.primary.shim import ffi


def test_a_group_without_a_copy_of_its_plugin() -> None:
    group: Any = {"plugin": "/x/fw.so", "plugin_path": "/x/fw.so", "args": []}
    assert ffi.string(layout.version_of(group).plugin) == b"/x/fw.so"


def test_a_port_without_the_reason_why_it_is_left_out() -> None:
    asked: list[Any] = []
    ports: Any = SimpleNamespace(_is_there=asked.append)
    one: Any = SimpleNamespace(port={"vdev": "net_null0"}, retry_at=0.0)
    Ports._reopen(ports, one, 1.0)
    assert asked == [one]


def test_a_supervisor_that_names_no_held_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    doc = {"group": "fw", "old": 1, "desired": 2, "ready": 2}
    instance = SimpleNamespace(scale=lambda *_, **__: doc)
    monkeypatch.setattr(change, "connect", lambda _: contextlib.nullcontext(instance))
    done = CliRunner().invoke(change.scale, ["fw", "2"])
    assert (done.exit_code, done.output) == (0, "fw: 1 -> 2 workers, 2 ready\n")
