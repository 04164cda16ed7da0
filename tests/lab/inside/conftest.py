# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the tests that run inside a machine of the lab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from lab import guest

from dpsup import connect


class Slow(harness.Run):
    """An instance under test, with an emulator's deadlines."""

    def start(self, text: str | None = None) -> Slow:
        if text is not None:
            self.write(text)
        harness.run("start", str(self.file), "--detach", check=True, timeout=guest.PATIENCE)
        return self

    def ask(self, verb: str) -> Any:
        def answer() -> Any:
            with connect(self.name) as live:
                return getattr(live, verb)(timeout=guest.PATIENCE)

        return harness.again(answer)


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """This machine's description, as tests/lab/machines.py has it."""
    told: dict[str, Any] = json.loads((guest.OUT / "machine.json").read_text())
    return told


@pytest.fixture(scope="session")
def nics(machine: dict[str, Any]) -> dict[str, guest.Nic]:
    return guest.nics(machine)


@pytest.fixture(scope="session")
def outside() -> guest.Outside:
    return guest.Outside()


@pytest.fixture
def instance(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[harness.Run]:
    """An instance of a name of its own, ended afterwards: it must leave nothing behind."""
    name = "t" + request.node.name.removeprefix("test_").split("[")[0].replace("_", "")[:14]
    one = Slow(name, tmp_path)
    yield one
    harness.here("-n", name, "stop", "--drain", "200ms")
    harness.here("-n", name, "clean")
    harness.wait_for(lambda: not harness.leftovers(name), guest.PATIENCE)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told at once: a machine may be ended before pytest sums up."""
    if report.failed:
        print(f"\n{report.longreprtext}\n", flush=True)
