# SPDX-License-Identifier: BSD-3-Clause
"""A mark: the counters of a moment, in the runtime directory, for `stats --since-mark`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, cast

from dpsup.errors import DpsupError, NoSuchObject
from dpsup.instance.runtime_dir import MARK

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import Look
    from dpsup.documents.since import Marked
    from dpsup.instance.client import Instance
    from dpsup.instance.runtime_dir import Runtime

_KEPT = ("status", "counters", "lanes", "tsc_hz", "cpus")


def look(instance: Instance) -> Look:
    """A look of one generation. Raises: DpsupError while no primary runs."""
    for _ in range(3):
        found = instance.look()
        counters = found["counters"]
        if counters and counters["generation"] == found["status"]["generation"]:
            return found
    raise DpsupError(
        "no primary is running yet", code="E0705", help="`dpsup status` shows the state"
    )


def put(instance: Instance) -> Marked:
    """Set the mark, in place of the last one."""
    found = look(instance)
    kept = {k: v for k, v in found.items() if k in _KEPT}
    mark = cast("Marked", {"at": time.time(), "look": kept})
    instance.runtime.write(MARK, json.dumps(mark))
    return mark


def get(where: Runtime) -> Marked:
    """Raises: NoSuchObject."""
    help = f"`dpsup -n {where.name} mark` sets one"
    if not where.has(MARK):
        raise NoSuchObject(f'instance "{where.name}" has no mark', code="E0760", help=help)
    try:
        mark: Marked = json.loads(where.read(MARK))
        kept = mark["look"]
        kept["cpus"] = {int(cpu): times for cpu, times in kept["cpus"].items()}
        if not kept["counters"] or not {*_KEPT} <= {*kept} or mark["at"] < 0:
            raise KeyError
        kept["status"]["generation"], kept["status"]["recovery"], kept["counters"]["at_ns"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NoSuchObject(
            f'the mark of instance "{where.name}" cannot be read', code="E0760", help=help
        ) from None
    return mark
