# SPDX-License-Identifier: BSD-3-Clause
"""Stories lie in memory that workers can write: what is let through can be followed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.fakecore import Parts, run

from dpsup.supervisor import stories
from dpsup.supervisor.stories import DEATH, REBUCKETED, Unreadable, check

IO, SLOTS = 1, 4


def story(kind: int = DEATH, **changes: Any) -> dict[str, Any]:
    """As the primary tells it."""
    zero = dict.fromkeys(
        (
            "notice", "hung", "signal", "code", "n_frames", "successor", "successor_sitter",
            "tried", "corrupt", "published", "undone", "left", "sender", "blamed", "mended",
            "handover", "address", "died_ns", "repaired_ns", "claimed_ns", "seated_ns",
            "first_ns", "gone_ns",
        ),
        0,
    )  # fmt: skip
    head = {"seq": 1, "kind": kind, "slot": 0, "sitter": 0, "pid": 500, "noticed_ns": 10}
    return {**zero, **head, "frames": [], **changes}


U32 = st.integers(0, 2**32 - 1)
ODD: st.SearchStrategy[Any] = (
    U32
    | st.integers(0, 12)
    | st.integers(-(2**31), 2**64 - 1)
    | st.sampled_from([None, "x", [], {}, 1.5, True, 500, 127, 65])
)
MUTATED = st.builds(
    lambda kind, changes, gone: {
        k: v for k, v in {**story(kind), **changes}.items() if k not in gone
    },
    st.integers(0, 12),
    st.dictionaries(st.sampled_from([*story(), "other_ns"]), ODD, max_size=4),
    st.sets(st.sampled_from([*story()]), max_size=2),
)


def readable(one: Any) -> bool:
    try:
        check(one, io_cores=IO, slots=SLOTS)
    except Unreadable:
        return False
    return True


def test_a_tick_is_blamed_as_a_tick() -> None:
    of_packet, of_tick = (
        stories.repaired(story(blamed=2)),
        stories.repaired(story(blamed=1, ticked=1)),
    )
    assert of_packet["blamed"] == 2 and "ticked" not in of_packet
    assert of_tick["blamed"] == 1 and of_tick["ticked"] is True


def test_stories_as_the_primary_tells_them_are_readable() -> None:
    for kind in range(DEATH, 11):
        assert readable(story(kind))
    assert readable(story(slot=2**32 - 1)), "of a spare"
    assert readable(story(signal=11, address=2**64 - 1, frames=["0x1"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"signal": 127},  # to waitpid a process that is stopped, not dead
        {"signal": 2**32 - 1},
        {"notice": []},
        {"notice": 9},
        {"pid": -1},
        {"successor": 2**31},
        {"successor": 7, "slot": 4},
        {"signal": 11, "frames": None},
        {"repaired_ns": "soon"},
        {"kind": 0},
        {"kind": REBUCKETED, "slot": 4},
        {"kind": REBUCKETED, "left": None},
        {"kind": 8, "sitter": 1},
    ],
)
def test_what_cannot_be_is_not_readable(changes: dict[str, Any]) -> None:
    assert not readable(story(**changes))


@pytest.mark.parametrize("one", [None, [], "death", 7, {}, {"kind": DEATH}])
def test_what_is_no_story_is_not_readable(one: Any) -> None:
    assert not readable(one)


def test_numbers_go_on_behind_a_story_that_has_none() -> None:
    assert stories.seq_of(story(seq=9), 3) == 9
    for one in (story(seq=2), story(seq=None), None, {}):
        assert stories.seq_of(one, 3) == 4


async def follow(parts: Parts, one: dict[str, Any]) -> None:
    await parts.deaths.read_stories()
    await parts.core.settle()


@settings(deadline=None, max_examples=200)
@given(MUTATED, st.booleans())
def test_what_is_readable_can_be_followed(one: dict[str, Any], known: bool) -> None:
    """As heard by a supervisor that was there, and by one that was not."""
    if not readable(one):
        return
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), stories=[one])
        parts.core.answers |= {
            "map_read": bytes(parts.group.map).hex(),
            "counters": {"slots": [{"version": 0}] * SLOTS},
        }
        if known:
            parts.seat(0, one["pid"]).hear(0)

        async def hear() -> None:
            other, successor = parts.seat(1, 501), one.get("successor")
            if isinstance(successor, int):
                parts.model.sitters.setdefault(successor, other)
            parts.model.sitters[501].hear(0)
            await follow(parts, one)

        async def account() -> None:
            parts.deaths.account(one, set(), {one["pid"]: 9})
            await parts.core.settle()

        run(hear())
        assert parts.core.crashed is None, repr(parts.core.crashed)
        run(account())


def test_a_signal_that_is_none_does_not_end_the_supervisor(tmp_path: Path) -> None:
    parts = Parts(tmp_path, stories=[story(signal=127, seq=4)])
    sitter = parts.seat(0, 500)
    run(parts.deaths.read_stories())
    assert parts.core.crashed is None and parts.model.told == 4
    assert "signal is 127" in parts.core.events.of("fault")[0]["message"]
    assert sitter.pid in parts.model.sitters, "its pidfd tells of its end"
    with pytest.raises(ValueError):
        os.waitstatus_to_exitcode(127)
