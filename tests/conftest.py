# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Late
from hypothesis import HealthCheck, settings

LONG = os.environ.get("DPSUP_LONG") == "1"
# How long an example takes says how busy the machine is, not whether the code is right. Each run
# sees the same examples; --long looks for new ones.
settings.register_profile(
    "dpsup", deadline=None, derandomize=not LONG, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dpsup")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `long` has a shorter sibling that shows the same; only --long runs it."""
    if LONG:
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="a long target: deploy/test --long"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--late", type=Path, help="list here the tests that failed, if each missed a deadline"
    )


def pytest_configure(config: pytest.Config) -> None:
    if (late := config.getoption("--late")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(LateTests(late))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    # A process of xdist's tells the main one in this way.
    if call.excinfo and isinstance(call.excinfo.value, (Late, subprocess.TimeoutExpired)):
        report.user_properties.append(("late", True))
    return report


class LateTests:
    """A deadline that passes while another test has the CPUs may be the other test's fault. Any
    other failure decides at once: a packet that was lost is lost under load too."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            late = ("late", True) in report.user_properties
            self._failed[report.nodeid] = late and self._failed.get(report.nodeid, True)

    def pytest_sessionfinish(self) -> None:
        if all(self._failed.values()):
            self._file.write_text("".join(f"{one}\n" for one in self._failed))
