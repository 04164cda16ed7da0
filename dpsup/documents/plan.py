# SPDX-License-Identifier: BSD-3-Clause
"""A plan as JSON: `plan.json`, which the primary reads, and what `dpsup plan` prints. The classes
of plan/model.py have the same fields; a test holds the two together."""

from __future__ import annotations

from typing import Annotated, TypedDict


class Io(TypedDict):
    index: Annotated[int, "the io core's number"]
    lcore: Annotated[int, "EAL's number for it"]
    core: Annotated[int, "its CPU"]
    burst: Annotated[int, "most packets that it receives at once"]
    idle: Annotated[str, "`poll`, `adaptive`"]
    table: Annotated[int, "index of its `[[io]]`"]
    numa: Annotated[int, "the NUMA node of its CPU and of its own memory"]


class Pool(TypedDict):
    name: Annotated[str, "the mempool"]
    mbufs: Annotated[int, "its mbufs"]
    data_room: Annotated[int, "bytes of each mbuf, headroom included"]
    cache: Annotated[int, "mbufs that each io core keeps back"]
    numa: Annotated[int, "its NUMA node"]
    page_size: Annotated[int, "bytes of its hugepages"]
    apart: Annotated[bool, "bytes lie apart from mbuf headers: workers may write those alone"]


class Port(TypedDict):
    name: Annotated[str, "the port"]
    device: Annotated[str, "EAL's name of its device"]
    vdev: Annotated[str, "that with the arguments of a virtual device, empty: a PCI device"]
    driver: Annotated[str, "the driver of a virtual device, empty: a PCI device"]
    pool: Annotated[int, "index of its mempool"]
    required: Annotated[bool, "whether a start fails without it"]
    rx_desc: Annotated[int, "descriptors of each rx queue"]
    tx_desc: Annotated[int, "descriptors of each tx queue"]
    rx_free: Annotated[int | None, "rx_free_thresh, null: the driver's default"]
    rx_drop: Annotated[bool | None, "rx_drop_en, null: the driver's default"]
    tx_free: Annotated[int | None, "tx_free_thresh, null: the driver's default"]
    mtu: Annotated[int, "its MTU"]
    promiscuous: Annotated[bool, "whether it receives packets for other addresses"]
    rss_fields: Annotated[
        list[str],
        "the headers that are hashed, the tunnels looked into; fragments: these are tracked",
    ]
    rss_key: Annotated[str, "`symmetric`, `default`, or hex digits"]
    group: Annotated[int, "index of the group that it feeds, -1: none"]
    left_out: Annotated[str, "why no generation opens it any more; empty: it is opened"]
    kernel_tap: Annotated[str, "the TAP beside it, empty: it has no way to the kernel"]
    kernel_netns: Annotated[str, "the network namespace of the TAP, empty: dpsup's own"]
    kernel_rate: Annotated[int, "packets per second that each io core hands to the kernel"]


class Scale(TypedDict):
    min: Annotated[int, "fewest workers"]
    max: Annotated[int, "most workers"]
    target_busy: Annotated[float, "busy share of a worker that is aimed at"]
    cooldown: Annotated[float, "seconds between two changes"]
    dry_run: Annotated[bool, "decided, and not done"]


class Probe(TypedDict):
    kind: Annotated[str, "`tcp`, `http`"]
    port: Annotated[int, "the port that is asked"]
    path: Annotated[str, "the path that is asked for"]
    host: Annotated[str, "the Host that is named, empty: the address"]
    interval: Annotated[float, "seconds from one look to the next"]
    timeout: Annotated[float, "seconds that an answer may take"]
    rise: Annotated[int, "answers in a row until a backend is up"]
    fall: Annotated[int, "failures in a row until it is down"]
    mark: Annotated[str, "its mark in the table `down`: `down` (drained) or `gone` (removed)"]
    netns: Annotated[str, "the network namespace that is asked from, empty: dpsup's own"]


