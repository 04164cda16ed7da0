# SPDX-License-Identifier: BSD-3-Clause
"""The lane protocol's model, checked by spin: every interleaving, a kill before every store. The
protocol must have no error; each way to get it wrong must have one, or the model sees nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "lane.pml"
LONG = os.environ.get("DPSUP_LONG") == "1"

# How far the searches go; measured: millions of states, GB.
BOUNDS = ["PACKETS=3 KILLS=2"]  # 7, 0.9
LONG_BOUNDS = [
    "PACKETS=5 KILLS=2",  # 27, 1.5
    "PACKETS=3 ENDLESS",  # 50, 2.9: any number of kills
    "SIZE=4 INDICES=8 PACKETS=5 KILLS=1",  # 57, 3.9
]
WRONG = {
    "NO_UNDO": "a half-changed packet is changed again",
    "STAMP_FIRST": "the stamp stands for bytes that are not saved yet",
    "STAMP_NO_LANE": "the other lane's packet of the same index gets these bytes",
    "VERDICT_EARLY": "the commit of a packet whose change is not complete",
    "DONE_EARLY": "done moves over a word that is no verdict yet",
    "CREDIT_ON_DONE": "verdicts are overwritten before they are collected",
    "PUBLISH_EARLY": "a word of the lap before is published as this one's",
    "NOTE_LATE": "the worker got further than the repair believes was published",
    "NO_SCAN": "a packet that has its verdict is handed out again",
    "SCAN_ON": "verdicts of the lap before are taken for this one's",
    "NO_CLEAR": "the stamp outlives its bytes: the successor saves others there",
    "CLEAR_EARLY": "a repair that is cut short in the undo forgets it",
    "CLEAR_PER_LANE": "the first lane's repair forgets the second one's undo",
    "REQUEUE_AFRESH": "what an interrupted requeue handed back is refused",
    "NO_DRAIN": "newer packets go ahead of those that are still to be handed back",
}


# With STATE.
WRONG_STATE = {
    "NO_UNTOUCH": "what a packet without verdict counted is counted again",
    "TOUCH_FIRST": "a piece counts before what was there is saved",
    "TOUCH_AFRESH": "the second piece hides the first one",
    "TOUCH_KEPT": "the successor finds pieces of its packet that it did not save",
}

# With POISON.
WRONG_POISON = {
    "ASIDE_EARLY": "a repair that is cut short leaves half-changed bytes set aside",
    "ASIDE_ANY": "done gets ahead of sent",
    "HAND_KEPT": "a requeue that is cut short is taken for the burst in hand",
}

# With EMIT.
WRONG_EMIT = {
    "FILL_LATE": "a verdict says that a blank is filled before it is",
    "TAKEN_LATE": "a repair counts blanks again that done has passed",
    "TAKEN_EARLY": "a repair counts blanks twice",
    "NO_TAKEN": "the successor fills blanks that leave with a packet already",
    "LENT_EARLY": "a filled blank is lent again before it has left",
}


# With TICK and STATE.
WRONG_TICK = {
    "TICK_EARLY": "a tick's verdict is there before all that it changes",
    "TICK_UNSEEN": "a repair takes a tick with its verdict for one that is to be run again",
    "TICK_KEPT": "what a tick without verdict counted is counted again",
    "TICK_BY_WORD": "a tick that is handed back is taken for a packet",
}


def check(tmp: Path, define: str, cflags: str, *args: str, model: Path = MODEL) -> str:
    """What pan says of the model with these definitions."""
    for tool, package in (("spin", "spin"), ("cc", "gcc")):
        if shutil.which(tool) is None:
            pytest.fail(f"no {tool}: apt-get install {package}, or deploy/host-setup --tests")
    steps = (
        ["spin", *(f"-D{d}" for d in define.split()), "-a", str(model)],
        ["cc", *cflags.split(), "-o", "pan", "pan.c"],
        ["./pan", *args],
    )
    text = ""
    for step in steps:
        done = subprocess.run(step, cwd=tmp, capture_output=True, text=True, check=False)
        text = done.stdout + done.stderr
        assert done.returncode == 0, f"{step}: {text}"
    return text


def states(text: str) -> int:
    """The number of states of a search that was complete and found nothing."""
    stored = re.search(r"^ *([\d.e+]+) states, stored", text, re.MULTILINE)
    assert stored, text
    assert "errors: 0" in text, text
    assert "Full statespace search" in text, text
    # "max search depth too small", "out of memory", "Search not completed": cut short, no proof.
    assert not re.search(r"too small|not completed|memory bound|out of memory", text), text
    return int(float(stored[1]))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bounds", BOUNDS + LONG_BOUNDS * LONG)
def test_the_protocol_holds(tmp_path: Path, bounds: str) -> None:
    text = check(tmp_path, bounds, "-O2 -DSAFETY -DCOLLAPSE", "-m1000000")
    assert states(text) > 1_000_000  # a model that stands still has no errors either


@pytest.mark.timeout(600)
def test_every_run_ends(tmp_path: Path) -> None:
    # All delivered at its end is asserted in the model. pan -l finds cycles without progress; the
    # model marks no progress, so it finds every cycle.
    bounds = f"PACKETS=2 KILLS={2 if LONG else 1}"
    states(check(tmp_path, bounds, "-O2 -DNP -DCOLLAPSE", "-l", "-m1000000"))


def test_done_before_undo_holds_as_well(tmp_path: Path) -> None:
    bounds = f"DONE_BEFORE_UNDO PACKETS=2 KILLS={2 if LONG else 1}"
    states(check(tmp_path, bounds, "-O2 -DSAFETY -DCOLLAPSE", "-m1000000"))


@pytest.mark.timeout(1800)
def test_state_counts_each_packet_once(tmp_path: Path) -> None:
    bounds = f"STATE PACKETS=2 KILLS={3 if LONG else 2}"
    text = check(tmp_path, bounds, "-O2 -DSAFETY -DCOLLAPSE", "-m1000000")
    assert states(text) > 100_000


@pytest.mark.timeout(1800)
def test_what_a_packet_originates_leaves_with_it(tmp_path: Path) -> None:
    bounds = f"EMIT PACKETS=2 KILLS={2 if LONG else 1}"
    text = check(tmp_path, bounds, "-O2 -DSAFETY -DCOLLAPSE", "-m1000000")
    assert states(text) > 1_000_000


@pytest.mark.timeout(1800)
def test_a_tick_counts_once_or_is_skipped(tmp_path: Path) -> None:
    bounds = f"TICK STATE PACKETS=1 TICKS={2 if LONG else 1} KILLS=2"
    text = check(tmp_path, bounds, "-O2 -DSAFETY -DCOLLAPSE", "-m1000000")
    assert states(text) > 100_000


@pytest.mark.parametrize("variant", WRONG_TICK)
def test_the_model_sees_what_is_wrong_with_ticks(tmp_path: Path, variant: str) -> None:
    bounds = f"{variant} TICK STATE PACKETS=1 TICKS=1 KILLS={2 if LONG else 1}"
    text = check(tmp_path, bounds, "-DSAFETY -DBFS")
    assert "assertion violated" in text, f"not seen: {WRONG_TICK[variant]}\n{text}"


@pytest.mark.parametrize("variant", WRONG_EMIT)
def test_the_model_sees_what_is_wrong_with_blanks(tmp_path: Path, variant: str) -> None:
    text = check(tmp_path, f"{variant} EMIT PACKETS=2 KILLS=1", "-DSAFETY -DBFS")
    assert "assertion violated" in text, f"not seen: {WRONG_EMIT[variant]}\n{text}"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("more", ["BRIEF", "POISON", "POISON BRIEF"])
def test_what_it_may_do_besides_holds_as_well(tmp_path: Path, more: str) -> None:
    bounds = f"{more} PACKETS={3 if LONG else 2} KILLS=2"
    text = check(tmp_path, bounds, "-O2 -DSAFETY -DCOLLAPSE", "-m1000000")
    assert states(text) > 100_000


@pytest.mark.parametrize("variant", WRONG_POISON)
def test_the_model_sees_what_is_wrong_with_poison(tmp_path: Path, variant: str) -> None:
    text = check(tmp_path, f"{variant} POISON PACKETS=3 KILLS=2", "-DSAFETY -DBFS")
    assert "assertion violated" in text, f"not seen: {WRONG_POISON[variant]}\n{text}"


@pytest.mark.parametrize("variant", WRONG_STATE)
def test_the_model_sees_what_is_wrong_with_state(tmp_path: Path, variant: str) -> None:
    text = check(tmp_path, f"{variant} STATE PACKETS=2 KILLS=2", "-DSAFETY -DBFS")
    assert "assertion violated" in text, f"not seen: {WRONG_STATE[variant]}\n{text}"


@pytest.mark.parametrize("variant", WRONG)
def test_the_model_sees_what_is_wrong(tmp_path: Path, variant: str) -> None:
    # Breadth first: the trail is the shortest story.
    text = check(tmp_path, f"{variant} PACKETS=3 KILLS=2", "-DSAFETY -DBFS")
    assert "assertion violated" in text, f"not seen: {WRONG[variant]}\n{text}"
    assert "errors: 1" in text


def test_the_variants_are_those_of_the_model() -> None:
    named = set(re.findall(r"(?:ifdef|ifndef|defined\() ?([A-Z_]+)", MODEL.read_text()))
    bounds = {"SIZE", "INDICES", "BURST", "PACKETS", "TICKS", "KILLS"}
    right = {"ENDLESS", "STATE", "BRIEF", "POISON", "EMIT", "TICK", "DONE_BEFORE_UNDO"}
    wrong = {*WRONG, *WRONG_STATE, *WRONG_POISON, *WRONG_EMIT, *WRONG_TICK}
    assert named == bounds | right | wrong
