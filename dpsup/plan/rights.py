# SPDX-License-Identifier: BSD-3-Clause
"""Which capabilities each process keeps, of those that it was started with. Pure.

A process gives the others up before it creates its first thread, as each thread has its own. What
is needed at some later time is kept for its life: no process gets a capability back.

The supervisor starts the next primary, and with no_new_privs a process gets nothing that its parent
has not: so it keeps what the others keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from dpsup.documents.plan import Plan, Port

EVERY = "all"  # those that it was started with

DAC_OVERRIDE, DAC_READ = "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"
IPC_LOCK, SYS_RAWIO = "CAP_IPC_LOCK", "CAP_SYS_RAWIO"
SETPCAP = "CAP_SETPCAP"
NET_ADMIN, NET_RAW, NET_BIND = "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"
SYS_ADMIN, SYS_NICE, SYS_PTRACE = "CAP_SYS_ADMIN", "CAP_SYS_NICE", "CAP_SYS_PTRACE"
_NUMBERS = {  # the kernel's
    DAC_OVERRIDE: 1, DAC_READ: 2, SETPCAP: 8, NET_BIND: 10, NET_ADMIN: 12, NET_RAW: 13,
    IPC_LOCK: 14, SYS_RAWIO: 17, SYS_PTRACE: 19, SYS_ADMIN: 21, SYS_NICE: 23,
}  # fmt: skip
_MOST = 64
PRIVILEGED_PORT = 1024  # those below are root's

# What the drivers of ports take, as tests show. Another one may take anything.
_DRIVERS = {
    "net_af_packet": {NET_RAW, NET_ADMIN, IPC_LOCK},  # its rings are locked in memory
    "net_memif": set[str](),
    "net_null": set[str](),
    "net_pcap": {DAC_OVERRIDE},  # the files may be anyone's
    "net_ring": set[str](),
    "net_tap": {NET_ADMIN},
}
_PCI = {IPC_LOCK, SYS_RAWIO, SYS_ADMIN, DAC_OVERRIDE, NET_ADMIN, NET_RAW}
# Options of EAL's that `make_plan` writes, and some that take no right.
_KNOWN = (
    "--proc-type=", "--file-prefix=", "--lcores=", "--main-lcore=", "--socket-mem=", "--no-pci",
    "--socket-limit=", "--huge-dir=", "--log-level", "--no-telemetry", "--iova-mode=va",
)  # fmt: skip

# For people: what each right is for. docs/security.md has it as a table.
WHY = {
    "supervisor": (
        "those of the others, to start them again; SETPCAP, by which they give theirs up;"
        " DAC_OVERRIDE: to read topologies and plugins"
    ),
    "primary": (
        "SYS_NICE: wardens at a real-time priority; SYS_PTRACE: whether others have EAL's memory"
        " mapped; what its ports' drivers take"
    ),
    "seed": "none; all where a group has confine = off",
    "worker": "none; all but SYS_NICE where its group has confine = off",
    "builder": "DAC_READ_SEARCH: tables' files",
    "follow": (
        "NET_ADMIN: has the kernel look for neighbours; SYS_ADMIN: to enter a TAP's network"
        " namespace, where it has one"
    ),
    "probe": "SYS_ADMIN: to enter the backends' network namespace, where they are in another one",
    "metrics": "NET_BIND_SERVICE: a port below 1024",
    "gate": "NET_BIND_SERVICE: a port below 1024",
}


def _of_port(port: Port) -> Iterator[str]:
    if not port["vdev"]:
        yield from _PCI
    elif port["driver"] in _DRIVERS:
        yield from _DRIVERS[port["driver"]]
        if port["driver"] == "net_pcap" and "iface=" in port["vdev"]:
            yield from (NET_RAW, NET_ADMIN)
    else:
        yield EVERY
    if port.get("kernel_tap"):
        yield NET_ADMIN


def _namespaces(plan: Plan) -> Iterator[str]:
    if any(port.get("kernel_netns") for port in plan["ports"]):
        yield SYS_ADMIN


def _is_known(words: Iterable[str], plan: Plan) -> bool:
    devices = {port["device"] for port in plan["ports"]}
    return all(w == "-a" or w in devices or w.startswith(_KNOWN) for w in words)


def primary(plan: Plan) -> frozenset[str]:
    kept = {SYS_NICE, SYS_PTRACE, *_namespaces(plan)}
    for port in plan["ports"]:
        kept.update(_of_port(port))
    if not _is_known(plan["eal_args"], plan):
        kept.add(EVERY)
    return frozenset(kept)


def seed(plan: Plan) -> frozenset[str]:
    return frozenset({EVERY} if any(g.get("confine") == "off" for g in plan["groups"]) else ())


def builder() -> frozenset[str]:
    return frozenset({DAC_READ})


def follow(plan: Plan) -> frozenset[str]:
    # It has the kernel find out addresses of neighbours.
    return frozenset({NET_ADMIN, *_namespaces(plan)})


def probe(plan: Plan) -> frozenset[str]:
    asked = any((its := g.get("probe")) and its["netns"] for g in plan["groups"])
    return frozenset({SYS_ADMIN} if asked else ())


def gate(endpoint: str) -> frozenset[str]:
    """`endpoint`: tcp://HOST:PORT; empty: local users alone."""
    return metrics(endpoint)


def metrics(listen: str) -> frozenset[str]:
    """`listen`: HOST:PORT; empty: there are none."""
    port = listen.rpartition(":")[2]
    return frozenset({NET_BIND} if port.isdigit() and int(port) < PRIVILEGED_PORT else ())


def supervisor(plan: Plan) -> frozenset[str]:
    listen = plan.get("metrics_listen", "")
    others = primary(plan) | seed(plan) | builder() | follow(plan) | probe(plan)
    others |= metrics(listen) | gate(plan.get("bus_endpoint", ""))
    return others | {DAC_OVERRIDE, SETPCAP}


def mask(kept: Set[str]) -> int:
    """As /proc/PID/status has it, bit by number."""
    return (1 << _MOST) - 1 if EVERY in kept else sum(1 << _NUMBERS[name] for name in kept)
