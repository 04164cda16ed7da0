# SPDX-License-Identifier: BSD-3-Clause
"""`state = "auto"`: the bytes that are reserved for what a plugin declares.

A version with another layout keeps the old block beside the new one until the next rollout (the
worker's state.c). Numbers that become twice as wide make a block twice as large: room for that much
is reserved, so that most next versions can be rolled out without a new start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpsup.limits import AUTO_STATE

if TYPE_CHECKING:
    from dpsup.host.machine import Host
    from dpsup.topology.model import Group, Topology

_UNIT, _HEAD = 16, 16  # bytes: struct dps_state_kept lies at a multiple of its size
_GROWTH = 2


def _up(size: int) -> int:
    return -(-size // _UNIT) * _UNIT


def room(old: int, new: int) -> int:
    """The bytes in which a block of `old` bytes is kept while it becomes one of `new` bytes:
    dps_kept_room in C."""
    return _up(max(old, new) + _up(old)) + _HEAD


def reserved(declared: int) -> int:
    # And back, which keeps the larger one.
    return room(_GROWTH * declared, _GROWTH * declared) if declared else 0


def _settled(group: Group, host: Host) -> Group:
    if AUTO_STATE not in (group.state, group.bucket_state):
        return group
    state, bucket_state = host.state_of(group.plugin_path) if group.is_file else (0, 0)
    wanted = {"state": state, "bucket_state": bucket_state}
    auto = {k: reserved(v) for k, v in wanted.items() if getattr(group, k) == AUTO_STATE}
    return group.model_copy(update=auto)


def settled(topology: Topology, host: Host) -> Topology:
    """The same, with bytes wherever it says "auto"."""
    groups = tuple(_settled(group, host) for group in topology.workers)
    if groups == topology.workers:
        return topology
    return topology.model_copy(update={"workers": groups})
