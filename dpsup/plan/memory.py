# SPDX-License-Identifier: BSD-3-Clause
"""The hugepage memory that an instance needs, by NUMA node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpsup import _abi
from dpsup._abi import DPS_BUCKETS as BUCKETS
from dpsup._build import MAX_LCORE
from dpsup.plan.model import MemoryPlan
from dpsup.plan.reserve import settled
from dpsup.topology.model import Group, Mempool, Topology

if TYPE_CHECKING:
    from dpsup.host.machine import Host

KIB = 1 << 10
MIB = 1 << 20

# What DPDK adds to the bytes of packets (22.11 and 24.11).
_LINE = 64
_MBUF = 128  # struct rte_mbuf
_OBJECT_HEADER = 64  # struct rte_mempool_objhdr, padded
_CACHE_PER_LCORE = 9 * KIB  # struct rte_mempool_cache, for each of
_SLACK = 1.01  # objects do not cross pages

_CONTROL_BLOCK = 2 * MIB
_SLOT_UNIT = _abi.DPS_SLOT_PAGE  # slots have pages of their own, in one zone
_SLOT_HEAD = 64 * KIB
_STATE_HEAD = 16  # before each block; tests/c/test_abi.py compares it
# EAL, ethdev and drivers; the pages that alignment loses; 152 KiB for each seed's attach.
_RESERVE = 32 * MIB
_RESERVE_PER_1000_DESCRIPTORS = 64 * KIB
_EAL_NEAR = (
    8 * MIB
)  # what EAL and ethdev allocate on the main lcore's node; measured: 4 pages of 2M


def _up(size: float, unit: int) -> int:
    return -(-int(size) // unit) * unit


def pool_bytes(pool: Mempool) -> int:
    # Headers, and in pages of their own bytes: workers may write to these alone. DPDK spreads
    # objects over memory channels: an odd number of lines each.
    headers = pool.mbufs * (_up(_OBJECT_HEADER + _MBUF, _LINE) // _LINE | 1) * _LINE
    room = (_up(pool.data_room, _LINE) // _LINE | 1) * _LINE
    pages = pool.mbufs // (2 * MIB // room) + 1
    ring = 8 << pool.mbufs.bit_length()
    caches = MAX_LCORE * _CACHE_PER_LCORE if pool.cache else 0
    # Whole pages, behind one that the allocator's own header takes.
    return int(headers * _SLACK) + ring + caches + (pages + 1) * 2 * MIB


def slot_bytes(group: Group, n_io: int) -> int:
    blanks = 2 * 8 * _abi.DPS_BLANKS
    lane = 256 + group.ring * (8 + 32) + blanks  # indices, words, meta
    state = _LINE + group.state if group.state else 0
    return _up(_SLOT_HEAD + n_io * lane + state, _SLOT_UNIT)


def buckets_bytes(group: Group) -> int:
    """The state of a group's buckets, each on lines of its own behind a head."""
    if not group.bucket_state:
        return 0
    return _up(BUCKETS * _up(_STATE_HEAD + group.bucket_state, _LINE), _SLOT_UNIT)


def page_size(topology: Topology) -> int:
    """The size of all hugepages of the instance."""
    return next((pool.page_size for pool in topology.mempools.values()), 2 * MIB)


def node_of(topology: Topology, group: Group) -> int:
    """The NUMA node of the group's slots, and best of its workers: that of its packets."""
    for name in group.input or ():
        port = topology.port(name)
        if port and port.mempool in topology.mempools:
            return topology.mempools[port.mempool].numa
    # Other groups send to it.
    return min((pool.numa for pool in topology.mempools.values()), default=0)


def memory_nodes(topology: Topology, host: Host) -> dict[int, int]:
    """The bytes needed of each NUMA node, a multiple of the page size each."""
    topology = settled(topology, host)
    n_io = len(topology.io_cores)
    page = page_size(topology)
    need: dict[int, float] = {}
    for pool in topology.mempools.values():
        need[pool.numa] = need.get(pool.numa, 0) + _up(pool_bytes(pool), 2 * MIB)
    home = min(need, default=0)
    need[home] = need.get(home, 0) + _CONTROL_BLOCK + _RESERVE
    for group in topology.workers:
        node = node_of(topology, group)
        need[node] = need.get(node, 0) + _group_bytes(group, n_io)
    for port in topology.ports:
        device = host.pci.get(port.device)
        node = device.numa if device and device.numa >= 0 else home
        descriptors = (port.descriptors.rx + port.descriptors.tx) * max(1, n_io)
        # A driver allocates its queues near the device.
        base = 0 if node in need else _RESERVE
        rings = -(-descriptors // 1000) * _RESERVE_PER_1000_DESCRIPTORS
        need[node] = need.get(node, 0) + base + rings
    near = {node for node, cpus in host.numa.items() if cpus & set(topology.host.supervisor_cores)}
    # With CPUs of several nodes EAL takes what there is.
    if len(near) == 1 and not near & need.keys():
        need[near.pop()] = _EAL_NEAR
    return {node: _up(size, page) for node, size in need.items()}


def _group_bytes(group: Group, n_io: int) -> int:
    return slot_bytes(group, n_io) * group.max + buckets_bytes(group)


def _slots(topology: Topology, n_io: int) -> int:
    return _CONTROL_BLOCK + sum(_group_bytes(group, n_io) for group in topology.workers)


def memory_plan(topology: Topology, host: Host) -> tuple[MemoryPlan, dict[int, int]]:
    topology = settled(topology, host)
    page = page_size(topology)
    by_node = memory_nodes(topology, host)
    if explicit := topology.host.hugepages:
        # What is more than needed goes where the first pool is.
        home = min(by_node)
        by_node[home] += max(0, _up(explicit, page) - sum(by_node.values()))
    total = sum(by_node.values())
    pools = sum(_up(pool_bytes(pool), 2 * MIB) for pool in topology.mempools.values())
    slots = _slots(topology, len(topology.io_cores))
    pages = host.hugepages.get(page)
    return (
        MemoryPlan(
            pools=pools,
            slots=slots,
            reserve=total - pools - slots,
            total=total,
            page_size=page,
            pages_needed=total // page,
            pages_free=pages.free if pages else 0,
        ),
        by_node,
    )
