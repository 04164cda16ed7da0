# SPDX-License-Identifier: BSD-3-Clause
"""An instance's counters as OpenMetrics, over HTTP. The one module that imports prometheus_client.

The supervisor starts `python -m dpsup.instance.openmetrics RUNTIME_DIR NAME HOST:PORT --notify-fd
FD`, which outlives the supervisor: while the data plane runs alone, the metrics show it. The
process ends with the instance, or when another supervisor, which starts its own, takes over.

Over 600 lines: one list of all metrics, in the order in which they are shown.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from dpsup.errors import DpsupError
from dpsup.host import process, rights
from dpsup.instance import runtime_dir
from dpsup.instance.client import Instance
from dpsup.instance.runtime_dir import Runtime
from dpsup.plan import rights as of

if TYPE_CHECKING:
    from dpsup.documents.plan import Plan
    from dpsup.documents.rates import Look, Reading
    from dpsup.documents.status import Histogram, MovePause, Port, Status, StatusGroup, StatusWorker


FRESH_S = 1.0  # largest age of an answer: the bus is asked no more often
CLIENTS = 8  # answered at a time; further ones are refused
CLIENT_S = 5.0  # for a peer to send its request
LOOK_S = 0.5  # between checks that the instance still exists

STATES = ("starting", "running", "degraded", "stopping", "stopped")
WORKER_STATES = ("starting", "running", "draining", "recovering", "backoff", "held", "stopped")
HEALTH = ("ok", "stuck", "stopped", "starved")
FRAGMENTS = {
    "fragments": "fragments that were steered by their addresses alone",
    "fragments_tracked": "fragments that were steered as the flow of their datagram",
    "fragments_forgotten": "datagrams whose first fragment was forgotten within 2 s",
}


# --- a look as metrics ----------------------------------------------------------------------------


class _Families:
    """Families of metrics by name, in the order of their first use."""

    def __init__(self) -> None:
        self.by_name: dict[str, Metric] = {}

    def _get(
        self, kind: Callable[..., Metric], name: str, text: str, labels: dict[str, str]
    ) -> Any:
        if name not in self.by_name:
            self.by_name[name] = kind(f"dpsup_{name}", text, labels=list(labels))
        return self.by_name[name]

    def counter(self, name: str, text: str, value: float, /, **labels: str) -> None:
        family = self._get(CounterMetricFamily, name, text, labels)
        family.add_metric(list(labels.values()), value)

    def gauge(self, name: str, text: str, value: float, /, **labels: str) -> None:
        self._get(GaugeMetricFamily, name, text, labels).add_metric(list(labels.values()), value)

    def histogram(self, name: str, text: str, doc: Histogram | MovePause, **labels: str) -> None:
        family = self._get(HistogramMetricFamily, name, text, labels)
        buckets = [(repr(b), n) for b, n in zip(doc["bounds"], doc["counts"], strict=True)]
        family.add_metric(list(labels.values()), [*buckets, ("+Inf", doc["count"])], doc["sum"])


def families(look: Look | None) -> Iterable[Metric]:
    """`look` is that of client.Instance.look, None if the instance did not answer."""
    made = _Families()
    made.gauge("up", "1 if the instance answers.", float(look is not None))
    if look is not None:
        _instance(made, look)
        _ports(made, look["status"])
        _pools(made, look["status"])
        _groups(made, look["status"])
        hz = look["tsc_hz"]
        if look["counters"] is not None and hz:
            _io(made, look["counters"], hz)
            _slots(made, look["plan"], look["counters"], hz)
            _lanes(made, look)
        for name, use in look["processes"].items():
            made.counter(
                "process_cpu_seconds",
                "CPU time of the process in seconds.",
                use["cpu_seconds"],
                process=name,
            )
            made.gauge(
                "process_resident_memory_bytes",
                "Resident memory of the process in bytes.",
                use["rss_bytes"],
                process=name,
            )
    return made.by_name.values()


def _instance(made: _Families, look: Look) -> None:
    status = look["status"]
    for state in STATES:
        value = float(status["state"] == state)
        made.gauge("state", "1 for the current state of the instance.", value, state=state)
    made.gauge(
        "instance_info",
        "1, with the names of the instance and of its host.",
        1.0,
        name=status["name"],
        host=socket.gethostname(),
    )
    alive = float(status["supervisor"]["pid"] is not None)
    made.gauge("supervisor_up", "1 if a supervisor runs.", alive)
    alive = float(status["primary"]["state"] == "running")
    made.gauge("primary_up", "1 if the primary runs.", alive)
    made.gauge("generation", "Number of starts of the primary.", status["generation"])
    if status["started_ns"]:
        age = (status["at_ns"] - status["started_ns"]) / 1e9
        made.gauge("supervisor_uptime_seconds", "Seconds since the start of the supervisor.", age)
    made.gauge(
        "packets_in_flight",
        "Number of packets received and not yet sent or dropped.",
        status["in_flight"],
    )
    recovery = status["recovery"]
    made.counter("worker_deaths", "Number of unexpected deaths of workers.", recovery["deaths"])
    made.counter(
        "worker_refused_calls",
        "Number of deaths of workers by a system call that they may not make.",
        recovery["refused_calls"],
    )
    made.counter(
        "primary_deaths", "Number of unexpected deaths of the primary.", recovery["primary_deaths"]
    )
    made.counter(
        "lost_packets",
        "Number of packets that were under way when a primary died.",
        recovery["lost"],
    )
    made.counter(
        "quarantined_packets", "Number of packets put in quarantine.", recovery["quarantined"]
    )
    said = {
        "repair": "Seconds from noticing a worker's death to the repair of its lanes.",
        "takeover": "Seconds from noticing a worker's death to a spare in its slot.",
        "failover": "Seconds from noticing a worker's death to its successor's first packet.",
    }
    for kind, doc in recovery["histograms"].items():
        made.histogram(f"{kind}_seconds", said[kind], doc)
    heap = look["counters"].get("heap_bytes") if look["counters"] else None
    if heap is not None:
        made.gauge("eal_heap_bytes", "Bytes allocated in EAL's shared heaps.", heap)


def _ports(made: _Families, status: Status) -> None:
    for p in status["ports"]:
        port = {"port": p["name"]}
        made.counter("port_receive_packets", "Number of packets received.", p["rx_packets"], **port)
        made.counter("port_receive_bytes", "Number of bytes received.", p["rx_bytes"], **port)
        made.counter("port_transmit_packets", "Number of packets sent.", p["tx_packets"], **port)
        made.counter("port_transmit_bytes", "Number of bytes sent.", p["tx_bytes"], **port)
        made.counter(
            "port_receive_missed_packets",
            "Number of packets that the NIC, or the kernel for net_af_packet, had no room for.",
            p["rx_missed"],
            **port,
        )
        made.counter(
            "port_receive_no_mbuf_packets",
            "Number of packets that the driver dropped for lack of an mbuf.",
            p["rx_nombuf"],
            **port,
        )
        made.counter("port_receive_errors", "Number of receive errors.", p["rx_errors"], **port)
        made.counter("port_transmit_errors", "Number of transmit errors.", p["tx_errors"], **port)
        made.gauge(
            "port_unwritten_bytes",
            "Number of bytes sent to an output file that are not in it.",
            p["unwritten_bytes"],
            **port,
        )
        for reason, n in {"tx_full": p["tx_dropped"], **p["dropped"]}.items():
            made.counter(
                "port_dropped_packets",
                "Number of packets that io cores dropped, by reason.",
                n,
                **port,
                reason=reason,
            )
        _kernel(made, p, port)
        made.gauge("port_link_up", "1 if the link is up.", float(p["link_up"]), **port)
        speed = p["link_mbps"] * 1e6 / 8
        made.gauge(
            "port_speed_bytes", "Link speed in bytes per second, 0 if unknown.", speed, **port
        )


def _kernel(made: _Families, p: Port, port: dict[str, str]) -> None:
    """A port's way to the kernel."""
    said = {
        "to_kernel": "that plugins punted and the kernel took",
        "from_kernel": "that the kernel sent to the port's TAP",
    }
    for key, what in said.items():
        of = "Number of {} " + what + "."
        packets = p["to_kernel"] if key == "to_kernel" else p["from_kernel"]
        size = p["to_kernel_bytes"] if key == "to_kernel" else p["from_kernel_bytes"]
        made.counter(f"port_{key}_packets", of.format("packets"), packets, **port)
        made.counter(f"port_{key}_bytes", of.format("bytes of packets"), size, **port)


