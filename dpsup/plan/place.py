# SPDX-License-Identifier: BSD-3-Clause
"""What a start will do, decided before anything is touched.

`make_plan(topology, host, generation)` is pure: it assigns CPUs, numbers queues, slots and lanes,
sums memory, and builds EAL's arguments. `dpsup plan` prints the plan, the primary carries it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.plan.memory import MIB, memory_plan, node_of
from dpsup.plan.model import (
    ChainPlan,
    GroupPlan,
    IoPlan,
    Plan,
    PoolPlan,
    PortPlan,
    ProbePlan,
    ScalePlan,
)
from dpsup.plan.paths import keys_dir, quarantine_dir, runtime_dir, tables_dir
from dpsup.plan.reserve import settled
from dpsup.topology import chains
from dpsup.topology.bus import IPC
from dpsup.topology.model import Group, Port, Probe, Topology
from dpsup.topology.values import DeclaredTable

if TYPE_CHECKING:
    from dpsup.host.machine import Host


def make_plan(topology: Topology, host: Host, generation: int = 1) -> Plan:
    """Decide everything about a start. Total for every topology that `load` accepts."""
    topology = settled(topology, host)
    supervisor_cores = topology.host.supervisor_cores
    cores = [(core, n) for n, one in enumerate(topology.io) for core in one.cores]
    node = {cpu: node for node, cpus in host.numa.items() for cpu in cpus}
    io = tuple(
        IoPlan(i, i + 1, core, topology.io[n].burst, topology.io[n].idle, n, node.get(core, 0))
        for i, (core, n) in enumerate(cores)
    )
    pools = tuple(
        PoolPlan(
            name,
            pool.mbufs,
            pool.data_room,
            pool.cache,
            pool.numa,
            pool.page_size,
            apart=all(_follows(p, host) for p in topology.ports if p.mempool == name),
        )
        for name, pool in topology.mempools.items()
    )
    memory, by_node = memory_plan(topology, host)
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
        bus_endpoint="" if topology.bus.endpoint == IPC else topology.bus.endpoint,
        bus_keys=keys_dir(topology, host),
        bus_admin=topology.bus.admin,
        bus_read=topology.bus.read,
    )


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
        near = host.numa.get(node_of(topology, group), frozenset())
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
                plugin_path=group.plugin_path,
                args=args_of(group, runtime_dir(topology, host)),
                count=group.count,
                max=group.max,
                spares=group.spares,
                first_slot=first_slot,
                ring=group.ring,
                on_full=group.on_full,
                state=group.state,
                bucket_state=group.bucket_state,
                verify=group.verify,
                confine=group.confine,
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
                on_down=chains.on_down(topology, group),
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
                held_retry=restart.retry,
                tables=tables_of(group, tables_dir(topology, host)),
                numa=node_of(topology, group),
                follow=group.follow or "",
                probe=_probe(group.probe) if group.is_probed else None,
            )
        )
        first_slot += group.max
    return tuple(groups)


def _probe(probe: Probe) -> ProbePlan:
    values = probe.model_dump(exclude={"on_down"})
    return ProbePlan(**values, mark="gone" if probe.on_down == "remove" else "down")


def tables_of(group: Group, directory: str) -> tuple[tuple[str, ...], ...]:
    """The tables that the topology declares, and that of an operator's words; those that outlive
    the instance in `directory`."""
    found = [
        one._replace(persist=f"{directory}/{group.name}={one.name}") if one.persist else one
        for one in group.tables
    ]
    if group.control:
        words = DeclaredTable(
            limits.CONTROL,
            "array",
            str(limits.TELLS),
            "",
            f"u64+text{limits.TELL_BYTES}",
            "",
            limits.CONTROL,
        )
        found.append(words)
    return tuple(tuple(one) for one in found)


def args_of(group: Group, directory: str) -> tuple[tuple[str, str], ...]:
    """What its workers are told: arguments, the paths of files, and where its tables lie."""
    files = tuple((f"{limits.FILE}{name}", path) for name, path in group.files)
    if not group.tables and not group.control:
        return (*group.args, *files)
    return (*group.args, *files, (limits.TABLES, f"{directory}/tables/{group.name}"))


# Their drivers, or those of devices that they consist of, register the memory of a port's pool with
# the kernel or the NIC, which then knows packets there alone.
_REGISTER = ("net_af_xdp", "net_bonding", "net_failsafe", "net_vdev_netvsc")
_BYPASS = ("", "vfio-pci", "uio_pci_generic", "igb_uio")


def _follows(port: Port, host: Host) -> bool:
    """Does its driver follow an mbuf's buf_addr, wherever that lies? A NIC that keeps its kernel's
    driver (mlx5_core, mana) does not."""
    if port.vdev:
        return driver_of(port.device, host) not in _REGISTER
    device = host.pci.get(port.device)
    return device is None or device.driver in _BYPASS


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
            rss_fields=port.rss.hashed,
            rss_key=port.rss.key,
            group=fed.get(port.name, -1),
            kernel_tap=port.tap,
            kernel_netns=port.kernel.netns if port.kernel else "",
            kernel_rate=port.kernel.rate if port.kernel else 0,
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
