# SPDX-License-Identifier: BSD-3-Clause
"""Do the io cores keep up: their number, queues, bursts, idle setting, NUMA nodes? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.advise.lanes import NOT_HIGHER, SPARE_TIME, USEFUL, loses
from dpsup.advise.piece import FASTER, LOSING, RISK, Effect, Key, Piece, Where
from dpsup.advise.window import Window, mersenne, pool_need
from dpsup.text import listing
from dpsup.view.columns import percent, si

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.advice import PortSeen
    from dpsup.documents.plan import Io, Port

FULL_TIME = 0.95  # of an io core
FULL_BURSTS = 0.9  # of `burst`, on average: each burst is about full
WORTH = 0.05  # of the cycles per packet: less is noise
DEEP = 4096  # descriptors; few NICs have longer queues
NAPS = 50.0  # per second: above this an io core sleeps between bursts
LONG_MISS = 0.9  # of the looks saw missed packets: a steady loss, no bursts
SHARED = 0.15  # of a CPU: what adaptive io cores and workers use besides their packets


def table_of(window: Window, index: int) -> tuple[int, Io]:
    """An io core's [[io]] table, by number, and its part of the plan."""
    io = window.plan["io"][index]
    return io.get("table", 0), io


def _cores_of(window: Window, number: int) -> list[int]:
    """The CPUs of an [[io]] table."""
    return [io["core"] for io in window.plan["io"] if io.get("table", 0) == number]


def more_io(window: Window) -> Iterator[Piece]:
    """Another io core, with its own queue of each port, if all are busy: packets are missed, or
    wait in lanes for the io core while the workers have time."""
    missing = [name for name, p in window.ports.items() if p["missed_pps"]]
    late = [n for n, g in window.groups.items() if loses(g) and g["busiest"] < SPARE_TIME]
    busy = [io["busy"] for io in window.io.values()]
    n = len(busy)
    if not (missing or late) or not busy or min(busy) < FULL_TIME or n >= limits.IO_CORES:
        return
    queues = {p["name"]: p["max_rx_queues"] for p in window.last["port_info"]}
    if all(queues.get(name, 0) <= n for name in missing or window.ports):
        return
    free = [c for c in window.unused() if window.room(c) >= USEFUL]
    if not free:
        return
    if missing:
        port = window.ports[missing[0]]
        metric, done, lost = ("ports", missing[0], "missed_pps"), port["rx_pps"], port["missed_pps"]
        lack = f"{missing[0]} misses {si(lost)} packets/s"
    else:
        of = window.groups[late[0]]
        metric, done, lost = ("groups", late[0], "lane_full_pps"), of["pps"], of["lane_full_pps"]
        lack = (
            f"{si(lost)} packets/s find the lanes of {late[0]} full, whose busiest worker is "
            f"{percent(of['busiest'])} busy"
        )
    gain = done / n * window.room(free[0]) * NOT_HIGHER
    number, _ = table_of(window, n - 1)
    cores = ",".join(map(str, _cores_of(window, number)))
    yield Piece(
        kind="io-cores",
        level=LOSING,
        about=f"port {missing[0]}" if missing else f"group {late[0]}",
        title="the io cores do not keep up",
        seen=f"{lack}; the io cores are {percent(min(busy))} busy or more; CPU {free[0]} has "
        f"{percent(window.room(free[0]))} unused",
        why="RSS spreads the flows over one queue per io core; a late io core neither receives "
        "nor collects packets in time",
        changes=(Key(("io", number, "cores"), f"{cores},{free[0]}", cores),),
        effect=Effect(metric, "packets/s", lost, max(0.0, lost - gain)),
        numbers={"lost_pps": lost, "done_pps": done, "busy": busy},
    )