def _pools(made: _Families, status: Status) -> None:
    for p in status["mempools"]:
        pool = {"mempool": p["name"]}
        made.gauge("mempool_mbufs", "Number of mbufs.", p["size"], **pool)
        made.gauge("mempool_mbufs_in_use", "Number of mbufs in use.", p["in_use"], **pool)
        made.gauge(
            "mempool_mbufs_free_least",
            "Lowest number of free mbufs so far.",
            p["low_water"],
            **pool,
        )
        made.counter(
            "mempool_allocation_failures",
            "Number of allocations that failed.",
            p["alloc_failures"],
            **pool,
        )


def _groups(made: _Families, status: Status) -> None:
    for g in status["groups"]:
        group = {"group": g["name"]}
        made.gauge("group_workers_desired", "Number of desired workers.", g["desired"], **group)
        made.gauge("group_workers_ready", "Number of running workers.", g["ready"], **group)
        made.gauge("group_workers_limit", "Number of slots reserved at start.", g["max"], **group)
        made.gauge("group_spares_ready", "Number of spares ready.", g["spares_ready"], **group)
        made.gauge(
            "group_held_packets", "Number of packets waiting for a worker.", g["held"], **group
        )
        made.counter(
            "group_bypassed_packets",
            "Number of packets that bypassed the group.",
            g["bypassed"],
            **group,
        )
        waited = "Seconds that moving buckets waited for their previous worker to drain."
        made.histogram("group_move_pause_seconds", waited, g["move_pause"], **group)
        for reason in ("no_worker", "hold_full", "worker_held"):
            n = g["dropped"].get(reason, 0)
            made.counter(
                "group_dropped_packets",
                "Number of packets dropped before they reached a worker, by reason.",
                n,
                **group,
                reason=reason,
            )
        _learned(made, g)
        for w in g["workers"]:
            _worker(made, g["name"], w)


