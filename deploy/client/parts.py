# SPDX-License-Identifier: BSD-3-Clause
"""What the wheel dpsup-client is made of: the files of dpsup/, but for the directories whose
processes need DPDK, and the three modules that a build generates, here without DPDK."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Processes of an instance, what measures on its host, what plugins in Python import.
LEFT_OUT = {"bench", "builder", "chaos", "plugin.py", "testing.py", "trial"}


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def version() -> str:
    return str(project()["version"])


def generated(directory: Path) -> dict[str, Path]:
    """The modules that meson.build generates too."""
    headers = ("shim/abi.h", "shim/shim.h", "shim/dpsup.h", "workers/sdk/dpsup_plugin.h")
    made = {name: directory / name for name in ("_abi.py", "_build.py", "_libraries.py")}
    for script, out, words in (
        ("build_abi.py", "_abi.py", [ROOT / header for header in headers]),
        ("build_libraries.py", "_libraries.py", []),
    ):
        subprocess.run([sys.executable, ROOT / "shim" / script, made[out], *words], check=True)
    text = (ROOT / "dpsup/_build.py.in").read_text()
    # No DPDK: by this the commands know that they are the client's.
    for name, value in (("DPDK_VERSION", ""), ("MAX_LCORE", "0"), ("PMD_DIR", '""')):
        text = text.replace(f"@{name}@", value)
    made["_build.py"].write_text(text.replace("@VERSION@", version()))
    return made


def parts(directory: Path) -> dict[str, Path]:
    """Each file by its path in the package; what is generated is written into `directory`."""
    found = generated(directory)
    for path in sorted((ROOT / "dpsup").rglob("*")):
        below = path.relative_to(ROOT / "dpsup")
        if below.parts[0] not in LEFT_OUT and path.suffix == ".py":
            found[below.as_posix()] = path
    found["py.typed"] = ROOT / "dpsup/py.typed"
    return found
