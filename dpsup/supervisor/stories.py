# SPDX-License-Identifier: BSD-3-Clause
"""Stories: what the wardens write of a death, a repair, buckets moved, health. Pure.

They lie in memory that workers can write, so each is checked before it is used. A story that cannot
be read is skipped and reported; the pidfd still tells of the death that it may have been about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dpsup import _abi
from dpsup.documents.events import Repaired
from dpsup.documents.story import Story
from dpsup.host.calls import call_name

DEATH = _abi.DPS_STORY_DEATH
REBUCKETED = _abi.DPS_STORY_REBUCKETED
SAID = {
    kind: _abi.DPS_STORY_NAMES[kind]
    for kind in (
        _abi.DPS_STORY_STUCK,
        _abi.DPS_STORY_STOPPED,
        _abi.DPS_STORY_CONTINUED,
        _abi.DPS_STORY_STARVED,
        _abi.DPS_STORY_FED,
    )
}
HEALTH = {**SAID, _abi.DPS_STORY_CONTINUED: "ok", _abi.DPS_STORY_FED: "ok"}
IO_SAID = {
    _abi.DPS_STORY_IO_STUCK: "stuck",
    _abi.DPS_STORY_IO_STARVED: "starved",
    _abi.DPS_STORY_IO_FED: "fed",
}
NOTICES = {0: "none", **_abi.DPS_NOTICE_NAMES}

_NUMBERS = ("seq", "kind", "slot", "sitter", "pid")
_DEATH_NUMBERS = (
    "successor", "successor_sitter", "handover", "corrupt", "noticed_ns", "seated_ns", "left",
)  # fmt: skip

_SHOWN = {"notice", "signal", "published", "undone", "mended", "tried", "blamed", "hung", "call"}
_PID_MOST = (1 << 31) - 1
_SIGNAL_MOST = 64


class Unreadable(ValueError):
    """A story with an impossible value."""


def check(story: Any, *, io_cores: int, slots: int) -> Story:
    """The story, if all that is followed in it can be so. Raises: Unreadable."""
    if not isinstance(story, dict):
        raise Unreadable(f"{story!r} is no story")
    kind = story.get("kind")
    wanted = _NUMBERS + (_DEATH_NUMBERS if kind == DEATH else ())
    for key in wanted:
        if not isinstance(story.get(key), int):
            raise Unreadable(f"its {key} is {story.get(key)!r}")
    if kind in IO_SAID:
        if not 0 <= story["sitter"] < io_cores:
            raise Unreadable(f"it names io core {story['sitter']} of {io_cores}")
    elif kind == REBUCKETED:
        if not 0 <= story["slot"] < slots:
            raise Unreadable(f"it names slot {story['slot']} of {slots}")
        if not isinstance(story.get("left"), int):
            raise Unreadable(f"its left is {story.get('left')!r}")
    elif kind != DEATH and kind not in HEALTH:
        raise Unreadable(f"its kind is {kind!r}")
    if kind == DEATH:
        _check_death(story, slots)
    return cast(Story, story)


def _check_death(story: dict[str, Any], slots: int) -> None:
    """What is shown of it, and what is looked up by it."""
    for key in ("pid", "successor"):
        if not 0 <= story[key] <= _PID_MOST:
            raise Unreadable(f"its {key} is {story[key]}")
    if story["successor"] and not 0 <= story["slot"] < slots:
        raise Unreadable(f"a process follows in slot {story['slot']} of {slots}")
    for key, value in story.items():
        if (key.endswith("_ns") or key in _SHOWN) and not isinstance(value, int):
            raise Unreadable(f"its {key} is {value!r}")
    if not 0 <= story.get("signal", 0) <= _SIGNAL_MOST:
        raise Unreadable(f"its signal is {story['signal']}")
    address, frames = story.get("address"), story.get("frames")
    if story.get("signal") and not (isinstance(address, int) and isinstance(frames, list)):
        raise Unreadable("its signal has no address, or no frames")
    if story.get("notice", 0) not in NOTICES:
        raise Unreadable(f"its notice is {story['notice']!r}")


def seq_of(story: Any, told: int) -> int:
    """Its number; one more than the last where it has none that can be."""
    seq = story.get("seq") if isinstance(story, dict) else None
    return seq if isinstance(seq, int) and seq > told else told + 1


def repaired(story: Story) -> Repaired:
    """The part of a death's story that an event shows."""
    keys = ("corrupt", "published", "undone", "left", "mended")
    every: Mapping[str, Any] = story
    told: Repaired = {
        "repaired": {k: every.get(k, 0) for k in keys},
        "successor": story.get("successor") or None,
        "notice": NOTICES[story.get("notice", 0)],
        "tried": story.get("tried", 0),
        "hung": bool(story.get("hung")),
        "times": {k: v for k, v in every.items() if k.endswith("_ns") and v},
    }
    if story.get("signal"):
        told["address"] = f"{story['address']:#x}"
        told["backtrace"] = story["frames"]
    if story.get("call"):
        told["called"] = call_name(story["call"])
    if story.get("blamed"):
        # Of the packet in hand: how many deaths it is to blame for; at two it is in quarantine.
        # Or of a tick, which is skipped then.
        told["blamed"] = story["blamed"]
        if story.get("ticked"):
            told["ticked"] = True
    return told
