# SPDX-License-Identifier: BSD-3-Clause
"""What a start will do, decided before anything is touched.

`make_plan(topology, host, generation)` is pure: it places cores, numbers queues, slots and lanes,
sums memory, and builds EAL's arguments. `dpsup plan` prints it, the primary carries it out.
"""

from __future__ import annotations

import posixpath
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsup.supervisor.steering import BUCKETS
from dpsup.text import plural, ranges
from dpsup.topology import chains
from dpsup.topology.model import Group, Mempool, Topology
from dpsup.topology.values import AUTO

if TYPE_CHECKING:
    from dpsup.host.machine import Host

KIB = 1 << 10
MIB = 1 << 20

# What DPDK adds to the bytes of packets (22.11 and 24.11).
_LINE = 64
_MBUF = 128  # struct rte_mbuf
_OBJECT_HEADER = 64  # struct rte_mempool_objhdr, padded
_CACHE_PER_LCORE = 9 * KIB  # struct rte_mempool_cache, for each of
_LCORES = 128  # RTE_MAX_LCORE
_SLACK = 1.01  # objects do not cross pages

_CONTROL_BLOCK = 2 * MIB
_SLOT_UNIT = 2 * MIB  # slots have pages of their own, in one zone (shim/setup/slot.c)
_SLOT_HEAD = 64 * KIB
_STATE_HEAD = 16  # struct dps_state_head
# EAL, ethdev and drivers; the pages that alignment loses; 152 KiB for each seed's attach.
_RESERVE = 32 * MIB
_RESERVE_PER_1000_DESCRIPTORS = 64 * KIB

# How long a slot stands empty before the primary gives its buckets to other workers by itself
# (shim/recovery/rebucket.c): far above what a supervisor that lives takes to answer.
LEND_AFTER = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class IoPlan:
    """One io core: EAL lcore `lcore` pinned to CPU `core`."""

    index: int
    lcore: int
    core: int
    burst: int
    idle: str  # "poll" | "adaptive"
    table: int = 0  # the [[io]] that it stands in, by number


@dataclass(frozen=True, slots=True)
class PoolPlan:
    name: str
    mbufs: int
    data_room: int  # bytes, headroom included
    cache: int  # mbufs kept back by each io core
    numa: int
    page_size: int  # bytes


@dataclass(frozen=True, slots=True)
class PortPlan:
    """One port. Thresholds are None where the driver's default holds; `group` is the index of the
    group that the port feeds, -1 where it feeds none."""

    name: str
    device: str  # EAL's name: "0000:3b:00.0" or "net_pcap0"
    vdev: str  # with its arguments: "net_pcap0,rx_pcap=in.pcap"; "" for PCI
    driver: str  # "net_pcap"; "" for PCI
    pool: int
    required: bool
    rx_desc: int
    tx_desc: int
    rx_free: int | None
    rx_drop: bool | None
    tx_free: int | None
    mtu: int
    promiscuous: bool
    rss_fields: tuple[str, ...]  # with the tunnels that are looked into
    rss_key: str  # "symmetric" | "default" | hex digits
    group: int


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """A group that follows the load: see autoscale.py."""

    min: int
    max: int
    target_busy: float
    cooldown: float  # seconds
    dry_run: bool


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """One group. Slot `first_slot + i` is worker `name/i`; `cores[i]` is its CPU."""

    name: str
    plugin: str  # as written
    plugin_path: str  # "" for a built-in one
    args: tuple[tuple[str, str], ...]  # nested tables flattened: ("map.wan", "lan")
    count: int
    max: int
    spares: int
    first_slot: int
    ring: int
    on_full: str  # "drop" | "hold"
    state: int  # bytes for each slot, that outlive its worker
    bucket_state: int  # bytes for each bucket
    cores: tuple[int, ...]
    restart_policy: str  # "always" | "on-failure" | "never"
    intensity: float
    period: float  # seconds
    backoff_initial: float  # seconds
    backoff_factor: float
    backoff_max: float  # seconds
    stall_after: float  # seconds
    on_stopped: str  # "keep" | "kill"
    next: tuple[tuple[str, int], ...]  # by port: chains.Hop
    reach: tuple[int, ...]  # groups that its packets may come to
    on_down: str  # "hold" | "bypass" | "drop"
    at_zero: str  # likewise
    scale: ScalePlan | None  # None: its size is changed by hand
    strategy: str = "one-for-one"  # "one-for-one" | "rest-for-chain" | "all"
    backoff_jitter: float = 0.0  # of a wait, at most so much is left out
    lend_after: float = LEND_AFTER  # seconds without an answer, 0: never


