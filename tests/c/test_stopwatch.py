# SPDX-License-Identifier: BSD-3-Clause
"""shim/tools/perf.c: the stopwatch measures packets, and no ticks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stopwatch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("stopwatch") / "stopwatch"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True
    ).stdout.replace("-I", "-isystem ")
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-w", "-DALLOW_EXPERIMENTAL_API", *flags.split(),
         f"-I{ROOT}/shim", str(ROOT / "tests" / "c" / "stopwatch.c"), "-o", str(program),
         "-lrte_eal"],
        check=True,
    )  # fmt: skip
    return program


@pytest.mark.parametrize("begin", [0, 2**32 - 1000])
def test_each_packet_is_one_delay_and_no_tick_is(stopwatch: Path, begin: int) -> None:
    for seed in range(1, 6):
        done = subprocess.run(
            [stopwatch, str(seed), str(begin)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"seed {seed}: {done.stderr or done.stdout}"
