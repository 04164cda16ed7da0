# SPDX-License-Identifier: BSD-3-Clause
"""The words of a plugin in Python, which are those of dpsup_plugin.h.

from dpsup import plugin as dps

reasons = ["runt"]


def packet(p):
    return dps.drop(0) if p.length < 60 else dps.out(p.port)
"""

from __future__ import annotations

from dpsup._python import (
    add,
    also,
    bucket,
    count,
    drop,
    emit,
    gauge,
    group,
    hash_of,
    ipv4_sum,
    next,
    on,
    on_hash,
    out,
    owns,
    port,
    punt,
    quarantine,
    sum_changed,
    touch,
)

__all__ = [
    "add",
    "also",
    "bucket",
    "count",
    "drop",
    "emit",
    "gauge",
    "group",
    "hash_of",
    "ipv4_sum",
    "next",
    "on",
    "on_hash",
    "out",
    "owns",
    "port",
    "punt",
    "quarantine",
    "sum_changed",
    "touch",
]
