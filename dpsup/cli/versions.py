# SPDX-License-Identifier: BSD-3-Clause
"""The versions of dpsup, DPDK and the plugin ABI, and where the plugin header is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpsup import _build
from dpsup._abi import DPS_PLUGIN_ABI

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.printed import Versions


def versions() -> Versions:
    return {
        "dpsup": _build.VERSION,
        "dpdk": _build.DPDK_VERSION,
        "plugin_abi": DPS_PLUGIN_ABI,
        "include": str(Path(_build.__file__).with_name("include")),
    }


def line() -> str:
    v = versions()
    dpdk = f"DPDK {v['dpdk']}" if v["dpdk"] else "no DPDK (dpsup-client)"
    return f"dpsup {v['dpsup']}, {dpdk}, plugin ABI {v['plugin_abi']}"
