# SPDX-License-Identifier: BSD-3-Clause
"""What other instances on this machine have open: read from the plans of their primaries."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from dpsup.host import process

_PLAN_MOST = 8 << 20  # bytes


class Neighbour(NamedTuple):
    name: str
    runtime_dir: str
    topology_file: str
    vdevs: tuple[str, ...]  # its ports: "net_pcap0,rx_pcap=/in.pcap"


def neighbours() -> tuple[Neighbour, ...]:
    """The instances of this user and of root whose primary lives, in no order. Another user could
    claim anything, and is not asked."""
    found = []
    for primary in process.with_words("-m", "dpsup.primary"):
        try:
            proc = Path(f"/proc/{primary.pid}")
            if proc.stat().st_uid not in (0, os.geteuid()):
                continue
            words = (proc / "cmdline").read_bytes().decode().split("\0")
            plan: Any = json.loads(_read(words[words.index("dpsup.primary") + 1]))
            name, directory, file = (str(plan[k]) for k in ("name", "runtime_dir", "topology_file"))
            vdevs = tuple(str(port["vdev"]) for port in plan["ports"])
            found.append(Neighbour(name, directory, file, vdevs))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # gone meanwhile, or of another version
    return tuple(found)


def _read(path: str) -> bytes:
    """A plain file of bounded length. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError
        return file.read(_PLAN_MOST)
