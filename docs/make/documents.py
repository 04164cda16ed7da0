# SPDX-License-Identifier: BSD-3-Clause
"""What `-o json` documents and events hold, in words.

The documents themselves are plain dictionaries, so their description stands here, once; the
reference page is generated from it, and tests/system/test_documents.py compares it with real output, key
by key, in both directions. A key that ends in `.*` or `[]` stands for all that is below it. A key that
begins with "?" is not always present.
"""

from __future__ import annotations

Keys = dict[str, str]

_HEAD: Keys = {
    "apiVersion": "`dpsup/v1`",
    "kind": "which document it is",
}
_PICTURE: Keys = {
    **_HEAD,
    "name": "the instance",
    "state": "its state: starting, running, degraded, stopping",
    "at_ns": "when the counters were read",
    "window_s": "seconds over which rates were measured; null: there were not two samples",
}
_PORT: Keys = {
    "name": "the port",
    "rx_packets": "received by io cores",
    "tx_packets": "accepted by the driver",
    "rx_missed": "lost in the NIC or driver: no descriptor",
    "tx_dropped": "dropped because the tx queue was full",
    "rx_bytes": "bytes received",
    "tx_bytes": "bytes sent",
    "rx_errors": "receive errors, as the driver counts them",
    "tx_errors": "send errors, as the driver counts them",
    "rx_nombuf": "lost by the driver: no mbuf",
    "dropped.*": "other packets dropped by io cores, by reason",
    "link_up": "whether the link is up",
    "link_mbps": "its speed in Mbit/s, 0: unknown",
    "absent": "the device is missing, and not required (`required = false`)",
}
_POOL: Keys = {
    "name": "the mempool",
    "size": "number of mbufs",
    "in_use": "mbufs in use",
    "low_water": "the fewest free mbufs seen",
    "alloc_failures": "times that the pool was empty",
}
_EXIT: Keys = {
    "pid": "the process",
    "how": "how it ended: `SIGKILL`, `exit 1`",
    "code": "its exit code, null: a signal ended it",
    "signal": "the signal's number, null: none",
    "asked": "whether dpsup asked it to end",
    "reason": "what dpsup knows about the cause",
    "at_ns": "when it ended",
}
_WORKER: Keys = {
    "id": "the worker's place: `fw/0`",
    "pid": "the process in this place, null: none",
    "core": "the CPU",
    "state": "starting, running, draining, recovering, backoff, held, stopped",
    "rx_packets": "packets lent to it",
    "tx_packets": "packets that it sent on: out of a port, or to another group",
    "dropped.*": "packets dropped, by reason: the plugin's own, and dpsup's (`lane_full`, `bad_verdict`,"
    " `quarantine`, `quarantine_full`, `corrupt`)",
    "restarts": "times that it was replaced",
    "?last_exit": "how the last process in this place ended, null: none has",
    **{f"?last_exit.{k}": v for k, v in _EXIT.items()},
    "outstanding": "packets lent to it now",
    "requeued": "packets taken back and steered anew",
    "counters.*": "the plugin's own counters",
    "health": "ok, stuck, stopped, starved",
    "retry_in_s": "seconds to the next start in `backoff`, else null",
    "held_for": "why it is held",
}
_ROLLOUT: Keys = {
    "group": "the group",
    "revision": "number of the version that is the heir: the one that takes over and is started",
    "plugin": "its plugin",
    "args[]": "its arguments, pairs of key and value",
    "phase": "idle, preparing, canary, rolling, closing, done, undoing, undone, stuck",
    "to": "revision to which it is changing, null: none",
    "to_plugin": "that revision's plugin",
    "why": "why it was undone",
    "workers.*": "revision of each worker",
}
_GROUP: Keys = {
    "name": "the group",
    "plugin": "its plugin",
    "desired": "number of workers wanted",
    "ready": "number of workers that run",
    "spares_ready": "number of spares that wait",
    "spares_held": "why spares are not started again",
    **{f"rollout.{k}": v for k, v in _ROLLOUT.items()},
    "max": "slots reserved at the start",
    "dropped.*": "packets dropped before they reached a worker, by reason: `no_worker`, `hold_full`",
    "held": "packets that wait for a worker",
    "bypassed": "packets that bypassed it",
    "move_pause.*": "time that moving buckets waited for their previous worker: `bounds` in seconds,"
    " cumulative `counts`, `count`, `sum`",
}
_IO: Keys = {
    "core": "the CPU",
    "loops": "iterations of its loop",
    "busy_loops": "iterations with packets",
    "sleeps": "times that it yielded its CPU",
    "woken": "sleeps that ended because a queue had packets: `net_tap` and `net_af_packet` ports only",
    "busy_cycles": "TSC cycles in iterations with packets",
    "held": "packets that wait for their bucket or lane",
    "xfer": "packets on their way between groups",
    "tx_waiting": "packets that wait for a tx queue",
    "requeued": "packets steered anew",
    "rings": "times that it woke a worker",
    "quarantine": "packets that wait to be written to quarantine",
    "watched": "1: a capture or a measurement is running",
    "stage_packets": "packets received and sent in the iterations that are timed",
    "stage_cycles.*": "TSC cycles of those iterations, by stage: rx, steer, collect, tx, rest",
}
_RECOVERY: Keys = {
    "deaths": "workers that died without an order to end",
    "lost": "packets neither delivered, held, nor counted as dropped",
    "duplicated": "always 0: nothing counts it at run time; `dpsup chaos` checks it",
    "quarantined": "packets put in quarantine",
    "last_failover_us": "microseconds from noticing the last death to the successor's first packet, null: none",
    "histograms.*": "times of repair, takeover and failover: `bounds` in seconds, cumulative `counts`,"
    " `count`, `sum`",
}
_ACCOUNT: Keys = {
    "received": "packets received",
    "missed": "packets lost by the drivers, for want of a descriptor or an mbuf",
    "sent": "packets sent",
    "dropped.*": "packets dropped, by reason",
    "in_flight": "packets received, neither sent nor dropped yet",
    "lost": "packets received that are nowhere; counted once nothing is in flight",
}
_AUDIT_POOL: Keys = {
    "name": "the mempool",
    "size": "number of mbufs",
    "free": "free, in the pool",
    "cached": "free, in the caches of io cores",
    "rx_rings": "in rx queues",
    "tx_rings": "in tx queues",
    "lanes": "lent to workers",
    "io": "held, or in transit, in io cores",
    "quarantine": "waiting to be written to quarantine",
    "unexplained": "found nowhere: a leak, if it stays on a settled instance",
    "moving": "mbufs that changed place during the count",
    "strays[]": "each unexplained mbuf with its last holder and first bytes",
    "places[].io": "index of the io core",
    "places[].place": "what holds them there: `cache`, `lent`, ...",
    "places[].of": "the worker, port or group that it concerns, null: the io core itself",
    "places[].mbufs": "number of mbufs",
}
_STORY: Keys = {
    "at": "when, in seconds since 1970",
    "seq": "its number",
    "at_ns": "when, by CLOCK_MONOTONIC",
}


