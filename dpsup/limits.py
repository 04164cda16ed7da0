# SPDX-License-Identifier: BSD-3-Clause
"""What shared memory has room for: the numbers of shim/abi.h, by which a topology is judged.

The pure core knows no C; a test holds these and the header together.
"""

from __future__ import annotations

IO_CORES = 8  # DPS_MAX_IO
SLOTS = 64  # DPS_MAX_SLOTS, of all groups together
SPARES = 64  # DPS_MAX_SPARES, likewise
PORTS = 16  # DPS_MAX_PORTS
GROUPS = 16  # DPS_MAX_GROUPS
MEMPOOLS = 8  # DPS_MAX_POOLS
BURST = 64  # DPS_BURST
IO_BURST = 128  # DPS_IO_BURST
RING = 1 << 20  # DPS_RING_MOST
STATE = 64 << 20  # DPS_PLUGIN_STATE (workers/sdk/dpsup_plugin.h), bytes
BUCKET_STATE = 32768  # DPS_PLUGIN_BUCKET_STATE, likewise
NAME = 31  # DPS_NAME, less the closing NUL
PLUGIN_PATH = 1023  # DPS_PATH, less the closing NUL
DEVICE = 4095  # DPS_VDEV, less the closing NUL
ARGS = 8192  # DPS_ARGS: key NUL value NUL ...
ETHERNET = 14  # bytes of an Ethernet header, which an MTU does not count
FRAME_MORE = ETHERNET + 2 * 4  # ETHER_MOST: with two VLAN tags
