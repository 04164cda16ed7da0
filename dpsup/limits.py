# SPDX-License-Identifier: BSD-3-Clause
"""The limits of a topology: the room that the C headers leave, in the topology's words."""

from __future__ import annotations

import posixpath

from dpsup import _abi

IO_CORES = _abi.DPS_MAX_IO
SLOTS = _abi.DPS_MAX_SLOTS  # of all groups together
SPARES = _abi.DPS_MAX_SPARES  # likewise
PORTS = _abi.DPS_MAX_PORTS
GROUPS = _abi.DPS_MAX_GROUPS
MEMPOOLS = _abi.DPS_MAX_POOLS
BURST = _abi.DPS_BURST
IO_BURST = _abi.DPS_IO_BURST
RING = _abi.DPS_RING_MOST
STATE = _abi.DPS_PLUGIN_STATE  # bytes
BUCKET_STATE = _abi.DPS_PLUGIN_BUCKET_STATE  # bytes
AUTO_STATE = -1  # of either: what the plugin declares, with room to migrate
NAME = _abi.DPS_NAME - 1  # bytes, without the closing NUL, as are the next two
PLUGIN_PATH = _abi.DPS_PATH - 1
DEVICE = _abi.DPS_VDEV - 1
ARGS = _abi.DPS_ARGS  # bytes: key NUL value NUL ...
FILE = "file:"  # begins the key of an argument that is a file
ORDER = _abi.DPS_ORDER  # bytes
SNAP = _abi.DPS_CAPTURE_SNAP  # bytes
POLLED_QUEUES = _abi.DPS_POLLED_QUEUES
KERNEL_OUT = _abi.DPS_KERNEL_OUT  # punted packets under way from an io core and a port
KERNEL_IN = _abi.DPS_KERNEL_IN  # mbufs for what the kernel sends to a port
HEADROOM = 128  # RTE_PKTMBUF_HEADROOM: bytes of a buffer before a received packet
TABLES = "tables:"  # the key of the argument that says where a group's tables lie
CONTROL = "control"  # the table of what an operator tells a group
TABLES_MOST = _abi.DPS_TABLES - 1  # of a group, beside that one
TELLS = _abi.DPS_TELLS  # texts that are kept
TELL_BYTES = _abi.DPS_TELL_TEXT
ETHERNET = 14  # bytes of an Ethernet header, which an MTU does not count
INTERFACE_NAME = 15  # bytes of the name of one of the kernel's interfaces
FRAME_MORE = ETHERNET + 2 * 4  # with two VLAN tags

PLUGIN_FILES = (".so", ".py")  # how the name of a plugin's file ends
BUILT_IN = ("forward", "macswap", "sink", "delay", "crash")  # parts of the worker program
# Files that dpsup ships, named without their directory.
FUNCTIONS = (
    "acl", "balance", "balance_tunnel", "export", "mirror", "nat", "police", "route", "switch",
    "tunnel",
)  # fmt: skip


def is_plugin_file(plugin: str) -> bool:
    """Is `plugin` of the topology a path, not the name of a plugin that comes with dpsup?"""
    return "/" in plugin or plugin.endswith(PLUGIN_FILES)


def plugin_path(plugin: str) -> str:
    """The file that workers load; "" for a built-in plugin."""
    if plugin in FUNCTIONS:
        return f"{posixpath.dirname(__file__)}/functions/{plugin}.so"
    return plugin if is_plugin_file(plugin) else ""


def args_size(args: tuple[tuple[str, str], ...]) -> int:
    """Bytes of arguments in shared memory."""
    return sum(len(f"{k}{v}".encode()) + 2 for k, v in args)
