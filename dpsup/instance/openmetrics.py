# SPDX-License-Identifier: BSD-3-Clause
"""An instance's counters as OpenMetrics, over HTTP. The one module that imports prometheus_client.

The supervisor starts `python -m dpsup.instance.openmetrics RUNTIME_DIR NAME HOST:PORT --notify-fd
FD`, which outlives it: while the data plane goes on alone, metrics say so. It ends with the
instance, or when another supervisor has taken over (which starts its own).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from dpsup.errors import DpsupError
from dpsup.instance import runtime_dir
from dpsup.instance.client import Instance
from dpsup.instance.runtime_dir import Runtime

Doc = dict[str, Any]

FRESH_S = 1.0  # as old as an answer may be: the bus is asked no more often
CLIENTS = 8  # answered at a time; more are turned away
CLIENT_S = 5.0  # for a peer to say what it wants
LOOK_S = 0.5  # between looks at whether the instance is still there

STATES = ("starting", "running", "degraded", "stopping", "stopped")
WORKER_STATES = ("starting", "running", "draining", "recovering", "backoff", "held", "stopped")
HEALTH = ("ok", "stuck", "stopped", "starved")


# --- a look as metrics ----------------------------------------------------------------------------


class _Families:
    """Families of metrics by name, in the order in which they first come up."""

    def __init__(self) -> None:
        self.by_name: dict[str, Metric] = {}

    def _get(self, kind: Callable[..., Metric], name: str, text: str, labels: Doc) -> Any:
        if name not in self.by_name:
            self.by_name[name] = kind(f"dpsup_{name}", text, labels=list(labels))
        return self.by_name[name]

    def counter(self, name: str, text: str, value: float, **labels: str) -> None:
        family = self._get(CounterMetricFamily, name, text, labels)
        family.add_metric(list(labels.values()), value)

    def gauge(self, name: str, text: str, value: float, **labels: str) -> None:
        self._get(GaugeMetricFamily, name, text, labels).add_metric(list(labels.values()), value)

    def histogram(self, name: str, text: str, doc: Doc, **labels: str) -> None:
        family = self._get(HistogramMetricFamily, name, text, labels)
        buckets = [(repr(b), n) for b, n in zip(doc["bounds"], doc["counts"], strict=True)]
        family.add_metric(list(labels.values()), [*buckets, ("+Inf", doc["count"])], doc["sum"])


def families(look: Doc | None) -> Iterable[Metric]:
    """`look` is client.Instance.look's, None where nobody answered."""
    made = _Families()
    made.gauge("up", "1 where the instance answers.", float(look is not None))
    if look is not None:
        _instance(made, look)
        _ports(made, look["status"])
        _pools(made, look["status"])
        _groups(made, look["status"])
        hz = look["tsc_hz"]
        if look["counters"] is not None and hz:
            _io(made, look["counters"], hz)
            _slots(made, look, hz)
            _lanes(made, look)
        for name, use in look["processes"].items():
            made.counter("process_cpu_seconds", "CPU time used.", use["cpu_seconds"], process=name)
            made.gauge(
                "process_resident_memory_bytes", "Resident memory.", use["rss_bytes"], process=name
            )
    return made.by_name.values()


def _instance(made: _Families, look: Doc) -> None:
    status = look["status"]
    for state in STATES:
        value = float(status["state"] == state)
        made.gauge("state", "1 for the state that the instance is in.", value, state=state)
    alive = float(status["supervisor"]["pid"] is not None)
    made.gauge("supervisor_up", "1 where there is a supervisor.", alive)
    alive = float(status["primary"]["state"] == "running")
    made.gauge("primary_up", "1 where the primary runs.", alive)
    made.gauge("generation", "Starts of the primary so far.", status["generation"])
    if status["started_ns"]:
        age = (status["at_ns"] - status["started_ns"]) / 1e9
        made.gauge("supervisor_uptime_seconds", "Since the supervisor's start.", age)
    made.gauge("packets_in_flight", "Received, neither sent nor dropped.", status["in_flight"])
    recovery = status["recovery"]
    made.counter("worker_deaths", "Workers that died unasked.", recovery["deaths"])
    made.counter("lost_packets", "Neither delivered nor counted as dropped.", recovery["lost"])
    made.counter("duplicated_packets", "Delivered twice.", recovery["duplicated"])
    made.counter("quarantined_packets", "Put in quarantine.", recovery["quarantined"])
    said = {
        "repair": "From noticing a worker's death to its lanes' repair.",
        "takeover": "From noticing a worker's death to the spare in its seat.",
        "failover": "From noticing a worker's death to its successor's first packet.",
    }
    for kind, doc in recovery["histograms"].items():
        made.histogram(f"{kind}_seconds", said[kind], doc)
    heap = (look["counters"] or {}).get("heap_bytes")
    if heap is not None:
        made.gauge("eal_heap_bytes", "Allocated in EAL's shared heaps.", heap)


