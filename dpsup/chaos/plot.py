# SPDX-License-Identifier: BSD-3-Clause
"""Throughput over time with the faults marked, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpsup.errors import DpsupError
from dpsup.report import charts

if TYPE_CHECKING:
    from dpsup.documents.chaos import Chaos

COLOURS = {
    "kill": "#c53030",
    "segv": "#dd6b20",
    "stop": "#d69e2e",
    "hang": "#805ad5",
    "spare-kill": "#718096",
    "seed": "#319795",
    "attach-kill": "#2c7a7b",
    "primary": "#1a202c",
    "supervisor": "#3182ce",
}


def svg(doc: Chaos) -> str:
    """Raises: DpsupError if there is nothing to plot."""
    points = doc["throughput"]
    if not points:
        raise DpsupError("no throughput was measured: nothing to plot")
    end = max(doc["seconds"], points[-1][0], 0.1)
    return charts.timeline_file(
        _title(doc), points, end, "packets a second", doc["faults"], COLOURS
    )


def _title(doc: Chaos) -> str:
    traffic = doc["traffic"]
    total = sum(doc["injected"].values())
    if not traffic["sequences_checked"]:
        return f"{total} faults, {traffic['sent']:,} packets, mbufs leaked {doc['audit']['leaked']}"
    return (
        f"{total} faults, {traffic['sent']:,} packets: lost {traffic['lost']}, duplicated "
        f"{traffic['duplicated']}, reordered {traffic['reordered']}, "
        f"mbufs leaked {doc['audit']['leaked']}"
    )
