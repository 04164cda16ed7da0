# SPDX-License-Identifier: BSD-3-Clause
"""What a plugin says of the tables that it lays out itself: its table_apply, tried on their files.

The rules of a firewall are words to everybody but the plugin, so only the plugin can tell a wrong
one. It runs in a process of its own, as it will for the builder, and what it makes is thrown away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from dpsup.errors import DpsupError, Problem
from dpsup.tables.model import Match
from dpsup.topology.model import Topology

PREFIX = "dpsup-check-"


def own_tables(topology: Topology) -> Iterator[Problem]:
    """Raises: OSError, where there is no room for them."""
    from dpsup.builder import apart

    ports = [port.name for port in topology.ports]
    groups = [group.name for group in topology.workers]
    for i, group in enumerate(topology.workers):
        for table in group.tables:
            if table.kind != Match.OWN or not table.file or not group.is_file:
                continue
            with tempfile.TemporaryDirectory(prefix=PREFIX) as directory:
                try:
                    apart.make(
                        Path(directory), ports, groups, group.name, [table], group.plugin_path
                    )
                except DpsupError as e:
                    yield topology.source.problem(
                        ("workers", i, "tables", table.name),
                        f"{table.file}: {e.message}",
                        code=e.code,
                        why=e.why,
                        help=e.help,
                    )
