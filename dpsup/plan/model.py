# SPDX-License-Identifier: BSD-3-Clause
"""What a plan is: a document of plain values, which the supervisor writes and the primary reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # start-up
    from dpsup.documents.plan import Plan as Document

# How long a slot stands empty before the primary gives its buckets to other workers by itself
# (shim/recovery/caretaker.c): far above what a supervisor that lives takes to answer.
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
    numa: int = 0  # the CPU's node, on which the io core's own memory is


@dataclass(frozen=True, slots=True)
class PoolPlan:
    name: str
    mbufs: int
    data_room: int  # bytes, headroom included
    cache: int  # mbufs kept back by each io core
    numa: int
    page_size: int  # bytes
    apart: bool = True  # bytes from headers, which workers may not write then


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
    rss_fields: tuple[str, ...]  # with the tunnels that are looked into, and "fragments"
    rss_key: str  # "symmetric" | "default" | hex digits
    group: int
    left_out: str = ""  # why no generation opens it any more
    kernel_tap: str = ""  # the TAP beside it, "": it has no way to the kernel
    kernel_netns: str = ""  # that the TAP is in, "": dpsup's own
    kernel_rate: int = 0  # packets per second that each io core hands to the kernel


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """A group that follows the load: see autoscale.py."""

    min: int
    max: int
    target_busy: float
    cooldown: float  # seconds
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """How the backends of a group are asked: see dpsup.probe."""

    kind: str  # "tcp" | "http"
    port: int
    path: str
    host: str  # "": the address
    interval: float  # seconds
    timeout: float  # seconds
    rise: int
    fall: int
    mark: str  # of one that is down, in the table `down`: "down" | "gone"
    netns: str  # "": dpsup's own


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
    held_retry: float = 0.0  # seconds until a held worker is tried once more, 0: never
    lend_after: float = LEND_AFTER  # seconds without an answer, 0: never
    plugin_copy: str = ""  # what the workers load of plugin_path: instance.plugins
    tables: tuple[tuple[str, ...], ...] = ()  # values.DeclaredTable
    numa: int = -1  # the node of its slots, -1: any
    follow: str = ""  # "kernel": its tables have the kernel's routes
    verify: bool = False  # what the plugin changes is compared with what it declares
    confine: str = "strict"  # "strict" | "off"
    probe: ProbePlan | None = None  # None: nobody asks its backends


@dataclass(frozen=True, slots=True)
class ChainPlan:
    name: str
    path: tuple[str, ...]  # port, groups, port
    on_down: str  # "hold" | "bypass" | "drop"


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of hugepage memory, and what the host had free when the plan was decided."""

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
    bus_endpoint: str = ""  # "tcp://10.0.0.1:9470"; "": the bus is local
    bus_keys: str = ""  # the directory of keys
    bus_admin: tuple[str, ...] = ()  # users and "@groups"
    bus_read: tuple[str, ...] = ()


def document(plan: Plan) -> Document:
    """A plan as other processes read it."""
    return cast("Document", asdict(plan))
