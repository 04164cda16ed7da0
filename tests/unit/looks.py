# SPDX-License-Identifier: BSD-3-Clause
"""Looks at an instance that never was (client.Instance.look): two ports, two io cores, a group with
two workers and one behind it, at two moments a second apart. `edge(t)` is the look after t seconds.
"""

from __future__ import annotations

import copy
from typing import Any

from dpsup.instance import status
from dpsup.supervisor.histograms import Failovers

Doc = dict[str, Any]

HZ = 2_000_000_000
STAGES = ("rx", "steer", "collect", "tx", "rest")


def _slot(t: float, n: int, **more: Any) -> Doc:
    """1000 * n packets a second, 40 a burst, 200 cycles each."""
    packets = int(1000 * n * t)
    return {
        **status._NO_SLOT,
        "pid": 300 + n,
        "sent": packets + 96,
        "collected": packets,
        "out": packets,
        "outstanding": 96,
        "lanes_corrupt": 0,
        "bursts": packets // 40,
        "busy": packets * 200,
        "beats": int(t * 1e6),
        "ready_ns": 1,
        "first_ns": 1,
        "counters": {"seen": packets},
        **more,
    }


def _counters(t: float) -> Doc:
    def port(name: str, rx: int) -> Doc:
        return {
            "name": name,
            "rx_packets": int(rx * t),
            "rx_bytes": int(rx * t) * 64,
            "tx_packets": int(rx * t) // 2,
            "tx_bytes": int(rx * t) * 32,
            "rx_missed": 0,
            "rx_errors": 1,
            "rx_nombuf": 0,
            "unwritten_bytes": 0,
            "tx_errors": 2,
            "drops": {"tx_full": int(30 * t)},
            "link_up": True,
            "absent": False,
            "trouble": "",
            "reopened": 0,
            "nic_hash": "none",
            "link_mbps": 10000,
        }

    def io(core: int) -> Doc:
        return {
            "core": core,
            "loops": int(t * 1e6),
            "busy_loops": int(t * 5e5),
            "sleeps": int(t * 10),
            "woken": int(t * 3),
            "busy_cycles": int(t * HZ / 2),
            "held": 0,
            "xfer": 3,
            "tx_waiting": 4,
            "requeued": 5,
            "rings": int(t * 20),
            "quarantine": 0,
            "stage_packets": int(t * 2000),
            "stage_cycles": {s: int(t * 1000 * 10 * (i + 1)) for i, s in enumerate(STAGES)},
        }

    return {
        "at_ns": int((100 + t) * 1e9),
        "generation": 1,
        "ports": [port("wan", 4000), port("lan", 2000)],
        "pools": [{"name": "default", "size": 16383, "free": 8000, "low_water": 7000,
                   "starved": 1}],
        "io": [io(1), io(2)],
        "groups": [
            {
                "no_worker": 0, "hold_full": 0, "bypassed": 0, "held": 0, "moving": 0,
                "pause_ns": 3000, "pause": [0] * 10 + [2, 1] + [0] * 28,
            }
            for _ in range(2)
        ],
        "slots": [
            _slot(t, 1, lane_full=int(500 * t)),
            _slot(t, 2, dropped={"runt": int(7 * t)}, gauges={"table": -2},
                  dropped_policy=int(4 * t)),
            dict(status._NO_SLOT, bursts=0, busy=0, collected=0, beats=0, lanes_corrupt=0),
            _slot(t, 3),
        ],
    }  # fmt: skip


PLAN: Doc = {
    "name": "edge",
    "generation": 1,
    "topology_file": "/etc/dpsup/edge.toml",
    "n_slots": 4,
    "supervisor_cores": [0],
    "io": [{"index": 0, "core": 1}, {"index": 1, "core": 2}],
    "pools": [{"name": "default"}],
    "ports": [
        {"name": "wan", "pool": 0, "group": 0},
        {"name": "lan", "pool": 0, "group": 1},
    ],
    "groups": [
        {
            "name": "fw", "plugin": "./fw.so", "first_slot": 0, "max": 3, "count": 2, "ring": 1024,
            "cores": [3, 4, 5], "next": [["group", 1], ["port", 0]], "reach": [0, 1],
        },
        {
            "name": "nat", "plugin": "forward", "first_slot": 3, "max": 1, "count": 1, "ring": 1024,
            "cores": [6], "next": [["port", 1], ["group", 0]], "reach": [0, 1], "verify": True,
        },
    ],
    "chains": [{"name": "up", "path": ["wan", "fw", "nat", "lan"], "on_down": "hold"}],
}  # fmt: skip


LEARNED = {
    "age": 300.0, "entries": 7, "told": 20, "learned": 9, "refused": 3, "aged": 2, "lost": 1,
}  # fmt: skip