def _each(of: str, keys: Keys) -> Keys:
    """The same keys below a list or table: a "?" stays in front."""
    return {
        f"?{of}{key[1:]}" if key.startswith("?") else f"{of}{key}": what
        for key, what in keys.items()
    }


_RATES_WORKER: Keys = {
    "group": "its group",
    "plugin": "its plugin",
    "drops": "sum of all its drops",
    "since_s": "seconds in this state",
    "fill": "share of its lanes' room that is in use",
    "drop_pps": "drops a second",
    "pps": "packets a second",
    "busy": "share of the time spent in bursts",
    "cycles_per_packet": "TSC cycles per packet, null: there were no packets",
    "batch": "packets per burst, null: there were none",
}
_RATES_PORT: Keys = {
    "feeds": "the group that its packets go to",
    "rx_pps": "packets received a second",
    "tx_pps": "packets sent a second",
    "rx_bps": "bits received a second",
    "tx_bps": "bits sent a second",
    "missed_pps": "packets missed a second",
    "drop_pps": "packets dropped a second",
    "drops_new.*": "packets dropped in the window, by reason",
}
_RATES_POOL: Keys = {"used": "share of the mbufs that is in use"}
_CORES: Keys = {
    "core": "the CPU",
    "numa": "its NUMA node",
    "roles[]": "what runs there",
    "busy": "share of the time spent with packets, null: nothing there counts it",
    "load": "share of the time that was not idle, by the kernel's account",
    "stolen": "share of the time that the hypervisor took",
}
_LANES: Keys = {
    "io": "the io core",
    "worker": "the worker",
    "size": "most packets that it can lend at a time",
    "out": "packets lent now",
    "fill": "share of `size` that is lent",
    "sent": "packets lent so far",
    "returned": "packets returned so far",
    "requeued": "packets taken back and steered anew",
    "lane_full": "packets dropped: the lane had no room",
    "corrupt": "packets dropped: the lane was found corrupt",
    "pps": "packets returned a second",
    "full_pps": "packets dropped a second for want of room",
}
_IO_RATES: Keys = {
    "id": "the io core: `io/0`",
    "core": "the CPU",
    "busy": "share of the time in iterations with packets",
    "loops_per_s": "iterations a second",
    "sleeps_per_s": "times a second that it yielded its CPU",
    "rings_per_s": "times a second that it woke a worker",
    "cycles_per_packet": "TSC cycles per packet, null: there were no packets",
    "stage_cycles_per_packet.*": "the same by stage",
    "held": "packets that wait for their bucket or lane",
    "tx_waiting": "packets that wait for a tx queue",
    "quarantine": "packets that wait to be written to quarantine",
}
_PROCESS: Keys = {
    "processes.*": "CPU time (`cpu_seconds`) and resident memory (`rss_bytes`) of each process",
}
_CHECK_PROBLEM: Keys = {
    "message": "what is wrong",
    "file": "the file",
    "line": "its number, from 1; 0: no line can be named",
    "source": "that line",
    "why": "the reason or consequence",
    "help": "what to write instead",
    "severity": "`error` or `warning`",
    "exit_code": "the exit code that it leads to",
    "code": "its code, for `dpsup explain`",
}
_CHANGE: Keys = {
    "changes[]": "each changed key: `key`, `line`, `old`, `new`, `class` (live, rolling, restart), `done`",
}

