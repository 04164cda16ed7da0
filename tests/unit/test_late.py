# SPDX-License-Identifier: BSD-3-Clause
"""Which failures of a run with two tests at a time are tried again alone (`deploy/test`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LATE = "def test_late(): wait_for(lambda: False, 0.01)\n"
SLOW = 'def test_slow(): subprocess.run(["sleep", "9"], timeout=0.01)\n'
WRONG = "def test_wrong(): assert wait_for(lambda: 1) == 2\n"
GOOD = "def test_good(): wait_for(lambda: True)\n"
TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "listed", "apart"),
    [
        (LATE + SLOW + GOOD, ["test_late", "test_slow"], ["-n", "1"]),
        (LATE + WRONG + GOOD, [], []),
    ],
)
def test_missed_deadlines_are_listed_where_nothing_else_failed(
    tmp_path: Path, text: str, listed: list[str], apart: list[str]
) -> None:
    (tmp_path / "test_it.py").write_text("import subprocess\nfrom harness import wait_for\n" + text)
    (tmp_path / "conftest.py").write_text("from tests_conftest import *\n")
    (tmp_path / "tests_conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = . {TESTS}\n")
    # As by mktemp: an option's value that is a path must not become the rootdir.
    late = tmp_path.with_suffix(".late")
    late.touch()
    argv = [sys.executable, "-m", "pytest", "-q", *apart, f"--late={late}"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert late.read_text().splitlines() == [f"test_it.py::{one}" for one in listed]
