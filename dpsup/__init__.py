# SPDX-License-Identifier: BSD-3-Clause
"""dpsup supervises multi-process DPDK.

with dpsup.connect("edge") as edge:
    edge.scale("fw", 4)
    print(edge.status()["state"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpsup._build import VERSION as __version__
from dpsup.errors import DpsupError

if TYPE_CHECKING:
    from dpsup.instance.client import Instance, connect

__all__ = ["DpsupError", "Instance", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    """The client is imported on first use: most commands start without it."""
    if name in ("Instance", "connect"):
        from dpsup.instance import client

        return getattr(client, name)
    raise AttributeError(name)
