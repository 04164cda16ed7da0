# SPDX-License-Identifier: BSD-3-Clause
"""The binding to the C shim, and the way from its structs and errors to Python's. Its one home: all
other modules of the primary import `ffi` and `lib` from here."""

from __future__ import annotations

from typing import Any

from dpsup._shim import ffi, lib
from dpsup.errors import ShimError

__all__ = ["check", "ffi", "fields", "lib", "reasons_of", "text"]


def check(call: str, ret: int, message: str = "", help: str = "") -> int:
    """Raises: ShimError for each -errno, with a message for users."""
    if ret >= 0:
        return ret
    why = text(lib.dps_strerror(-ret))
    raise ShimError(call, -ret, f"{message or call}: {why}", help=help)


def text(chars: Any) -> str:
    return ffi.string(chars).decode(errors="replace")  # type: ignore[no-any-return]


def fields(struct: Any) -> dict[str, int]:
    """The integer fields of a cffi struct."""
    return {
        name: int(getattr(struct, name))
        for name, field in ffi.typeof(struct[0]).fields
        if field.type.kind == "primitive"
    }


def gauges_of(facts: Any) -> list[str]:
    n = min(facts.n_counters, lib.DPS_COUNTERS)
    return [text(facts.counter_name[c]) for c in range(n) if facts.gauges >> c & 1]


def reasons_of(facts: Any) -> list[str]:
    return [text(facts.reason[r]) for r in range(min(facts.n_reasons, lib.DPS_REASONS))]
