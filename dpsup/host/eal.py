# SPDX-License-Identifier: BSD-3-Clause
"""Where EAL keeps its runtime files, by its own rule (eal_create_runtime_dir, DPDK 22.11). Pure."""

from __future__ import annotations

from collections.abc import Mapping


def runtime_dir(env: Mapping[str, str], *, is_root: bool) -> str:
    """The parent of the directories of all file prefixes."""
    default = "/var/run" if is_root else env.get("XDG_RUNTIME_DIR", "/tmp")
    return f"{env.get('RUNTIME_DIRECTORY', default)}/dpdk"


def runtime_dirs(env: Mapping[str, str]) -> list[str]:
    """Where another user, or a process outside of this unit or session, may have had them."""
    without = {key: value for key, value in env.items() if key != "RUNTIME_DIRECTORY"}
    environments: tuple[Mapping[str, str], ...] = ({}, without, env)
    found = (runtime_dir(one, is_root=root) for one in environments for root in (True, False))
    return list(dict.fromkeys(found))