def _view(t: float) -> Doc:
    def worker(n: int, hidden: bool = False) -> Doc:
        return {
            "pid": None if hidden else 300 + n,
            "state": "stopped" if hidden else "running",
            "restarts": n,
            "last_exit": None,
            "health": "ok",
            "held_for": "",
            "retry_in_s": None,
            "since_ns": int(40e9),
            "hidden": hidden,
        }

    def group(desired: int, workers: list[Doc]) -> Doc:
        return {
            "desired": desired, "spares_ready": 1, "spares_held": "", "rollout": None,
            "plugin_on_disk": "", "workers": workers,
        }  # fmt: skip

    failovers = Failovers()
    failovers.first_packet(0.0002)
    return {
        "at_ns": int((100 + t) * 1e9),
        "started_ns": int(10e9),
        "pid": 100,
        "state": "running",
        "primary": {"pid": 200, "state": "running"},
        "seed": {"pid": 201, "state": "running"},
        "builder": None,
        "absent": [],
        "groups": [
            group(2, [worker(1), worker(2), worker(0, hidden=True)]),
            {**group(1, [worker(3)]), "learned": {"macs": dict(LEARNED)}},
        ],
        "recovery": {
            "deaths": 6,
            "primary_deaths": 0,
            "lost": 0,
            "last_failover_us": 200.0,
            "histograms": failovers.document(),
        },
    }


def edge(t: float = 0.0) -> Doc:
    """Running, all well but for a full lane and a port that does not take everything."""
    counters = _counters(t)
    stats = {**copy.deepcopy(counters), "heap_bytes": 123456}
    lane = {"requeued": 0, "lanes_corrupt": 0}
    return {
        "status": status.status(PLAN, counters, _view(t)),
        "counters": stats,
        "lanes": [
            {
                "io": i,
                "slot": s,
                "sent": int(600 * t) + 48,
                "collected": int(600 * t),
                "outstanding": 48,
                "lane_full": int(250 * t) if s == 0 else 0,
                **lane,
            }
            for i in range(2)
            for s in (0, 1, 3)
        ],
        "tsc_hz": HZ,
        "plan": copy.deepcopy(PLAN),
        "port_info": [
            {
                "name": p["name"], "driver": "net_ice", "mac": "02:00:00:00:00:01", "mtu": 1500,
                "rx_queues": 2, "max_rx_queues": 64, "tx_queues": 2, "max_tx_queues": 64,
                "hw_rss": 1, "note": "",
            }
            for p in PLAN["ports"]
        ],
        "processes": {"supervisor": {"cpu_seconds": 1.5, "rss_bytes": 50_000_000}},
        "cpus": {
            c: {"total": int(t * 100), "busy": int(t * 60), "steal": int(t * 5), "numa": 0}
            for c in range(7)
        },
    }  # fmt: skip


def headless(t: float = 0.0) -> Doc:
    """Its supervisor is dead, the data plane goes on."""
    look = edge(t)
    look["status"] = status.status({**PLAN, "primary_pid": 200}, _counters(t), None)
    look["processes"] = {}
    return look


def starting() -> Doc:
    """No primary yet: nothing is counted."""
    view = _view(0)
    view["state"] = "starting"
    view["primary"] = {"pid": None, "state": "starting"}
    look = edge(0)
    return {
        **look,
        "status": status.status(PLAN, None, view),
        "counters": None,
        "lanes": [],
        "port_info": [],
        "processes": {},
        "tsc_hz": 0,
    }


_COUNTED = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_missed")


def broken(t: float = 0.0) -> Doc:
    """Degraded in every way at once."""
    look = edge(t)
    doc = look["status"]
    doc["state"] = "degraded"
    fw = doc["groups"][0]
    how = {"pid": 1, "how": "SIGSEGV", "reason": "", "signal": 11, "code": None, "asked": False}
    fw["workers"][0].update(state="held", pid=None, last_exit=how, held_for="5 deaths in 60 s")
    fw["workers"][1].update(health="stopped")
    fw.update(ready=1, spares_held="plugin refused", spares_ready=0, held=12)
    doc["builder"] = {"pid": None, "state": "failing", "trouble": "refused: no space"}
    doc["groups"][1]["workers"][0].update(state="backoff", pid=None, last_exit=how, retry_in_s=4.0)
    doc["groups"][1].update(ready=0)
    doc["ports"][1]["link_up"] = False
    gone = {"absent": True, "trouble": "interface eth7 is gone", "link_up": False}
    dmz = {**look["counters"]["ports"][0], **dict.fromkeys(_COUNTED, 0), "drops": {}}
    look["counters"]["ports"].append({**dmz, "name": "dmz", **gone})
    plan = {**PLAN, "ports": [*PLAN["ports"], {**PLAN["ports"][0], "name": "dmz"}]}
    doc["ports"].append(status.ports(plan, look["counters"])[-1])
    doc["ports"][0]["rx_missed"] = look["counters"]["ports"][0]["rx_missed"] = int(1000 * t)
    doc["mempools"][0].update(low_water=0, alloc_failures=7)
    doc["recovery"]["quarantined"] = 2
    return look
