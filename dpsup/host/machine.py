# SPDX-License-Identifier: BSD-3-Clause
"""What the machine has: CPUs, NUMA nodes, hugepages, drivers, devices, rights.

Reads /sys, /proc and DPDK's driver directory, and changes nothing. A `sysroot` other than / is
another machine's tree; paths that a topology names are always looked up as this process sees them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import json
import mmap
import os
import re
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dpsup.host import plugin_file, process, python, tap
from dpsup.host.neighbours import Neighbour, neighbours
from dpsup.host.offloads import Offloads
from dpsup.host.offloads import read as read_offloads
from dpsup.host.plugin_file import PluginFile
from dpsup.packets.pcap import Capture, scan
from dpsup.text import plural

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import CpuTimes

ENVIRONMENT = (
    "RUNTIME_DIRECTORY",
    "XDG_RUNTIME_DIR",
    "STATE_DIRECTORY",
    "XDG_STATE_HOME",
    "HOME",
)
_PMD_INFO = re.compile(rb"PMD_INFO_STRING= (\{[^\0]*\})")

TEXT_MOST = 4 << 20  # bytes of a topology file: /dev/zero has no end


class Pages(NamedTuple):
    """Hugepages of one size; `free` can be had now (reserved ones are not free)."""

    total: int
    free: int


class Hugetlbfs(NamedTuple):
    """A hugetlbfs mount; `page_size` in bytes."""

    path: str
    page_size: int
    writable: bool


class PciDevice(NamedTuple):
    """A PCI device: its NUMA node (-1: unknown) and kernel driver ("": none)."""

    numa: int
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    online: frozenset[int]
    allowed: frozenset[int]  # CPUs that this process may use
    numa: Mapping[int, frozenset[int]]  # node: its CPUs
    hugepages: Mapping[int, Pages]  # page size in bytes: pages of the whole machine
    node_hugepages: Mapping[int, Mapping[int, Pages]]  # node: page size: pages
    hugetlbfs: tuple[Hugetlbfs, ...]
    pmd_dir: str
    dpdk_version: str
    pmds: Mapping[str, str]  # driver name: its parameters, as its author describes them
    pci_drivers: frozenset[str]  # those of `pmds` that drive PCI devices
    pci: Mapping[str, PciDevice]  # "0000:3b:00.0": …
    interfaces: frozenset[str]  # the kernel's, in this network namespace
    is_root: bool
    uid: int
    cwd: str
    is_here: bool = False  # this machine, not a copy of another's files
    env: Mapping[str, str] = field(default_factory=dict)  # of ENVIRONMENT, those that are set
    # By CPU: all CPUs of its physical core; empty where the kernel does not say.
    siblings: Mapping[int, frozenset[int]] = field(default_factory=dict)
    # Of this process, soft and hard, by the kernel's names for them; infinite where not said.
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def with_free(self, page_size: int, pages: int) -> Host:
        """This machine with so many more free hugepages, on whatever node."""

        def more(sizes: Mapping[int, Pages]) -> dict[int, Pages]:
            return {
                size: Pages(p.total, min(p.total, p.free + pages)) if size == page_size else p
                for size, p in sizes.items()
            }

        nodes = {node: more(sizes) for node, sizes in self.node_hugepages.items()}
        return replace(self, hugepages=more(self.hugepages), node_hugepages=nodes)

    def variable(self, name: str) -> str | None:
        """A variable of the environment; None: it is not set, or it is another machine's."""
        return os.environ.get(name) if self.is_here else self.env.get(name)

    def no_taps(self) -> str:
        """Why this process can create no TAP; "": it can, or it is another machine's."""
        return tap.why_unusable() if self.is_here else ""

    def can_import(self, package: str) -> bool:
        """Has the Python that runs dpsup this package? What another machine has is not known."""
        return not self.is_here or python.has(package)

    def tap(self, name: str, netns: str) -> tap.Seen:
        """What is there under the name of a TAP that is wanted."""
        return tap.inspect(name, netns) if self.is_here else tap.Seen()

    def offloads(self, interface: str) -> Offloads | None:
        """The facts of a kernel interface; None: it is another machine's."""
        return read_offloads(interface) if self.is_here else None

    def is_file(self, path: str) -> bool:
        return Path(path).is_file()

    def read_plugin(self, path: str) -> PluginFile | None:
        """Raises: NoPlugin, OSError."""
        return plugin_file.read(path)

    def state_of(self, path: str) -> tuple[int, int]:
        """What a plugin's file declares: bytes for each worker and for each bucket; 0 where it
        cannot be read, which `check` says."""
        try:
            found = self.read_plugin(path)
        except (plugin_file.NoPlugin, OSError):
            found = None
        return (found.state, found.bucket_state) if found else (0, 0)

    def is_dir(self, path: str) -> bool:
        return Path(path).is_dir()

    def file_id(self, path: str) -> tuple[object, ...]:
        """Equal for two paths that lead to one file, or would create the same one."""
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError:
            real = Path(os.path.realpath(path))
            try:
                parent = real.parent.stat()
            except OSError:
                return (str(real),)
            return parent.st_dev, parent.st_ino, real.name
        return found.st_dev, found.st_ino

    def kind_of(self, path: str) -> str:
        """ "file", "fifo", "socket", "null" for /dev/null, "absent", or "other": a device, a
        directory, or a name that each process resolves to something else."""
        if path.startswith(("/proc/", "/dev/fd/", "/dev/std")):
            return "other"
        try:
            mode = os.stat(path)  # noqa: PTH116
        except OSError:
            return "absent"
        if stat.S_ISCHR(mode.st_mode) and mode.st_rdev == os.makedev(1, 3):
            return "null"
        if stat.S_ISFIFO(mode.st_mode):
            return "fifo"
        if stat.S_ISSOCK(mode.st_mode):
            return "socket"
        return "file" if stat.S_ISREG(mode.st_mode) else "other"

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Other instances that run, and the one that is asked about."""
        return neighbours()

    def scan_capture(self, path: str, longest: int) -> Capture | None:
        """What a capture file holds (see packets/pcap.py). Raises: OSError."""
        found = os.stat(path)  # noqa: PTH116
        return _scan(path, longest, found.st_ino, found.st_size, found.st_mtime_ns)

    def can_write(self, path: str) -> bool:
        """Can something be created at `path`: is it, or the next directory above it, writable?"""
        here = Path(path)
        while not here.exists() and here != here.parent:
            here = here.parent
        return here.is_dir() and os.access(here, os.W_OK | os.X_OK)

    def read_text(self, path: str) -> str:
        """A file as UTF-8. Raises: OSError, UnicodeDecodeError."""
        with Path(path).open("rb") as file:
            found = file.read(TEXT_MOST + 1)
        if len(found) > TEXT_MOST:
            raise OSError(errno.EFBIG, f"it has more than {TEXT_MOST >> 20} MiB")
        return found.decode()

    def read_data(self, path: str, most: int) -> str:
        """A regular file of up to `most` bytes as UTF-8. It waits for no other process, as the
        opening of a FIFO does. Raises: OSError, UnicodeDecodeError."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(fd, "rb") as file:  # noqa: PTH123
            found = file.read(most + 1)
        if len(found) > most:
            raise OSError(errno.EFBIG, f"it has more than {plural(most, 'byte')}")
        return found.decode()


