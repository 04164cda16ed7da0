# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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
        "--unsure", type=Path, help="list here the tests that failed, if none broke a claim"
    )


def pytest_configure(config: pytest.Config) -> None:
    if (file := config.getoption("--unsure")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(UnsureTests(file))


# Statements that check what dpsup promises: every packet and mbuf accounted for, nothing left
# behind, no traceback. A packet that was lost once is lost.
CLAIM = re.compile(
    r"accounted|compare|duplicated|in_flight|leftovers|\blost\b|strays|unexplained|Traceback"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    # A traceback whose source cannot be read, as of a deep recursion, is no such case.
    with contextlib.suppress(Exception):
        if call.excinfo and not any(
            CLAIM.search(str(one.statement)) for one in call.excinfo.traceback
        ):
            # A process of xdist's tells the main one in this way.
            report.user_properties.append(("unsure", True))
    return report


class UnsureTests:
    """Two tests at a time have two CPUs, so that one may fail for the other's sake. Such failures
    are tried again; a broken claim decides at once, and so do more failures than chance explains.
    """

    MOST = 5

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            unsure = ("unsure", True) in report.user_properties
            self._failed[report.nodeid] = unsure and self._failed.get(report.nodeid, True)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:  # its tests did not run
            self._failed[report.nodeid] = False

    def pytest_sessionfinish(self) -> None:
        if all(self._failed.values()) and len(self._failed) <= self.MOST:
            self._file.write_text("".join(f"{one}\n" for one in self._failed))