def rx_queues(window: Window) -> Iterator[Piece]:
    """Longer queues, if io cores have time but packets are missed: bursts."""
    busy = max((io["busy"] for io in window.io.values()), default=1.0)
    n_io = len(window.io)
    for port in window.plan["ports"]:
        found = window.ports.get(port["name"])
        if not found or not found["missed_pps"] or busy >= SPARE_TIME:
            continue
        # The kernel's ring, which net_af_packet reads, has its size from the driver's arguments.
        if port["rx_desc"] >= DEEP or port.get("driver") == "net_af_packet":
            yield from _poll(window, port, found)
            continue
        want = port["rx_desc"] + found["missed_most"] / n_io
        rx = min(DEEP, max(port["rx_desc"] * 2, 1 << int(want - 1).bit_length()))
        changes = [Key(("ports", port["name"], "descriptors", "rx"), rx, port["rx_desc"])]
        pool = window.plan["pools"][port["pool"]]
        need = pool_need(window.plan, port["pool"], rx=rx)
        if need > pool["mbufs"]:
            changes.append(Key(("mempools", pool["name"], "mbufs"), mersenne(need), pool["mbufs"]))
        fits = rx >= want
        yield Piece(
            kind="rx-queue",
            level=LOSING,
            about=f"port {port['name']}",
            title=f"bursts overrun the rx queues of {port['name']}",
            seen=f"{si(found['missed_pps'])} packets/s missed, in {percent(found['missed_steps'])} "
            f"of the looks, up to {found['missed_most']:.0f} at a time, with {port['rx_desc']} "
            f"descriptors; the io cores are {percent(busy)} busy at most",
            why="on average the io cores keep up; a queue only needs to hold what arrives while "
            "its io core is busy elsewhere",
            changes=tuple(changes),
            effect=Effect(
                ("ports", port["name"], "missed_pps"), "packets/s", found["missed_pps"],
                0.0 if fits else found["missed_pps"] * (1 - (rx - port["rx_desc"]) / (
                    want - port["rx_desc"])),
            ),
            numbers=found,
        )  # fmt: skip


def _poll(window: Window, port: Port, found: PortSeen) -> Iterator[Piece]:
    """Long queues that overflow while an io core sleeps."""
    for i, (id, io) in enumerate(window.io.items()):
        number, conf = table_of(window, i)
        alone = len(window.cores[conf["core"]]["roles"]) == 1
        if conf["idle"] == "adaptive" and io["sleeps_per_s"] > NAPS and alone:
            yield Piece(
                kind="idle",
                level=LOSING,
                about=id,
                title=f"{id} sleeps while bursts arrive",
                seen=f"{id} sleeps {si(io['sleeps_per_s'])} times a second and is "
                f"{percent(io['busy'])} busy; {port['name']} misses {si(found['missed_pps'])} "
                f"packets/s with {port['rx_desc']} descriptors",
                why="an io core that is woken late finds its queue full",
                changes=(Key(("io", number, "idle"), "poll", "adaptive"),),
                effect=Effect(
                    ("ports", port["name"], "missed_pps"), "packets/s",
                    found["missed_pps"],
                    sum(max(0.0, s.excess - s.spare) for s in window.rx_steps(port["name"]))
                    / (window.seconds or 1.0),
                ),
                numbers={**found, **io},
            )  # fmt: skip
            return


def bursts(window: Window) -> Iterator[Piece]:
    """Larger bursts, if the fixed cost of an iteration is large per packet."""
    if any(g["busiest"] >= FULL_TIME and g["lane_full_pps"] for g in window.groups.values()):
        return  # it waits for workers
    done = set()
    for i, (id, io) in enumerate(window.io.items()):
        number, conf = table_of(window, i)
        burst, cycles = conf["burst"], io["cycles_per_packet"]
        if number in done or io["busy"] < FULL_TIME or not cycles:
            continue
        if io["rx_batch"] < FULL_BURSTS * burst:
            continue
        rest = io["stages"]["rest"] or 0.0
        new = next(
            (n for n in (32, 64) if n > burst and rest * (1 - burst / n) >= WORTH * cycles), None
        )
        if new is None:
            continue
        done.add(number)
        changes = [Key(("io", number, "burst"), new, burst)]
        for index, pool in enumerate(window.plan["pools"]):
            need = pool_need(window.plan, index, burst=new)
            if need > pool["mbufs"]:
                key = ("mempools", pool["name"], "mbufs")
                changes.append(Key(key, mersenne(need), pool["mbufs"]))
        yield Piece(
            kind="io-burst",
            level=FASTER,
            about=id,
            title=f"{id} spends much of its time between bursts",
            seen=f"{id} is {percent(io['busy'])} busy and takes {io['rx_batch']:.1f} packets per "
            f"iteration of at most {burst}; of {cycles:.0f} cycles per packet {rest:.0f} are the "
            "iteration's own",
            why="an iteration has the same fixed cost for few packets as for many",
            changes=tuple(changes),
            effect=Effect(
                ("io", id, "cycles_per_packet"), "cycles/packet", cycles,
                cycles - rest * (1 - burst / new),
            ),
            numbers={**io, "burst": burst},
        )  # fmt: skip


