# SPDX-License-Identifier: BSD-3-Clause
"""The table of docs/nics.md, from what the lab's machines left: `docs/make/nics.py DIR`.

DIR is what `DPSUP_LAB_OUT=DIR deploy/test --lab tests/lab` kept, a directory of each machine's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PAGE = Path(__file__).resolve().parents[1] / "nics.md"
BEGIN, END = "<!-- written by docs/make/nics.py -->", "<!-- until here -->"
# By test in tests/lab/inside/test_nic.py.
WHAT = {
    "test_traffic_and_kills": "traffic, VLAN tags, RSS table; worker and primary killed",
    "test_jumbo_frames": "MTU 9000, several mbufs",
    "test_a_cable_is_pulled": "link down and up",
    "test_missing_at_the_start": "missing at the start, opened later",
    "test_removed_under_load": "removed under load, and back",
}


def outcomes(directory: Path) -> dict[str, str]:
    """What each test of a machine came to; a later run of the same counts."""
    found: dict[str, str] = {}
    for file in sorted(directory.glob("junit-*.xml")):
        for case in ElementTree.parse(file).iter("testcase"):
            kinds = {child.tag for child in case}
            name = case.get("name", "")
            found[name] = "skipped" if "skipped" in kinds else "failed" if kinds & BAD else "passed"
    return found


BAD = {"failure", "error"}


def machines(directory: Path) -> list[tuple[dict[str, Any], dict[str, str]]]:
    return [
        (json.loads((one / "nic.json").read_text()), outcomes(one))
        for one in sorted(directory.iterdir())
        if (one / "nic.json").exists()
    ]


def table(found: list[tuple[dict[str, Any], dict[str, str]]]) -> str:
    rows = [
        ("NIC of QEMU's", *(told["model"] for told, _ in found)),
        ("driver", *(f"`{told['driver']}`" for told, _ in found)),
        ("DPDK", *(told["dpdk"] for told, _ in found)),
        ("kernel", *(told["kernel"] for told, _ in found)),
        ("rx queues used, of two asked for", *(str(told["rx_queues"]) for told, _ in found)),
        ("indirection table", *(str(told["reta_size"] or "none") for told, _ in found)),
    ]
    rows += [
        (text, *(done.get(name, "not run") for _, done in found)) for name, text in WHAT.items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> None:
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    made = table(machines(Path(sys.argv[1])))
    PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")


if __name__ == "__main__":
    main()
