# SPDX-License-Identifier: BSD-3-Clause
"""What the primary counts. Integers since the start of the generation, unless a field says else."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict


class KernelPath(TypedDict):
    """A port's way to the kernel."""

    tap: Annotated[str, "the TAP"]
    netns: Annotated[str, "the network namespace that it is in, empty: dpsup's own"]
    rate: Annotated[int, "packets per second that each io core hands over"]
    carrier: Annotated[bool, "whether the kernel sees a link: the port's"]
    trouble: Annotated[str, "why it does not forward, in words; empty: it does"]


class PortCounters(TypedDict):
    name: Annotated[str, "the port"]
    drops: Annotated[dict[str, int], "packets dropped by io cores, by reason"]
    unwritten_bytes: Annotated[int, "sent to a file (`tx_pcap`) and not in it"]
    link_up: Annotated[bool, "whether the link is up"]
    link_mbps: Annotated[int, "its speed, 0: unknown"]
    absent: Annotated[bool, "whether it has no device now; it is tried again"]
    trouble: Annotated[str, "what is wrong with it, in words; empty: nothing"]
    reopened: Annotated[int, "times that its device was opened again"]
    nic_hash: Annotated[
        str,
        "the NIC's own hash of a flow: `none`, `compared` with the software's at first,"
        " `used`, or `differs`: it is not used",
    ]
    rx_packets: Annotated[int, "received by io cores"]
    rx_bytes: Annotated[int, "bytes received"]
    tx_packets: Annotated[int, "taken by the driver, without those that it failed to send"]
    tx_bytes: Annotated[int, "bytes sent"]
    rx_missed: Annotated[
        int,
        "lost in the NIC or driver for lack of a descriptor; of `net_af_packet`, dropped by the"
        " kernel as the ring of the port's sockets was full",
    ]
    rx_errors: Annotated[int, "errors, as the driver counts them"]
    rx_nombuf: Annotated[int, "lost by the driver: no mbuf"]
    tx_errors: Annotated[int, "errors, as the driver counts them"]
    to_kernel: Annotated[int, "punted packets that the kernel took"]
    to_kernel_bytes: Annotated[int, "their bytes"]
    from_kernel: Annotated[int, "frames that the kernel sent to its TAP, for the port"]
    from_kernel_bytes: Annotated[int, "their bytes"]
    kernel: Annotated[KernelPath | None, "its way to the kernel, null: it has none"]


class PortInfo(TypedDict):
    """What the driver says of a port."""

    name: Annotated[str, "the port"]
    driver: Annotated[str, "its driver"]
    mac: Annotated[str, "its MAC address"]
    note: Annotated[str, "settings that the driver does not have, in words"]
    reta: Annotated[list[int], "the indirection table: an rx queue for each hash"]
    max_rx_queues: Annotated[int, "rx queues that it can have"]
    max_tx_queues: Annotated[int, "tx queues that it can have"]
    rx_queues: Annotated[int, "rx queues in use"]
    tx_queues: Annotated[int, "tx queues in use"]
    rx_desc: Annotated[int, "descriptors of each rx queue"]
    tx_desc: Annotated[int, "descriptors of each tx queue"]
    mtu: Annotated[int, "its MTU"]
    link_up: Annotated[int, "1: the link is up"]
    if_index: Annotated[int, "index of the kernel's interface, 0: none"]
    link_mbps: Annotated[int, "its speed, 0: unknown"]
    hw_rss: Annotated[int, "1: the NIC hashes as the topology says"]
    reta_size: Annotated[int, "entries of the indirection table, 0: none"]
    key_size: Annotated[int, "bytes of its hash key, 0: none"]
    copies_tx: Annotated[int, "1: the driver keeps no mbuf after sending"]
    numa: Annotated[int, "its NUMA node, -1: unknown"]
    rss_offloads: Annotated[int, "`RTE_ETH_RSS_*`: bits"]
    rx_offloads: Annotated[int, "`RTE_ETH_RX_OFFLOAD_*`: bits"]
    tx_offloads: Annotated[int, "`RTE_ETH_TX_OFFLOAD_*`: bits"]


class PoolCounters(TypedDict):
    name: Annotated[str, "the mempool"]
    size: Annotated[int, "its mbufs"]
    free: Annotated[int, "free mbufs, those in the io cores' caches included"]
    low_water: Annotated[int, "the fewest free mbufs seen"]
    starved: Annotated[int, "polls that found it empty"]


class Io(TypedDict):
    core: Annotated[int, "the CPU"]
    loops: Annotated[int, "turns"]
    busy_loops: Annotated[int, "turns with packets"]
    sleeps: Annotated[int, "times that it gave its CPU back"]
    woken: Annotated[
        int,
        "sleeps that a queue with packets ended: `net_tap` and `net_af_packet` ports only",
    ]
    busy_cycles: Annotated[int, "TSC cycles in turns with packets"]
    held: Annotated[int, "packets that wait for their bucket or lane"]
    xfer: Annotated[int, "packets on the way to the io core that owns their tx queue"]
    tx_waiting: Annotated[int, "packets that wait for a tx queue"]
    kernel_waiting: NotRequired[Annotated[int, "punted packets that wait for the kernel"]]
    requeued: Annotated[int, "packets steered again"]
    rings: Annotated[int, "times that it woke a worker"]
    fragments: NotRequired[
        Annotated[
            int,
            "fragments that it steered by their addresses alone, as they have no ports; those that"
            " a NIC hashed, or that went to an only worker, are not among them",
        ]
    ]
    fragments_tracked: NotRequired[
        Annotated[int, "fragments that it steered as the flow of their datagram (rss.fragments)"]
    ]
    fragments_forgotten: NotRequired[
        Annotated[
            int, "datagrams whose first fragment it forgot within 2 s, as it had to keep others"
        ]
    ]
    quarantine: Annotated[int, "packets that wait to be written to quarantine"]
    watched: Annotated[int, "1: a capture or a measurement is on"]
    stage_packets: Annotated[int, "packets received and sent in the turns that are timed"]
    stage_cycles: Annotated[
        dict[str, int], "TSC cycles of those turns by stage: rx, steer, collect, tx, rest"
    ]


