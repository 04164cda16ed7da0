# SPDX-License-Identifier: BSD-3-Clause
"""A worker that is killed at any instruction of dps_tell has told whole messages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dpsup.builder.region import Region, Use
from dpsup.tables.model import declare

ROOT = Path(__file__).resolve().parents[2]
STORE = "\t__atomic_store_n(&my_tells->sent, sent + 1, __ATOMIC_RELEASE);\n"
FIRST = "\tmy_tells->told[sent % DPS_TOLD].table = index;\n"


def step(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "tables.c").write_text(source)
    headers = [f"-I{ROOT / one}" for one in ("shim", "workers", "workers/sdk")]
    command = [
        "cc", "-O2", "-std=gnu11", *headers,
        str(folder / "tables.c"), str(ROOT / "tests" / "c" / "tell_steps.c"),
        "-o", str(folder / "steps"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    table = declare("macs", "exact", 9, key="mac", value="u16")
    region = Region(folder / "br", [table], lambda _pid, _start: False, [Use(learns=True)])
    region.appear()
    return subprocess.run(
        [folder / "steps", folder / "br"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("broken", [False, True])
def test_a_message_is_there_whole_or_not_at_all(tmp_path: Path, broken: bool) -> None:
    source = (ROOT / "workers" / "tables.c").read_text()
    if broken:  # says that it is there, and then writes it
        assert source.count(STORE) == source.count(FIRST) == 1
        source = source.replace(STORE, "").replace(FIRST, STORE + FIRST)
    done = step(tmp_path, source)
    assert done.returncode == (8 if broken else 0), done
    assert broken or int(done.stdout) > 100


@pytest.mark.parametrize("texts", [1, 3, 7])
def test_words_that_end_workers_are_left_out_however_many(tmp_path: Path, texts: int) -> None:
    """The fourth such text brought the first one back, and no worker of the place ever came to a
    packet. And one that wrote over its ring's reader could never tell anything again."""
    out = tmp_path / "words"
    headers = [f"-I{ROOT / one}" for one in ("shim", "workers", "workers/sdk")]
    source = ROOT / "tests" / "c" / "tell_words.c"
    subprocess.run(["cc", "-O1", "-std=gnu11", *headers, source, "-o", out], check=True)
    done = subprocess.run([out, str(texts)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{2 * texts}\n"), done
