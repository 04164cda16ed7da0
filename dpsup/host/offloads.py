# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel leaves undone in frames of an interface: offloads, as ethtool(8) names them.

A packet socket or a TAP sees frames as the kernel passes them on: without the checksum that the NIC
is to fill in (`tx`), longer than the MTU because the NIC is to cut them (`tso`, `gso`), or because
several were joined on their way in (`gro`, `lro`). On a veth pair the sender's end decides.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

_SIOCETHTOOL = 0x8946
_GET = {"tx": 0x16, "tso": 0x1E, "gso": 0x23, "gro": 0x2B}  # ETHTOOL_GTXCSUM, GTSO, GGSO, GGRO
_GFLAGS, _LRO = 0x25, 1 << 15  # ETHTOOL_GFLAGS, ETH_FLAG_LRO
RECEIVING = ("gro", "lro")


@dataclass(frozen=True, slots=True)
class Offloads:
    on: tuple[str, ...]  # of the interface
    peer: str = ""  # its other end, where it is a veth in this network namespace
    peer_on: tuple[str, ...] = ()
    is_veth: bool = False
    bridge: str = ""  # of the kernel's, that it or its other end is a port of

    def commands(self, interface: str) -> list[str]:
        """The ethtool lines that switch off what is on."""
        ends = ((interface, self.on), (self.peer, self.peer_on))
        return [line(name, on) for name, on in ends if name and on]


def line(interface: str, on: tuple[str, ...]) -> str:
    return f"ethtool -K {interface} " + " ".join(f"{name} off" for name in on)


def _ask(sock: socket.socket, interface: str, command: int) -> int:
    value = array("I", [command, 0])
    request = struct.pack("16sP16x", interface.encode()[:15], value.buffer_info()[0])
    try:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    except OSError:
        return 0  # it has none of this, or is gone
    return value[1]


def features(interface: str) -> tuple[str, ...]:
    """The offloads of an interface that are on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = [name for name, command in _GET.items() if _ask(sock, interface, command)]
        if _ask(sock, interface, _GFLAGS) & _LRO:
            found.append("lro")
    return tuple(found)


def _bridge(interface: str) -> str:
    master = Path("/sys/class/net", interface, "master")
    return master.resolve().name if (master / "bridge").is_dir() else ""


def read(interface: str) -> Offloads:
    device = Path("/sys/class/net", interface)
    try:
        own, link = ((device / name).read_text().strip() for name in ("ifindex", "iflink"))
    except OSError:
        return Offloads(features(interface), bridge=_bridge(interface))
    # A VLAN or macvlan has a link too, but a device below it; a veth's link has it as its own.
    if own == link or any(device.glob("lower_*")):
        return Offloads(features(interface), bridge=_bridge(interface))
    peer = next((n for i, n in socket.if_nameindex() if str(i) == link), "")
    try:
        back = Path("/sys/class/net", peer, "iflink").read_text().strip() if peer else ""
    except OSError:
        back = ""
    if back != own:
        peer = ""  # that number is another interface's here: the peer is elsewhere
    bridge = _bridge(interface) or (_bridge(peer) if peer else "")
    return Offloads(features(interface), peer, features(peer) if peer else (), True, bridge)
