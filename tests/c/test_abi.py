# SPDX-License-Identifier: BSD-3-Clause
"""The ABI as the compiler sees it, and as Python reads it: one header, no drift."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from dpsup import limits
from dpsup._shim import ffi, lib
from dpsup.primary import process
from dpsup.supervisor import adopt, policy, rejoin, sitters, steering, stories

ROOT = Path(__file__).resolve().parents[2]

# The text of shim/abi.h without comments, and the version it had. Change the header, and raise
# DPS_ABI_VERSION with it.
PINNED = {10: "bcf7ec004d106a57"}


def abi_text() -> str:
    text = re.sub(r"//.*", "", (ROOT / "shim" / "abi.h").read_text())
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "struct",
    re.findall(r"^struct (\w+) \{", (ROOT / "shim" / "abi.h").read_text(), re.MULTILINE)
    + re.findall(r"^struct (\w+) \{", (ROOT / "shim" / "shim.h").read_text(), re.MULTILINE),
)
def test_layouts_agree(struct: str) -> None:
    # cffi compares its own layout with the compiler's at the first use.
    end = 0
    for name, field in ffi.typeof(f"struct {struct}").fields:
        assert field.offset >= end, name
        end = field.offset + ffi.sizeof(field.type)
    assert end <= ffi.sizeof(f"struct {struct}")


def test_the_version_moves_with_the_text() -> None:
    digest = hashlib.sha256(abi_text().encode()).hexdigest()[:16]
    assert PINNED.get(int(lib.DPS_ABI_VERSION)) == digest, "raise DPS_ABI_VERSION, pin the new text"


def test_constants_that_python_keeps_are_those_of_the_header() -> None:
    assert lib.DPS_BUCKETS == steering.BUCKETS
    assert lib.DPS_NO_SLOT == steering.NOBODY
    assert lib.DPS_MAX_SITTERS > lib.DPS_MAX_SLOTS + lib.DPS_MAX_SPARES
    assert lib.DPS_STORY_DEATH == stories.DEATH
    assert lib.DPS_STORY_LENT == stories.LENT
    assert stories.HEALTH[lib.DPS_STORY_STOPPED] == "stopped"
    assert stories.IO_SAID[lib.DPS_STORY_IO_STUCK] == "stuck"
    assert rejoin.NO_SLOT == lib.DPS_NO_SLOT
    assert sitters.SEATED == lib.DPS_HAND_SEATED
    assert sitters.STARTING == lib.DPS_HAND_STARTING
    assert rejoin.STOPPED == lib.DPS_STORY_STOPPED
    assert adopt.ABI == lib.DPS_ABI_VERSION
    assert stories.NOTICES[lib.DPS_NOTICE_LEASE] == "lease"
    assert len(process.DROPS) == lib.DPS_N_DROPS
    assert lib.DPS_EXIT_USAGE in policy.PERMANENT
    assert lib.DPS_EXIT_CORE in policy.PERMANENT
    assert lib.DPS_EXIT_TEMPORARY not in policy.PERMANENT


def test_limits_of_state_are_those_of_the_plugin_header() -> None:
    text = (ROOT / "workers" / "sdk" / "dpsup_plugin.h").read_text()
    assert f"DPS_PLUGIN_STATE ({limits.STATE >> 20}u << 20)" in text
    assert f"DPS_PLUGIN_BUCKET_STATE {limits.BUCKET_STATE}u" in text
    assert f"DPS_PLUGIN_TOUCHES_MOST {lib.DPS_TOUCHES}u" in text
    assert f"DPS_PLUGIN_TOUCH_BYTES {lib.DPS_TOUCH_MOST}u" in text


def test_drop_reasons_are_named_as_in_the_header() -> None:
    text = (ROOT / "shim" / "shim.h").read_text()
    names = re.findall(r"DPS_DROP_(\w+) = \d+", text)
    assert tuple(n.lower() for n in names) == process.DROPS


def test_places_are_as_many_as_in_the_header() -> None:
    assert len(process.PLACES) == lib.DPS_N_PLACES
    assert process.PLACES[lib.DPS_PLACE_XFER] == "xfer"


def test_stages_are_named_as_in_the_header() -> None:
    text = (ROOT / "shim" / "shim.h").read_text()
    names = re.findall(r"DPS_STAGE_(\w+) = \d+", text)
    assert tuple(n.lower() for n in names) == process.STAGES
