# SPDX-License-Identifier: BSD-3-Clause
"""The directories of an instance: what the topology names, else what systemd or XDG give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dpsup.topology.model import Topology
from dpsup.topology.values import AUTO

if TYPE_CHECKING:
    from dpsup.host.machine import Host


def runtime_dir(topology: Topology, host: Host) -> str:
    if topology.host.runtime_dir != AUTO:
        return topology.host.runtime_dir
    # systemd gives several directories with colons between them; the first is the unit's own.
    given = host.env.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if host.is_root:
        return f"/run/dpsup/{topology.name}"
    user = host.env.get("XDG_RUNTIME_DIR")
    return f"{user}/dpsup/{topology.name}" if user else f"/tmp/dpsup-{host.uid}/{topology.name}"


def state_dir(name: str, env: Mapping[str, str], *, is_root: bool, uid: int) -> str:
    """The directory of what outlives an instance."""
    given = env.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if is_root:
        return f"/var/lib/dpsup/{name}"
    home = env.get("HOME")
    state = env.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    return f"{state}/dpsup/{name}" if state else f"/var/tmp/dpsup-{uid}/{name}"


def tables_dir(topology: Topology, host: Host) -> str:
    """The directory of live tables that outlive the instance."""
    if topology.host.tables_dir != AUTO:
        return topology.host.tables_dir
    directory = state_dir(topology.name, host.env, is_root=host.is_root, uid=host.uid)
    return f"{directory}/tables"


def config_dir(env: Mapping[str, str], *, is_root: bool) -> str:
    """The directory of what a person sets up once: keys, names of hosts."""
    if is_root:
        return "/etc/dpsup"
    home = env.get("HOME")
    config = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    return f"{config}/dpsup" if config else "/etc/dpsup"


def keys_dir(topology: Topology, host: Host) -> str:
    if topology.bus.keys != AUTO:
        return topology.bus.keys
    return f"{config_dir(host.env, is_root=host.is_root)}/keys"


def quarantine_dir(topology: Topology, host: Host) -> str:
    if topology.host.quarantine_dir != AUTO:
        return topology.host.quarantine_dir
    directory = state_dir(topology.name, host.env, is_root=host.is_root, uid=host.uid)
    return f"{directory}/quarantine"
