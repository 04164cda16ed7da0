# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CALM, PATIENCE, Run, here, left_by_the_dead, leftovers, wait_for
from netns import remove_dead_hosts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "system" in item.path.parts:
            item.add_marker(pytest.mark.system)


def end(name: str) -> None:
    here("-n", name, "stop", "--drain", "200ms")
    here("-n", name, "clean")


@pytest.fixture(scope="session", autouse=True)
def _after_the_dead() -> None:
    """What earlier runs left that were killed."""
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        return
    remove_dead_hosts()
    for name in left_by_the_dead():
        end(name)


@contextlib.contextmanager
def started_by(test: str, folder: Path) -> Iterator[Run]:
    """An instance of a name of its own, ended and looked after: it must leave nothing behind."""
    # With the pid, by which a later run knows whether this one is dead.
    stem = re.sub(r"[^a-z0-9]", "", test.removeprefix("test_"))[:12]
    one = Run(f"t{os.getpid()}{stem}", folder)
    try:
        yield one
    finally:
        if one.process is not None and one.process.poll() is None:
            one.process.terminate()
            try:
                one.process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.communicate()
        end(one.name)
    assert wait_for(lambda: not leftovers(one.name)), leftovers(one.name)


@pytest.fixture
def instance(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    with started_by(request.node.name, tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Run]:
    """A running instance without traffic, for all tests of a module that leave it as it was."""
    stem = f"shared{request.path.stem.removeprefix('test_')}"
    with started_by(stem, tmp_path_factory.mktemp(stem)) as one:
        yield one.start(CALM)
