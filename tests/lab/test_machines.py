# SPDX-License-Identifier: BSD-3-Clause
"""Each machine of the lab: booted, its tests run inside, their outcome brought back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lab import running
from lab.machine import Machine
from lab.machines import MACHINES

BUILD = 40 * 60  # seconds for an image that is not there yet


def parameter(machine: Machine) -> object:
    limit = pytest.mark.timeout(BUILD + machine.minutes * 60 + 120)
    return pytest.param(machine, id=machine.name, marks=limit)


@pytest.mark.parametrize("machine", [parameter(one) for one in MACHINES])
def test_machine(machine: Machine) -> None:
    wanted = os.environ.get("DPSUP_LAB") == "1"
    if not wanted and not (machine.long and os.environ.get("DPSUP_LONG") == "1"):
        pytest.skip("a machine of the lab: deploy/test --lab")
    if reason := running.cannot():
        pytest.skip(reason)
    keep = os.environ.get("DPSUP_LAB_OUT")
    result = running.run(machine, keep=Path(keep) / machine.name if keep else None)
    print(result.text)
    assert result.fine, "\n".join([f"pytest inside: {result.codes}", *result.troubles])
