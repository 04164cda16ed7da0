# SPDX-License-Identifier: BSD-3-Clause
"""Do a virtual device's buffers hold the frames that its port lets through?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.errors import Problem
from dpsup.plan.place import driver_of
from dpsup.text import plural
from dpsup.topology.model import Port, Topology
from dpsup.topology.typed import Path
from dpsup.topology.values import number, parse_vdev

if TYPE_CHECKING:
    from dpsup.host.machine import Host

Devargs = tuple[tuple[str, str], ...]

_MEMIF_BUFFER = 2048  # net_memif's default `bsize`
_AF_PACKET_FRAME = 2048  # net_af_packet's default `framesz`
_AF_PACKET_MTU = 1500  # the most that it takes, whatever `framesz`
# Of a frame in the kernel's ring, what is before the packet (tpacket_rcv: the header, aligned to
# 16, minus the Ethernet header), and one byte more: a packet that fills the rest may be cut.
_AF_PACKET_HEAD = 66 + 1


def buffers(topology: Topology, host: Host) -> Iterator[Problem]:
    for i, port in enumerate(topology.ports):
        if port.vdev:
            name, devargs = parse_vdev(port.vdev)
            driver = driver_of(name, host)
            if driver == "net_memif":
                yield from _memif(topology, host, i, port, devargs)
            elif driver == "net_af_packet":
                yield from _af_packet(topology, i, port, devargs)


def cuts_memif(version: str) -> bool:
    """Does this DPDK's net_memif take a packet that needs more than one buffer for several? It is
    mended in 24.11.5 and 25.11."""
    numbers = [int(n) for n in re.findall(r"\d+", version)[:3]]
    numbers += [0] * (3 - len(numbers))
    return numbers < [24, 11, 5] or [25, 0, 0] <= numbers < [25, 11, 0]


def _memif(topology: Topology, host: Host, i: int, port: Port, given: Devargs) -> Iterator[Problem]:
    if not host.dpdk_version or not cuts_memif(host.dpdk_version):
        return
    longest = port.mtu + limits.FRAME_MORE
    bsize = number(given, "bsize", _MEMIF_BUFFER)
    pool = topology.mempools.get(port.mempool)
    room = pool.data_room - limits.HEADROOM if pool else longest
    if longest <= min(bsize, room):
        return
    least = min(bsize, room) - limits.FRAME_MORE
    path: Path = ("ports", i, "vdev")
    yield topology.source.problem(
        path,
        f"frames of up to {longest} bytes do not fit one buffer of {min(bsize, room)}",
        code="E0444",
        why=f"net_memif of DPDK {host.dpdk_version} takes some of those that need several buffers"
        " for several packets; 24.11.5 does not",
        help=(f"write bsize={longest}" if bsize < longest else "")
        + (" and " if bsize < longest and room < longest else "")
        + (f"write data_room = {longest + limits.HEADROOM} for the pool" if room < longest else "")
        + (f", or mtu = {least}" if least >= 68 else ""),
    )


def _af_packet(topology: Topology, i: int, port: Port, given: Devargs) -> Iterator[Problem]:
    longest = port.mtu + limits.FRAME_MORE
    size = number(given, "framesz", _AF_PACKET_FRAME)
    if size >= longest + _AF_PACKET_HEAD:
        return
    needed = 1 << (longest + _AF_PACKET_HEAD - 1).bit_length()
    least = min(_AF_PACKET_MTU, size - _AF_PACKET_HEAD - limits.FRAME_MORE)
    ways = [f"framesz={needed}"] if port.mtu <= _AF_PACKET_MTU else []
    ways += [f"mtu = {least}"] if least >= 68 else []
    yield topology.source.problem(
        ("ports", i, "vdev"),
        f"a frame of up to {longest} bytes does not fit a ring's frame of {plural(size, 'byte')}",
        code="E0443",
        why="the kernel cuts what is longer, and the driver hands the rest on as a whole packet",
        help=f"write {' or '.join(ways)}",
    )