def _learned(made: _Families, g: StatusGroup) -> None:
    for table, one in g.get("learned", {}).items():
        labels = {"group": g["name"], "table": table}
        made.gauge(
            "table_learned_entries",
            "Number of entries that workers told and that are there.",
            one["entries"],
            **labels,
        )
        for name, what, n in (
            ("told_messages", "messages of workers that the builder took", one["told"]),
            ("lost_messages", "messages of workers that found their ring full", one["lost"]),
            ("refused_messages", "messages of workers that could not be used", one["refused"]),
            ("learned_changes", "entries that workers added or changed", one["learned"]),
            ("aged_entries", "entries that no worker told again in time", one["aged"]),
        ):
            made.counter(f"table_{name}", f"Number of {what}.", n, **labels)


def _worker(made: _Families, group: str, w: StatusWorker) -> None:
    labels = {"group": group, "worker": w["id"]}
    for state in WORKER_STATES:
        value = float(w["state"] == state)
        made.gauge(
            "worker_state", "1 for the current state of the worker.", value, **labels, state=state
        )
    for health in HEALTH:
        value = float(w.get("health", "ok") == health)
        made.gauge(
            "worker_health",
            "1 for the current health of the worker.",
            value,
            **labels,
            health=health,
        )
    made.counter(
        "worker_restarts", "Number of times the worker was replaced.", w["restarts"], **labels
    )
    made.counter(
        "worker_receive_packets",
        "Number of packets handed to the worker.",
        w["rx_packets"],
        **labels,
    )
    made.counter(
        "worker_transmit_packets",
        "Number of packets that the worker forwarded.",
        w["tx_packets"],
        **labels,
    )
    made.counter(
        "worker_requeued_packets",
        "Number of packets taken back and steered again.",
        w["requeued"],
        **labels,
    )
    for name, what, n in (
        ("emitted_packets", "packets that the plugin originated", w.get("emitted", 0)),
        (
            "no_blank_packets",
            "packets that the plugin could not originate, for lack of an empty buffer",
            w.get("no_blank", 0),
        ),
        ("copied_packets", "copies sent out of a second port", w.get("copied", 0)),
        ("no_copy_packets", "copies not made, for lack of an empty buffer", w.get("no_copy", 0)),
        (
            "on_hash_packets",
            "packets sent on to a group by a hash of the plugin's own",
            w.get("on_hash", 0),
        ),
        ("ticks", "ticks that the plugin handled", w.get("ticks", 0)),
        ("ticks_skipped", "ticks that were due and not handled", w.get("ticks_skipped", 0)),
    ):
        made.counter(f"worker_{name}", f"Number of {what}.", n, **labels)
    if "undeclared" in w:
        made.counter(
            "worker_undeclared_packets",
            "Number of packets of which the plugin changed undeclared bytes (`verify`).",
            w["undeclared"],
            **labels,
        )
    made.gauge(
        "worker_packets_outstanding",
        "Number of packets that the worker has now.",
        w["outstanding"],
        **labels,
    )
    for reason, n in {"lane_full": 0, **w["dropped"]}.items():
        made.counter(
            "worker_dropped_packets",
            "Number of packets dropped at the worker, by reason.",
            n,
            **labels,
            reason=reason,
        )
    for name, n in w["counters"].items():
        made.counter("plugin_count", "Value of a counter of the plugin.", n, **labels, counter=name)
    for name, n in w.get("gauges", {}).items():
        made.gauge("plugin_gauge", "Value of a gauge of the plugin.", n, **labels, gauge=name)
    made.counter(
        "worker_policy_dropped_packets",
        "Number of packets dropped at the worker for reasons that the plugin marks as policy.",
        w.get("dropped_policy", 0),
        **labels,
    )


