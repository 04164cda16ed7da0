# SPDX-License-Identifier: BSD-3-Clause
"""Can this machine run this topology? Findings with file and line, nothing touched.

Judges what `topology` cannot know: CPUs, hugepages, drivers, devices, files, rights; and what
follows from several tables together, such as a mempool's least size.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.errors import Exit, Problem, Severity, TopologyError
from dpsup.plan import (
    MIB,
    Plan,
    driver_of,
    eal_runtime_dir,
    make_plan,
    memory_nodes,
    page_size,
    runtime_dir,
    worker_cores,
)
from dpsup.reading import read
from dpsup.schema import Path
from dpsup.topology import HEADROOM, Group, Port, Topology
from dpsup.values import parse_vdev
from dpsup.words import cpus, listing, plural, show, suggest

if TYPE_CHECKING:
    from dpsup.host import Host

PLUGINS = ("forward", "macswap", "sink", "delay", "crash")
UNMAPPED = ("sink",)  # those that take no map of ports
ETHER_MOST = 22  # bytes: Ethernet header with two tags
LANE_SPARE = limits.BURST + 1  # elements of a ring that a lane never fills

_SOCKET_PATH = 107  # sun_path without its closing zero
_SOCKET_NAME = 12  # the longest name of a socket in the runtime folder
_EAL_SOCKET = len("mp_socket_") + 7 + 1 + 16  # mp_socket_<pid>_<tsc>
_GENERATION = 6  # digits that a generation may grow to
_DRIVERS_OF_PCI = ("vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core", "mana", "")

Check = Callable[[Topology, "Host"], Iterator[Problem]]


def prepare(
    path: str, host: Host | None = None, generation: int = 1
) -> tuple[Topology, Plan, list[Problem]]:
    """Everything that a start needs, and the warnings. Raises: TopologyError with all problems."""
    if host is None:
        from dpsup.host import read_host

        host = read_host()
    reading = read(path, host)
    problems = list(reading.problems)
    topology = reading.topology
    if topology is not None:
        # On the line of a faulty value stands its default, which nobody asked for.
        faulty = {p.line for p in problems if p.severity is Severity.ERROR}
        found = check(topology, host, sound=reading.sound)
        problems += [p for p in found if p.line not in faulty]
        problems.sort(key=lambda p: p.line)
    if topology is None or any(p.severity is Severity.ERROR for p in problems):
        raise TopologyError(problems)
    return topology, make_plan(topology, host, generation), problems


def check(topology: Topology, host: Host, *, sound: bool = True) -> list[Problem]:
    """Every finding, in the file's order.

    A topology that is not `sound` lacks its faulty values: only what is said about single values
    that are there holds, and only that is reported.
    """
    checks = SINGLE + RELATED if sound else SINGLE
    found = [problem for one in checks for problem in one(topology, host)]
    return sorted(found, key=lambda p: p.line)


# --- CPUs ---------------------------------------------------------------------------------------


def _core_lists(topology: Topology) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    yield ("host", "supervisor_cores"), "the supervisor", topology.host.supervisor_cores
    for i, io in enumerate(topology.io):
        yield ("io", i, "cores"), "an io core", io.cores
    for i, group in enumerate(topology.workers):
        yield ("workers", i, "cores"), f"group `{group.name}`", group.cores


def _cores_exist(topology: Topology, host: Host) -> Iterator[Problem]:
    for path, who, cores in _core_lists(topology):
        absent = [core for core in cores if core not in host.online]
        barred = [core for core in cores if core in host.online and core not in host.allowed]
        if absent:
            yield topology.source.problem(
                path,
                f"{cpus(absent)} for {who} is not on this machine"
                if len(absent) == 1
                else f"{cpus(absent)} for {who} are not on this machine",
                why=f"it has {cpus(host.online)} online",
                help=f"use {cpus(host.allowed)}",
                exit_code=Exit.HOST,
            )
        if barred:
            yield topology.source.problem(
                path,
                f"dpsup may not use {cpus(barred)}, meant for {who}",
                why=f"its CPU affinity or cpuset allows {cpus(host.allowed)}",
                help="start it without taskset or AllowedCPUs=, or name CPUs that are allowed",
                exit_code=Exit.HOST,
            )


def _cores_shared(topology: Topology, host: Host) -> Iterator[Problem]:
    problem = topology.source.problem
    shared_ok = topology.host.shared_cores
    io: dict[int, int] = {}  # CPU: the line that claims it for an io core
    for i, table in enumerate(topology.io):
        path: Path = ("io", i, "cores")
        for core in table.cores:
            if core in io and not shared_ok:
                yield problem(
                    path,
                    f"CPU {core} is an io core already",
                    why=f"line {io[core]} claims it, and an io core never yields its CPU",
                    help="give each io core a CPU of its own, or set [host] shared_cores = true",
                )
            io.setdefault(core, topology.source.line(path))
    both = [core for core in topology.host.supervisor_cores if core in io]
    if both:
        yield problem(
            ("host", "supervisor_cores"),
            f"the supervisor shares {cpus(both)} with an io core",
            why="Python and wardens then wait for an io core that polls, and slow it",
            help=f"free CPU {both[0]} of one of them",
            severity=Severity.WARNING,
        )
    yield from _workers_shared(topology, host, io)


def _workers_shared(topology: Topology, host: Host, io: dict[int, int]) -> Iterator[Problem]:
    problem = topology.source.problem
    placed: dict[int, list[str]] = {}  # CPU: the workers on it that start
    for i, (group, cores) in enumerate(
        zip(topology.workers, worker_cores(topology, host), strict=True)
    ):
        path: Path = ("workers", i, "cores")
        clash = sorted(core for core in group.cores if core in io)
        if clash and not topology.host.shared_cores:
            yield problem(
                path,
                f"group `{group.name}` uses {cpus(clash)}, which is an io core",
                why=f"line {io[clash[0]]} claims it, and an io core never yields its CPU",
                help='write cores = "auto", name others, or set [host] shared_cores = true',
            )
        shared: list[int] = []
        for slot, core in enumerate(cores[: group.count]):
            # Who names a core for both means it; who leaves it to dpsup should hear of it.
            unasked = core in io or core in topology.host.supervisor_cores
            if core in placed or (unasked and not group.cores):
                shared.append(core)
            placed.setdefault(core, []).append(f"{group.name}/{slot}")
        if shared:
            others = [who for core in sorted(set(shared)) for who in placed[core]]
            others += ["the supervisor"] * any(c in topology.host.supervisor_cores for c in shared)
            others += ["an io core"] * any(core in io for core in shared)
            yield problem(
                path,
                f"workers of group `{group.name}` share {cpus(sorted(set(shared)))}",
                why=f"{listing(others)} take turns there: each is slower, and its packets wait",
                help="name as many free CPUs as there are workers"
                if group.cores
                else "use fewer workers, or a machine with more CPUs",
                severity=Severity.WARNING,
            )


def _numa(topology: Topology, host: Host) -> Iterator[Problem]:
    for name, pool in topology.mempools.items():
        if pool.numa not in host.numa:
            nodes = ", ".join(map(str, sorted(host.numa)))
            yield topology.source.problem(
                ("mempools", name, "numa"),
                f"mempool `{name}` wants NUMA node {pool.numa}, which is not there",
                why=f"this machine has node {nodes}",
                help=f"write numa = {min(host.numa, default=0)}",
                exit_code=Exit.HOST,
            )


# --- devices ------------------------------------------------------------------------------------


def _devices(topology: Topology, host: Host) -> Iterator[Problem]:
    for i, port in enumerate(topology.ports):
        if port.pci:
            yield from _pci(topology, host, i, port)
        elif port.vdev:
            yield from _vdev(topology, host, i, port)


def _missing_device(port: Port) -> Severity:
    return Severity.ERROR if port.required else Severity.WARNING


def _pci(topology: Topology, host: Host, i: int, port: Port) -> Iterator[Problem]:
    path: Path = ("ports", i, "pci")
    device = host.pci.get(port.device)
    if device is None:
        yield topology.source.problem(
            path,
            f"there is no PCI device {port.device}",
            why="the start fails without it"
            if port.required
            else f"port `{port.name}` is left out, and the topology runs degraded",
            help="see dpdk-devbind.py --status-dev net, or set required = false"
            if port.required
            else "see dpdk-devbind.py --status-dev net",
            severity=_missing_device(port),
            exit_code=Exit.HOST,
        )
    elif device.driver not in _DRIVERS_OF_PCI:
        yield topology.source.problem(
            path,
            f"{port.device} is driven by the kernel's {device.driver}",
            why="DPDK reaches most NICs only through vfio-pci",
            help=f"dpdk-devbind.py -b vfio-pci {port.device}, unless its DPDK driver shares it",
            severity=Severity.WARNING,
            exit_code=Exit.HOST,
        )


def _vdev(topology: Topology, host: Host, i: int, port: Port) -> Iterator[Problem]:
    problem = topology.source.problem
    path: Path = ("ports", i, "vdev")
    name, devargs = parse_vdev(port.vdev or "")
    driver = driver_of(name, host)
    drivers = tuple(
        pmd for pmd in host.pmds if pmd.startswith("net_") and pmd not in host.pci_drivers
    )
    if drivers and driver in host.pci_drivers:
        yield problem(
            path,
            f"`{driver}` drives PCI devices, not virtual ones",
            why=f"{name} cannot be made out of nothing",
            help='name the device: pci = "0000:3b:00.0"',
        )
    elif drivers and driver not in drivers:
        number = name[len(driver) :] or "0"
        close = suggest(driver, drivers) or suggest(f"net_{driver}", drivers)
        common = ("net_null0", "net_pcap0", "net_af_packet0", "net_tap0", "net_memif0")
        yield problem(
            path,
            f"DPDK has no driver for the virtual device {show(name)[1:-1]}",
            why=f"none of the drivers in {host.pmd_dir} begins its name",
            help=f"did you mean `{close}{number}`?" if close else f"such as {', '.join(common)}",
        )
    known = host.pmds.get(driver, "")
    for key, _ in devargs if known else ():
        # Some drivers run their parameters together ("yes|nomac=<mac>"): a tail may be the key.
        if not re.search(rf"(?<![_-]){re.escape(key)}[=(]", known):
            close = suggest(key, tuple(re.findall(r"([A-Za-z][\w-]*)[=(]", known)))
            yield problem(
                path,
                f"{driver} does not list a parameter `{key}`",
                why=f"it has {known.strip()}",
                help=f"did you mean `{close}`?" if close else "leave it out",
                severity=Severity.WARNING,
            )
    if driver in ("net_pcap", "eth_pcap"):
        yield from _pcap_files(topology, host, i, port, devargs)


def _pcap_files(
    topology: Topology, host: Host, i: int, port: Port, devargs: tuple[tuple[str, str], ...]
) -> Iterator[Problem]:
    for key, value in devargs:
        folder = posixpath.dirname(value)
        if key == "rx_pcap" and not host.is_file(value):
            yield topology.source.problem(
                ("ports", i, "vdev"),
                f"there is no file {value}",
                why=f"port `{port.name}` reads its packets from it",
                help="correct rx_pcap; relative paths begin at the topology file's folder",
                severity=_missing_device(port),
            )
        elif key == "tx_pcap" and not host.is_dir(folder):
            yield topology.source.problem(
                ("ports", i, "vdev"),
                f"there is no folder {folder}",
                why=f"port `{port.name}` writes its packets there",
                help=f"mkdir -p {folder}, or correct tx_pcap",
                severity=_missing_device(port),
            )


# --- plugins ------------------------------------------------------------------------------------


def _plugins(topology: Topology, host: Host) -> Iterator[Problem]:
    for i, group in enumerate(topology.workers):
        path: Path = ("workers", i, "plugin")
        if group.is_file:
            if not host.is_file(group.plugin):
                yield topology.source.problem(
                    path,
                    f"there is no plugin {group.plugin}",
                    why=f"the workers of group `{group.name}` load it",
                    help="build it, or correct the path: it begins at the topology file's folder",
                )
        elif group.plugin not in PLUGINS:
            close = suggest(group.plugin, PLUGINS)
            yield topology.source.problem(
                path,
                f"there is no built-in plugin {show(group.plugin)}",
                why=f"built in are {', '.join(PLUGINS)}",
                help=f"did you mean `{close}`?"
                if close
                else 'write plugin = "./NAME.so" for a file of your own',
            )


def _map(group: Group) -> dict[str, str]:
    return {k.removeprefix("map."): v for k, v in group.args if k.startswith("map.")}


def _maps(topology: Topology, _: Host) -> Iterator[Problem]:
    ports = tuple(port.name for port in topology.ports)
    if "" in ports:
        return  # a name that is faulty itself
    groups = {group.name for group in topology.workers}
    for i, group in enumerate(topology.workers):
        if group.is_file or group.plugin in UNMAPPED:
            continue
        if "map" in dict(group.args):
            yield topology.source.problem(
                ("workers", i, "args", "map"),
                f"`map` of group `{group.name}` is not a table",
                why="it says for each port where its packets leave",
                help='write map = { wan = "lan", lan = "wan" }',
            )
        for key, value in _map(group).items():
            for name in dict.fromkeys((key, value)):
                if not ports or name in ports:
                    continue
                close = suggest(name, ports)
                yield topology.source.problem(
                    ("workers", i, "args", "map", key),
                    f"`map` of group `{group.name}` names a port that is not there: {show(name)}",
                    why=f"`{name}` is a group"
                    if name in groups
                    else f"the file has {', '.join(f'`{port}`' for port in ports)}",
                    help=f"did you mean `{close}`?" if close else "name one of the file's ports",
                )


def _fed(topology: Topology, _: Host) -> Iterator[Problem]:
    fed = {name for group in topology.workers for name in group.input or ()}
    outputs = {name for group in topology.workers for name in _map(group).values()}
    # A plugin of one's own may send to any port.
    anywhere = any(group.is_file for group in topology.workers)
    for i, port in enumerate(topology.ports):
        if port.name not in fed | outputs and not anywhere:
            yield topology.source.problem(
                ("ports", i, "name"),
                f"port `{port.name}` feeds no group, and no map sends to it",
                why="what it receives is dropped, and it sends nothing",
                help=f'add it to the input of a group: input = ["{port.name}"]',
                severity=Severity.WARNING,
            )
    for i, group in enumerate(topology.workers):
        if not group.input:
            yield topology.source.problem(
                ("workers", i, "input"),
                f"no port feeds group `{group.name}`",
                why="its workers get packets only if another group's plugin sends them on",
                help='add input = ["PORT"]',
                severity=Severity.WARNING,
            )


# --- memory -------------------------------------------------------------------------------------


def _pools(topology: Topology, _: Host) -> Iterator[Problem]:
    n_io = max(1, len(topology.io_cores))
    for name, pool in topology.mempools.items():
        path: Path = ("mempools", name, "mbufs")
        if pool.cache > pool.mbufs / 1.5 / n_io:
            most = int(pool.mbufs / 1.5 / n_io)
            yield topology.source.problem(
                ("mempools", name, "cache"),
                f"`cache` of mempool `{name}` is {pool.cache}, more than its {pool.mbufs} mbufs"
                f" allow {n_io} io core{'s' * (n_io > 1)} to keep back",
                why="each keeps up to 1.5 times that for itself, and none would be left to receive",
                help=f"write cache = {min(most, 512)} or less, or more mbufs",
            )
        least, full = pool_needs(topology, name)
        if pool.mbufs < least:
            yield topology.source.problem(
                path,
                f"mempool `{name}` has {pool.mbufs} mbufs and needs at least {least}",
                why="descriptors, bursts, lanes and caches hold that many before packets flow",
                help=f"write mbufs = {_mersenne(least)}, or shorten descriptors or the cache",
            )
        elif pool.mbufs < full:
            yield topology.source.problem(
                path,
                f"mempool `{name}` has {pool.mbufs} mbufs; with all lanes full, {full} are in use",
                why="ports drop packets when the pool is empty, whichever worker is slow",
                help=f"write mbufs = {_mersenne(full)}, or a smaller ring",
                severity=Severity.WARNING,
            )


def pool_needs(topology: Topology, name: str) -> tuple[int, int]:
    """The mbufs without which a pool does not work, and those that full lanes can hold."""
    n_io = len(topology.io_cores)
    ports = [port for port in topology.ports if port.mempool == name]
    users = {port.name for port in ports}
    groups = [group for group in topology.workers if users & set(group.input or ())]
    held = sum((port.descriptors.rx + port.descriptors.tx) * n_io for port in ports)
    pool = topology.mempools[name]
    # A burst of the longest packets: an io core of a holding group asks for as many before it
    # polls, and leaves the other cores as many and a refill of their caches (shim/io.c).
    room = pool.data_room - HEADROOM
    segments = max(((port.mtu + ETHER_MOST) // room + 1 for port in ports), default=0)
    held += sum(io.burst * segments for _, io in topology.io_cores)
    held += int(n_io * pool.cache * 1.5)
    least = held + sum(n_io * group.max * limits.BURST for group in groups)
    full = held + sum(n_io * group.count * (group.ring - LANE_SPARE) for group in groups)
    return least, max(least, full)


def _mersenne(least: int) -> int:
    """The next 2^n - 1, which wastes no ring of a mempool."""
    return (1 << least.bit_length()) - 1


def _hugepages(topology: Topology, host: Host) -> Iterator[Problem]:
    problem = topology.source.problem
    page = page_size(topology)
    by_node = memory_nodes(topology, host)
    least = sum(by_node.values())
    explicit = topology.host.hugepages
    if explicit and explicit < least:
        yield problem(
            ("host", "hugepages"),
            f"`hugepages` is {explicit // MIB} MiB, and the topology needs {least // MIB} MiB",
            why="mempools, slots and what EAL takes for itself are reserved at start",
            help=f'write hugepages = "{least // MIB}MiB" or "auto"',
        )
    path = _path_of_memory(topology)
    name = f"{page // MIB} MiB" if page < 1 << 30 else "1 GiB"
    pages = host.hugepages.get(page)
    sysfs = f"hugepages/hugepages-{page // 1024}kB/nr_hugepages"
    memory = make_plan(topology, host).memory
    if pages is None:
        yield problem(
            path,
            f"this machine has no hugepages of {name}",
            why="the processor or the kernel does not offer that size",
            help='write page_size = "2M"' if page > 2 * MIB else "use a kernel with hugetlbfs",
            exit_code=Exit.HOST,
        )
    elif pages.free < memory.pages_needed:
        total = pages.total + memory.pages_needed - pages.free
        yield problem(
            path,
            f"{plural(memory.pages_needed, 'hugepage')} of {name} needed, and {pages.free} free",
            why=f"the start reserves {memory.total // MIB} MiB; in all there are {pages.total}",
            help=f"echo {total} > /sys/kernel/mm/{sysfs}, or ./deploy/host-setup"
            + ("" if page < 1 << 30 else f" (or boot with hugepagesz=1G hugepages={total})"),
            exit_code=Exit.HOST,
        )
    elif len(host.numa) > 1:
        yield from _hugepages_of_nodes(topology, host, by_node, sysfs)
    yield from _hugetlbfs(topology, host, page)


def _hugepages_of_nodes(
    topology: Topology, host: Host, by_node: dict[int, int], sysfs: str
) -> Iterator[Problem]:
    page = page_size(topology)
    for node, size in sorted(by_node.items()):
        pages = host.node_hugepages.get(node, {}).get(page)
        needed = size // page
        if pages is not None and pages.free < needed:
            total = pages.total + needed - pages.free
            yield topology.source.problem(
                _path_of_memory(topology),
                f"{plural(needed, 'hugepage')} needed on NUMA node {node}, and {pages.free} free",
                why="pools and drivers take the memory of the node that they are on",
                help=f"echo {total} > /sys/devices/system/node/node{node}/{sysfs},"
                " or ./deploy/host-setup",
                exit_code=Exit.HOST,
            )


def _path_of_memory(topology: Topology) -> Path:
    if topology.host.hugepages:
        return ("host", "hugepages")
    largest = max(topology.mempools, key=lambda name: topology.mempools[name].mbufs, default="")
    return ("mempools", largest, "mbufs")


def _hugetlbfs(topology: Topology, host: Host, page: int) -> Iterator[Problem]:
    path = _path_of_memory(topology)
    mounts = [mount for mount in host.hugetlbfs if mount.page_size == page]
    size = "2M" if page < 1 << 30 else "1G"
    folder = "/dev/hugepages" if page < 1 << 30 else "/dev/hugepages-1G"
    if not mounts:
        yield topology.source.problem(
            path,
            f"no hugetlbfs with pages of {size} is mounted",
            why="processes share hugepages through its files",
            help=f"mkdir -p {folder} && mount -t hugetlbfs -o pagesize={size} nodev {folder}",
            exit_code=Exit.HOST,
        )
    elif not any(mount.writable for mount in mounts):
        yield topology.source.problem(
            path,
            f"dpsup may not write in {mounts[0].path}",
            why="it is mounted read-only" if host.is_root else "it belongs to another user",
            help=f"mount -o remount,rw {mounts[0].path}"
            if host.is_root
            else f"run as root, or mount it with -o uid={host.uid},mode=0700",
            exit_code=Exit.HOST if host.is_root else Exit.NOT_PERMITTED,
        )


# --- runtime folder -----------------------------------------------------------------------------


def _runtime(topology: Topology, host: Host) -> Iterator[Problem]:
    problem = topology.source.problem
    path: Path = ("host", "runtime_dir")
    folder = runtime_dir(topology, host)
    over = len(folder.encode()) + 1 + _SOCKET_NAME - _SOCKET_PATH
    if over > 0:
        yield problem(
            path,
            f"the runtime folder's path is {over} bytes too long: {show(folder)[1:-1]}",
            why=f"a path of a Unix socket has room for {_SOCKET_PATH} bytes",
            help='write a shorter runtime_dir, such as "/run/dpsup/edge"',
        )
    eal = f"{eal_runtime_dir(host)}/dpsup-{topology.name}-g"
    over = len(eal.encode()) + _GENERATION + 1 + _EAL_SOCKET - _SOCKET_PATH
    if over > 0:
        yield problem(
            ("name",),
            f"EAL's sockets would have paths {over} bytes too long: {show(eal)[1:-1]}",
            why=f"a path of a Unix socket has room for {_SOCKET_PATH} bytes",
            help="write a shorter name, or start with a shorter $RUNTIME_DIRECTORY or"
            " $XDG_RUNTIME_DIR",
        )
    if not host.can_write(folder):
        yield problem(
            path,
            f"dpsup may not make its runtime folder {folder}",
            why="sockets and state live there",
            help='run as root, or set runtime_dir = "/tmp/NAME"'
            if not host.is_root
            else "mount its file system read-write, or set another runtime_dir",
            exit_code=Exit.HOST if host.is_root else Exit.NOT_PERMITTED,
        )


# A single value's faults, and what needs all values to be right.
SINGLE: tuple[Check, ...] = (_cores_exist, _numa, _devices, _plugins, _maps)
RELATED: tuple[Check, ...] = (_cores_shared, _fed, _pools, _hugepages, _runtime)
