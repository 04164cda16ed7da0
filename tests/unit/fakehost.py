# SPDX-License-Identifier: BSD-3-Clause
"""Machines that exist only in tests, and topologies to judge on them."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsup import limits
from dpsup.host.machine import Host, Hugetlbfs, Pages, PciDevice
from dpsup.host.neighbours import Neighbour
from dpsup.host.offloads import Offloads
from dpsup.host.plugin_file import PluginFile
from dpsup.packets.pcap import Capture, scan

MIB = 1 << 20
GIB = 1 << 30
FILE = "/etc/dpsup/edge.toml"

MINIMAL = """\
version = 1
name = "edge"

[mempools.default]

[[ports]]
name = "wan"
vdev = "net_null0"

[[io]]
cores = "1"

[[workers]]
name = "fw"
"""

FULL = """\
version = 1
name = "edge"                       # instance

[host]
supervisor_cores = "0"
hugepages = "auto"
eal_extra = []
runtime_dir = "auto"
quarantine_dir = "auto"
shared_cores = false

[mempools.default]
mbufs = 16383
data_room = 2176
cache = 512
numa = 0
page_size = "2M"

[[ports]]
name = "wan"
pci = "0000:3b:00.0"
mempool = "default"
required = true
descriptors = { rx = 1024, tx = 1024 }
thresholds = { rx_free = 32, rx_drop = false, tx_free = 32 }
mtu = 1500
promiscuous = true
rss = { fields = ["ipv4", "ipv6", "tcp", "udp"], key = "symmetric" }

[[ports]]
name = "lan"
vdev = "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"
mempool = "default"

[[io]]
cores = "1"
burst = 32
idle = "adaptive"

[[workers]]
name = "fw"
plugin = "macswap"
args = { map = { wan = "lan", lan = "wan" } }
input = ["wan", "lan"]
count = 2
max = 4
spares = 1
cores = "auto"
ring = 1024
on_full = "drop"
restart = { policy = "always", period = "60s", backoff = { initial = "50ms", max = "10s" } }
health = { stall_after = "200ms" }

[bus]
endpoint = "ipc"

[metrics]
listen = ""

[log]
level = "info"
"""


SHIPPED = frozenset(map(limits.plugin_path, limits.FUNCTIONS))


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeHost(Host):
    files: Mapping[str, str] = field(default_factory=dict)
    captures: Mapping[str, bytes] = field(default_factory=dict)  # those that are not just sound
    folders: frozenset[str] = frozenset()
    same: Mapping[str, str] = field(default_factory=dict)  # path: another one of the same file
    kinds: Mapping[str, str] = field(default_factory=dict)  # of files that are not regular
    others: tuple[Neighbour, ...] = ()
    plugins: Mapping[str, PluginFile | Exception] = field(default_factory=dict)
    features: Mapping[str, Offloads] = field(default_factory=dict)
    writable: frozenset[str] = frozenset({"/"})

    def read_plugin(self, path: str) -> PluginFile | None:
        found = self.plugins.get(
            path, PluginFile(control=True, table_apply=True) if path in SHIPPED else None
        )
        if isinstance(found, Exception):
            raise found
        return found

    def offloads(self, interface: str) -> Offloads | None:
        return self.features.get(interface)

    def is_file(self, path: str) -> bool:
        return path in self.files or path in SHIPPED

    def is_dir(self, path: str) -> bool:
        return path in self.folders

    def file_id(self, path: str) -> tuple[object, ...]:
        return (self.same.get(path, path),)

    def kind_of(self, path: str) -> str:
        if path in self.folders:
            return "other"
        return self.kinds.get(path, "file" if path in self.files else "absent")

    def neighbours(self) -> tuple[Neighbour, ...]:
        return self.others

    def scan_capture(self, path: str, longest: int) -> Capture | None:
        return scan(self.captures[path], longest) if path in self.captures else Capture()

    def can_write(self, path: str) -> bool:
        return any(path.startswith(prefix) for prefix in self.writable)

    def read_text(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.files[path]

    def read_data(self, path: str, most: int) -> str:
        text = self.read_text(path)
        if len(text.encode()) > most:
            raise OSError(27, f"it has more than {most} bytes")
        return text


def machine(text: str = "", cpus: int = 8, **changes: Any) -> FakeHost:
    """A root shell on a sound machine, with `text` as the topology file."""
    everything = frozenset(range(cpus))
    host = FakeHost(
        online=everything,
        allowed=everything,
        numa={0: everything},
        hugepages={2 * MIB: Pages(1024, 1024), GIB: Pages(0, 0)},
        node_hugepages={0: {2 * MIB: Pages(1024, 1024), GIB: Pages(0, 0)}},
        hugetlbfs=(Hugetlbfs("/dev/hugepages", 2 * MIB, writable=True),),
        pmd_dir="/usr/lib/dpdk/pmds",
        dpdk_version="22.11",
        pmds={
            "net_null": "size=<int> copy=<int> no-rx=0|1",
            "net_pcap": "rx_pcap=<string> tx_pcap=<string> iface=<ifc> phy_mac=<int>"
            "infinite_rx=<0|1>",
            "net_af_packet": "iface=<string> qpairs=<int>",
            "net_memif": "id=<int>role=server|clientbsize=<int>socket=<string>"
            "socket-abstract=yes|nomac=xx:xx:xx:xx:xx:xx",
            "net_ring": "",
            "net_bonding": "mode=[0-6]",
            "net_ixgbe": "",
            "crypto_null": "",
        },
        pci_drivers=frozenset({"net_ixgbe"}),
        pci={"0000:3b:00.0": PciDevice(0, "vfio-pci")},
        interfaces=frozenset({"lo", "eth0"}),
        is_root=True,
        uid=0,
        cwd="/etc/dpsup",
        files={FILE: text, "/etc/dpsup/in.pcap": ""},
        folders=frozenset({"/etc/dpsup", "/"}),
    )
    return dataclasses.replace(host, **changes)


def pcap(
    packets: Iterable[tuple[int, int]],
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    link_type: int = 1,
) -> bytes:
    """A capture of packets of these captured and original lengths."""
    more = bytes(8) if magic == 0xA1B2CD34 else b""
    out = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)
    for captured, length in packets:
        out += struct.pack(f"{order}IIII", 1, 2, captured, length) + more + bytes(captured)
    return out


def swap(text: str, old: str, new: str) -> str:
    """`text` with one thing changed, and an error if it is not there exactly once."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)
