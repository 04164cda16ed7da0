# SPDX-License-Identifier: BSD-3-Clause
"""What lies where a worker can write is checked before anything follows from it."""

from __future__ import annotations

import os
import signal

import pytest

from dpsup.host import process
from dpsup.primary.process import _story
from dpsup.primary.shim import ffi


@pytest.mark.parametrize("n", [0, 3, 24, 25, 0xFFFFFFFF])
def test_a_story_has_as_many_frames_as_there_is_room_for(n: int) -> None:
    story = ffi.new("struct dps_story *", {"n_frames": n})
    assert len(_story(story)["frames"]) == min(n, 24)


@pytest.mark.parametrize("status", [0, 7 << 8, 255 << 8, 9, 64, 11 | 0x80])
def test_what_waitpid_gives_is_an_ending(status: int) -> None:
    assert process.is_ending(status)
    os.waitstatus_to_exitcode(status)
    assert process.describe_status(status)


@pytest.mark.parametrize(
    "status", [-1, 0x7F, signal.SIGSTOP << 8 | 0x7F, 0xFFFF, 1 << 16, 0x41414141, 9 | 7 << 8]
)
def test_a_status_that_no_process_ends_with_is_none(status: int) -> None:
    assert not process.is_ending(status)


def test_a_plugins_counters_end_far_from_the_next_lease() -> None:
    """`counters[16]++` is a mistake of one process alone."""
    end = ffi.offsetof("struct dps_sitter", "counter") + ffi.sizeof("uint64_t[16]")
    assert ffi.sizeof("struct dps_sitter") - end >= 512