@dataclass(frozen=True, slots=True)
class ChainPlan:
    name: str
    path: tuple[str, ...]  # port, groups, port
    on_down: str  # "hold" | "bypass" | "drop"


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of hugepage memory, and what the host had free when the plan was made."""

    pools: int
    slots: int
    reserve: int  # EAL, drivers, rings of queues
    total: int  # reserved at start, a multiple of the page size
    page_size: int
    pages_needed: int
    pages_free: int


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    generation: int
    topology_file: str
    runtime_dir: str
    quarantine_dir: str
    file_prefix: str
    hugepage_dir: str
    eal_args: tuple[str, ...]
    supervisor_cores: tuple[int, ...]
    io: tuple[IoPlan, ...]
    pools: tuple[PoolPlan, ...]
    ports: tuple[PortPlan, ...]
    groups: tuple[GroupPlan, ...]
    chains: tuple[ChainPlan, ...]
    n_slots: int
    memory: MemoryPlan
    metrics_listen: str = ""  # "127.0.0.1:9464"; "": metrics are not served


# --- deciding -----------------------------------------------------------------------------------


def make_plan(topology: Topology, host: Host, generation: int = 1) -> Plan:
    """Decide everything about a start. Total for every topology that `load` accepts."""
    supervisor_cores = topology.host.supervisor_cores
    io = tuple(
        IoPlan(i, i + 1, core, topology.io[table].burst, topology.io[table].idle, table)
        for i, (core, table) in enumerate(
            (core, n) for n, one in enumerate(topology.io) for core in one.cores
        )
    )
    pools = tuple(
        PoolPlan(name, pool.mbufs, pool.data_room, pool.cache, pool.numa, pool.page_size)
        for name, pool in topology.mempools.items()
    )
    memory, by_node = _memory(topology, host)
    prefix = f"dpsup-{topology.name}-g{generation}"
    hugepage_dir = _hugepage_dir(host, memory.page_size)
    lcores = [f"0@{_cpu_set(supervisor_cores)}", *(f"{one.lcore}@{one.core}" for one in io)]
    sizes = ",".join(str(by_node.get(node, 0) // MIB) for node in range(max(by_node) + 1))
    pci = [word for port in topology.ports if port.pci for word in ("-a", port.pci)]
    eal_args = (
        "--proc-type=primary",
        f"--file-prefix={prefix}",
        f"--lcores={','.join(lcores)}",
        "--main-lcore=0",
        f"--socket-mem={sizes}",
        f"--socket-limit={sizes}",
        *([f"--huge-dir={hugepage_dir}"] if hugepage_dir else []),
        *(pci or ["--no-pci"]),
        *topology.host.eal_extra,
    )
    groups = _groups(topology, host)
    return Plan(
        name=topology.name,
        generation=generation,
        topology_file=topology.file,
        runtime_dir=runtime_dir(topology, host),
        quarantine_dir=quarantine_dir(topology, host),
        file_prefix=prefix,
        hugepage_dir=hugepage_dir,
        eal_args=eal_args,
        supervisor_cores=supervisor_cores,
        io=io,
        pools=pools,
        ports=_ports(topology, host),
        groups=groups,
        chains=tuple(ChainPlan(c.name, c.path, c.on_down) for c in topology.chains),
        n_slots=sum(group.max for group in groups),
        memory=memory,
        metrics_listen=topology.metrics.listen,
    )


def runtime_dir(topology: Topology, host: Host) -> str:
    if topology.host.runtime_dir != AUTO:
        return topology.host.runtime_dir
    # systemd gives several folders with colons between them; the first is the unit's own.
    given = host.env.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if host.is_root:
        return f"/run/dpsup/{topology.name}"
    user = host.env.get("XDG_RUNTIME_DIR")
    return f"{user}/dpsup/{topology.name}" if user else f"/tmp/dpsup-{host.uid}/{topology.name}"


def state_dir(name: str, env: Mapping[str, str], *, is_root: bool, uid: int) -> str:
    """Where what outlives an instance lies."""
    given = env.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if is_root:
        return f"/var/lib/dpsup/{name}"
    home = env.get("HOME")
    state = env.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    return f"{state}/dpsup/{name}" if state else f"/var/tmp/dpsup-{uid}/{name}"


def quarantine_dir(topology: Topology, host: Host) -> str:
    if topology.host.quarantine_dir != AUTO:
        return topology.host.quarantine_dir
    folder = state_dir(topology.name, host.env, is_root=host.is_root, uid=host.uid)
    return f"{folder}/quarantine"


def eal_runtime_dir(host: Host) -> str:
    """Where EAL keeps its sockets, by its own rule (eal_create_runtime_dir)."""
    default = "/var/run" if host.is_root else host.env.get("XDG_RUNTIME_DIR", "/tmp")
    return f"{host.env.get('RUNTIME_DIRECTORY', default)}/dpdk"


def worker_cores(topology: Topology, host: Host) -> tuple[tuple[int, ...], ...]:
    """The CPU of every slot of every group.

    Slots that start with a worker choose before those that only `scale` would fill.
    """
    io = {core for core, _ in topology.io_cores}
    taken = io | set(topology.host.supervisor_cores)
    explicit = {core for group in topology.workers for core in group.cores}
    cpus = sorted(host.allowed)
    free = (
        [cpu for cpu in cpus if cpu not in taken | explicit]
        or [cpu for cpu in cpus if cpu not in taken]
        or [cpu for cpu in cpus if cpu not in io]
        or cpus
        or [0]
    )
    uses = dict.fromkeys(free, 0)
    chosen: list[list[int]] = [[] for _ in topology.workers]

    def choose(index: int, until: int) -> None:
        group = topology.workers[index]
        near = host.numa.get(_node_of(topology, group), frozenset())
        while len(chosen[index]) < until:
            if group.cores:
                core = group.cores[len(chosen[index]) % len(group.cores)]
            else:
                core = min(free, key=lambda cpu: (uses[cpu], cpu not in near, cpu))
                uses[core] += 1
            chosen[index].append(core)

    for index, group in enumerate(topology.workers):
        choose(index, group.count)
    for index, group in enumerate(topology.workers):
        choose(index, group.max)
    return tuple(tuple(cores) for cores in chosen)


def _node_of(topology: Topology, group: Group) -> int:
    """The NUMA node that the group's packets lie in."""
    for name in group.input or ():
        port = topology.port(name)
        if port and port.mempool in topology.mempools:
            return topology.mempools[port.mempool].numa
    return 0


