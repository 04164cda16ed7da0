# SPDX-License-Identifier: BSD-3-Clause
"""The hash of a frame, by the function of the io cores, in any process: it needs no EAL."""

from __future__ import annotations

from dpsup.primary.layout import rss_key, rss_types
from dpsup.primary.shim import check, lib


def flow_hash(key: str, fields: list[str], frame: bytes) -> int:
    """By a port's `rss`. It sets the key of this whole process, so it is not for a primary."""
    found = rss_key(key)
    check("hash_conf", lib.dps_hash_conf(found, len(found), rss_types(fields)))
    return int(lib.dps_hash_packet(frame, len(frame)))
