# SPDX-License-Identifier: BSD-3-Clause
"""What a shell completes: names of instances, groups and workers that exist now.

They are read from runtime directories only, so that a key press never waits for a busy supervisor;
a directory that cannot be read yields no names.
"""

from __future__ import annotations

import json
import signal
from typing import Any

from dpsup.instance import runtime_dir
from dpsup.instance.runtime_dir import PLAN, STATE, Runtime

_SIGNALS = ("KILL", "TERM", "SEGV", "ABRT", "STOP", "CONT", "INT", "HUP", "USR1", "USR2")


def instances() -> list[str]:
    return sorted(runtime_dir.instances())


def _chosen(name: str | None) -> list[Runtime]:
    there = runtime_dir.instances()
    if name:
        return [there[name]] if name in there else []
    return list(there.values())


def _read(where: Runtime, file: str) -> dict[str, Any]:
    try:
        found = json.loads(where.read(file))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def groups(name: str | None) -> list[str]:
    found = []
    for one in _chosen(name):
        plan = _read(one, PLAN)
        found += [str(g["name"]) for g in plan.get("groups", []) if isinstance(g, dict)]
    return sorted(set(found))


def ports(name: str | None) -> list[str]:
    found: list[str] = []
    for one in _chosen(name):
        plan = _read(one, PLAN)
        found += [str(p["name"]) for p in plan.get("ports", []) if isinstance(p, dict)]
    return sorted(set(found))


def workers(name: str | None) -> list[str]:
    """The workers that have a process."""
    found: set[str] = set()
    for one in _chosen(name):
        found |= set(_read(one, STATE).get("workers", {}))
    return sorted(found)


def sources(name: str | None) -> list[str]:
    """The processes that have log lines."""
    there = _chosen(name)
    return ["primary", "seed", *workers(name)] if there else []


def targets(name: str | None) -> list[str]:
    return [*groups(name), *workers(name), "all"]


def captured(name: str | None) -> list[str]:
    """The names that `dpsup capture` takes: ports, groups, and workers that have a process."""
    return sorted({*ports(name), *groups(name), *workers(name)})


def codes() -> list[str]:
    from dpsup.doctor import CHECKS
    from dpsup.error_codes import CODES

    return [*CODES, *CHECKS]


def signals() -> list[str]:
    return [name for name in _SIGNALS if hasattr(signal, f"SIG{name}")]
