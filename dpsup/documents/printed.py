# SPDX-License-Identifier: BSD-3-Clause
"""What commands print with `-o json`: each document, its command, and its type."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, TypedDict

from dpsup.documents import rates
from dpsup.documents.counters import (
    GroupCounters,
    Io,
    Lane,
    PoolCounters,
    PortCounters,
    SlotCounters,
)
from dpsup.documents.status import Account, Head, Named, Rollout, Status


class StatsSlot(SlotCounters):
    id: Annotated[str, "the worker's slot: `fw/0`"]
    state_name: Annotated[str, "the worker's state"]


class Stats(Named):
    at_ns: Annotated[int, "when the counters were read"]
    generation: Annotated[int, "starts of the primary so far"]
    ports: list[PortCounters]
    pools: list[PoolCounters]
    io: list[Io]
    groups: list[GroupCounters]
    slots: list[StatsSlot]
    tsc_hz: Annotated[int, "TSC cycles a second"]
    heap_bytes: Annotated[int | None, "allocated in EAL's shared heaps"]
    account: Account
    port_info: Annotated[list[Any], "what the driver says of each port"]
    processes: Annotated[
        dict[str, Any],
        "CPU time (`cpu_seconds`) and resident memory (`rss_bytes`) of each process",
    ]
    lanes: list[Lane]


class Place(TypedDict):
    io: Annotated[int, "index of the io core"]
    place: Annotated[str, "what holds the mbufs there: `cache`, `lent`, ..."]
    of: Annotated[str | None, "the worker, port or group, null: the io core itself"]
    mbufs: Annotated[int, "how many"]


class AuditPool(TypedDict):
    name: Annotated[str, "the mempool"]
    size: Annotated[int, "its mbufs"]
    free: Annotated[int, "in the pool"]
    cached: Annotated[int, "in the caches of io cores"]
    rx_rings: Annotated[int, "in rx queues"]
    tx_rings: Annotated[int, "in tx queues"]
    lanes: Annotated[int, "lent to workers"]
    io: Annotated[int, "held, or on their way, in io cores"]
    quarantine: Annotated[int, "waiting to be written to quarantine"]
    unexplained: Annotated[int, "not found: a leak, if it stays on a settled instance"]
    moving: Annotated[int, "mbufs that changed place while they were counted"]
    strays: Annotated[list[Any], "each unexplained mbuf with its last holder and first bytes"]
    places: list[Place]


class Audit(Named):
    pools: list[AuditPool]


class Advice(rates.Measured):
    generation: Annotated[int, "starts of the primary so far"]
    topology_file: Annotated[str, "where the keys of changes are"]
    bottleneck: Annotated[
        dict[str, Any] | None,
        "what has least time left: `kind`, `who`, `busy` (0 to 1), `times_the_load` that it could"
        " take; null: no traffic",
    ]
    lost_pps: Annotated[float, "packets a second that were missed or found a lane full"]
    advice: Annotated[
        list[Any],
        "a piece, the worst first: `kind`, `level` (losing, risk, faster), `about`, `title`,"
        " `seen` and its `numbers`, `why`; `changes[]`, of `kind` toml (`path`, `value`, `old`) or"
        " command (`argv`, `command`), both with `text`; `predicted`: `metric` (a path in"
        " `measured`), `unit`, `now`, `then`, `text`",
    ]
    measured: Annotated[
        dict[str, Any] | None,
        "what predictions are about: mempools, ports, io, groups, cores, numa, processes; null: no"
        " running primary",
    ]


class State(Named):
    group: Annotated[str, "the group"]
    workers: Annotated[list[Any], "each slot's block: `id`, `version`, `size`, `hex`"]
    buckets: Annotated[list[Any], "each bucket's: `bucket`, `member`, `version`, `size`, `hex`"]


class LogLine(TypedDict):
    at: Annotated[float, "when"]
    seq: Annotated[int, "its number"]
    at_ns: Annotated[int, "when"]
    name: Annotated[str, "the process"]
    line: Annotated[str, "what it printed"]


class Problem(TypedDict, total=False):
    message: Annotated[str, "what is wrong"]
    file: Annotated[str, "the file"]
    line: Annotated[int, "from 1, 0: none can be named"]
    source: Annotated[str, "that line"]
    why: Annotated[str, "what follows from it"]
    help: Annotated[str, "what to write instead"]
    severity: Annotated[str, "`error` or `warning`"]
    exit_code: Annotated[int, "the exit code that it would give"]
    code: Annotated[str, "for `dpsup explain`"]


class Check(Head):
    file: Annotated[str, "the file"]
    ok: Annotated[bool, "whether it can be started"]
    problems: list[Problem]


class Plan(Named):
    generation: Annotated[int, "the next primary's"]
    topology_file: Annotated[str, "the file, absolute"]
    runtime_dir: Annotated[str, "the directory of sockets and state"]
    quarantine_dir: Annotated[str, "the directory of quarantined packets"]
    file_prefix: Annotated[str, "EAL's"]
    hugepage_dir: Annotated[str, "the hugetlbfs mount"]
    eal_args: Annotated[list[str], "EAL's arguments"]
    supervisor_cores: Annotated[list[int], "CPUs for Python and the wardens"]
    io: Annotated[list[Any], "each io core: CPU, burst, idle"]
    pools: Annotated[list[Any], "each mempool"]
    ports: Annotated[list[Any], "each port: device, queues, rss, the group that it feeds"]
    groups: Annotated[list[Any], "each group: plugin, slots, CPUs, restart policy"]
    chains: Annotated[list[Any], "each chain"]
    n_slots: Annotated[int, "slots of all groups"]
    memory: Annotated[dict[str, Any], "bytes of pools and slots, pages needed and free"]
    metrics_listen: Annotated[str, "where metrics are served, empty: nowhere"]


class Finding(TypedDict):
    id: Annotated[str, "for `dpsup explain`"]
    title: Annotated[str, "what is checked"]
    level: Annotated[str, "ok, info, warn, error, skip"]
    message: Annotated[str, "what was found"]
    read: Annotated[str, "where it was read"]
    why: Annotated[str, "why it matters"]
    fix: Annotated[list[str], "commands that help"]
    manual: Annotated[str, "what no command does"]


class Doctor(Head):
    file: Annotated[str | None, "the topology, null: none"]
    sysroot: Annotated[str, "the tree that was read"]
    ok: Annotated[bool, "whether a start can work"]
    summary: Annotated[dict[str, int], "number of checks that are ok, info, warn, error, skip"]
    checks: list[Finding]


class Explain(Head):
    code: Annotated[str, "the code"]
    title: Annotated[str, "in short"]
    why: Annotated[str, "what it means"]
    fix: Annotated[str, "what to do"]
    wrong: Annotated[str, "an example that has the error, or empty"]
    right: Annotated[str, "the same, corrected"]


class Versions(TypedDict):
    dpsup: Annotated[str, "its version"]
    dpdk: Annotated[str, "DPDK's, of the build"]
    plugin_abi: Annotated[int, "what plugins are built against: `DPS_PLUGIN_ABI`"]
    include: Annotated[str, "the directory of `dpsup_plugin.h`"]


class Version(Head, Versions):
    pass


class Added(TypedDict, total=False):
    worker: Annotated[str, "a worker that is added"]
    core: Annotated[int, "its CPU"]


class Scale(TypedDict):
    group: Annotated[str, "the group"]
    old: Annotated[int, "workers before"]
    desired: Annotated[int, "workers wanted"]
    ready: Annotated[int, "workers that run"]
    add: list[Added]
    remove: Annotated[list[str], "workers that are removed"]
    buckets_moved: Annotated[int, "buckets moved, of 512"]
    at_zero: Annotated[str, "what becomes of packets, where it is scaled to 0"]
    dry_run: Annotated[bool, "nothing was done"]


class Rebalance(TypedDict):
    group: Annotated[str, "the group"]
    packets: Annotated[int, "packets counted"]
    seconds: Annotated[float, "the time over which they were counted"]
    before: Annotated[dict[str, float], "share of each worker"]
    predicted: Annotated[dict[str, float], "share after the move"]
    imbalance: Annotated[float, "the busiest worker's share against an even one"]
    imbalance_predicted: Annotated[float, "the same after the move"]
    buckets_moved: Annotated[int, "buckets moved, of 512"]
    elephants: Annotated[list[Any], "buckets with more than a worker's share"]
    dry_run: Annotated[bool, "nothing was done"]
    done: Annotated[bool, "buckets were moved"]
    why: Annotated[str, "why not"]
    measured: Annotated[dict[str, float] | None, "shares afterwards, null: nothing was moved"]
    imbalance_measured: Annotated[float | None, "the same of the imbalance"]


class Rollouts(TypedDict):
    groups: list[Rollout]


class Revision(TypedDict):
    number: Annotated[int, "from 1"]
    plugin: Annotated[str, "as the rollout named it"]
    plugin_path: Annotated[str, "the file"]
    args: Annotated[list[list[str]], "pairs of key and value"]
    digest: Annotated[str, "of the file's bytes"]
    at: Annotated[float, "when the rollout was asked for"]
    state: Annotated[str, "current, or what became of it"]
    why: Annotated[str, "why it was undone"]


class Revisions(TypedDict):
    group: Annotated[str, "the group"]
    revisions: list[Revision]


class Reload(Named):
    file: Annotated[str, "the file"]
    changes: Annotated[
        list[Any],
        "each changed key: `key`, `line`, `old`, `new`, `class` (live, rolling, restart), `done`",
    ]
    done: Annotated[bool, "the instance is as the file says"]
    restart_needed: Annotated[bool, "some keys need `stop` and `start`"]
    failed: Annotated[Any, "what went wrong"]


class Restarted(TypedDict):
    restarted: Annotated[list[str], "workers, one after the other"]


class Reset(TypedDict):
    reset: Annotated[list[str], "workers whose failures no longer count"]
    started: Annotated[dict[str, str], "state of those that were held"]


class Quarantine(Head):
    folder: Annotated[str, "their directory"]
    packets: Annotated[
        list[Any],
        "each: `number`, `at`, `why`, `worker`, `plugin`, `port`, `length`, `flow_hash`, `file`"
        " (the pcap), and `deaths`: signal, address, backtrace of each",
    ]


class Printed(NamedTuple):
    command: str  # a test runs it on an instance of `init --template forward`, with `-o json`
    text: str
    type: Any


DOCUMENTS = {
    "Status": Printed(
        "dpsup status",
        "Everything that is counted since the start, and the processes. Exit code 5 if degraded.",
        Status,
    ),
    "Workers": Printed("dpsup workers", "With measured rates.", rates.Workers),
    "Ports": Printed("dpsup ports", "With measured rates.", rates.Ports),
    "Cores": Printed("dpsup cores", "", rates.Cores),
    "Mempools": Printed("dpsup mempools", "", rates.Mempools),
    "Lanes": Printed("dpsup lanes", "", rates.Lanes),
    "Picture": Printed("dpsup graph", "All that tables and pictures are made of.", rates.Picture),
    "Stats": Printed(
        "dpsup stats", "Counters as the primary has them, in cycles and by slot.", Stats
    ),
    "Audit": Printed(
        "dpsup audit --detail",
        "Where every mbuf is. Exit code 1 if some stay unexplained on a settled instance.",
        Audit,
    ),
    "Advice": Printed(
        "dpsup advise --for 300ms",
        "What to change; [Advice](../advise.md) has each kind.",
        Advice,
    ),
    "State": Printed(
        "dpsup state fw", "A plugin's state; empty for a plugin that keeps none.", State
    ),
    "Events": Printed(
        "dpsup events",
        "A list; `-o jsonl` has one a line. [Events](events.md) has the fields of each type.",
        Annotated[list[Any], "an event"],
    ),
    "Logs": Printed("dpsup logs", "A list; `-o jsonl` has one a line.", list[LogLine]),
    "Check": Printed(
        "dpsup check topology.toml", "Exit code 78, 6 or 7 if a start would fail.", Check
    ),
    "Plan": Printed("dpsup plan topology.toml", "What a start would do, everything decided.", Plan),
    "Doctor": Printed("dpsup doctor topology.toml", "Exit code 6 if a start would fail.", Doctor),
    "Explain": Printed("dpsup explain E0203", "", Explain),
    "Version": Printed("dpsup version", "", Version),
    "Scale": Printed("dpsup scale fw +1", "What changed, or with `--dry-run` would.", Scale),
    "Rebalance": Printed("dpsup rebalance fw --dry-run --over 100ms", "", Rebalance),
    "Rollout": Printed(
        "dpsup rollout status",
        "`rollout GROUP ...` and `rollout undo` print one group's entry, with `changed`.",
        Rollouts,
    ),
    "Revisions": Printed("dpsup rollout history", "", Revisions),
    "Reload": Printed("dpsup reload --dry-run", "", Reload),
    "Restarted": Printed("dpsup restart fw/0", "", Restarted),
    "Reset": Printed("dpsup reset-failed", "", Reset),
    "Quarantine": Printed(
        "dpsup quarantine list", "`quarantine show N` prints one entry.", Quarantine
    ),
}
