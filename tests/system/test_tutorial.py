# SPDX-License-Identifier: BSD-3-Clause
"""The tutorial as a newcomer types it: each command of the page, in order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from harness import DPSUP, Run
from pages import blocks, check

pytestmark = pytest.mark.beside

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
TEN_MINUTES = 600.0  # of which deploy/host-setup takes most


def test_the_tutorial_works_as_it_is_written(instance: Run) -> None:
    found = blocks(PAGE.read_text())
    assert [kind for kind, _ in found].count("sh") >= 8
    script = ["exec 2>&1", "set -euo pipefail"]
    wanted: list[list[str]] = []
    for kind, text in found:
        # The machine may run others' instances too, so ours has a name of its own.
        here = re.sub(r"\blab\b", instance.name, text)
        if "git clone" in here:
            # deploy/test has just set this machine up in the same way; the clone is a real one.
            # What is no repository, or is another user's, is copied.
            clone = f"git clone -q '{ROOT}' dpsup"
            here = here.replace("git clone URL dpsup", f"{clone} || cp -r '{ROOT}' dpsup")
            assert clone in here
            here = here.replace("\n./deploy/host-setup\n", "\n./deploy/host-setup --help\n")
            here = here.replace("\n. .venv/bin/activate\n", "\ndpsup version\n")
        if kind == "sh":
            script += [f"printf '\\n@@ {len(wanted)}\\n'", here]
            wanted.append([])
        elif kind == "text":
            wanted[-1] += here.splitlines()
    file = instance.folder / "tutorial.sh"
    file.write_text("\n".join(script))
    begun = time.monotonic()
    done = subprocess.run(
        ["bash", str(file)],
        cwd=instance.folder,
        env={
            **os.environ,
            "PATH": f"{Path(DPSUP[0]).parent}:{os.environ['PATH']}",
            "DPSUP_NAME": instance.name,
        },
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert time.monotonic() - begun < TEN_MINUTES
    said = re.split(r"^@@ \d+$", done.stdout, flags=re.MULTILINE)[1:]
    assert len(said) == len(wanted)
    for output, lines in zip(said, wanted, strict=True):
        check(output, lines)
    # What the page claims beyond its samples: nothing leaked, and both kills went well.
    audit = next(o for o in said if "UNEXPLAINED" in o)
    assert re.search(r"^default .* 0\s*$", audit, re.MULTILINE)
    assert done.stdout.count("SIGKILL; ") == 1
    assert (instance.folder / instance.name / "out.pcap").stat().st_size > 256 * 60