@functools.lru_cache(maxsize=64)  # `check` and the job that follows ask the same
def _scan(path: str, longest: int, *_: int) -> Capture | None:
    with Path(path).open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return None  # not to be mapped
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return scan(data, longest)


def parse_cpulist(text: str) -> frozenset[int]:
    """The kernel's list format: "0-3,8" (and "0-6:1/2", whose group part is never used here)."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def read_host(sysroot: str = "/") -> Host:
    root = Path(sysroot)
    sys_devices = root / "sys/devices/system"
    online = parse_cpulist(_text(sys_devices / "cpu/online")) or frozenset(
        range(os.cpu_count() or 1)
    )
    allowed = process.allowed() if root == Path("/") else online
    nodes = {int(path.name[4:]): path for path in sorted((sys_devices / "node").glob("node[0-9]*"))}
    pmd_dir, version = _dpdk(root)
    pmds, pci_drivers = read_pmds(root / pmd_dir.lstrip("/")) if pmd_dir else ({}, frozenset())
    return Host(
        online=online,
        allowed=allowed & online,
        numa={node: parse_cpulist(_text(path / "cpulist")) for node, path in nodes.items()}
        or {0: online},
        hugepages=_hugepages(root / "sys/kernel/mm/hugepages"),
        node_hugepages={node: _hugepages(path / "hugepages") for node, path in nodes.items()},
        hugetlbfs=_hugetlbfs(root),
        pmd_dir=pmd_dir,
        dpdk_version=version,
        pmds=pmds,
        pci_drivers=pci_drivers,
        pci=_pci(root),
        interfaces=_interfaces(root),
        is_root=os.geteuid() == 0,
        uid=os.geteuid(),
        cwd=str(Path.cwd()),
        is_here=root == Path("/"),
        env={key: os.environ[key] for key in ENVIRONMENT if os.environ.get(key)},
        siblings=_siblings(sys_devices, online),
        limits=read_limits(_text(root / "proc/self/limits")),
    )


def _siblings(sys_devices: Path, online: frozenset[int]) -> dict[int, frozenset[int]]:
    found: dict[int, frozenset[int]] = {}
    for cpu in online:
        file = sys_devices / f"cpu/cpu{cpu}/topology/thread_siblings_list"
        with contextlib.suppress(ValueError):  # it is only a preference
            if cpus := parse_cpulist(_text(file)):
                found[cpu] = cpus
    return found


def read_limits(text: str) -> dict[str, tuple[float, float]]:
    """What /proc/PID/limits says: "Max open files            1024       65536      files"."""
    found = re.findall(r"^(Max [a-z -]+?)  +(\S+) +(\S+)", text, re.MULTILINE)
    return {name: (_limit(soft), _limit(hard)) for name, soft, hard in found}


def _limit(word: str) -> float:
    return int(word) if word.isdigit() else float("inf")


def read_pmds(directory: Path) -> tuple[dict[str, str], frozenset[str]]:
    """The drivers in DPDK's directory: {name: parameters}, and the names of those for PCI devices.

    Each shared object says so itself in `PMD_INFO_STRING= {json}`, as dpdk-pmdinfo reads it.
    """
    pmds: dict[str, str] = {}
    pci: set[str] = set()
    # A driver exists as .so, .so.23 and .so.23.0; which of them depends on the packages.
    for path in {entry.resolve() for entry in directory.glob("*.so*")}:
        try:
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                found = _PMD_INFO.findall(data)
        except (OSError, ValueError):
            continue  # unreadable or empty: EAL cannot load it either
        for raw in found:
            try:
                info = json.loads(raw)
                name = str(info["name"])
            except (ValueError, KeyError, TypeError):
                continue
            pmds[name] = str(info.get("params", ""))
            if info.get("pci_ids"):
                pci.add(name)
    return pmds, frozenset(pci)


def _dpdk(root: Path) -> tuple[str, str]:
    """DPDK's driver directory and version: as built against, else as installed."""
    version = ""
    try:
        build = importlib.import_module("dpsup._build")
        version = str(build.DPDK_VERSION)
        if build.PMD_DIR and (root / str(build.PMD_DIR).lstrip("/")).is_dir():
            return str(build.PMD_DIR), version
    except (ImportError, AttributeError):
        pass  # running from the source tree
    found = sorted(root.glob("usr/lib/*/dpdk/pmds-*"))
    return (f"/{found[-1].relative_to(root)}" if found else ""), version


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else 0


