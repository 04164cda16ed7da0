# SPDX-License-Identifier: BSD-3-Clause
"""Verdicts that have no meaning are told, with the verdict, the length and the worker."""

from __future__ import annotations

from typing import Any

import pytest

from dpsup import _abi
from dpsup.supervisor.notices import QUIET_S, BadVerdicts, meaning

DONE, CHANGED = 1 << _abi.DPS_W_DONE, 1 << _abi.DPS_W_CHANGED


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (DONE | _abi.DPS_V_OUT | 13, "out of port 13, of ports 0 to 1"),
        (DONE | _abi.DPS_V_GROUP | 7, "on to group 7, of groups 0 to 2"),
        (DONE | _abi.DPS_V_HASH | 7 << 9 | 4, "on to group 7, of groups 0 to 2"),
        (DONE | _abi.DPS_V_TICK, "a verdict of kind 5, which dpsup does not know"),
        (DONE | 0xB004, "a verdict of kind 11, which dpsup does not know"),
        (DONE | _abi.DPS_V_PUNT | 1, "a verdict of kind 12, which dpsup does not know"),
        (DONE | CHANGED | _abi.DPS_V_PUNT, "64 bytes become 0 and begin 0 bytes later"),
        (DONE | CHANGED | _abi.DPS_V_HASH | 2 << 9, "64 bytes become 0 and begin 0 bytes later"),
        (DONE | _abi.DPS_V_ALSO | _abi.DPS_V_GROUP | 1 << 4 | 3, "on to group 3, of groups 0 to 2"),
        (DONE | _abi.DPS_V_ALSO | _abi.DPS_V_OUT | 9 << 4, "a copy out of port 9, of ports 0 to 1"),
        (DONE | _abi.DPS_V_ALSO | _abi.DPS_V_OUT | 4, "out of port 4, of ports 0 to 1"),
        (_abi.DPS_V_OUT, "no verdict was written"),
        (DONE | CHANGED | _abi.DPS_V_OUT, "64 bytes become 0 and begin 0 bytes later"),
        (
            DONE | CHANGED | _abi.DPS_V_OUT | 0xFFF0 << _abi.DPS_W_SHIFT
            | 9000 << _abi.DPS_W_NEWLEN,
            "64 bytes become 9000 and begin -16 bytes later",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_verdict_is_said(word: int, said: str) -> None:
    assert meaning(word, 64, 2, 3).startswith(said)


def counted(*bad: int, generation: int = 1, version: int = 0) -> Any:
    word = DONE | _abi.DPS_V_OUT | 9
    return {
        "generation": generation,
        "slots": [
            {"bad_verdict": n, "bad_word": word, "bad_len": 60, "bad_version": version} for n in bad
        ],
    }


def test_bad_verdicts_are_told_once_for_each_worker_and_version() -> None:
    one = BadVerdicts(["fw/0", "fw/1"], 2, 1)
    assert one.observe(counted(0, 0), 0.0) == []
    ((slot, told),) = one.observe(counted(0, 5), 1.0)
    assert (slot, told["name"], told["packets"], told["length"]) == (1, "fw/1", 5, 60)
    assert told["message"].startswith("out of port 9")
    assert one.observe(counted(0, 50), 2.0) == []
    assert [slot for slot, _ in one.observe(counted(3, 90), 3.0)] == [0]
    assert [slot for slot, _ in one.observe(counted(3, 95, version=1), 4.0)] == [1]
    assert [slot for slot, _ in one.observe(counted(3, 96), QUIET_S + 5.0)] == [1]
    # Those of a generation before are no news; those that a supervisor finds at its start are.
    assert one.observe(counted(0, 0, generation=2), QUIET_S + 6.0) == []
    assert BadVerdicts(["fw/0"], 2, 1).observe(counted(7), 0.0)
