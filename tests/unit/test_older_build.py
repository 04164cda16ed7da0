# SPDX-License-Identifier: BSD-3-Clause
"""What an older dpsup wrote or answers lacks the keys that came later, and is understood."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import generate_latest
from unit import looks
from unit.test_metrics import registry

from dpsup.cli import change
from dpsup.instance.rates import picture
from dpsup.primary import layout
from dpsup.primary.ports import Ports
from dpsup.primary.shim import ffi
from dpsup.view import sections
from dpsup.view.sections import Screen


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


def test_a_worker_without_counters_of_this_build() -> None:
    """A supervisor of the build before tells none of them; the command looks all the same."""
    new = (
        "dropped_policy", "gauges", "emitted", "no_blank", "copied", "no_copy", "ticks",
        "ticks_skipped",
    )  # fmt: skip
    before, after = looks.edge(3.0), looks.edge(4.0)
    for look in (before, after):
        for group in look["status"]["groups"]:
            for worker in group["workers"]:
                for key in new:
                    worker.pop(key, None)
    seen = picture(before, after)
    assert sections.workers(seen, Screen(200)) and sections.stats(seen, Screen(200))
    assert generate_latest(registry(after))