def _groups(topology: Topology, host: Host) -> tuple[GroupPlan, ...]:
    groups: list[GroupPlan] = []
    first_slot = 0
    table = chains.hops(topology)
    reach = chains.reach(topology, table)
    for group, cores in zip(topology.workers, worker_cores(topology, host), strict=True):
        restart, scale, index = group.restart, group.scale, len(groups)
        groups.append(
            GroupPlan(
                name=group.name,
                plugin=group.plugin,
                plugin_path=group.plugin if group.is_file else "",
                args=group.args,
                count=group.count,
                max=group.max,
                spares=group.spares,
                first_slot=first_slot,
                ring=group.ring,
                on_full=group.on_full,
                state=group.state,
                bucket_state=group.bucket_state,
                cores=cores,
                restart_policy=restart.policy,
                intensity=restart.intensity,
                period=restart.period,
                backoff_initial=restart.backoff.initial,
                backoff_factor=restart.backoff.factor,
                backoff_max=restart.backoff.max,
                stall_after=group.health.stall_after,
                on_stopped=group.health.stopped,
                next=table[index],
                reach=reach[index],
                on_down=chains.on_down(topology, group.name),
                at_zero=group.at_zero,
                scale=ScalePlan(
                    scale.min,
                    scale.max or group.max,
                    scale.target_busy,
                    scale.cooldown,
                    scale.dry_run,
                )
                if group.is_autoscaled
                else None,
                strategy=restart.strategy,
                backoff_jitter=restart.backoff.jitter,
            )
        )
        first_slot += group.max
    return tuple(groups)