# name: (command, text, keys). The command is run by a test, on a running instance of `init --template
# forward`; `-o json` is added.
DOCUMENTS: dict[str, tuple[str, str, Keys]] = {
    "Status": (
        "dpsup status",
        "All counters since the start, and all processes. Exit code 5 if degraded.",
        {
            **_HEAD,
            "name": "the instance",
            "state": "starting, running, degraded, stopping",
            "generation": "number of starts of the primary so far",
            "at_ns": "when the counters were read",
            "supervisor.pid": "the supervisor; null: it is dead, the data plane goes on",
            "primary.pid": "the primary",
            "primary.state": "its state",
            "seed.pid": "the seed",
            "seed.state": "its state",
            "topology_file": "the file with which it was started",
            "started_ns": "when the supervisor started",
            **_each("ports[].", _PORT),
            **_each("mempools[].", _POOL),
            **_each("groups[].", _GROUP),
            **_each("groups[].workers[].", {**_WORKER, "since_ns": "when it entered this state"}),
            **_each("io[].", _IO),
            "in_flight": "packets received and neither sent nor dropped yet",
            **_each("recovery.", _RECOVERY),
        },
    ),
    "Workers": (
        "dpsup workers",
        "With measured rates.",
        {**_PICTURE, **_each("workers[].", {**_WORKER, **_RATES_WORKER})},
    ),
    "Ports": (
        "dpsup ports",
        "With measured rates.",
        {**_PICTURE, **_each("ports[].", {**_PORT, **_RATES_PORT})},
    ),
    "Cores": ("dpsup cores", "", {**_PICTURE, **_each("cores[].", _CORES)}),
    "Mempools": (
        "dpsup mempools",
        "",
        {**_PICTURE, **_each("mempools[].", {**_POOL, **_RATES_POOL})},
    ),
    "Lanes": ("dpsup lanes", "", {**_PICTURE, **_each("lanes[].", _LANES)}),
    "Picture": (
        "dpsup graph",
        "The data of all tables and pictures.",
        {
            **_PICTURE,
            "generation": "number of starts of the primary so far",
            "up_s": "seconds since the supervisor's start",
            "supervisor.pid": "the supervisor",
            "primary.pid": "the primary",
            "primary.state": "its state",
            "topology_file": "the file with which it was started",
            **_each("ports[].", {**_PORT, **_RATES_PORT}),
            **_each("io[].", _IO_RATES),
            **_each("workers[].", {**_WORKER, **_RATES_WORKER}),
            **_each("groups[].", _GROUP),
            "groups[].pps": "packets a second",
            "groups[].busy": "mean of its workers' `busy`",
            "groups[].inputs[]": "ports that feed it",
            "groups[].next[]": "where its packets go",
            **_each("lanes[].", _LANES),
            **_each("mempools[].", {**_POOL, **_RATES_POOL}),
            **_each("cores[].", _CORES),
            "chains[]": "chains of the topology",
            "in_flight": "packets received and neither sent nor dropped yet",
            **_each("recovery.", _RECOVERY),
            **_PROCESS,
            "port_info[]": "what the driver reports about each port",
            **_each("account.", _ACCOUNT),
        },
    ),
    "Stats": (
        "dpsup stats",
        "The primary's raw counters, in cycles and by slot.",
        {
            **_HEAD,
            "name": "the instance",
            "tsc_hz": "TSC cycles a second",
            "at_ns": "when they were read",
            "generation": "number of starts of the primary so far",
            "ports[]": "as in Status, `drops` by reason",
            "pools[]": "`size`, `free`, `low_water`, `starved`: times that the pool was empty",
            **_each("io[].", _IO),
            "groups[]": "`no_worker`, `hold_full`, `bypassed`, `held`, `moving`: number of moving buckets, `pause`, `pause_ns`: how long those waited",
            "slots[]": "each place: `sent` to it, `collected` from it, `out` of ports, `on` to groups,"
            " drops by reason, `bursts`, `busy` cycles, `beats` (looks at its lanes), `needs` of its"
            " plugin",
            "heap_bytes": "allocated in EAL's shared heaps",
            **_each("account.", _ACCOUNT),
            "port_info[]": "what the driver reports about each port",
            **_PROCESS,
            "lanes[]": "each pair of io core and slot that was used, as in `slots`",
        },
    ),
    "Audit": (
        "dpsup audit --detail",
        "Where every mbuf is. Exit code 1 if some stay unexplained on a settled instance.",
        {**_HEAD, "name": "the instance", **_each("pools[].", _AUDIT_POOL)},
    ),
    "Advice": (
        "dpsup advise --for 300ms",
        "What to change; [Advice](../advise.md) has each kind.",
        {
            **_PICTURE,
            "generation": "counts the primary's starts",
            "topology_file": "where the keys of changes are",
            "bottleneck.*": "the part that is closest to its limit: `kind`, `who`, `busy` (0 to 1),"
            " `times_the_load` that it could take; null: no traffic",
            "lost_pps": "packets a second that were missed, or dropped because a lane was full",
            "advice[]": "a piece of advice, the worst first: `kind`, `level` (losing, risk, faster), `about`,"
            " `title`, `seen` and its `numbers`, `why`; `changes[]`, of `kind` toml (`path`, `value`,"
            " `old`) or command (`argv`, `command`), both with `text`; `predicted`: `metric` (a path"
            " in `measured`), `unit`, `now`, `then`, `text`",
            "measured.*": "the figures that predictions refer to: mempools, ports, io, groups, cores, numa,"
            " processes; null: no running primary",
        },
    ),
    "State": (
        "dpsup state fw",
        "The state that a plugin keeps; empty for a plugin without state.",
        {
            **_HEAD,
            "name": "the instance",
            "group": "the group",
            "workers[]": "each place's block: `id`, `version`, `size`, `hex`",
            "buckets[]": "each bucket's: `bucket`, `member`, `version`, `size`, `hex`",
        },
    ),
    "Events": (
        "dpsup events",
        "A list; `-o jsonl` has one a line. [Events](events.md) has the fields of each type.",
        {"[]": "an event"},
    ),
    "Logs": (
        "dpsup logs",
        "A list; `-o jsonl` has one a line.",
        {
            **_each("[].", _STORY),
            "[].name": "the process",
            "[].line": "what it printed",
        },
    ),
    "Check": (
        "dpsup check topology.toml",
        "Exit code 78, 6 or 7 if a start would fail.",
        {
            **_HEAD,
            "file": "the file",
            "ok": "whether it can be started",
            **{f"?problems[].{k}": v for k, v in _CHECK_PROBLEM.items()},
        },
    ),
    "Plan": (
        "dpsup plan topology.toml",
        "What a start would do, everything decided.",
        {
            **_HEAD,
            "name": "the instance",
            "generation": "number of the next primary's generation",
            "topology_file": "the file, absolute",
            "runtime_dir": "the directory of sockets and state",
            "quarantine_dir": "the directory of quarantined packets",
            "file_prefix": "EAL's file prefix",
            "hugepage_dir": "the hugetlbfs mount",
            "eal_args[]": "the arguments of EAL",
            "supervisor_cores[]": "CPUs for Python and the wardens",
            "io[]": "each io core: CPU, burst, idle",
            "pools[]": "each mempool",
            "ports[]": "each port: device, queues, rss, the group that it feeds",
            "groups[]": "each group: plugin, slots, CPUs, restart policy",
            "chains[]": "each chain",
            "n_slots": "slots of all groups",
            "memory.*": "bytes of pools and slots, pages needed and free",
            "metrics_listen": "the address of the metrics, empty: none",
        },
    ),
    "Doctor": (
        "dpsup doctor topology.toml",
        "Exit code 6 if a start would fail.",
        {
            **_HEAD,
            "file": "the topology, null: none",
            "sysroot": "the tree that was read",
            "ok": "whether a start can work",
            "summary.*": "how many checks came out ok, info, warn, error, skip",
            "checks[].id": "for `dpsup explain`",
            "checks[].title": "what is looked at",
            "checks[].level": "ok, info, warn, error, skip",
            "checks[].message": "what was found",
            "checks[].read": "what was read, and where",
            "checks[].why": "why it matters",
            "checks[].fix[]": "commands that help",
            "checks[].manual": "what must be done by hand",
        },
    ),
    "Explain": (
        "dpsup explain E0203",
        "",
        {
            **_HEAD,
            "code": "the code",
            "title": "in short",
            "why": "what it means",
            "fix": "what to do",
            "wrong": "an example with the problem, or empty",
            "right": "the same, corrected",
        },
    ),
    "Version": (
        "dpsup version",
        "",
        {
            **_HEAD,
            "dpsup": "its version",
            "dpdk": "the DPDK version that it was built with",
            "plugin_abi": "version of the plugin interface: `DPS_PLUGIN_ABI`",
            "include": "the directory of `dpsup_plugin.h`",
        },
    ),
    "Scale": (
        "dpsup scale fw +1",
        "What changed, or with `--dry-run` would change.",
        {
            "group": "the group",
            "old": "workers before",
            "desired": "workers wanted",
            "ready": "workers that run",
            "?add[].worker": "a worker that is started",
            "?add[].core": "its CPU",
            "remove[]": "workers that end",
            "buckets_moved": "number of buckets moved, of 512",
            "at_zero": "what happens to packets if it is scaled to 0",
            "dry_run": "whether nothing was done",
        },
    ),
    "Rebalance": (
        "dpsup rebalance fw --dry-run --over 100ms",
        "",
        {
            "group": "the group",
            "packets": "packets counted",
            "seconds": "how long they were counted",
            "before.*": "share of each worker",
            "predicted.*": "share after the move",
            "imbalance": "the busiest worker's share against an even one",
            "imbalance_predicted": "the same after the move",
            "buckets_moved": "number of buckets moved, of 512",
            "elephants[]": "buckets with more than a worker's share",
            "dry_run": "whether nothing was done",
            "done": "whether buckets were moved",
            "why": "why none were moved",
            "measured": "shares afterwards, null: nothing was moved",
            "?measured.*": "share of each worker",
            "imbalance_measured": "the imbalance afterwards",
        },
    ),
    "Rollout": (
        "dpsup rollout status",
        "`rollout GROUP ...` and `rollout undo` print one group's entry, with `changed`.",
        _each("groups[].", _ROLLOUT),
    ),
    "Revisions": (
        "dpsup rollout history",
        "",
        {
            "group": "the group",
            "revisions[].number": "from 1",
            "revisions[].plugin": "the plugin as it was given",
            "revisions[].plugin_path": "the file",
            "revisions[].args[]": "pairs of key and value",
            "revisions[].digest": "digest of the file's bytes",
            "revisions[].at": "when the rollout was ordered",
            "revisions[].state": "current, or how it ended",
            "revisions[].why": "why it was undone",
        },
    ),
    "Reload": (
        "dpsup reload --dry-run",
        "",
        {
            **_HEAD,
            "name": "the instance",
            "file": "the file",
            **_CHANGE,
            "done": "whether the instance is as the file says",
            "restart_needed": "whether some keys need `stop` and `start`",
            "failed": "what went wrong",
        },
    ),
    "Restarted": (
        "dpsup restart fw/0",
        "",
        {"restarted[]": "the workers that were restarted, one after the other"},
    ),
    "Reset": (
        "dpsup reset-failed",
        "",
        {
            "reset[]": "workers and groups whose deaths were forgotten",
            "started.*": "state of those that were held",
        },
    ),
    "Quarantine": (
        "dpsup quarantine list",
        "`quarantine show N` prints one entry.",
        {
            **_HEAD,
            "folder": "the directory in which they are",
            "packets[]": "each: `number`, `at`, `why`, `worker`, `plugin`, `port`, `length`,"
            " `flow_hash`, `file` (the pcap), and `deaths`: signal, address, backtrace of each",
        },
    ),
}