def _ports(made: _Families, status: Doc) -> None:
    for p in status["ports"]:
        port = {"port": p["name"]}
        made.counter("port_receive_packets", "Received by io cores.", p["rx_packets"], **port)
        made.counter("port_receive_bytes", "Received by io cores.", p["rx_bytes"], **port)
        made.counter("port_transmit_packets", "Taken by the driver.", p["tx_packets"], **port)
        made.counter("port_transmit_bytes", "Taken by the driver.", p["tx_bytes"], **port)
        made.counter(
            "port_receive_missed_packets", "Lost in the NIC: no descriptor.", p["rx_missed"], **port
        )
        made.counter(
            "port_receive_no_mbuf_packets", "Lost by the driver: no mbuf.", p["rx_nombuf"], **port
        )
        made.counter("port_receive_errors", "By the driver.", p["rx_errors"], **port)
        made.counter("port_transmit_errors", "By the driver.", p["tx_errors"], **port)
        for reason, n in {"tx_full": p["tx_dropped"], **p["dropped"]}.items():
            made.counter("port_dropped_packets", "Dropped by io cores.", n, **port, reason=reason)
        made.gauge("port_link_up", "1 where the link is up.", float(p["link_up"]), **port)
        speed = p["link_mbps"] * 1e6 / 8
        made.gauge("port_speed_bytes", "A second, 0: unknown.", speed, **port)


def _pools(made: _Families, status: Doc) -> None:
    for p in status["mempools"]:
        pool = {"mempool": p["name"]}
        made.gauge("mempool_mbufs", "Mbufs that there are.", p["size"], **pool)
        made.gauge("mempool_mbufs_in_use", "Mbufs in use.", p["in_use"], **pool)
        made.gauge("mempool_mbufs_free_least", "Fewest free mbufs seen.", p["low_water"], **pool)
        made.counter(
            "mempool_allocation_failures", "Times that it was empty.", p["alloc_failures"], **pool
        )


def _groups(made: _Families, status: Doc) -> None:
    for g in status["groups"]:
        group = {"group": g["name"]}
        made.gauge("group_workers_desired", "Workers that there should be.", g["desired"], **group)
        made.gauge("group_workers_ready", "Workers that run.", g["ready"], **group)
        made.gauge("group_workers_limit", "Slots reserved at the start.", g["max"], **group)
        made.gauge("group_spares_ready", "Spares that wait.", g["spares_ready"], **group)
        made.gauge("group_held_packets", "Waiting for a worker.", g["held"], **group)
        made.counter("group_bypassed_packets", "Went on past it.", g["bypassed"], **group)
        waited = "That buckets on the move waited for the slots that they had."
        made.histogram("group_move_pause_seconds", waited, g["move_pause"], **group)
        for reason in ("no_worker", "hold_full"):
            n = g["dropped"].get(reason, 0)
            made.counter("group_dropped_packets", "Dropped before it.", n, **group, reason=reason)
        for w in g["workers"]:
            _worker(made, g["name"], w)


def _worker(made: _Families, group: str, w: Doc) -> None:
    who = {"group": group, "worker": w["id"]}
    for state in WORKER_STATES:
        value = float(w["state"] == state)
        made.gauge("worker_state", "1 for the state that it is in.", value, **who, state=state)
    for health in HEALTH:
        value = float(w.get("health", "ok") == health)
        made.gauge("worker_health", "1 for how it is.", value, **who, health=health)
    made.counter("worker_restarts", "Times that it was replaced.", w["restarts"], **who)
    made.counter("worker_receive_packets", "Lent to it.", w["rx_packets"], **who)
    made.counter("worker_transmit_packets", "It sent on.", w["tx_packets"], **who)
    made.counter("worker_requeued_packets", "Taken back, steered anew.", w["requeued"], **who)
    made.gauge("worker_packets_outstanding", "Lent to it now.", w["outstanding"], **who)
    for reason, n in {"lane_full": 0, **w["dropped"]}.items():
        made.counter("worker_dropped_packets", "Dropped, by reason.", n, **who, reason=reason)
    for name, n in w["counters"].items():
        made.counter("plugin_count", "A plugin's own counter.", n, **who, counter=name)


