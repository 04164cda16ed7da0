# SPDX-License-Identifier: BSD-3-Clause
"""What the shipped unit runs once its supervisor has ended."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "dpsup@.service"


def stop_post(place: Path, result: str) -> str:
    """Runs ExecStopPost, its paths in `place`: what it asked dpsup for, and all it printed."""
    found = re.search(r"^ExecStopPost=-\+/bin/sh -c '(.*?)'$", UNIT.read_text(), re.M | re.S)
    assert found
    program = place / "dpsup"
    program.write_text('#!/bin/sh\necho "dpsup $*"\n')
    program.chmod(0o755)
    script = found[1].replace("\\\n", "").replace("/usr/local/bin/dpsup", str(program))
    script = script.replace("/run/dpsup/%i", str(place / "run")).replace("%i", "edge")
    # systemd has mounted the directory, so it cannot be removed.
    rmdir = place / "rmdir"
    rmdir.write_text("#!/bin/sh\necho busy\nexit 1\n")
    rmdir.chmod(0o755)
    env = {"PATH": f"{place}:{os.environ['PATH']}", "SERVICE_RESULT": result}
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("result", ["success", "timeout"])
def test_after_an_end_in_order_nothing_is_run(tmp_path: Path, result: str) -> None:
    (tmp_path / "run").mkdir()
    assert stop_post(tmp_path, result) == ""
    (tmp_path / "run").rmdir()
    assert stop_post(tmp_path, result) == ""


@pytest.mark.parametrize("result", ["success", "timeout"])
def test_a_data_plane_that_is_left_is_ended(tmp_path: Path, result: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    assert stop_post(tmp_path, result) == "dpsup -n edge stop\n"


@pytest.mark.parametrize("result", ["signal", "watchdog", "core-dump", "exit-code", "oom-kill"])
def test_a_crash_ends_nothing(tmp_path: Path, result: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    assert stop_post(tmp_path, result) == ""
