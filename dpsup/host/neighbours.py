# SPDX-License-Identifier: BSD-3-Clause
"""What other instances on this machine have open: read from the plans of their primaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from dpsup.host import process


class Neighbour(NamedTuple):
    name: str
    runtime_dir: str
    topology_file: str
    vdevs: tuple[str, ...]  # its ports: "net_pcap0,rx_pcap=/in.pcap"


def neighbours() -> tuple[Neighbour, ...]:
    """The instances whose primary lives and whose plan this user may read, in no order."""
    found = []
    for primary in process.with_words("-m", "dpsup.primary"):
        try:
            words = Path(f"/proc/{primary.pid}/cmdline").read_bytes().decode().split("\0")
            plan: Any = json.loads(Path(words[words.index("dpsup.primary") + 1]).read_text())
            vdevs = tuple(str(port["vdev"]) for port in plan["ports"])
            name, folder, file = (str(plan[k]) for k in ("name", "runtime_dir", "topology_file"))
            found.append(Neighbour(name, folder, file, vdevs))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # gone meanwhile, another user's, or of another version
    return tuple(found)
