# SPDX-License-Identifier: BSD-3-Clause
"""Throughput over time with the faults marked, as SVG. Needs matplotlib, the extra
`dpsup[bench]`: nothing but --plot does."""

from __future__ import annotations

import importlib.util
from typing import Any

from dpsup.errors import DpsupError

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


def demand() -> None:
    """Raises: DpsupError where matplotlib is missing: known before anything is done."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DpsupError(
            "--plot needs matplotlib", help="pip install 'dpsup[bench]', or leave --plot out"
        )


def write_svg(doc: dict[str, Any], path: str) -> None:
    """Raises: DpsupError where there is nothing to plot, or it cannot be written."""
    demand()
    from matplotlib.figure import Figure as Canvas

    points = doc["throughput"]
    if not points:
        raise DpsupError("no throughput was measured: nothing to plot")
    canvas = Canvas(figsize=(10, 4), layout="constrained")
    axes = canvas.add_subplot()
    axes.plot([t for t, _ in points], [v / 1e3 for _, v in points], color="#2b6cb0", linewidth=1.2)
    for kind, colour in COLOURS.items():
        at = [t for t, k in doc["faults"] if k == kind]
        if at:
            axes.plot(
                at, [0.0] * len(at), linestyle="none", marker="|", markersize=14, color=colour,
                label=f"{kind} ({len(at)})", clip_on=False,
            )  # fmt: skip
            axes.vlines(at, 0, 1, transform=axes.get_xaxis_transform(), color=colour, alpha=0.15)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(doc["seconds"], 0.1))
    axes.set_xlabel("seconds of traffic")
    axes.set_ylabel("thousand packets a second")
    axes.legend(title="faults", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(_title(doc))
    try:
        canvas.savefig(path, format="svg", metadata={"Date": None})
    except OSError as e:
        raise DpsupError(f"cannot write {path}: {e.strerror}") from None


def _title(doc: dict[str, Any]) -> str:
    traffic = doc["traffic"]
    total = sum(doc["injected"].values())
    if not traffic["sequences_checked"]:
        return f"{total} faults, {traffic['sent']:,} packets, mbufs leaked {doc['audit']['leaked']}"
    return (
        f"{total} faults, {traffic['sent']:,} packets: lost {traffic['lost']}, duplicated "
        f"{traffic['duplicated']}, reordered {traffic['reordered']}, "
        f"mbufs leaked {doc['audit']['leaked']}"
    )
