# SPDX-License-Identifier: BSD-3-Clause
"""The words of `rss.inner`: the tunnels that the software's hash can look into. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dpsup import _abi

WORDS = ("vxlan", "geneve", "gre", "gtpu", "mpls", "pppoe", "ipip", "erspan")
VXLAN_PORT = 4789
VXLAN_PORTS = _abi.DPS_RSS_VXLAN_PORTS  # at most


def kind(word: str) -> str:
    """The tunnel that a word names, without a port; "": the word names none."""
    name = word.partition(":")[0]
    return name if name in WORDS else ""


def inner(fields: Iterable[str]) -> list[str]:
    """The tunnels among the hashed fields."""
    return [word for word in fields if kind(word)]


def vxlan(port: int) -> str:
    """The word for VXLAN on that UDP port."""
    return "vxlan" if port == VXLAN_PORT else f"vxlan:{port}"


def vxlan_ports(fields: Iterable[str]) -> list[int]:
    return [int(word.partition(":")[2] or VXLAN_PORT) for word in fields if kind(word) == "vxlan"]
