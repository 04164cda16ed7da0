# SPDX-License-Identifier: BSD-3-Clause
"""The program tests/step/step.c, built with the real repair or one that is spoilt on purpose."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from jobs import ROOT

SOURCE = ROOT / "tests" / "step" / "step.c"
RECOVERY = ROOT / "shim" / "recovery"
RECOVER = RECOVERY / "recover.c"
# What no test spoils: the first one compiles it, in its own directory, for all of this process.
_unchanged: list[Path] = []


def compile_all(*sources: Path, out: Path) -> list[Path]:
    """The objects of these files, in a directory."""
    flags = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True
    ).stdout.replace("-I", "-isystem ")
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-w", "-DALLOW_EXPERIMENTAL_API", *flags.split(),
         f"-I{ROOT}/shim", "-c", *map(str, sources)],
        cwd=out, check=True,
    )  # fmt: skip
    return [out / source.with_suffix(".o").name for source in sources]


def build_step(folder: Path, old: str = "", new: str = "") -> Path:
    """The program; with `old` in recover.c, which must be there once, replaced by `new`."""
    text = RECOVER.read_text()
    if old:
        assert text.count(old) == 1, f"recover.c has no single {old!r}"
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "recover.c").write_text(text)
    if not _unchanged:
        others = (SOURCE, RECOVERY / "evidence.c", RECOVERY / "state.c")
        _unchanged.extend(compile_all(*others, out=folder))
    objects = [*_unchanged, *compile_all(folder / "recover.c", out=folder)]
    subprocess.run(["cc", *map(str, objects), "-o", str(folder / "step")], check=True)
    return folder / "step"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def write_as_seed(worker: int, address: int, data: bytes) -> None:
    """Into memory that workers share, at that address of theirs. They may not write everywhere, but
    the seed may, of which they are forks."""
    with Path(f"/proc/{parent_of(worker)}/mem").open("r+b", buffering=0) as memory:
        memory.seek(address)
        memory.write(data)


def step(program: Path, *args: object) -> dict[str, Any]:
    """What it saw. AssertionError: what the repair got wrong."""
    done = subprocess.run(
        [str(program), *map(str, args)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found
