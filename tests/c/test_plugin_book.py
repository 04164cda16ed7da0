# SPDX-License-Identifier: BSD-3-Clause
"""The chapters about plugins as a reader tries them: each plugin builds, each command prints what
the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import blocks, check

from dpsup.packets.pcap import to_bytes
from dpsup.packets.traffic import Traffic

DOCS = Path(__file__).resolve().parents[2] / "docs"
BIN = Path(sys.executable).parent
PAGES = [
    DOCS / "plugins.md",
    *sorted((DOCS / "plugins").glob("*.md")),
    *sorted((DOCS / "functions").glob("*.md")),
]
SOURCE = re.compile(r"/\* (\w+\.c): ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_chapter_works_as_it_is_written(page: Path, tmp_path: Path) -> None:
    # What the pages say of it: twelve packets of four flows.
    (tmp_path / "in.pcap").write_bytes(to_bytes(list(Traffic(4, 3).frames()), 1_700_000_000.0))
    script = ["exec 2>&1", "set -euo pipefail"]
    wanted: list[list[str]] = []
    sources = []
    for kind, text in blocks(page.read_text()):
        if kind == "c" and (name := SOURCE.match(text)):
            (tmp_path / name[1]).write_text(text)
            sources.append(name[1])
        elif kind == "sh":
            script += [f"printf '\\n@@ {len(wanted)}\\n'", text]
            wanted.append([])
        elif kind == "text" and wanted:
            wanted[-1] += text.splitlines()
    built = "\n".join(script)
    assert all(f"{name} -o" in built for name in sources), "a plugin that the page does not build"
    done = subprocess.run(
        ["bash", "-c", built],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.split(r"^@@ \d+$", done.stdout, flags=re.MULTILINE)[1:]
    for output, lines in zip(said, wanted, strict=True):
        check(output, lines)
    for name in sources:
        strict = ["cc", "-fsyntax-only", "-std=c11", "-Wall", "-Wextra", "-Werror",
                  f"-I{DOCS.parent / 'workers' / 'sdk'}", tmp_path / name]  # fmt: skip
        subprocess.run(strict, check=True)