def _ports(topology: Topology, host: Host) -> tuple[PortPlan, ...]:
    pools = tuple(topology.mempools)
    fed = {
        port: index for index, group in enumerate(topology.workers) for port in group.input or ()
    }
    return tuple(
        PortPlan(
            name=port.name,
            device=port.device,
            vdev=port.vdev or "",
            driver=driver_of(port.device, host) if port.vdev else "",
            pool=pools.index(port.mempool),
            required=port.required,
            rx_desc=port.descriptors.rx,
            tx_desc=port.descriptors.tx,
            rx_free=port.thresholds.rx_free,
            rx_drop=port.thresholds.rx_drop,
            tx_free=port.thresholds.tx_free,
            mtu=port.mtu,
            promiscuous=port.promiscuous,
            rss_fields=(*port.rss.fields, *port.rss.inner),
            rss_key=port.rss.key,
            group=fed.get(port.name, -1),
        )
        for port in topology.ports
    )


def driver_of(device: str, host: Host) -> str:
    """The driver that EAL picks for a virtual device: the one whose name begins the device's.

    Old names work too (eth_pcap0 is net_pcap's). Unknown ones are cut at their number.
    """
    name = f"net_{device[4:]}" if device.startswith("eth_") else device
    if name.startswith("net_bond"):
        name = name.replace("net_bond", "net_bonding", 1)  # alias eth_bond
    fitting = [driver for driver in host.pmds if name.startswith(driver)]
    return max(fitting, key=len) if fitting else device.rstrip("0123456789")


def _cpu_set(cores: tuple[int, ...]) -> str:
    text = ",".join(map(str, cores))
    return text if len(cores) == 1 else f"({text})"


def _hugepage_dir(host: Host, page_size: int) -> str:
    mounts = [mount for mount in host.hugetlbfs if mount.page_size == page_size]
    return next((m.path for m in mounts if m.writable), mounts[0].path if mounts else "")


# --- memory -------------------------------------------------------------------------------------


