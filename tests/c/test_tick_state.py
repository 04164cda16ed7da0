# SPDX-License-Identifier: BSD-3-Clause
"""shim/io/ticks.c alone: the buckets that get ticks."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_bucket_whose_worker_died_while_it_migrated_gets_ticks(tmp_path: Path) -> None:
    flags = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True
    ).stdout.replace("-I", "-isystem ")
    program = tmp_path / "tick_state"
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-w", "-DALLOW_EXPERIMENTAL_API", *flags.split(),
         f"-I{ROOT}/shim", str(ROOT / "tests" / "c" / "tick_state.c"), "-o", str(program),
         "-lrte_eal", "-lrte_mbuf", "-lrte_mempool", "-lrte_ring"],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
