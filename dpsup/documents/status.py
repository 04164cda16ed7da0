# SPDX-License-Identifier: BSD-3-Clause
"""The Status document, its parts, and the supervisor's view, of which status.py composes it."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from dpsup.documents.audit import AuditPool
from dpsup.documents.counters import Io, KernelPath


class Head(TypedDict):
    apiVersion: Annotated[str, "`dpsup/v1`"]
    kind: Annotated[str, "which document it is"]


class Named(Head):
    name: Annotated[str, "the instance"]


class Process(TypedDict):
    pid: Annotated[int | None, "the process, null: none runs"]
    state: Annotated[str, "its state"]


class BuilderProcess(Process):
    """Its state: absent, starting, ready, stopped (by a signal or a debugger), failing (several
    ended, one after the other, unready)."""

    trouble: Annotated[str, "why the last one ended; empty: it did not, or the next one is ready"]


class Supervisor(TypedDict):
    pid: Annotated[int | None, "null: it is dead, the data plane goes on"]


class Port(TypedDict):
    name: Annotated[str, "the port"]
    rx_packets: Annotated[int, "received by io cores"]
    tx_packets: Annotated[int, "taken by the driver, without those that it failed to send"]
    rx_missed: Annotated[
        int,
        "lost in the NIC or driver for lack of a descriptor; of `net_af_packet`, dropped by the"
        " kernel as the ring of the port's sockets was full",
    ]
    tx_dropped: Annotated[int, "dropped because the tx queue was full"]
    rx_bytes: Annotated[int, "bytes received"]
    tx_bytes: Annotated[int, "bytes sent"]
    rx_errors: Annotated[int, "errors, as the driver counts them"]
    tx_errors: Annotated[int, "errors, as the driver counts them"]
    rx_nombuf: Annotated[int, "lost by the driver: no mbuf"]
    dropped: Annotated[dict[str, int], "other packets dropped by io cores, by reason"]
    unwritten_bytes: Annotated[int, "sent to a file (`tx_pcap`) and not in it"]
    link_up: Annotated[bool, "whether the link is up"]
    link_mbps: Annotated[int, "its speed, 0: unknown"]
    absent: Annotated[bool, "it has no device now; it is opened once it has one"]
    trouble: Annotated[str, "why it does not forward, in words; empty: it does"]
    to_kernel: Annotated[int, "punted packets that the kernel took"]
    to_kernel_bytes: Annotated[int, "their bytes"]
    from_kernel: Annotated[int, "frames that the kernel sent to its TAP, for the port"]
    from_kernel_bytes: Annotated[int, "their bytes"]
    kernel: Annotated[KernelPath | None, "its way to the kernel, null: it has none"]


class Pool(TypedDict):
    name: Annotated[str, "the mempool"]
    size: Annotated[int, "its mbufs"]
    in_use: Annotated[int, "mbufs in use"]
    low_water: Annotated[int, "the fewest free mbufs seen"]
    alloc_failures: Annotated[int, "times that it was found empty"]


class LastExit(TypedDict):
    pid: Annotated[int, "the process that ended"]
    how: Annotated[str, "in words: `SIGKILL`, `exit 1`"]
    code: Annotated[int | None, "its exit code, null: a signal ended it"]
    signal: Annotated[int | None, "the signal's number, null: none"]
    asked: Annotated[bool, "whether dpsup asked it to end"]
    reason: Annotated[str, "what dpsup knows of the cause"]
    at_ns: Annotated[int, "when it ended"]


class Worker(TypedDict):
    id: Annotated[str, "the worker's slot: `fw/0`"]
    pid: Annotated[int | None, "the process in the slot, null: none"]
    core: Annotated[int, "the CPU"]
    state: Annotated[str, "starting, running, draining, recovering, backoff, held, stopped"]
    rx_packets: Annotated[int, "packets handed to it"]
    tx_packets: Annotated[int, "packets that it sent out of a port, or on to another group"]
    dropped: Annotated[
        dict[str, int],
        "dropped, by reason: the plugin's own, and dpsup's (`lane_full`, `bad_verdict`,"
        " `quarantine`, `quarantine_full`, `corrupt`)",
    ]
    restarts: Annotated[int, "times that it was replaced"]
    last_exit: Annotated[LastExit | None, "how the last process in this slot ended, null: none did"]
    outstanding: Annotated[int, "packets lent to it now"]
    requeued: Annotated[int, "packets taken back and steered again"]
    emitted: Annotated[int, "packets that its plugin originated (`dps_emit`)"]
    no_blank: Annotated[int, "packets that it could not originate, for lack of an empty buffer"]
    copied: Annotated[int, "copies sent out of a second port (`dps_also`)"]
    no_copy: Annotated[int, "copies not made, for lack of an empty buffer"]
    on_hash: Annotated[int, "packets sent on by a hash of its plugin's own (`dps_on_hash`)"]
    ticks: Annotated[int, "ticks that its plugin handled, its own and its buckets'"]
    ticks_skipped: Annotated[int, "ticks that were due and not handled"]
    counters: Annotated[dict[str, int], "the plugin's own counters"]
    gauges: Annotated[dict[str, int], "its gauges, of the present process"]
    dropped_policy: Annotated[
        int, "packets of `dropped` that were dropped for a reason that the plugin marks as policy"
    ]
    undeclared: NotRequired[
        Annotated[
            int,
            "packets of which the plugin changed undeclared bytes; where the group has `verify`",
        ]
    ]
    # Without a supervisor, these are not known.
    health: NotRequired[Annotated[str, "ok, stuck, stopped, starved"]]
    retry_in_s: NotRequired[
        Annotated[float | None, "seconds to the next start in `backoff`, else null"]
    ]
    held_for: NotRequired[Annotated[str, "why it is held"]]


class StatusWorker(Worker):
    since_ns: NotRequired[Annotated[int, "when it entered this state"]]


class Rollout(TypedDict):
    group: Annotated[str, "the group"]
    revision: Annotated[int, "number of the version that new workers and spares of the group run"]
    plugin: Annotated[str, "its plugin"]
    args: Annotated[list[list[str]], "its arguments, pairs of key and value"]
    phase: Annotated[str, "idle, preparing, canary, rolling, closing, done, undoing, undone, stuck"]
    to: Annotated[int | None, "revision that it is changing to, null: none"]
    to_plugin: Annotated[str | None, "that revision's plugin"]
    why: Annotated[str, "why it was undone"]
    workers: Annotated[dict[str, int], "revision of each worker"]


class Histogram(TypedDict):
    bounds: list[float]  # seconds
    counts: list[int]  # up to each bound
    count: int  # of all
    sum: float  # seconds


class MovePause(TypedDict):
    """A Histogram of the time that moving buckets waited for their previous worker to drain."""

    bounds: Annotated[list[float], "seconds that a moving bucket waited for its previous worker"]
    counts: Annotated[list[int], "moving buckets that waited less than that"]
    count: Annotated[int, "moving buckets that waited"]
    sum: Annotated[float, "seconds that they waited in total"]


class Totals(TypedDict):
    """What all slots of a group counted, those without a worker now included."""

    rx_packets: Annotated[int, "packets handed to its workers"]
    tx_packets: Annotated[int, "packets that they sent out of a port, or on to another group"]
    dropped: Annotated[dict[str, int], "dropped by its workers, in their lanes, and before it"]
    outstanding: Annotated[int, "packets lent to its workers now"]
    requeued: Annotated[int, "packets taken back and steered again"]
    restarts: Annotated[int, "times that a worker was replaced"]
    counters: Annotated[dict[str, int], "the plugin's own counters, added up by name"]


class Learned(TypedDict):
    age: Annotated[float, "seconds until an entry goes that is not told again, 0: never"]
    entries: Annotated[int, "entries that workers told, and that are there"]
    told: Annotated[int, "messages of workers that the builder took"]
    learned: Annotated[int, "entries that they added or changed"]
    refused: Annotated[int, "messages that changed nothing: a full table, an operator's entry"]
    aged: Annotated[int, "entries that were not told again in time"]
    lost: Annotated[int, "messages that found their worker's ring full"]


class Group(TypedDict):
    name: Annotated[str, "the group"]
    plugin: Annotated[str, "its plugin"]
    plugin_on_disk: Annotated[
        str,
        "the plugin's file, beside the copy that runs: `same`, `changed`, `missing`, `in place` (it"
        " is loaded from there), empty: built in, or not looked at yet",
    ]
    desired: Annotated[int, "workers wanted"]
    ready: Annotated[int, "workers that run"]
    spares_ready: Annotated[int, "spares that wait"]
    spares_held: Annotated[str, "why spares are not started again"]
    rollout: Rollout | None
    max: Annotated[int, "slots reserved at the start"]
    dropped: Annotated[
        dict[str, int],
        "dropped before it, by reason: `no_worker`, `hold_full`, `worker_held`",
    ]
    held: Annotated[int, "packets that wait for a worker"]
    bypassed: Annotated[int, "packets that went on past it"]
    move_pause: MovePause
    totals: Totals


class StatusGroup(Group):
    workers: list[StatusWorker]
    learned: NotRequired[
        Annotated[
            dict[str, Learned],
            "what workers told, by table, as of the last second or two; only where one learns",
        ]
    ]


class Recovery(TypedDict):
    deaths: Annotated[int, "workers that died unasked"]
    refused_calls: Annotated[int, "workers that died by a system call that they may not make"]
    primary_deaths: Annotated[int, "primaries that died unasked"]
    lost: Annotated[int, "packets that were under way when a primary died"]
    duplicated: Annotated[int, "always 0, as an instance does not count it; `dpsup chaos` does"]
    quarantined: Annotated[int, "packets put in quarantine"]
    last_failover_us: Annotated[
        float | None,
        "time from the notice of the last death to the successor's first packet, null: none",
    ]
    histograms: Annotated[
        dict[str, Histogram],
        "repair, takeover and failover: `bounds` in seconds, cumulative `counts`, `count`, `sum`",
    ]


class Status(Named):
    state: Annotated[str, "starting, running, degraded, stopping"]
    generation: Annotated[int, "starts of the primary so far"]
    at_ns: Annotated[int, "when the counters were read"]
    supervisor: Supervisor
    primary: Process
    seed: Process | None
    builder: Annotated[
        BuilderProcess | None, "of live tables, null: there are none, or no supervisor"
    ]
    topology_file: Annotated[str, "the file that it was started with"]
    started_ns: Annotated[int | None, "when the supervisor started"]
    ports: list[Port]
    mempools: list[Pool]
    groups: list[StatusGroup]
    io: list[Io]
    in_flight: Annotated[int, "packets received and neither sent nor dropped yet"]
    recovery: Recovery


class Usage(TypedDict):
    cpu_seconds: float
    rss_bytes: int


class Fates(TypedDict):
    """Packets received, and what was added to them, by what became of them."""

    received: Annotated[int, "packets received"]
    missed: Annotated[int, "lost by the drivers, for lack of a descriptor or an mbuf"]
    sent: Annotated[int, "packets sent"]
    dropped: Annotated[dict[str, int], "dropped, by reason"]
    in_flight: Annotated[int, "packets received, and neither sent nor dropped yet"]
    emitted: Annotated[int, "packets that plugins originated, beside those received"]
    copied: Annotated[int, "copies of packets, likewise"]
    to_kernel: Annotated[int, "packets that plugins punted and the kernel took"]
    from_kernel: Annotated[int, "frames that the kernel sent to TAPs, beside those received"]


class Account(Fates):
    """Every packet received, by what became of it."""

    lost: Annotated[
        int, "packets received, and neither sent, dropped nor found; counted once none is in flight"
    ]


class Unwritten(TypedDict):
    port: Annotated[str, "the port"]
    files: Annotated[list[str], "its files"]
    sent: Annotated[int, "packets sent to them"]
    written: Annotated[int | None, "packets in them, null: one cannot be read again"]


class Unread(TypedDict):
    port: Annotated[str, "the port"]
    packets: Annotated[int, "packets of its captures"]
    read: Annotated[int, "packets that it received or missed"]


class Summary(Account):
    """The account of a whole run, once nothing moves."""

    unwritten: Annotated[list[Unwritten], "outputs that lack packets"]
    unread: Annotated[list[Unread], "of a job, captures that were not read to their end"]
    deaths: int
    audit: list[AuditPool]


# --- what the supervisor adds to the primary's counters -------------------------------------------


class WorkerView(TypedDict):
    pid: int | None
    state: str
    restarts: int
    last_exit: LastExit | None
    health: str
    since_ns: int
    held_for: str
    retry_in_s: float | None
    hidden: bool  # beyond the group's desired workers, and not running


class GroupView(TypedDict):
    desired: int
    spares_ready: int
    spares_held: str
    plugin_on_disk: str
    rollout: Rollout
    workers: list[WorkerView]
    learned: NotRequired[dict[str, Learned]]


class RecoveryView(TypedDict):
    deaths: int
    refused_calls: int
    primary_deaths: int
    lost: int
    last_failover_us: float | None
    histograms: dict[str, Histogram]


class View(TypedDict):
    """The answer of the supervisor to `view`."""

    at_ns: int
    started_ns: int
    pid: int
    state: str
    primary: Process
    seed: Process
    builder: BuilderProcess | None
    absent: list[str]
    groups: list[GroupView]
    recovery: RecoveryView
