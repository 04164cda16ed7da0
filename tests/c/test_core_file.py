# SPDX-License-Identifier: BSD-3-Clause
"""A process that writes its core file is not ended for taking long."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dpsup._shim import lib

PATTERN = Path("/proc/sys/kernel/core_pattern")
CRASH = """
import os, resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
memory = b"7" * (128 << 20)
os.abort()
"""
TIMES = 50


def test_a_process_that_runs_writes_none() -> None:
    assert not lib.dps_process_dumps(os.getpid())
    assert not lib.dps_process_dumps(0x7FFFFFFF)


@pytest.mark.skipif(
    "/" in PATTERN.read_text() or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0,
    reason="core files do not go to the directory of the process here",
)
def test_the_kernel_says_that_a_core_file_is_being_written(tmp_path: Path) -> None:
    """A file that is written fast may be missed: another process crashes then."""
    for _ in range(TIMES):
        child = subprocess.Popen([sys.executable, "-c", CRASH], cwd=tmp_path)
        seen = False
        while child.poll() is None:
            seen = seen or bool(lib.dps_process_dumps(child.pid))
        assert child.returncode == -signal.SIGABRT
        for file in tmp_path.iterdir():
            file.unlink()
        if seen:
            return
    raise AssertionError(f"{TIMES} core files, and the kernel said of none that it is written")
