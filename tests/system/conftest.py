# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness import PATIENCE, Run, leftovers, wait_for

from dpsup.cli.root import cli


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "system" in item.path.parts:
            item.add_marker(pytest.mark.system)


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
    # In this process: Python's start, twice a test, would be minutes of a run.
    for words in (("stop", "--drain", "200ms"), ("clean",)):
        CliRunner().invoke(cli, ["-n", one.name, *words])
    assert wait_for(lambda: not leftovers(one.name), 10), leftovers(one.name)
