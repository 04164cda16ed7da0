# SPDX-License-Identifier: BSD-3-Clause
"""What commands print with `-o json`: each document, its command, and its type."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, TypedDict

from dpsup.documents import counters, plan, rates
from dpsup.documents.advice import Advice
from dpsup.documents.audit import AuditPool
from dpsup.documents.counters import (
    GroupCounters,
    Lane,
    PoolCounters,
    PortCounters,
    PortInfo,
    SlotCounters,
)
from dpsup.documents.instances import Health, Instances
from dpsup.documents.quarantine import Packet
from dpsup.documents.since import Mark as MarkAt
from dpsup.documents.since import Since
from dpsup.documents.status import Account, Head, Named, Rollout, Status, Usage
from dpsup.documents.tables import Table, Tables
from dpsup.documents.trial import Try
from dpsup.documents.where import Where


class StatsSlot(SlotCounters):
    id: Annotated[str, "the worker's slot: `fw/0`"]
    state_name: Annotated[str, "the worker's state"]


class Stats(Named):
    at_ns: Annotated[int, "when the counters were read"]
    generation: Annotated[int, "starts of the primary so far"]
    ports: list[PortCounters]
    pools: list[PoolCounters]
    io: list[counters.Io]
    groups: list[GroupCounters]
    slots: list[StatsSlot]
    tsc_hz: Annotated[int, "TSC cycles a second"]
    heap_bytes: Annotated[int | None, "bytes allocated in EAL's shared heaps"]
    account: Account
    port_info: list[PortInfo]
    processes: Annotated[
        dict[str, Usage],
        "CPU time (`cpu_seconds`) and resident memory (`rss_bytes`) of each process",
    ]
    lanes: list[Lane]


class Mark(Named, MarkAt):
    pass


class Audit(Named):
    pools: list[AuditPool]


class WorkerState(TypedDict):
    id: Annotated[str, "the worker's slot: `fw/0`"]
    version: Annotated[int, "the plugin's `state_version`"]
    size: Annotated[int, "bytes of the block"]
    hex: Annotated[str, "the bytes, at most the first 8 KiB"]


class BucketState(TypedDict):
    bucket: Annotated[int, "the bucket"]
    member: Annotated[int, "number of the worker that it belongs to"]
    version: Annotated[int, "the plugin's `state_version`"]
    size: Annotated[int, "bytes of the block"]
    hex: Annotated[str, "the bytes"]


class State(Named):
    group: Annotated[str, "the group"]
    workers: list[WorkerState]
    buckets: list[BucketState]


class LogLine(TypedDict):
    at: Annotated[float, "when it was printed, in seconds since 1970"]
    seq: Annotated[int, "its number"]
    at_ns: Annotated[int, "when it was printed, in CLOCK_MONOTONIC"]
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


class Plan(Head, plan.Plan):
    pass


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


class Seat(TypedDict):
    worker: Annotated[str, "a worker that is added or removed"]
    core: Annotated[int, "its CPU"]


class Changes(TypedDict):
    group: Annotated[str, "the group"]
    old: Annotated[int, "workers before"]
    desired: Annotated[int, "workers wanted"]
    ready: Annotated[int, "workers that run"]
    add: list[Seat]
    remove: list[Seat]
    buckets_moved: Annotated[int, "buckets moved, of 512"]
    at_zero: Annotated[str | None, "what becomes of packets at 0 workers, null: there are some"]


class Scale(Changes):
    held: Annotated[dict[str, str], "workers that refused to start, and why they are held"]
    dry_run: Annotated[bool, "nothing was done"]


class Elephant(TypedDict):
    bucket: Annotated[int, "a bucket with more than a worker's share"]
    worker: Annotated[str, "the worker that it belongs to"]
    share: Annotated[float, "its share of the group's packets"]


class Rebalance(TypedDict):
    group: Annotated[str, "the group"]
    packets: Annotated[int, "packets counted"]
    seconds: Annotated[float, "the time over which they were counted"]
    before: Annotated[dict[str, float], "share of each worker"]
    predicted: Annotated[dict[str, float], "share after the move"]
    imbalance: Annotated[float, "the busiest worker's share against an even one"]
    imbalance_predicted: Annotated[float, "the same after the move"]
    buckets_moved: Annotated[int, "buckets moved, of 512"]
    elephants: list[Elephant]
    dry_run: Annotated[bool, "nothing was done"]
    done: Annotated[bool, "buckets were moved"]
    why: Annotated[str, "why no bucket was moved, or empty"]
    measured: Annotated[dict[str, float] | None, "shares afterwards, null: nothing was moved"]
    imbalance_measured: Annotated[float | None, "imbalance afterwards, null: nothing was moved"]


class Rolled(Rollout):
    """The answer to a rollout, or to its undo."""

    changed: bool  # false: the group runs that already


class Rollouts(TypedDict):
    groups: list[Rollout]


class Revision(TypedDict):
    number: Annotated[int, "from 1"]
    plugin: Annotated[str, "as the rollout named it"]
    plugin_path: Annotated[str, "the file"]
    args: Annotated[list[list[str]], "pairs of key and value"]
    digest: Annotated[str, "digest of the file's bytes"]
    at: Annotated[float, "when the rollout was asked for"]
    state: Annotated[str, "current, or what became of it"]
    why: Annotated[str, "why it was undone"]
    plugin_copy: Annotated[str, "the private copy of the file that workers load"]


class Revisions(TypedDict):
    group: Annotated[str, "the group"]
    revisions: list[Revision]


Change = TypedDict(  # `class` is no name of Python's
    "Change",
    {
        "key": Annotated[str, "a changed key"],
        "class": Annotated[str, "what applies it: `live`, `rolling`, `restart`"],
        "old": Annotated[Any, "its value before"],
        "new": Annotated[Any, "its value in the file"],
        "line": Annotated[int, "its line in the file"],
        "text": Annotated[str, "the change in words"],
        "why": Annotated[str, "why it needs a restart, or empty"],
        "done": Annotated[bool, "it was applied"],
    },
)


class Reload(Named):
    file: Annotated[str, "the file"]
    changes: list[Change]
    done: Annotated[bool, "the instance is as the file says"]
    restart_needed: Annotated[bool, "some keys need `stop` and `start`"]
    failed: Annotated[str, "what went wrong, or empty"]
    warnings: Annotated[list[str], "what was left out, and why; then it is not `done`"]


class Restarted(TypedDict):
    restarted: Annotated[list[str], "workers, one after the other"]


class Reset(TypedDict):
    reset: Annotated[list[str], "workers whose failures no longer count"]
    started: Annotated[dict[str, str], "state of those that were held"]


class Quarantine(Head):
    folder: Annotated[str, "their directory"]
    packets: list[Packet]


class Printed(NamedTuple):
    command: str  # a test runs it on an instance of `init --template forward`, with `-o json`
    text: str
    type: Any


DOCUMENTS = {
    "Instances": Printed(
        "dpsup list", "All instances that this user's commands look at.", Instances
    ),
    "Status": Printed(
        "dpsup status",
        "Everything that is counted since the start, and the processes. Exit code 5 if degraded.",
        Status,
    ),
    "Health": Printed(
        "dpsup health --ready", "Exit code 5 where the answer to the question is no.", Health
    ),
    "Workers": Printed("dpsup workers", "With measured rates.", rates.Workers),
    "Groups": Printed(
        "dpsup groups", "The sums over each group's workers, with measured rates.", rates.Groups
    ),
    "Ports": Printed("dpsup ports --xstats", "With measured rates.", rates.Ports),
    "Cores": Printed("dpsup cores", "", rates.Cores),
    "Mempools": Printed("dpsup mempools", "", rates.Mempools),
    "Lanes": Printed("dpsup lanes", "", rates.Lanes),
    "Tables": Printed("dpsup table", "The live tables of all groups.", Tables),
    "Table": Printed(
        "dpsup table routes show", "Also of `get KEY`; entries as in the table's file.", Table
    ),
    "Picture": Printed("dpsup graph", "The source of all tables and pictures.", rates.Picture),
    "Stats": Printed(
        "dpsup stats", "Counters as the primary has them, in cycles and by slot.", Stats
    ),
    "Where": Printed(
        "dpsup where '10.0.0.1:1234 > 10.0.0.2:80 tcp'",
        "Which bucket, io core and workers have the packets of a flow.",
        Where,
    ),
    "Mark": Printed("dpsup mark", "The counters that `stats --since-mark` begins with.", Mark),
    "Since": Printed(
        "dpsup stats --since-mark",
        "Each counter less what it was at the mark; other numbers as they are now.",
        Since,
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
    "Try": Printed(
        "dpsup try forward in.pcap", "What a plugin does with the packets of a capture.", Try
    ),
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