def _hugepages(directory: Path) -> dict[int, Pages]:
    sizes: dict[int, Pages] = {}
    for path in sorted(directory.glob("hugepages-*kB")):
        size = int(path.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        # As EAL counts: pages that others reserved do not count, pages that the kernel may add do.
        extra = _number(path / "nr_overcommit_hugepages") - _number(path / "surplus_hugepages")
        free = _number(path / "free_hugepages") - _number(path / "resv_hugepages")
        sizes[size] = Pages(_number(path / "nr_hugepages"), max(0, free) + max(0, extra))
    return sizes


def _hugetlbfs(root: Path) -> tuple[Hugetlbfs, ...]:
    default = re.search(r"Hugepagesize:\s+(\d+) kB", _text(root / "proc/meminfo"))
    default_size = int(default[1]) * 1024 if default else 2 << 20
    mounts: list[Hugetlbfs] = []
    for line in _text(root / "proc/mounts").splitlines():
        words = line.split()
        if len(words) < 4 or words[2] != "hugetlbfs":
            continue
        path = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), words[1])
        options = words[3].split(",")
        size = default_size
        for option in options:
            if (m := re.fullmatch(r"pagesize=(\d+)([KMG])B?", option)) is not None:
                size = int(m[1]) << {"K": 10, "M": 20, "G": 30}[m[2]]
        writable = "ro" not in options and os.access(root / path.lstrip("/"), os.W_OK | os.X_OK)
        mounts.append(Hugetlbfs(path, size, writable))
    return tuple(mounts)


def _interfaces(root: Path) -> frozenset[str]:
    if root == Path("/"):
        return frozenset(name for _, name in socket.if_nameindex())
    return frozenset(path.name for path in (root / "sys/class/net").glob("*"))


def _pci(root: Path) -> dict[str, PciDevice]:
    devices: dict[str, PciDevice] = {}
    for path in sorted((root / "sys/bus/pci/devices").glob("*")):
        node = _text(path / "numa_node")
        driver = path / "driver"
        devices[path.name] = PciDevice(
            int(node) if node.lstrip("-").isdigit() else -1,
            driver.resolve().name if driver.exists() else "",
        )
    return devices


def cpu_times(proc: str = "/proc", sys: str = "/sys") -> dict[int, CpuTimes]:
    """By CPU: its ticks since boot (all, busy, stolen by the hypervisor), and its NUMA node."""
    nodes: dict[int, int] = {}
    for directory in Path(sys, "devices/system/node").glob("node[0-9]*/cpu[0-9]*"):
        nodes[int(directory.name[3:])] = int(directory.parent.name[4:])
    found: dict[int, CpuTimes] = {}
    for line in Path(proc, "stat").read_text().splitlines():
        name, *fields = line.split()
        if re.fullmatch(r"cpu\d+", name):
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields[:8])
            busy = user + nice + system + irq + softirq
            found[int(name[3:])] = {
                "total": busy + idle + iowait + steal,
                "busy": busy,
                "steal": steal,
                "numa": nodes.get(int(name[3:]), 0),
            }
    return found
