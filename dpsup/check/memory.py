# SPDX-License-Identifier: BSD-3-Clause
"""Are the mempools large enough for a topology, and the machine's hugepages for them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.errors import Exit, Problem, Severity
from dpsup.plan.memory import MIB, memory_nodes, page_size
from dpsup.plan.place import make_plan
from dpsup.text import plural
from dpsup.topology.model import Topology
from dpsup.topology.typed import Path

if TYPE_CHECKING:
    from dpsup.host.machine import Host

LANE_SPARE = limits.BURST + 1  # words of a ring that a lane never fills


def pools(topology: Topology, _: Host) -> Iterator[Problem]:
    n_io = max(1, len(topology.io_cores))
    for name, pool in topology.mempools.items():
        path: Path = ("mempools", name, "mbufs")
        if pool.cache > pool.mbufs / 1.5 / n_io:
            most = int(pool.mbufs / 1.5 / n_io)
            yield topology.source.problem(
                ("mempools", name, "cache"),
                f"`cache` of mempool `{name}` is {pool.cache}, more than its {pool.mbufs} mbufs"
                f" allow {n_io} io core{'s' * (n_io > 1)} to keep back",
                code="E0303",
                why="each keeps up to 1.5 times that for itself, and none would be left to receive",
                help=f"write cache = {min(most, 512)} or less, or more mbufs",
            )
        least, full = pool_needs(topology, name)
        if pool.mbufs < least:
            yield topology.source.problem(
                path,
                f"mempool `{name}` has {pool.mbufs} mbufs and needs at least {least}",
                code="E0301",
                why="descriptors, bursts, lanes and caches hold that many before packets flow",
                help=f"write mbufs = {_mersenne(least)}, or shorten descriptors or the cache",
            )
        elif pool.mbufs < full:
            yield topology.source.problem(
                path,
                f"mempool `{name}` has {pool.mbufs} mbufs; with all lanes full, {full} are in use",
                code="E0302",
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
    ways = sum(port.kernel is not None for port in ports)
    held += ways * (n_io * limits.KERNEL_OUT + limits.KERNEL_IN)
    pool = topology.mempools[name]
    # A burst of the longest packets: an io core of a holding group asks for as many before it
    # polls, and leaves the other cores as many and a refill of their caches (shim/io/loop.c).
    room = pool.data_room - limits.HEADROOM
    segments = max(((port.mtu + limits.FRAME_MORE) // room + 1 for port in ports), default=0)
    held += sum(io.burst * segments for _, io in topology.io_cores)
    held += int(n_io * pool.cache * 1.5)
    least = held + sum(n_io * group.max * limits.BURST for group in groups)
    full = held + sum(n_io * group.count * (group.ring - LANE_SPARE) for group in groups)
    return least, max(least, full)


def _mersenne(least: int) -> int:
    """The next 2^n - 1, which wastes no ring of a mempool."""
    return (1 << least.bit_length()) - 1


def hugepages(topology: Topology, host: Host) -> Iterator[Problem]:
    problem = topology.source.problem
    page = page_size(topology)
    by_node = memory_nodes(topology, host)
    least = sum(by_node.values())
    explicit = topology.host.hugepages
    if explicit and explicit < least:
        yield problem(
            ("host", "hugepages"),
            f"`hugepages` is {explicit // MIB} MiB, and the topology needs {least // MIB} MiB",
            code="E0304",
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
            code="E0305",
            why="the processor or the kernel does not offer that size",
            help='write page_size = "2M"' if page > 2 * MIB else "use a kernel with hugetlbfs",
            exit_code=Exit.HOST,
        )
    elif pages.free < memory.pages_needed:
        total = pages.total + memory.pages_needed - pages.free
        yield problem(
            path,
            f"{plural(memory.pages_needed, 'hugepage')} of {name} needed, and {pages.free} free",
            code="E0306",
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
                code="E0307",
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
    directory = "/dev/hugepages" if page < 1 << 30 else "/dev/hugepages-1G"
    if not mounts:
        yield topology.source.problem(
            path,
            f"no hugetlbfs with pages of {size} is mounted",
            code="E0308",
            why="processes share hugepages through its files",
            help=f"mkdir -p {directory} && mount -t hugetlbfs -o pagesize={size} nodev {directory}",
            exit_code=Exit.HOST,
        )
    elif not any(mount.writable for mount in mounts):
        yield topology.source.problem(
            path,
            f"dpsup may not write in {mounts[0].path}",
            code="E0309",
            why="it is mounted read-only" if host.is_root else "it belongs to another user",
            help=f"mount -o remount,rw {mounts[0].path}"
            if host.is_root
            else f"run as root, or mount it with -o uid={host.uid},mode=0700",
            exit_code=Exit.HOST if host.is_root else Exit.NOT_PERMITTED,
        )
