# SPDX-License-Identifier: BSD-3-Clause
"""Which failures of a run of several tests at a time are tried again alone (`deploy/test`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LATE = "def test_late(): wait_for(lambda: False, 0.01)\n"
WRONG = "def test_wrong(): assert wait_for(lambda: 1) == 2\n"
LOST = "def test_lost(): assert {'lost': 1}['lost'] == 0\n"
DEEP = "def accounted(doc): assert doc == 0\ndef test_deep(): accounted(1)\n"
CRASH = "def test_crash(): os._exit(1)\n"
GOOD = "def test_good(): wait_for(lambda: True)\n"
MANY = "@pytest.mark.parametrize('n', range(6))\ndef test_many(n): assert n > 9\n"
TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "listed", "apart"),
    [
        (LATE + WRONG + GOOD, ["test_late", "test_wrong"], ["-n", "1"]),
        (LATE + LOST + GOOD, [], []),
        (LATE + DEEP, [], []),
        (LATE + MANY, [], []),
        (LATE + CRASH, [], ["-n", "1"]),
    ],
    ids=["no-claim", "lost", "deeper", "many", "crash"],
)
def test_failures_are_listed_where_none_broke_a_claim(
    tmp_path: Path, text: str, listed: list[str], apart: list[str]
) -> None:
    (tmp_path / "test_it.py").write_text("import os, pytest\nfrom harness import wait_for\n" + text)
    (tmp_path / "conftest.py").write_text("from tests_conftest import *\n")
    (tmp_path / "tests_conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = . {TESTS}\n")
    # As by mktemp: an option's value that is a path must not become the rootdir.
    unsure = tmp_path.with_suffix(".unsure")
    unsure.touch()
    argv = [sys.executable, "-m", "pytest", "-q", *apart, f"--unsure={unsure}"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert unsure.read_text().splitlines() == [f"test_it.py::{one}" for one in listed]
