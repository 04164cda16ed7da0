# SPDX-License-Identifier: BSD-3-Clause
"""Steering by a plugin's own hash, checked by spin: kills, a bucket that moves, what comes back.
It must have no error; each way to get it wrong must have one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from model.test_lane_model import check, states

MODEL = Path(__file__).parent / "steer.pml"
WRONG = {
    "HASH_LATE": "the hash is read before it is there, or never comes",
    "OLD_MARK": "what is handed back goes to the bucket that it came from",
    "NO_WAIT": "a packet overtakes those that wait for its bucket's move",
    "PARKED_FIRST": "what waited overtakes what is handed back",
    "NO_LIMIT": "two workers send a packet to each other without end",
}


def test_a_packet_goes_to_the_bucket_that_its_plugin_says(tmp_path: Path) -> None:
    text = check(tmp_path, "PACKETS=4", "-DSAFETY -w", "-m100000", model=MODEL)
    assert states(text) > 10_000


@pytest.mark.parametrize("variant", WRONG)
def test_the_model_sees_what_is_wrong(tmp_path: Path, variant: str) -> None:
    text = check(tmp_path, variant, "-DSAFETY -DBFS -w", model=MODEL)
    assert "assertion violated" in text, f"not seen: {WRONG[variant]}\n{text}"


def test_the_variants_are_those_of_the_model() -> None:
    named = set(re.findall(r"(?:ifdef|ifndef) ([A-Z_]+)", MODEL.read_text()))
    assert named == {"PACKETS", *WRONG}