class GroupCounters(TypedDict):
    no_worker: Annotated[int, "packets dropped: no slot of the group takes packets"]
    hold_full: Annotated[int, "packets dropped: too many are held already"]
    worker_held: NotRequired[
        Annotated[int, "packets dropped: all workers of the group are held, none is started soon"]
    ]
    bypassed: Annotated[int, "packets that went on past it"]
    held: Annotated[int, "packets that wait for a worker"]
    pause_ns: Annotated[int, "time that moving buckets waited for their previous worker, in total"]
    moving: NotRequired[Annotated[int, "1: an io core moves buckets now"]]
    pause: Annotated[list[int], "buckets that waited less than 2^i ns, and at least half of that"]


class LaneCounters(TypedDict):
    sent: Annotated[int, "packets lent to the worker"]
    collected: Annotated[int, "packets that came back"]
    out: Annotated[int, "of those, sent out of a port"]
    on: Annotated[int, "of those, sent on to a group"]
    on_hash: NotRequired[Annotated[int, "of those, steered by `dps_on_hash`"]]
    requeued: Annotated[int, "packets taken back and steered again"]
    lane_full: Annotated[int, "packets dropped: no room"]
    bad_verdict: Annotated[int, "packets dropped: the verdict has no meaning"]
    quarantined: Annotated[int, "packets put in quarantine"]
    quarantine_full: Annotated[int, "packets dropped instead: the quarantine was full"]
    corrupt: Annotated[int, "packets given up with a corrupt slot"]
    emitted: NotRequired[Annotated[int, "packets that the plugin originated"]]
    no_blank: NotRequired[
        Annotated[int, "packets that it could not originate: there was no empty buffer"]
    ]
    copied: NotRequired[Annotated[int, "copies sent out of a second port"]]
    no_copy: NotRequired[Annotated[int, "copies not made: there was no empty buffer"]]
    ticks: NotRequired[Annotated[int, "ticks that the plugin handled, its own and its buckets'"]]
    ticks_skipped: NotRequired[Annotated[int, "ticks that were due and not handled"]]
    outstanding: Annotated[int, "packets lent now"]
    lanes_corrupt: Annotated[int, "lanes that were isolated"]
    bad_word: Annotated[int, "the last verdict without meaning, as the worker wrote it; 0: none"]
    bad_len: Annotated[int, "bytes of its packet"]
    bad_version: Annotated[int, "the version of the group's plugin that returned it"]


class Lane(LaneCounters):
    io: Annotated[int, "index of the io core"]
    slot: Annotated[int, "index of the slot"]


class SlotCounters(LaneCounters):
    pid: Annotated[int, "the process in the slot, 0: none"]
    version: Annotated[int, "its version of the group's plugin"]
    needs: Annotated[int, "what the plugin asks for beside bytes: bits"]
    changes: Annotated[bool, "whether the plugin changes bytes"]
    beats: Annotated[int, "times that it looked at its lanes"]
    bursts: Annotated[int, "bursts"]
    busy: Annotated[int, "TSC cycles in bursts"]
    perf: Annotated[int, "not 0: it is measured now"]
    ready_ns: Annotated[int, "when its plugin was initialised"]
    first_ns: Annotated[int, "when it took its first burst, 0: not yet"]
    dropped: Annotated[dict[str, int], "packets that the plugin dropped, by its own reasons"]
    counters: Annotated[dict[str, int], "the plugin's own counters"]
    # The primary of an older dpsup does not know them.
    gauges: NotRequired[Annotated[dict[str, int], "its gauges, of the process in the slot"]]
    dropped_policy: NotRequired[
        Annotated[int, "packets of `dropped` that were dropped for a reason marked as policy"]
    ]
    forgotten: NotRequired[Annotated[int, "blocks of state that a plugin's migrate refused"]]
    undeclared: NotRequired[
        Annotated[int, "packets of which the plugin changed undeclared bytes (`verify`)"]
    ]
    undeclared_first: NotRequired[Annotated[int, "of the latest one: the first such byte"]]
    undeclared_last: NotRequired[Annotated[int, "the last such byte"]]
    undeclared_len: NotRequired[Annotated[int, "its bytes"]]
    undeclared_port: NotRequired[Annotated[int, "index of its input port"]]
    undeclared_head: NotRequired[Annotated[str, "its first bytes as it came, in hex"]]


class Counters(TypedDict):
    """The answer to `counters`, read after the request came."""

    at_ns: Annotated[int, "when they were read"]
    generation: Annotated[int, "starts of the primary so far"]
    ports: list[PortCounters]
    pools: list[PoolCounters]
    io: list[Io]
    groups: list[GroupCounters]
    slots: list[SlotCounters]
