# SPDX-License-Identifier: BSD-3-Clause
"""shim/io/bucket_move.c alone: order, conservation and the bound of a wait, all at random."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WAITING = ROOT / "shim" / "io" / "bucket_move.c"
LIBRARIES = ["-lrte_eal", "-lrte_mbuf", "-lrte_mempool", "-lrte_ring"]

# What is taken out of bucket_move.c, and in what words the program says so.
SPOILT = {
    "waits for all of its lane": (
        "if (lane_out(lane) > 0 && !lane->draining) {", "if (lane_out(lane) > 0) {",
        "waits for more than its lane had",
    ),
    "no second boundary": ("n < left", "left == 0", "waits for more than its lane had"),
    "what waited comes last": (
        "must not overtake those that waited.\n\twaiting_stir(g);\n",
        "must not overtake those that waited.\n\tg->stirred = true;\n",
        "out of order",
    ),
    "what came back comes last": (
        "\tsort(g, &g->again, &g->ready, false);\n", "", "out of order",
    ),
    "nobody is parked again": ("\tsort(g, &g->ready, &g->parked, true);\n", "", "out of order"),
    "released too soon": (
        "\t\tif ((int32_t)(g->until[b] - io->lane[g->first + member].collected) > 0) {",
        "\t\tif (0) {", "out of order",
    ),
    "the old lane's index": ("\t\t\tg->until[b] = 0;\n", "\t\t\t;\n", "stands still"),
}  # fmt: skip


def built(folder: Path, old: str = "", new: str = "") -> Path:
    text = WAITING.read_text()
    if old:
        assert text.count(old) == 1, f"bucket_move.c has no single {old!r}"
        text = text.replace(old, new)
    (folder / "waiting_under_test.c").write_text(text)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True
    ).stdout.replace("-I", "-isystem ")
    program = folder / "waiting"
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-w", "-DALLOW_EXPERIMENTAL_API", *flags.split(),
         f"-I{ROOT}/shim", str(ROOT / "tests" / "c" / "bucket_move.c"),
         str(folder / "waiting_under_test.c"), "-o", str(program), *LIBRARIES],
        check=True,
    )  # fmt: skip
    return program


def said(program: Path, seeds: range) -> Iterator[str]:
    """What went wrong: so many seeds, both kinds of groups, indices about to come round."""
    for seed in seeds:
        for together in "01":
            words = [str(program), str(seed), together, "0" if seed % 2 else "4294967200"]
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode != 0:
                yield f"{words[1:]}: {done.stderr}"


def test_each_bucket_leaves_in_order_and_waits_no_longer_than_it_must(tmp_path: Path) -> None:
    assert list(said(built(tmp_path), range(60))) == []


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_taken_out_is_missed(tmp_path: Path, name: str) -> None:
    old, new, words = SPOILT[name]
    assert any(words in one for one in said(built(tmp_path, old, new), range(60)))