class Group(TypedDict):
    name: Annotated[str, "the group"]
    plugin: Annotated[str, "its plugin, as written"]
    plugin_path: Annotated[str, "the plugin's file, empty: a built-in plugin"]
    args: Annotated[list[list[str]], "the plugin's arguments, pairs of key and value"]
    count: Annotated[int, "workers wanted at the start"]
    max: Annotated[int, "slots reserved"]
    spares: Annotated[int, "spares wanted"]
    first_slot: Annotated[int, "index of its first slot"]
    ring: Annotated[int, "entries of each lane"]
    on_full: Annotated[str, "`drop`, `hold`"]
    state: Annotated[int, "bytes of state for each slot"]
    bucket_state: Annotated[int, "bytes of state for each bucket"]
    cores: Annotated[list[int], "the CPU of each slot"]
    restart_policy: Annotated[str, "`always`, `on-failure`, `never`"]
    intensity: Annotated[float, "restarts in `period` until a worker is held"]
    period: Annotated[float, "seconds"]
    backoff_initial: Annotated[float, "seconds to the first restart"]
    backoff_factor: Annotated[float, "factor by which that time grows with each restart"]
    backoff_max: Annotated[float, "seconds to a restart at most"]
    stall_after: Annotated[float, "seconds until a worker counts as stuck"]
    on_stopped: Annotated[str, "`keep`, `kill`"]
    next: Annotated[
        list[tuple[str, int]],
        "by input port, the next hop: `port` or `group` and its index, empty: the plugin decides",
    ]
    reach: Annotated[list[int], "indices of the groups that its packets may come to"]
    on_down: Annotated[str, "`hold`, `bypass`, `drop`: without a running worker"]
    at_zero: Annotated[str, "the same, scaled to no workers"]
    scale: Annotated[Scale | None, "how it follows the load, null: it does not"]
    strategy: Annotated[str, "`one-for-one`, `rest-for-chain`, `all`"]
    backoff_jitter: Annotated[float, "share of the time to a restart that may be left out"]
    held_retry: Annotated[float, "seconds until a held worker is tried once more, 0: never"]
    lend_after: Annotated[
        float, "seconds until the primary gives an empty slot's buckets away, 0: never"
    ]
    plugin_copy: Annotated[str, "the private copy of the plugin's file that workers load"]
    tables: Annotated[
        list[list[str]],
        "its live tables, of each name, kind, entries, key, value, file, use (`learn` and the age"
        " in seconds, or `control`), and the file of one that persists",
    ]
    numa: Annotated[int, "the NUMA node of its slots and their lanes"]
    follow: Annotated[str, "`kernel`: its tables have the kernel's routes; empty: they do not"]
    verify: Annotated[bool, "what its plugin changes is compared with what it declares"]
    confine: Annotated[str, "`strict`: its workers give up rights that packets do not need; `off`"]
    probe: Annotated[Probe | None, "how its backends are asked, null: they are not"]


class Version(TypedDict):
    """The part of a group that a rollout changes."""

    plugin: str
    plugin_path: str
    args: list[list[str]]
    plugin_copy: str


class Health(TypedDict):
    """The part of a group that the wardens follow."""

    stall_after: float
    on_stopped: str


class Chain(TypedDict):
    name: Annotated[str, "the chain"]
    path: Annotated[list[str], "port, groups, port"]
    on_down: Annotated[str, "`hold`, `bypass`, `drop`"]


class Memory(TypedDict):
    pools: Annotated[int, "bytes of mempools"]
    slots: Annotated[int, "bytes of slots"]
    reserve: Annotated[int, "bytes for EAL, drivers and queues"]
    total: Annotated[int, "bytes reserved at the start, a multiple of the page size"]
    page_size: Annotated[int, "bytes of a hugepage"]
    pages_needed: Annotated[int, "hugepages needed"]
    pages_free: Annotated[int, "hugepages that were free when the plan was decided"]


class Plan(TypedDict):
    name: Annotated[str, "the instance"]
    generation: Annotated[int, "generation of the next primary"]
    topology_file: Annotated[str, "the file, absolute"]
    runtime_dir: Annotated[str, "the directory of sockets and state"]
    quarantine_dir: Annotated[str, "the directory of quarantined packets"]
    file_prefix: Annotated[str, "EAL's"]
    hugepage_dir: Annotated[str, "the hugetlbfs mount"]
    eal_args: Annotated[list[str], "EAL's arguments"]
    supervisor_cores: Annotated[list[int], "CPUs for Python and the wardens"]
    io: list[Io]
    pools: list[Pool]
    ports: list[Port]
    groups: list[Group]
    chains: list[Chain]
    n_slots: Annotated[int, "slots of all groups"]
    memory: Memory
    metrics_listen: Annotated[str, "where metrics are served, empty: nowhere"]
    bus_endpoint: Annotated[str, "where the bus listens for other hosts, empty: nowhere"]
    bus_keys: Annotated[str, "the directory of the keys that it accepts"]
    bus_admin: Annotated[list[str], "users and @groups that may order what the owner may"]
    bus_read: Annotated[list[str], "users and @groups that may look"]


class Running(Plan):
    """A plan as instance/status.py needs it where no supervisor tells of the primary."""

    primary_pid: int | None