def _up(size: float, unit: int) -> int:
    return -(-int(size) // unit) * unit


def pool_bytes(pool: Mempool) -> int:
    lines = _up(_OBJECT_HEADER + _MBUF + pool.data_room, _LINE) // _LINE
    # DPDK spreads objects over memory channels: an odd number of lines each.
    objects = pool.mbufs * (lines | 1) * _LINE
    ring = 8 << pool.mbufs.bit_length()
    caches = _LCORES * _CACHE_PER_LCORE if pool.cache else 0
    return int(objects * _SLACK) + ring + caches


def slot_bytes(group: Group, n_io: int) -> int:
    lane = 256 + group.ring * (8 + 32)  # indices, words, meta
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


def memory_nodes(topology: Topology, host: Host) -> dict[int, int]:
    """The bytes needed of each NUMA node, a multiple of the page size each."""
    n_io = len(topology.io_cores)
    page = page_size(topology)
    need: dict[int, float] = {}
    for pool in topology.mempools.values():
        need[pool.numa] = need.get(pool.numa, 0) + _up(pool_bytes(pool), 2 * MIB)
    home = min(need, default=0)
    need[home] = need.get(home, 0) + _slots(topology, n_io) + _RESERVE
    for port in topology.ports:
        device = host.pci.get(port.device)
        node = device.numa if device and device.numa >= 0 else home
        descriptors = (port.descriptors.rx + port.descriptors.tx) * max(1, n_io)
        # A driver allocates its queues near the device.
        base = 0 if node in need else _RESERVE
        rings = -(-descriptors // 1000) * _RESERVE_PER_1000_DESCRIPTORS
        need[node] = need.get(node, 0) + base + rings
    return {node: _up(size, page) for node, size in need.items()}


def _slots(topology: Topology, n_io: int) -> int:
    return _CONTROL_BLOCK + sum(
        slot_bytes(g, n_io) * g.max + buckets_bytes(g) for g in topology.workers
    )


def _memory(topology: Topology, host: Host) -> tuple[MemoryPlan, dict[int, int]]:
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


# --- for people ---------------------------------------------------------------------------------


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def format_plan(plan: Plan) -> str:
    """The plan for a terminal of 80 columns."""
    lines: list[str] = []
    for label, text in _paragraphs(plan):
        lines += textwrap.wrap(
            text,
            80,
            initial_indent=f"  {label:<11} " if label else "",
            subsequent_indent=" " * 14,
        )
    return "\n".join(lines)


def _paragraphs(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "", f"{plan.name}, generation {plan.generation}"
    yield "files", f"{plan.topology_file}, runtime {plan.runtime_dir}"
    yield "supervisor", f"CPU {ranges(plan.supervisor_cores)}, with the wardens"
    for io in plan.io:
        yield f"io {io.index}", f"CPU {io.core}, a queue of each port, burst {io.burst}, {io.idle}"
    for pool in plan.pools:
        yield (
            "mempool",
            f"{pool.name}: {pool.mbufs} mbufs of {pool.data_room} bytes, cache {pool.cache}, "
            f"NUMA node {pool.numa}",
        )
    queues = len(plan.io)
    for port in plan.ports:
        feeds = f"feeds {plan.groups[port.group].name}" if port.group >= 0 else "feeds no group"
        yield (
            "port",
            f"{port.name}: {port.device}, {feeds}, {plural(queues, 'queue')} each way "
            f"(rx {port.rx_desc}, tx {port.tx_desc}), mtu {port.mtu}",
        )
    for group in plan.groups:
        plugin = posixpath.basename(group.plugin)
        slots = ranges(range(group.first_slot, group.first_slot + group.max))
        slot_word = "slot" if group.max == 1 else "slots"
        yield (
            "group",
            f"{group.name}: {plugin}, {plural(group.count, 'worker')} of {group.max}, "
            f"{slot_word} {slots}, "
            f"CPU {ranges(sorted(set(group.cores)))}, "
            f"rings of {group.ring} ({plural(queues * group.max, 'lane')})"
            + (f", state of {plural(group.state, 'byte')} a worker" if group.state else "")
            + (f", {plural(group.bucket_state, 'byte')} a bucket" if group.bucket_state else ""),
        )
    for chain in plan.chains:
        yield "chain", f"{chain.name}: {' - '.join(chain.path)}, both ways; down: {chain.on_down}"
    memory = plan.memory
    yield (
        "memory",
        f"{_mib(memory.total)}: mempools {_mib(memory.pools)}, slots {_mib(memory.slots)}, "
        f"reserve {_mib(memory.reserve)}",
    )
    yield (
        "hugepages",
        f"{memory.pages_needed} of {_mib(memory.page_size)} needed, {memory.pages_free} free"
        + (f", in {plan.hugepage_dir}" if plan.hugepage_dir else ", no hugetlbfs mounted"),
    )
