# SPDX-License-Identifier: BSD-3-Clause
"""Documents of what happens a second: rates are per second, `busy` and `fill` are shares."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from dpsup.documents.counters import Counters, Lane, PortInfo
from dpsup.documents.plan import Chain, Plan
from dpsup.documents.status import (
    Account,
    BuilderProcess,
    Group,
    Named,
    Pool,
    Port,
    Process,
    Recovery,
    Status,
    Supervisor,
    Usage,
    Worker,
)


class Measured(Named):
    state: Annotated[str, "its state: starting, running, degraded, stopping"]
    at_ns: Annotated[int, "when the counters were read"]
    window_s: Annotated[float | None, "seconds over which rates were measured; null: not measured"]


class WorkerRates(Worker):
    group: Annotated[str, "its group"]
    plugin: Annotated[str, "its plugin"]
    plugin_on_disk: Annotated[str, "the plugin's file, beside the copy that runs: as in Status"]
    drops: Annotated[int, "all its drops"]
    since_s: Annotated[float | None, "seconds in this state"]
    fill: Annotated[float | None, "share of its lanes' room that is in use"]
    drop_pps: Annotated[float | None, "drops a second"]
    fault_pps: Annotated[float | None, "drops a second without those that are the plugin's policy"]
    drops_new: Annotated[dict[str, int], "dropped in the window, by reason"]
    pps: Annotated[float | None, "packets a second"]
    busy: Annotated[float | None, "share of the time spent in bursts"]
    cycles_per_packet: Annotated[float | None, "TSC cycles for a packet, null: none"]
    batch: Annotated[float | None, "packets in a burst, null: none"]


class PortRates(Port):
    feeds: Annotated[str | None, "the group that its packets go to"]
    rx_pps: Annotated[float | None, "received a second"]
    tx_pps: Annotated[float | None, "sent a second"]
    rx_bps: Annotated[float | None, "bits received a second"]
    tx_bps: Annotated[float | None, "bits sent a second"]
    missed_pps: Annotated[float | None, "missed a second"]
    drop_pps: Annotated[float | None, "dropped a second"]
    drops_new: Annotated[dict[str, int], "dropped in the window, by reason"]
    xstats: Annotated[
        dict[str, int] | None,
        "with `--xstats`: all that the driver counts since it opened the device, by its own names;"
        " null: not asked for, or no device",
    ]


class PoolRates(Pool):
    used: Annotated[float, "share in use"]


class Core(TypedDict):
    core: Annotated[int, "the CPU"]
    numa: Annotated[int | None, "its NUMA node"]
    roles: Annotated[list[str], "what runs there"]
    busy: Annotated[float | None, "share spent with packets, null: nothing there counts"]
    load: Annotated[float | None, "share that was not idle, by the kernel's account"]
    stolen: Annotated[float | None, "share that the hypervisor took"]


class LaneRates(TypedDict):
    io: Annotated[str, "the io core"]
    worker: Annotated[str, "the worker"]
    size: Annotated[int, "most packets that it lends at a time"]
    out: Annotated[int, "packets lent now"]
    fill: Annotated[float | None, "`out` as a share of `size`"]
    sent: Annotated[int, "packets lent so far"]
    returned: Annotated[int, "packets that came back so far"]
    requeued: Annotated[int, "packets taken back and steered again"]
    lane_full: Annotated[int, "packets dropped: no room"]
    corrupt: Annotated[int, "packets dropped: the lane was found corrupt"]
    pps: Annotated[float | None, "returned a second"]
    full_pps: Annotated[float | None, "dropped for lack of room a second"]


class IoRates(TypedDict):
    id: Annotated[str, "the io core: `io/0`"]
    core: Annotated[int, "the CPU"]
    busy: Annotated[float | None, "share of the time in turns with packets"]
    loops_per_s: Annotated[float | None, "turns a second"]
    sleeps_per_s: Annotated[float | None, "times a second that it gave its CPU back"]
    rings_per_s: Annotated[float | None, "times a second that it woke a worker"]
    cycles_per_packet: Annotated[float | None, "TSC cycles for a packet, null: none"]
    stage_cycles_per_packet: Annotated[dict[str, float | None], "the same by stage"]
    held: Annotated[int, "packets that wait for their bucket or lane"]
    tx_waiting: Annotated[int, "packets that wait for a tx queue"]
    quarantine: Annotated[int, "packets that wait to be written to quarantine"]


class GroupRates(Group):
    pps: Annotated[float | None, "packets a second"]
    busy: Annotated[float | None, "mean busy share of its workers"]
    busy_sum: Annotated[
        float | None, "sum of its workers' busy shares: 1.5 is one and a half cores"
    ]
    drops: Annotated[int, "all its drops: `totals.dropped`, added up"]
    drop_pps: Annotated[float | None, "drops a second"]
    fault_pps: Annotated[float | None, "drops a second without those that are the plugin's policy"]
    drops_new: Annotated[dict[str, int], "dropped in the window, by reason"]
    inputs: Annotated[list[str], "ports that feed it"]
    next: Annotated[list[str], "where its packets go"]


class Workers(Measured):
    workers: list[WorkerRates]


class Groups(Measured):
    groups: list[GroupRates]


class Ports(Measured):
    ports: list[PortRates]


class Cores(Measured):
    cores: list[Core]


class Mempools(Measured):
    mempools: list[PoolRates]


class Lanes(Measured):
    lanes: list[LaneRates]


class Picture(Measured):
    generation: Annotated[int, "starts of the primary so far"]
    up_s: Annotated[float | None, "seconds since the supervisor's start"]
    supervisor: Supervisor
    primary: Process
    builder: BuilderProcess | None
    topology_file: Annotated[str, "the file that it was started with"]
    ports: list[PortRates]
    io: list[IoRates]
    workers: list[WorkerRates]
    groups: list[GroupRates]
    lanes: list[LaneRates]
    mempools: list[PoolRates]
    cores: list[Core]
    chains: list[Chain]
    in_flight: Annotated[int, "packets received and neither sent nor dropped yet"]
    recovery: Recovery
    processes: Annotated[
        dict[str, Usage],
        "CPU time (`cpu_seconds`) and resident memory (`rss_bytes`) of each process",
    ]
    port_info: list[PortInfo]
    account: Account | None


class CpuTimes(TypedDict):
    """A CPU's times, in ticks since boot."""

    total: int
    busy: int
    steal: int  # that the hypervisor took
    numa: int  # its NUMA node


class Reading(Counters):
    """Counters from the supervisor, or without one from the primary itself."""

    heap_bytes: NotRequired[int | None]


class Look(TypedDict):
    """What client.Instance.look returns; None or empty where no process could be asked."""

    status: Status
    counters: Reading | None
    lanes: list[Lane]
    tsc_hz: int
    plan: Plan
    port_info: list[PortInfo]
    cpus: dict[int, CpuTimes]
    processes: dict[str, Usage]
    xstats: NotRequired[dict[str, dict[str, int] | None]]  # by port, where asked for