def _io(made: _Families, counters: Reading, hz: float) -> None:
    for i, io in enumerate(counters["io"]):
        core = {"io": f"io/{i}", "core": str(io["core"])}
        made.counter(
            "io_busy_seconds", "Seconds in iterations with packets.", io["busy_cycles"] / hz, **core
        )
        made.counter("io_loops", "Number of iterations.", io["loops"], **core)
        made.counter(
            "io_busy_loops", "Number of iterations with packets.", io["busy_loops"], **core
        )
        made.counter("io_sleeps", "Number of sleeps.", io["sleeps"], **core)
        woken = "Number of sleeps ended by a queue with packets."
        made.counter("io_woken", woken, io["woken"], **core)
        made.counter(
            "io_wakeups", "Number of times the io core woke a worker.", io["rings"], **core
        )
        made.counter(
            "io_requeued_packets", "Number of packets steered again.", io["requeued"], **core
        )
        counted = cast("dict[str, float]", io)
        for kind, what in FRAGMENTS.items():  # an older primary counts none
            made.counter(f"io_{kind}", f"Number of {what}.", counted.get(kind, 0), **core)
        waiting = {
            "held": io["held"],
            "transfer": io["xfer"],
            "transmit": io["tx_waiting"],
            "quarantine": io["quarantine"],
            "kernel": io.get("kernel_waiting", 0),
        }
        for reason, n in waiting.items():
            made.gauge(
                "io_waiting_packets",
                "Number of packets waiting in the io core, by reason.",
                n,
                **core,
                reason=reason,
            )
        for stage, cycles in io["stage_cycles"].items():
            made.counter(
                "io_stage_seconds",
                "Seconds in timed iterations, by stage.",
                cycles / hz,
                **core,
                stage=stage,
            )
        made.counter(
            "io_stage_packets",
            "Number of packets in timed iterations.",
            io["stage_packets"] / 2,
            **core,
        )


