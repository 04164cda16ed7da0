# SPDX-License-Identifier: BSD-3-Clause
"""workers/state.c alone: a block that becomes another version's, killed at each instruction."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "workers" / "state.c"

# What is taken out of state.c: the program must notice each.
SPOILT = {
    "nothing is kept": ("\t\tif (found != 0)\n\t\t\tkeep(b, o->epoch, 0);\n", ""),
    "the block is somebody's meanwhile": (
        "\tdps_store64(&b->head->stamp, 0);\n\tdps_order();\n\tmemcpy(b->bytes, from, len);",
        "\tmemcpy(b->bytes, from, len);",
    ),
    "what an earlier rollout kept": (
        "(found == 0 || (kept_of(b)->epoch & ~ANEW) == (o->epoch & ~ANEW))", "true",
    ),
    "nothing is put back": ("mine = kept && kept_of(b)->stamp == o->stamp &&", "mine = 0 &&"),
    "what began anew counts for more than what was kept": (
        "keep(b, o->epoch, ANEW)", "keep(b, o->epoch, 0)",
    ),
    "what was migrated back counts for less": (
        "keep(b, o->epoch, 0);\n\t\town(b, o, o->fresh",
        "keep(b, o->epoch, ANEW);\n\t\town(b, o, o->fresh",
    ),
}  # fmt: skip


def built(folder: Path, old: str = "", new: str = "") -> Path:
    text = STATE.read_text()
    if old:
        assert text.count(old) == 1, f"state.c has no single {old!r}"
        text = text.replace(old, new)
    (folder / "state_under_test.c").write_text(text)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True
    ).stdout.replace("-I", "-isystem ")
    program = folder / "state"
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-w", "-DALLOW_EXPERIMENTAL_API", *flags.split(),
         f"-I{ROOT}/shim", f"-I{ROOT}/workers", f"-I{ROOT}/workers/sdk",
         str(ROOT / "tests" / "c" / "state_migrate.c"), str(folder / "state_under_test.c"),
         "-o", str(program)],
        check=True,
    )  # fmt: skip
    return program


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)


def test_a_kill_anywhere_loses_no_state(tmp_path: Path) -> None:
    done = run(built(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 100  # each store of it was one


@pytest.mark.parametrize("what", SPOILT)
def test_the_test_notices(tmp_path: Path, what: str) -> None:
    done = run(built(tmp_path, *SPOILT[what]))
    assert done.returncode == 1, f"{what}: {done.stdout}"