def idle(window: Window) -> Iterator[Piece]:
    """Polling on a CPU that other threads need."""
    done = set()
    for i, id in enumerate(window.io):
        number, conf = table_of(window, i)
        core = window.cores.get(conf["core"])
        if number in done or conf["idle"] != "poll" or core is None or len(core["roles"]) < 2:
            continue
        need = min(1.0, (core["busy"] or 0.0) + SHARED)
        load = 1.0 if core["load"] is None else core["load"]
        if need >= SPARE_TIME * load:
            continue  # there is work for the whole CPU
        done.add(number)
        used = window.cpus_used()
        others = listing([role for role in core["roles"] if role != id])
        yield Piece(
            kind="idle",
            level=RISK,
            about=id,
            title=f"{id} polls on a CPU that it shares",
            seen=f"CPU {conf['core']} is {percent(load)} used, and only {percent(core['busy'])} of "
            f"it for packets; {id} shares it with {others}",
            why="a polling io core uses up its time slice even without packets, and the others "
            "wait that long (milliseconds) for theirs",
            changes=(Key(("io", number, "idle"), "adaptive", "poll"),),
            effect=Effect(("processes", "cpus"), "CPUs", used, max(0.0, used - load + need)),
            numbers={"load": load, "busy": core["busy"], "roles": core["roles"]},
        )


def numa(window: Window) -> Iterator[Piece]:
    """Everything on the node of the ports' devices, as far as it has free CPUs."""
    crossings = window.crossings()
    if not crossings:
        return
    homes = {p.get("numa", -1) for p in window.last["port_info"]} - {-1}
    if len(homes) != 1:
        return  # ports on several nodes: some packets have to cross
    home = homes.pop()
    changes: list[Key] = []
    for pool in window.plan["pools"]:
        if pool["numa"] != home:
            changes.append(Key(("mempools", pool["name"], "numa"), home, pool["numa"]))
    free = [c for c in window.unused() if window.node(c) == home]
    for number in sorted({io.get("table", 0) for io in window.plan["io"]}):
        here = _cores_of(window, number)
        changes += _moved(window, ("io", number, "cores"), here, home, free)
    for group in window.plan["groups"]:
        changes += _moved(
            window, ("workers", group["name"], "cores"), list(group["cores"]), home, free
        )
    if not changes:
        return
    left = _left(window, changes, home)
    if left >= len(crossings):
        return
    pairs = listing([f"{a} with {b}" for a, b in crossings])
    stages = [io["stages"]["rx"] for io in window.io.values() if io["stages"]["rx"]]
    cost = f"; rx takes {max(stages):.0f} cycles per packet" if stages else ""
    yield Piece(
        kind="numa",
        level=FASTER,
        about=f"NUMA node {home}",
        title=f"packets leave NUMA node {home}, where their ports are",
        seen=f"{len(crossings)} crossings: {pairs}{cost}",
        why="a cache line from the other node takes about twice as long, and each packet has "
        "several",
        changes=tuple(changes),
        effect=Effect(("numa", "crossings"), "crossings", float(len(crossings)), float(left)),
        numbers={"crossings": [list(pair) for pair in crossings]},
    )


def _moved(window: Window, where: Where, cores: list[int], home: int, free: list[int]) -> list[Key]:
    """The CPUs on other nodes, replaced by free ones of the node as far as possible."""
    new = [free.pop(0) if window.node(c) != home and free else c for c in cores]
    if new == cores:
        return []
    return [Key(where, ",".join(map(str, new)), ",".join(map(str, cores)))]


def _left(window: Window, changes: list[Key], home: int) -> int:
    """Crossings after the changes."""
    value = {key.where: key.value for key in changes}
    n = 0

    def new(where: Where, cores: list[int]) -> list[int | None]:
        text = value.get(where)
        return [window.node(int(c)) for c in text.split(",")] if text else [
            window.node(c) for c in cores
        ]  # fmt: skip

    io: list[int | None] = []
    for number in sorted({io.get("table", 0) for io in window.plan["io"]}):
        here = _cores_of(window, number)
        io += new(("io", number, "cores"), here)
    for port in window.plan["ports"]:
        pool = window.plan["pools"][port["pool"]]
        n += value.get(("mempools", pool["name"], "numa"), pool["numa"]) != home
        n += sum(node != home for node in io)
    running = {w["id"] for w in window.picture["workers"] if w["state"] == "running"}
    for group in window.plan["groups"]:
        nodes = new(("workers", group["name"], "cores"), list(group["cores"]))
        for member, node in enumerate(nodes):
            if f"{group['name']}/{member}" in running:
                n += sum(one != node for one in io)
    return n