def _slots(made: _Families, plan: Plan, counters: Reading, hz: float) -> None:
    for group in plan.get("groups", []):
        for m in range(group["max"]):
            slot = counters["slots"][group["first_slot"] + m]
            if slot["pid"] or slot["sent"]:
                labels = {"group": group["name"], "worker": f"{group['name']}/{m}"}
                made.counter(
                    "worker_busy_seconds", "Seconds in bursts.", slot["busy"] / hz, **labels
                )
                made.counter("worker_bursts", "Number of bursts.", slot["bursts"], **labels)
                made.counter(
                    "worker_returned_packets",
                    "Number of packets that the worker returned.",
                    slot["collected"],
                    **labels,
                )
                made.counter(
                    "worker_loops",
                    "Number of polls of the worker's lanes.",
                    slot["beats"],
                    **labels,
                )


def _lanes(made: _Families, look: Look) -> None:
    names, rings = {}, {}
    for group in look["plan"].get("groups", []):
        for m in range(group["max"]):
            names[group["first_slot"] + m] = f"{group['name']}/{m}"
            rings[group["first_slot"] + m] = group["ring"]
    for one in look["lanes"]:
        lane = {"io": f"io/{one['io']}", "worker": names.get(one["slot"], str(one["slot"]))}
        made.gauge("lane_packets", "Number of packets in the lane.", one["outstanding"], **lane)
        made.gauge(
            "lane_words", "Size of the lane's ring in packets.", rings.get(one["slot"], 0), **lane
        )
        made.counter(
            "lane_lent_packets", "Number of packets put into the lane.", one["sent"], **lane
        )
        made.counter(
            "lane_returned_packets",
            "Number of packets returned from the lane.",
            one["collected"],
            **lane,
        )
        made.counter(
            "lane_full_packets",
            "Number of packets dropped because the lane was full.",
            one["lane_full"],
            **lane,
        )
        made.counter(
            "lane_isolations",
            "Number of times the lane was found corrupt.",
            one["lanes_corrupt"],
            **lane,
        )


# --- the process ----------------------------------------------------------------------------------


class Source(Collector):
    """Looks at an instance at most once in FRESH_S, however many clients ask."""

    def __init__(self, look: Callable[[], Look | None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._last: Look | None = None
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
            "dpsup_look_duration_seconds", "Seconds spent querying the instance.", took
        )


def looker(where: Runtime) -> Callable[[], Look | None]:
    def look() -> Look | None:
        try:
            with Instance(where) as instance:
                return instance.look()
        except DpsupError:
            return None

    return look


class Server(ThreadingHTTPServer):
    """Answers with what `look` sees, None being an instance that does not run. Raises: OSError."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, listen: str, look: Callable[[], Look | None]) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = CollectorRegistry()
        self.registry.register(Source(look))
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
        """A peer that disconnects is no error."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_S
    server_version = "dpsup"

    def do_GET(self) -> None:
        if self.path.split("?")[0] not in ("/metrics", "/"):
            self.send_error(404, "metrics are at /metrics")
            return
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        body = encode(cast(Server, self.server).registry)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is not logged."""


def _is_over(where: Runtime, first: int | None) -> bool:
    """Has the instance ended, or another supervisor taken over?"""
    if os.getppid() == first:
        return False
    return not runtime_dir.is_headless(where)


def main(argv: list[str]) -> int:
    path, name, listen, _, notify_fd = argv[1:]
    where, parent = Runtime(path, name), os.getppid()
    process.ignore_accidents()
    process.ignore_terminal()
    rights.keep(of.mask(of.metrics(listen)))
    os.nice(10)  # a worker may have to share the supervisor's core: it comes first
    try:
        server = Server(listen, looker(where))
    except OSError as e:
        os.write(int(notify_fd), f"{listen}: {e.strerror}\n".encode())
        return 1
    os.write(int(notify_fd), b"READY\n")
    os.close(int(notify_fd))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not _is_over(where, parent):
        time.sleep(LOOK_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
