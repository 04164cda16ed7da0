# SPDX-License-Identifier: BSD-3-Clause
"""What `-o json` documents and events hold, in words.

The documents themselves are plain dictionaries, so their description stands here, once; the
reference page is made of it and tests/system/test_documents.py holds real output against it, key by
key, in both ways. A key that ends in `.*` or `[]` stands for all that is below it. A key that a document
does not always have says so: it begins with "?".
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
    "window_s": "seconds over which rates were measured; null: no two looks",
}
_PORT: Keys = {
    "name": "the port",
    "rx_packets": "received by io cores",
    "tx_packets": "taken by the driver",
    "rx_missed": "lost in the NIC or driver: no descriptor",
    "tx_dropped": "dropped because the tx queue was full",
    "rx_bytes": "bytes received",
    "tx_bytes": "bytes sent",
    "rx_errors": "errors, as the driver counts them",
    "tx_errors": "errors, as the driver counts them",
    "rx_nombuf": "lost by the driver: no mbuf",
    "dropped.*": "other packets dropped by io cores, by reason",
    "link_up": "whether the link is up",
    "link_mbps": "its speed, 0: unknown",
    "absent": "it is not there, and need not be (`required = false`)",
}
_POOL: Keys = {
    "name": "the mempool",
    "size": "mbufs that there are",
    "in_use": "mbufs in use",
    "low_water": "the fewest free mbufs seen",
    "alloc_failures": "times that it was found empty",
}
_EXIT: Keys = {
    "pid": "who it was",
    "how": "in words: `SIGKILL`, `exit 1`",
    "code": "its exit code, null: a signal ended it",
    "signal": "the signal's number, null: none",
    "asked": "whether dpsup asked it to end",
    "reason": "what dpsup knows of the cause",
    "at_ns": "when",
}
_WORKER: Keys = {
    "id": "the worker's place: `fw/0`",
    "pid": "who sits there, null: nobody",
    "core": "the CPU",
    "state": "starting, running, draining, recovering, backoff, held, stopped",
    "rx_packets": "lent to it",
    "tx_packets": "that it sent on: out of a port, or to another group",
    "dropped.*": "dropped, by reason: the plugin's own, and dpsup's (`lane_full`, `bad_verdict`,"
    " `quarantine`, `quarantine_full`, `corrupt`)",
    "restarts": "times that it was replaced",
    "?last_exit": "how the last process in this place ended, null: none did",
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
    "revision": "number of the version that is the heir: who takes over and is started",
    "plugin": "its plugin",
    "args[]": "its arguments, pairs of key and value",
    "phase": "idle, preparing, canary, rolling, closing, done, undoing, undone, stuck",
    "to": "revision that it is changing to, null: none",
    "to_plugin": "that revision's plugin",
    "why": "why it was undone",
    "workers.*": "revision of each worker",
}
_GROUP: Keys = {
    "name": "the group",
    "plugin": "its plugin",
    "desired": "workers that there should be",
    "ready": "workers that run",
    "spares_ready": "spares that wait",
    "spares_held": "why spares are not started again",
    **{f"rollout.{k}": v for k, v in _ROLLOUT.items()},
    "max": "slots reserved at the start",
    "dropped.*": "dropped before it, by reason: `no_worker`, `hold_full`",
    "held": "packets that wait for a worker",
    "bypassed": "packets that went on past it",
    "move_pause.*": "how long buckets on the move waited for the slots that they had: `bounds` in"
    " seconds, cumulative `counts`, `count`, `sum`",
}
_IO: Keys = {
    "core": "the CPU",
    "loops": "turns",
    "busy_loops": "turns with packets",
    "sleeps": "times that it gave its CPU back",
    "woken": "sleeps that a queue with packets ended: `net_tap` and `net_af_packet` ports only",
    "busy_cycles": "TSC cycles in turns with packets",
    "held": "packets that wait for their bucket or lane",
    "xfer": "packets on the way between groups",
    "tx_waiting": "packets that wait for a tx queue",
    "requeued": "packets steered anew",
    "rings": "times that it woke a worker",
    "quarantine": "packets that wait to be written to quarantine",
    "watched": "1: a capture or a measurement is on",
    "stage_packets": "packets received and sent in the turns that are timed",
    "stage_cycles.*": "TSC cycles of those turns by stage: rx, steer, collect, tx, rest",
}
_RECOVERY: Keys = {
    "deaths": "workers that died unasked",
    "lost": "packets neither delivered, held, nor counted as dropped",
    "duplicated": "packets delivered twice",
    "quarantined": "packets put in quarantine",
    "last_failover_us": "from noticing the last death to the successor's first packet, null: none",
    "histograms.*": "repair, takeover and failover: `bounds` in seconds, cumulative `counts`,"
    " `count`, `sum`",
}
_ACCOUNT: Keys = {
    "received": "packets received",
    "missed": "lost by the drivers, for want of a descriptor or an mbuf",
    "sent": "packets sent",
    "dropped.*": "dropped, by reason",
    "in_flight": "received, neither sent nor dropped yet",
    "lost": "received and nowhere; told once nothing is in flight",
}
_AUDIT_POOL: Keys = {
    "name": "the mempool",
    "size": "mbufs that there are",
    "free": "in the pool",
    "cached": "in the caches of io cores",
    "rx_rings": "in rx queues",
    "tx_rings": "in tx queues",
    "lanes": "lent to workers",
    "io": "held, or on their way, in io cores",
    "quarantine": "waiting to be written down",
    "unexplained": "nowhere: a leak, if it stays on a settled instance",
    "moving": "that changed place while it was counted",
    "strays[]": "each unexplained mbuf with its last holder and first bytes",
    "places[].io": "index of the io core",
    "places[].place": "what holds them there: `cache`, `lent`, ...",
    "places[].of": "which worker, port or group, null: the io core itself",
    "places[].mbufs": "how many",
}
_STORY: Keys = {"at": "when", "seq": "its number", "at_ns": "when"}


def _each(of: str, keys: Keys) -> Keys:
    """The same keys below a list or table: a "?" stays in front."""
    return {
        f"?{of}{key[1:]}" if key.startswith("?") else f"{of}{key}": what
        for key, what in keys.items()
    }


_RATES_WORKER: Keys = {
    "group": "its group",
    "plugin": "its plugin",
    "drops": "all its drops",
    "since_s": "seconds in this state",
    "fill": "share of its lanes' room that is in use",
    "drop_pps": "drops a second",
    "pps": "packets a second",
    "busy": "share of the time spent in bursts",
    "cycles_per_packet": "TSC cycles for a packet, null: none",
    "batch": "packets in a burst, null: none",
}
_RATES_PORT: Keys = {
    "feeds": "the group that its packets go to",
    "rx_pps": "received a second",
    "tx_pps": "sent a second",
    "rx_bps": "bits received a second",
    "tx_bps": "bits sent a second",
    "missed_pps": "missed a second",
    "drop_pps": "dropped a second",
    "drops_new.*": "dropped in the window, by reason",
}
_RATES_POOL: Keys = {"used": "share in use"}
_CORES: Keys = {
    "core": "the CPU",
    "numa": "its NUMA node",
    "roles[]": "who runs there",
    "busy": "share spent with packets, null: nobody there counts",
    "load": "share that was not idle, by the kernel's account",
    "stolen": "share that the hypervisor took",
}
_LANES: Keys = {
    "io": "the io core",
    "worker": "the worker",
    "size": "most packets that it lends at a time",
    "out": "lent now",
    "fill": "the share that this is",
    "sent": "lent so far",
    "returned": "handed back so far",
    "requeued": "taken back and steered anew",
    "lane_full": "dropped: no room",
    "corrupt": "dropped: the lane was found corrupt",
    "pps": "returned a second",
    "full_pps": "dropped for want of room a second",
}
_IO_RATES: Keys = {
    "id": "the io core: `io/0`",
    "core": "the CPU",
    "busy": "share of the time in turns with packets",
    "loops_per_s": "turns a second",
    "sleeps_per_s": "times a second that it gave its CPU back",
    "rings_per_s": "times a second that it woke a worker",
    "cycles_per_packet": "TSC cycles for a packet, null: none",
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
    "line": "from 1, 0: none can be named",
    "source": "that line",
    "why": "what follows from it",
    "help": "what to write instead",
    "severity": "`error` or `warning`",
    "exit_code": "that it would give",
    "code": "for `dpsup explain`",
}
_CHANGE: Keys = {
    "changes[]": "each changed key: `key`, `line`, `old`, `new`, `class` (live, rolling, restart), `done`",
}

# name: (command, text, keys). The command is run by a test, on a running instance of `init --template
# forward`; `-o json` is added.
DOCUMENTS: dict[str, tuple[str, str, Keys]] = {
    "Status": (
        "dpsup status",
        "Everything that is counted since the start, and who runs. Exit code 5 if degraded.",
        {
            **_HEAD,
            "name": "the instance",
            "state": "starting, running, degraded, stopping",
            "generation": "starts of the primary so far",
            "at_ns": "when the counters were read",
            "supervisor.pid": "null: it is dead, the data plane goes on",
            "primary.pid": "the primary",
            "primary.state": "its state",
            "seed.pid": "the seed",
            "seed.state": "its state",
            "topology_file": "the file that it was started with",
            "started_ns": "when the supervisor started",
            **_each("ports[].", _PORT),
            **_each("mempools[].", _POOL),
            **_each("groups[].", _GROUP),
            **_each(
                "groups[].workers[].", {**_WORKER, "since_ns": "since when it is in this state"}
            ),
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
        "All that tables and pictures are made of.",
        {
            **_PICTURE,
            "generation": "starts of the primary so far",
            "up_s": "seconds since the supervisor's start",
            "supervisor.pid": "the supervisor",
            "primary.pid": "the primary",
            "primary.state": "its state",
            "topology_file": "the file that it was started with",
            **_each("ports[].", {**_PORT, **_RATES_PORT}),
            **_each("io[].", _IO_RATES),
            **_each("workers[].", {**_WORKER, **_RATES_WORKER}),
            **_each("groups[].", _GROUP),
            "groups[].pps": "packets a second",
            "groups[].busy": "mean of its workers'",
            "groups[].inputs[]": "ports that feed it",
            "groups[].next[]": "where its packets go",
            **_each("lanes[].", _LANES),
            **_each("mempools[].", {**_POOL, **_RATES_POOL}),
            **_each("cores[].", _CORES),
            "chains[]": "chains of the topology",
            "in_flight": "packets received and neither sent nor dropped yet",
            **_each("recovery.", _RECOVERY),
            **_PROCESS,
            "port_info[]": "what the driver says of each port",
            **_each("account.", _ACCOUNT),
        },
    ),
    "Stats": (
        "dpsup stats",
        "Counters as the primary has them, in cycles and by slot.",
        {
            **_HEAD,
            "name": "the instance",
            "tsc_hz": "TSC cycles a second",
            "at_ns": "when they were read",
            "generation": "starts of the primary so far",
            "ports[]": "as in Status, `drops` by reason",
            "pools[]": "`size`, `free`, `low_water`, `starved`: times that it was found empty",
            **_each("io[].", _IO),
            "groups[]": "`no_worker`, `hold_full`, `bypassed`, `held`, and `moving`: buckets on the move, `pause`, `pause_ns`: how long those waited",
            "slots[]": "each place: `sent` to it, `collected` from it, `out` of ports, `on` to groups,"
            " drops by reason, `bursts`, `busy` cycles, `beats` (looks at its lanes), `needs` of its"
            " plugin",
            "heap_bytes": "allocated in EAL's shared heaps",
            **_each("account.", _ACCOUNT),
            "port_info[]": "what the driver says of each port",
            **_PROCESS,
            "lanes[]": "each pair of io core and place that was used, as in `slots`",
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
            "bottleneck.*": "who has least time left: `kind`, `who`, `busy` (0 to 1),"
            " `times_the_load` that it could take; null: no traffic",
            "lost_pps": "packets a second that were missed or found a lane full",
            "advice[]": "a piece, the worst first: `kind`, `level` (losing, risk, faster), `about`,"
            " `title`, `seen` and its `numbers`, `why`; `changes[]`, of `kind` toml (`path`, `value`,"
            " `old`) or command (`argv`, `command`), both with `text`; `predicted`: `metric` (a path"
            " in `measured`), `unit`, `now`, `then`, `text`",
            "measured.*": "what predictions are about: mempools, ports, io, groups, cores, numa,"
            " processes; null: no running primary",
        },
    ),
    "State": (
        "dpsup state fw",
        "What a plugin keeps; empty for one that keeps nothing.",
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
            "generation": "of the next primary",
            "topology_file": "the file, absolute",
            "runtime_dir": "the folder of sockets and state",
            "quarantine_dir": "the folder of quarantined packets",
            "file_prefix": "EAL's",
            "hugepage_dir": "the hugetlbfs mount",
            "eal_args[]": "what EAL gets",
            "supervisor_cores[]": "CPUs for Python and the wardens",
            "io[]": "each io core: CPU, burst, idle",
            "pools[]": "each mempool",
            "ports[]": "each port: device, queues, rss, the group that it feeds",
            "groups[]": "each group: plugin, slots, CPUs, restart policy",
            "chains[]": "each chain",
            "n_slots": "slots of all groups",
            "memory.*": "bytes of pools and slots, pages needed and free",
            "metrics_listen": "where metrics are served, empty: nowhere",
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
            "checks[].read": "where it was read",
            "checks[].why": "why it matters",
            "checks[].fix[]": "commands that help",
            "checks[].manual": "what no command does",
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
            "wrong": "an example that has it, or empty",
            "right": "the same, put right",
        },
    ),
    "Version": (
        "dpsup version",
        "",
        {
            **_HEAD,
            "dpsup": "its version",
            "dpdk": "DPDK's, of the build",
            "plugin_abi": "what plugins are built against: `DPS_PLUGIN_ABI`",
            "include": "the folder of `dpsup_plugin.h`",
        },
    ),
    "Scale": (
        "dpsup scale fw +1",
        "What changed, or with `--dry-run` would.",
        {
            "group": "the group",
            "old": "workers before",
            "desired": "workers wanted",
            "ready": "workers that run",
            "?add[].worker": "who comes",
            "?add[].core": "on which CPU",
            "remove[]": "who goes",
            "buckets_moved": "of 512",
            "at_zero": "what becomes of packets, where it is scaled to 0",
            "dry_run": "nothing was done",
        },
    ),
    "Rebalance": (
        "dpsup rebalance fw --dry-run --over 100ms",
        "",
        {
            "group": "the group",
            "packets": "counted",
            "seconds": "for so long",
            "before.*": "share of each worker",
            "predicted.*": "share after the move",
            "imbalance": "the busiest worker's share against an even one",
            "imbalance_predicted": "the same after the move",
            "buckets_moved": "of 512",
            "elephants[]": "buckets with more than a worker's share",
            "dry_run": "nothing was done",
            "done": "buckets were moved",
            "why": "why not",
            "measured": "shares afterwards, null: nothing was moved",
            "?measured.*": "share of each worker",
            "imbalance_measured": "the same of the imbalance",
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
            "revisions[].plugin": "as it was asked for",
            "revisions[].plugin_path": "the file",
            "revisions[].args[]": "pairs of key and value",
            "revisions[].digest": "of the file's bytes",
            "revisions[].at": "when it was asked for",
            "revisions[].state": "current, or what became of it",
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
            "done": "the instance is as the file says",
            "restart_needed": "some keys need `stop` and `start`",
            "failed": "what went wrong",
        },
    ),
    "Restarted": ("dpsup restart fw/0", "", {"restarted[]": "workers, one after the other"}),
    "Reset": (
        "dpsup reset-failed",
        "",
        {"reset[]": "whose past was forgotten", "started.*": "state of those that were held"},
    ),
    "Quarantine": (
        "dpsup quarantine list",
        "`quarantine show N` prints one entry.",
        {
            **_HEAD,
            "folder": "where they are",
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
    "address": "of the fault",
    "alive": "processes that may hold the locks",
    "backtrace": "frames, the innermost first",
    "blamed": "deaths that the packet in hand is to blame for; at two it is quarantined",
    "buckets_moved": "of 512",
    "cycles": "per packet, of the old version and the new",
    "drops": "shares dropped by the plugin, of the old version and the new",
    "dry_run": "decided, and not done",
    "file": "the pcap, or the topology",
    "flow_hash": "of the packet",
    "held": "locks that are held",
    "how": "how it ended: `SIGKILL`, `exit 1`",
    "hung": "ended because it was stuck with a packet",
    "imbalance": "the busiest worker's share against an even one",
    "kind": "of what: topology, primary, seed, worker",
    "lane_full": "shares that found no room, of the old version and the new",
    "left": "locks that stay held",
    "length": "of the packet, bytes",
    "measured": "the imbalance afterwards",
    "message": "in words",
    "name": "the worker, group, process or instance",
    "new": "state or number after",
    "notice": "what said that the thread was gone: `lease`, `pidfd`, `doubt`",
    "number": "in the quarantine, null: it could not be written",
    "old": "state or number before",
    "packets": "counted",
    "phase": "of the rollout",
    "pid": "of the process",
    "port": "that the packet came in by",
    "predicted": "the imbalance that was foreseen",
    "released": "locks that were given back",
    "repaired": "`published`: verdicts kept, `undone`: packets whose bytes were put back, `left`:"
    " packets left for the successor, `mended`: descriptors put back, `corrupt`: it was given up",
    "requeued": "packets steered anew",
    "restarted": "workers that were",
    "revision": "of the plugin",
    "seated_us": "from the old worker's leave to the new one in its seat",
    "strangers": "pids that attached and are not dpsup's",
    "successor": "pid of the spare that took the place, null: none did",
    "times": "of its phases: died, noticed, repaired, claimed, seated, first packet, gone",
    "tried": "spares that did not take the seat in time",
    "why": "the cause, or the state machine's event",
    "workers": "that are judged",
}
