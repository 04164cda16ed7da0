# SPDX-License-Identifier: BSD-3-Clause
"""Events: their types and their fields. A new type of event is added here."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

# Every type of event, as docs/reference/events.md describes them.
TYPES = {
    "state": "a process or the instance changed its state",
    "death": "a worker died unexpectedly: signal, backtrace, repair, successor",
    "exit": "the primary, the seed or the metrics exporter ended",
    "seed": "the seed did not attach in time, or does not answer requests",
    "locks": "EAL locks that dead processes held were released",
    "spare": "a spare refused to start, or died",
    "retry": "a worker or a group's spares that were given up are tried once more",
    "held": "a worker or a group's spares are no longer restarted",
    "health": "a worker is stuck, stopped or starved, or healthy again",
    "stall": "packets wait or are offered, and none leaves: what it waits for; or they move again",
    "stranger": "an unknown process occupied a slot",
    "corrupt": "a slot's shared memory was found corrupt",
    "lent": "the primary moved a slot's buckets without the supervisor",
    "steer": "buckets moved to other workers",
    "scale": "a group changed its size",
    "autoscale": "a group's size was changed to suit its load",
    "rebalance": "buckets were moved to spread the load",
    "restart": "other workers are restarted with a worker",
    "rollout": "a rollout of a group began, advanced or ended",
    "judged": "the new version was compared with the old one",
    "handover": "a worker handed its slot to a worker of another version",
    "reload": "a changed topology file was applied or refused",
    "command": "a command that changes the instance was received: from which user and process",
    "reset": "past deaths were forgotten on request",
    "quarantine": "a packet was put in quarantine",
    "verdict": "a worker returns verdicts that have no meaning: its packets are dropped",
    "undeclared": "a plugin changed bytes of packets that it does not declare (`verify`)",
    "advice": "packets are lost for lack of a resource: `dpsup advise` suggests changes",
    "cpu": "a worker or an io core cannot run on its CPU, or runs there again",
    "backend": "a backend of a load balancer does not answer, or answers again",
    "port": "a port does not forward, or forwards again: interface, link, device",
    "warning": "a setting could not be applied",
    "error": "an operation failed and is tried again",
    "skipped": "a message, answer or line that could not be read was skipped: from which process",
    "fault": "an internal error: its traceback is in the log, and the instance runs on",
    "failed": "the error that ends the instance",
}

# Fields of events whose names the source passes as a whole table.
MORE: dict[str, tuple[str, ...]] = {
    "command": ("count", "key", "remote"),
    "death": (
        "repaired", "successor", "notice", "tried", "hung", "times", "address", "backtrace",
        "blamed", "ticked", "called",
    ),
    "quarantine": ("why", "port", "length", "flow_hash"),
    "verdict": ("verdict", "length", "packets"),
    "undeclared": ("port", "length", "packets"),
}  # fmt: skip


class Fields(TypedDict, total=False):
    """The keys of any event, beside `seq`, `at`, `at_ns` and `type`."""

    address: Annotated[str, "the faulting address"]
    alive: Annotated[list[int], "processes that may hold the locks"]
    backtrace: Annotated[list[str], "frames, the innermost first"]
    backend: Annotated[str, "the backend, by its name in the table `backends`"]
    blamed: Annotated[
        int,
        "deaths that the packet or tick in hand is to blame for; at two the packet is quarantined,"
        " the tick skipped",
    ]
    buckets_moved: Annotated[int, "buckets moved, of 512"]
    called: Annotated[
        str, "the system call that a worker may not make, and ended this one: `socket`"
    ]
    count: Annotated[int, "changes of tables, or messages skipped, since the event before"]
    cycles: Annotated[list[float], "cycles per packet of the old version and the new"]
    drops: Annotated[list[float], "shares dropped by the plugin, of the old version and the new"]
    dry_run: Annotated[bool, "decided, and not done"]
    file: Annotated[str, "the pcap, or the topology"]
    flow_hash: Annotated[int, "the hash of the packet's flow"]
    held: Annotated[Any, "locks that are held"]
    how: Annotated[str, "how the process ended: `SIGKILL`, `exit 1`"]
    hung: Annotated[bool, "ended because it was stuck with a packet"]
    imbalance: Annotated[float, "the busiest worker's share against an even one"]
    key: Annotated[str, "the name of the key with which a command came over the network"]
    kind: Annotated[str, "the kind of process: topology, primary, seed, worker"]
    lane_full: Annotated[list[float], "shares that found no room, of the old version and the new"]
    left: Annotated[Any, "locks that stay held"]
    length: Annotated[int, "bytes of the packet"]
    measured: Annotated[float, "the imbalance afterwards"]
    message: Annotated[str, "the event in words"]
    name: Annotated[str, "the worker, group, process or instance"]
    new: Annotated[Any, "state or number after"]
    notice: Annotated[str, "what showed that the thread was gone: `lease`, `pidfd`, `doubt`"]
    number: Annotated[int | None, "its number in quarantine, null: it could not be written"]
    old: Annotated[Any, "state or number before"]
    packets: Annotated[int, "packets counted"]
    phase: Annotated[str, "the rollout's phase"]
    pid: Annotated[int, "the process; of a command 0: it is of another pid namespace"]
    plugin: Annotated[str, "the plugin that the worker runs"]
    port: Annotated[str, "the packet's input port"]
    predicted: Annotated[float, "the imbalance that was foreseen"]
    remote: Annotated[str, "the address that a command came from over the network"]
    released: Annotated[Any, "locks that were released"]
    repaired: Annotated[
        dict[str, int],
        "`published`: verdicts kept, `undone`: packets whose bytes were put back, `left`: packets"
        " left for the successor, `mended`: descriptors put back, `corrupt`: it was given up",
    ]
    requeued: Annotated[int, "packets steered again"]
    restarted: Annotated[list[str], "workers that were restarted"]
    revision: Annotated[int, "the plugin's revision"]
    seated_us: Annotated[float, "time from the old worker's leave to the new one in its slot"]
    strangers: Annotated[list[int], "pids that attached and are not dpsup's"]
    successor: Annotated[int | None, "pid of the spare that took the slot over, null: none did"]
    times: Annotated[
        dict[str, int],
        "times of its phases: died, noticed, repaired, claimed, seated, first packet, gone",
    ]
    ticked: Annotated[bool, "`blamed` is said of a tick"]
    tried: Annotated[int, "spares that did not take the slot in time"]
    uid: Annotated[int | None, "the user that a command or message came from, null: not known"]
    verb: Annotated[str, "the command: `scale`, `stop`"]
    verdict: Annotated[str, "the verdict's word, as the worker wrote it"]
    why: Annotated[str, "the cause, or the state machine's event"]
    workers: Annotated[list[str], "the workers that are judged"]


class Repaired(TypedDict):
    """The part of a story that the event of a death has; the fields are those of Fields."""

    repaired: dict[str, int]
    successor: int | None
    notice: str
    tried: int
    hung: bool
    times: dict[str, int]
    address: NotRequired[str]
    backtrace: NotRequired[list[str]]
    blamed: NotRequired[int]
    ticked: NotRequired[bool]
    called: NotRequired[str]


class Event(Fields):
    seq: int
    at: float  # seconds since 1970
    at_ns: int
    type: str
