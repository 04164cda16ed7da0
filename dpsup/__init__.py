# SPDX-License-Identifier: BSD-3-Clause
"""dpsup supervises multi-process DPDK.

with dpsup.connect("edge") as edge:
    edge.scale("fw", 4)
    print(edge.status()["state"])
"""

from __future__ import annotations

from dpsup._build import VERSION as __version__
from dpsup.client import Instance, connect
from dpsup.errors import DpsupError

__all__ = ["DpsupError", "Instance", "__version__", "connect"]
