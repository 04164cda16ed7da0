# SPDX-License-Identifier: BSD-3-Clause
"""dpsup supervises multi-process DPDK.

with dpsup.connect("edge") as edge:
    edge.scale("fw", 4)
    print(edge.status()["state"])
"""

from __future__ import annotations

from dpsup._build import VERSION as __version__

TYPE_CHECKING = False  # typing takes longer to import than all that `dpsup health` does
if TYPE_CHECKING:
    from typing import Any

    from dpsup.errors import DpsupError
    from dpsup.instance.client import Instance, connect

__all__ = ["DpsupError", "Instance", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    """What is imported on first use: most commands start without the client, a probe without all
    of it."""
    if name == "DpsupError":
        from dpsup import errors

        return errors.DpsupError
    if name in ("Instance", "connect"):
        from dpsup.instance import client

        return getattr(client, name)
    raise AttributeError(name)