def _io(made: _Families, counters: Doc, hz: float) -> None:
    for i, io in enumerate(counters["io"]):
        core = {"io": f"io/{i}", "core": str(io["core"])}
        made.counter("io_busy_seconds", "In turns with packets.", io["busy_cycles"] / hz, **core)
        made.counter("io_loops", "Turns.", io["loops"], **core)
        made.counter("io_busy_loops", "Turns with packets.", io["busy_loops"], **core)
        made.counter("io_sleeps", "Times that it gave its CPU back.", io["sleeps"], **core)
        made.counter("io_woken", "Sleeps that a queue with packets ended.", io["woken"], **core)
        made.counter("io_wakeups", "Times that it woke a worker.", io["rings"], **core)
        made.counter("io_requeued_packets", "Steered anew.", io["requeued"], **core)
        waiting = (("held", "held"), ("transfer", "xfer"), ("transmit", "tx_waiting"))
        for reason, key in (*waiting, ("quarantine", "quarantine")):
            made.gauge("io_waiting_packets", "Kept by it now.", io[key], **core, reason=reason)
        for stage, cycles in io["stage_cycles"].items():
            made.counter(
                "io_stage_seconds", "In the turns that are timed.", cycles / hz, **core, stage=stage
            )
        made.counter(
            "io_stage_packets", "In the turns that are timed.", io["stage_packets"] / 2, **core
        )


def _slots(made: _Families, look: Doc, hz: float) -> None:
    for group in look["plan"].get("groups", []):
        for m in range(group["max"]):
            slot = look["counters"]["slots"][group["first_slot"] + m]
            if slot["pid"] or slot["sent"]:
                who = {"group": group["name"], "worker": f"{group['name']}/{m}"}
                made.counter("worker_busy_seconds", "In bursts.", slot["busy"] / hz, **who)
                made.counter("worker_bursts", "Bursts.", slot["bursts"], **who)
                made.counter("worker_returned_packets", "It handed back.", slot["collected"], **who)
                made.counter("worker_loops", "Looks at its lanes.", slot["beats"], **who)


def _lanes(made: _Families, look: Doc) -> None:
    names, rings = {}, {}
    for group in look["plan"].get("groups", []):
        for m in range(group["max"]):
            names[group["first_slot"] + m] = f"{group['name']}/{m}"
            rings[group["first_slot"] + m] = group["ring"]
    for one in look["lanes"]:
        lane = {"io": f"io/{one['io']}", "worker": names.get(one["slot"], str(one["slot"]))}
        made.gauge("lane_packets", "Lent now.", one["outstanding"], **lane)
        made.gauge("lane_words", "Of its ring.", rings.get(one["slot"], 0), **lane)
        made.counter("lane_lent_packets", "Lent.", one["sent"], **lane)
        made.counter("lane_returned_packets", "Returned.", one["collected"], **lane)
        made.counter("lane_full_packets", "Dropped: no room.", one["lane_full"], **lane)
        made.counter("lane_isolations", "Found corrupt.", one["lanes_corrupt"], **lane)


# --- the process ----------------------------------------------------------------------------------


class Source(Collector):
    """Looks at an instance, at most once in FRESH_S, whoever asks."""

    def __init__(self, look: Callable[[], Doc | None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._last: Doc | None = None
        self._took = 0.0

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            begun = time.monotonic()
            if begun - self._at >= FRESH_S:
                self._last = self._look()
                self._at = time.monotonic()
                self._took = self._at - begun
            look, took = self._last, self._took
        yield from families(look)
        yield GaugeMetricFamily(
            "dpsup_look_duration_seconds", "Time spent querying the instance.", took
        )


def looker(where: Runtime) -> Callable[[], Doc | None]:
    def look() -> Doc | None:
        try:
            with Instance(where) as instance:
                return instance.look()
        except DpsupError:
            return None

    return look


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = registry
        self._room = threading.BoundedSemaphore(CLIENTS)
        super().__init__((host, int(port)), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_S
    server_version = "dpsup"

    def do_GET(self) -> None:
        if self.path.split("?")[0] not in ("/metrics", "/"):
            self.send_error(404, "metrics are at /metrics")
            return
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        body = encode(cast(_Server, self.server).registry)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no news."""


def _is_over(where: Runtime, first: int | None) -> bool:
    """Has the instance ended, or another supervisor taken over?"""
    if os.getppid() == first:
        return False
    return not runtime_dir.is_headless(where)


def main(argv: list[str]) -> int:
    path, name, listen, _, notify_fd = argv[1:]
    where, parent = Runtime(path, name), os.getppid()
    os.nice(10)  # a worker may have to share the supervisor's core: it comes first
    registry = CollectorRegistry()
    registry.register(Source(looker(where)))
    try:
        server = _Server(listen, registry)
    except OSError as e:
        os.write(int(notify_fd), f"{listen}: {e.strerror}\n".encode())
        return 1
    os.write(int(notify_fd), b"READY\n")
    os.close(int(notify_fd))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        while not _is_over(where, parent):
            time.sleep(LOOK_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
