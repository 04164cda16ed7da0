# SPDX-License-Identifier: BSD-3-Clause
"""What `dpsup bench -o json` prints and `--save` writes."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from dpsup.documents.status import Head


class Figure(TypedDict):
    name: str
    unit: str
    better: str
    one_core: bool
    summaries: list[dict[str, Any]]  # the fields of bench/stats.py: Summary
    runs: list[dict[str, Any]]  # the fields of bench/model.py: Run, its regime and noise


Compared = TypedDict(  # `with` is no name of Python's
    "Compared",
    {
        "with": str,
        "changes": list[dict[str, Any]],  # the fields of bench/compare.py: Change
    },
)


class Bench(Head):
    host: dict[str, Any]  # bench/host.py: describe
    asked: dict[str, Any]
    notes: list[str]
    figures: list[Figure]
    rows: list[dict[str, Any]]  # the fields of bench/rows.py: Row
    compared: NotRequired[Compared]
