# SPDX-License-Identifier: BSD-3-Clause
"""The versions of dpsup, DPDK and the plugin ABI, and where the plugin header is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dpsup import _build


def versions() -> dict[str, Any]:
    include = Path(_build.__file__).with_name("include")
    abi = re.search(r"DPS_PLUGIN_ABI (\d+)u", (include / "dpsup_plugin.h").read_text())
    return {
        "dpsup": _build.VERSION,
        "dpdk": _build.DPDK_VERSION,
        "plugin_abi": int(abi[1]) if abi else None,
        "include": str(include),
    }


def line() -> str:
    v = versions()
    return f"dpsup {v['dpsup']}, DPDK {v['dpdk']}, plugin ABI {v['plugin_abi']}"