# Fields of events whose names the source passes as a whole table.
EVENT_MORE: dict[str, tuple[str, ...]] = {
    "death": (
        "repaired", "successor", "notice", "tried", "hung", "times", "address", "backtrace",
        "blamed",
    ),
    "quarantine": ("why", "port", "length", "flow_hash"),
}  # fmt: skip

EVENT_FIELDS: Keys = {
    "address": "address of the fault",
    "alive": "processes that may hold the locks",
    "backtrace": "stack frames, the innermost first",
    "blamed": "number of deaths that the packet in hand is blamed for; at two it is quarantined",
    "buckets_moved": "number of buckets moved, of 512",
    "cycles": "cycles per packet, of the old version and the new",
    "drops": "shares of packets dropped by the plugin, of the old version and the new",
    "dry_run": "whether it was decided but not done",
    "file": "the pcap, or the topology",
    "flow_hash": "the packet's flow hash",
    "held": "locks that are held",
    "how": "how it ended: `SIGKILL`, `exit 1`",
    "hung": "whether dpsup ended it because it was stuck with a packet",
    "imbalance": "the busiest worker's share against an even one",
    "kind": "what changed its state: topology, primary, seed, worker",
    "lane_full": "shares of packets that found no room, of the old version and the new",
    "left": "locks that remain held",
    "length": "length of the packet in bytes",
    "measured": "the imbalance afterwards",
    "message": "what happened, in words",
    "name": "the worker, group, process or instance",
    "new": "the state or number afterwards",
    "notice": "how the thread's death was noticed: `lease`, `pidfd`, `doubt`",
    "number": "number in the quarantine, null: it could not be written",
    "old": "the state or number before",
    "packets": "number of packets counted",
    "phase": "phase of the rollout",
    "pid": "pid of the process",
    "port": "port at which the packet arrived",
    "predicted": "the predicted imbalance",
    "released": "locks that were released",
    "repaired": "`published`: verdicts kept, `undone`: packets whose bytes were put back, `left`:"
    " packets left for the successor, `mended`: descriptors restored, `corrupt`: the lane was given up",
    "requeued": "packets steered anew",
    "restarted": "workers that were restarted",
    "revision": "revision of the plugin",
    "seated_us": "microseconds from the old worker's leave to the new one in its seat",
    "strangers": "pids of attached processes that are not dpsup's",
    "successor": "pid of the spare that took the place, null: none",
    "times": "times of its phases: died, noticed, repaired, claimed, seated, first packet, gone",
    "tried": "spares that did not take the seat in time",
    "why": "the cause, or the state machine's event",
    "workers": "workers that are judged",
}
