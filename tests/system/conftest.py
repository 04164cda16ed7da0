# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PATIENCE, Run, leftovers, run, wait_for

# What takes longest, and has a shorter sibling that shows the same: for deploy/test --long, so that
# all the rest takes CI less than 25 minutes.
LONG: frozenset[str] = frozenset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "system" in item.path.parts:
            item.add_marker(pytest.mark.system)
        if item.name in LONG:
            item.add_marker(pytest.mark.long)
        if item.get_closest_marker("long") and os.environ.get("DPSUP_LONG") != "1":
            item.add_marker(pytest.mark.skip(reason="a long target: deploy/test --long"))


@pytest.fixture
def instance(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """An instance of a name of its own, ended and looked after: it must leave nothing behind."""
    stem = re.sub(r"[^a-z0-9]", "", request.node.name.removeprefix("test_"))[:12]
    one = Run(f"t{os.getpid() % 100000}{stem}", tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.process.terminate()
        try:
            one.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.communicate()
    run("stop", "-n", one.name, "--drain", "200ms")  # of those that hold packets
    run("clean", "-n", one.name)
    assert wait_for(lambda: not leftovers(one.name), 10), leftovers(one.name)
