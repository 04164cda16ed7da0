# SPDX-License-Identifier: BSD-3-Clause
"""A group's tables made where no instance runs: for a trial, and to find out what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpsup import limits
from dpsup.builder.process import Builder
from dpsup.topology.values import DeclaredTable


def make(
    directory: Path,
    ports: Sequence[str],
    groups: Sequence[str],
    name: str,
    declared: Sequence[DeclaredTable],
    plugin: str,
) -> str:
    """The live tables of group `name`, as a worker maps them: their file, in `directory`.
    `plugin`: the file that makes the bytes of those of its own kind. Raises: DpsupError."""
    # It changes nothing that outlives an instance.
    tables = [one._replace(persist="") for one in declared]
    known: Any = {
        "ports": [{"name": port} for port in ports],
        "groups": [
            {
                "name": group,
                "tables": tables if group == name else [],
                "first_slot": 0,
                "max": limits.SLOTS,
            }
            for group in groups
        ],
    }
    Builder(known, directory, lambda _: plugin)
    return str(directory / name)
