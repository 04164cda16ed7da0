# SPDX-License-Identifier: BSD-3-Clause
"""Plugins in Rust, built as docs/plugins-rust.md says: by rustc, from the crate of the SDK."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CRATE = Path(__file__).resolve().parents[1] / "workers" / "sdk" / "rust"
RUSTC = shutil.which("rustc")
WHY_NOT = "no rustc: Debian's package rustc, 1.63 or later"


def strict() -> list[str]:
    """No warnings of Debian 12's compiler; a later one may have new ones."""
    assert RUSTC is not None
    said = subprocess.run([RUSTC, "--version"], capture_output=True, text=True, check=True).stdout
    return ["-D", "warnings"] if said.startswith("rustc 1.63.") else []


FLAGS = ("--edition", "2021", "-O", "-C", "panic=abort")


def compile_one(*words: str | Path) -> None:
    assert RUSTC is not None
    subprocess.run([RUSTC, *FLAGS, *strict(), *map(str, words)], check=True)


def crate(folder: Path) -> Path:
    source = CRATE / "src" / "lib.rs"
    kind = ("--crate-type", "rlib", "--crate-name", "dpsup_plugin")
    compile_one(*kind, source, "--out-dir", folder)
    return folder / "libdpsup_plugin.rlib"


def build(folder: Path, source: Path, kind: str = "cdylib") -> Path:
    made = folder / (f"{source.stem}.so" if kind == "cdylib" else source.stem)
    library = f"dpsup_plugin={crate(folder)}"
    compile_one("--crate-type", kind, "--extern", library, source, "-o", made)
    return made
