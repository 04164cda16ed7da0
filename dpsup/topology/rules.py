# SPDX-License-Identifier: BSD-3-Clause
"""What a topology's values say about each other: what is missing, there twice, or contradicts.

The rules look at a topology without its faulty values. Where a default replaces one of them,
nothing is reported: the user did not write it.

Over 600 lines: the rules stand beside each other, and share one view of the topology.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from dpsup import limits
from dpsup.errors import Problem, Severity
from dpsup.text import plural, show, suggest
from dpsup.topology.chains import mapped
from dpsup.topology.kernel_path import interface_fault
from dpsup.topology.model import Backoff, Topology
from dpsup.topology.typed import Path


class _View:
    """A topology, and which of its values are really those of the file."""

    def __init__(self, topology: Topology, faulty: Collection[Path]) -> None:
        self.topology = topology
        self.faulty = set(faulty)
        self.source = topology.source
        self.problem = topology.source.problem

    def sound(self, *paths: Path) -> bool:
        """Is there no fault in the values at these paths?"""
        around = (path[:n] for path in paths for n in range(1, len(path) + 1))
        return not any(path in self.faulty for path in around)

    def misspelt(self, table: Path, keys: tuple[str, ...]) -> bool:
        """Was one of the keys probably meant by an unknown one in `table`?"""
        last = [str(path[-1]) for path in self.faulty if path and path[:-1] == table]
        return any(suggest(key, keys) for key in last)


def relations(topology: Topology, faulty: Collection[Path]) -> list[Problem]:
    view = _View(topology, faulty)
    return [problem for look in _LOOKS for problem in look(view)]


def default_pool(pools: tuple[str, ...]) -> str:
    """The pool of a port that names none: the only one, or `default`; else ""."""
    return pools[0] if len(pools) == 1 else "default" if "default" in pools else ""


# --- what is missing, or there twice ------------------------------------------------------------


def _missing(view: _View) -> Iterator[Problem]:
    topology = view.topology
    examples = {
        "version": "version = 1",
        "name": 'name = "edge"',
        "mempools": "[mempools.default]",
        "ports": '[[ports]] with name = "wan" and vdev = "net_null0"',
        "io": '[[io]] with cores = "1"',
        "workers": '[[workers]] with name = "fw" and plugin = "macswap"',
    }
    misspelt = {str(path[0]) for path in view.faulty if len(path) == 1}
    meant = {suggest(key, tuple(Topology.model_fields)) for key in misspelt}
    for key, write in examples.items():
        some = key in topology.model_fields_set and getattr(topology, key) not in ({}, ())
        within = any(path[:1] == (key,) for path in view.faulty)
        if not some and not within and key not in meant:
            what = f"`{key}`" if key in ("version", "name") else write.split(" ")[0]
            yield view.problem(
                (key,),
                f"{what} is missing",
                code="E0110",
                why="a topology has a version, a name, and a mempool, port, io and workers table",
                help=f"add {write}",
            )
    for key, example in (("ports", "wan"), ("workers", "fw"), ("chains", "edge")):
        for i, table in enumerate(getattr(topology, key)):
            path: Path = (key, i)
            if (
                "name" not in table.model_fields_set
                and view.sound((*path, "name"))
                and not view.misspelt(path, ("name",))
            ):
                yield view.problem(
                    path,
                    f"`name` is missing in [[{key}]]",
                    code="E0111",
                    why="commands, maps and messages refer to it by name",
                    help=f'add name = "{example}"',
                )


def _named_twice(view: _View) -> Iterator[Problem]:
    for key in ("ports", "workers", "chains"):
        first: dict[str, int] = {}
        for i, table in enumerate(getattr(view.topology, key)):
            if table.name in first:
                line = view.source.line((key, first[table.name], "name"))
                yield view.problem(
                    (key, i, "name"),
                    f"two [[{key}]] are named `{table.name}`",
                    code="E0112",
                    why=f"line {line} has that name already",
                    help="give each a name of its own",
                )
            elif table.name:
                first[table.name] = i


def _devices(view: _View) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, port in enumerate(view.topology.ports):
        path: Path = ("ports", i)
        if port.pci and port.vdev:
            yield view.problem(
                (*path, "vdev"),
                "the port has both `pci` and `vdev`",
                code="E0113",
                why="a port is one device",
                help="keep one of them; a second device is a second [[ports]]",
            )
        if not port.device:
            known = view.sound((*path, "pci"), (*path, "vdev"))
            if known and not view.misspelt(path, ("pci", "vdev")):
                yield view.problem(
                    path,
                    "the port has no device",
                    code="E0114",
                    why="a port is a PCI device or a virtual one",
                    help='add pci = "0000:3b:00.0" or vdev = "net_null0"',
                )
        elif port.device in first:
            yield view.problem(
                (*path, "pci" if port.pci else "vdev"),
                f"two ports use the device {port.device}",
                code="E0115",
                why=f"the port on line {view.source.line(('ports', first[port.device]))}"
                " has it already",
                help=f"use another device, such as {re.sub('[0-9]+$', '', port.device)}{i}"
                if port.vdev
                else "use another device",
            )
        else:
            first[port.device] = i


# --- names that refer to others -----------------------------------------------------------------


def _mempools_of_ports(view: _View) -> Iterator[Problem]:
    pools = tuple(view.topology.mempools)
    for i, port in enumerate(view.topology.ports):
        path: Path = ("ports", i, "mempool")
        if not pools or not view.sound(path):
            continue
        if not port.mempool:
            yield view.problem(
                ("ports", i),
                "the port names no mempool",
                code="E0117",
                why="there are several, and none is called `default`",
                help=f'add mempool = "{pools[0]}"',
            )
        elif port.mempool not in pools and view.sound(("mempools", port.mempool)):
            yield _no_such("mempool", port.mempool, pools, path, view)


def _inputs(view: _View) -> Iterator[Problem]:
    ports = tuple(port.name for port in view.topology.ports)
    fed: dict[str, tuple[str, int]] = {}
    for i, group in enumerate(view.topology.workers):
        for j, name in enumerate(group.input or ()):
            path = ("workers", i, "input", j)
            if name not in ports:
                # A port with a faulty name may be the one that is referred to.
                if ports and "" not in ports:
                    yield _no_such("port", name, ports, path, view)
            elif name in fed:
                other, line = fed[name]
                yield view.problem(
                    path,
                    f"port `{name}` feeds two groups"
                    if line != view.source.line(path)
                    else f"port `{name}` is listed twice",
                    code="E0118",
                    why=f"line {line} feeds {other} from it already, and a packet goes one way",
                    help="name the port in one group's input",
                )
            elif name:
                fed[name] = (f"group {show(group.name)}", view.source.line(path))


def _no_such(what: str, name: str, known: tuple[str, ...], path: Path, view: _View) -> Problem:
    close = suggest(name, known)
    return view.problem(
        path,
        f"there is no {what} `{show(name)[1:-1]}`",
        code="E0116",
        why=f"the file has {', '.join(f'`{n}`' for n in known)}",
        help=f"did you mean `{close}`?" if close else f"name one of them, or add the {what}",
    )


# --- chains -------------------------------------------------------------------------------------


def _chains(view: _View) -> Iterator[Problem]:
    topology = view.topology
    ports = tuple(port.name for port in topology.ports)
    groups = tuple(group.name for group in topology.workers)
    ends: dict[str, int] = {}
    passed: dict[str, int] = {}
    for i, chain in enumerate(topology.chains):
        path: Path = ("chains", i, "path")
        if not view.sound(path) or "" in ports or "" in groups:
            continue
        if len(chain.path) < 3:
            yield view.problem(
                path,
                f"the chain's path has {plural(len(chain.path), 'name')}"
                if chain.path
                else "the chain has no path",
                code="E0129",
                why="a chain leads from a port over one or more groups to a port",
                help='write path = ["wan", "fw", "lan"]',
            )
            continue
        first, *inner, last = chain.path
        for j, name in ((0, first), (len(chain.path) - 1, last)):
            if name not in ports:
                yield _no_such("port", name, ports, (*path, j), view)
            elif name in ends:
                yield view.problem(
                    (*path, j),
                    f"port `{name}` is the end of two chains",
                    code="E0129",
                    why=f"line {view.source.line(('chains', ends[name], 'path'))} begins or ends"
                    " there already, and a packet's input port says which chain it is on",
                    help="let the port be the end of one chain",
                )
        for j, name in enumerate(inner, 1):
            if name not in groups:
                yield _no_such("group", name, groups, (*path, j), view)
            elif name in inner[: j - 1]:
                yield view.problem(
                    (*path, j),
                    f"the chain passes group `{name}` twice",
                    code="E0129",
                    why="packets would go round in a loop",
                    help="name each group once in a path",
                )
            elif (
                name in passed
                and topology.chains[passed[name]].on_down != chain.on_down
                and not view.topology.workers[groups.index(name)].on_down
            ):
                other = topology.chains[passed[name]]
                yield view.problem(
                    ("chains", i, "on_down" if "on_down" in chain.model_fields_set else "path"),
                    f"group `{name}` is on two chains that disagree about `on_down`",
                    code="E0130",
                    why=f"chain `{other.name}` says {show(other.on_down)}, `{chain.name}` says"
                    f" {show(chain.on_down)}, and the group has one rule",
                    help="write the same on_down for both chains, or one in the group",
                )
            passed.setdefault(name, i)
        for name in {first, last} & set(ports):
            ends.setdefault(name, i)
        yield from _chain_ends(view, i)


def _chain_ends(view: _View, index: int) -> Iterator[Problem]:
    """What the rest of the file says about a chain's ends and groups."""
    topology, chain = view.topology, view.topology.chains[index]
    path: Path = ("chains", index, "path")
    if chain.path[0] == chain.path[-1]:
        yield view.problem(
            path,
            f"the chain begins and ends at port `{chain.path[0]}`",
            code="E0129",
            why="the input port says in which direction a packet goes along the chain",
            help="use two ports; a plugin without a map sends packets back by their input port",
        )
    for port, group in ((chain.path[0], chain.path[1]), (chain.path[-1], chain.path[-2])):
        for i, other in enumerate(topology.workers):
            if other.name != group and port in (other.input or ()) and topology.port(port):
                line = view.source.line(("workers", i, "input"))
                yield view.problem(
                    path,
                    f"port `{port}` feeds {show(other.name)}, and chain `{chain.name}` takes its"
                    f" packets to `{group}`",
                    code="E0129",
                    why=f"line {line} names it as input, and a packet goes one way",
                    help=f"take `{port}` out of that input, or begin the chain at it",
                )
    for i, one in enumerate(topology.workers):
        if one.name in chain.path[1:-1] and any(mapped(one)):
            yield view.problem(
                ("workers", i, "args"),
                f"`map` of group `{one.name}` takes packets off the chain `{chain.name}`",
                code="E0131",
                why="a map says where packets leave, the chain says where they go on",
                help="leave the map out",
                severity=Severity.WARNING,
            )


def _at_zero(view: _View) -> Iterator[Problem]:
    chained = {name for chain in view.topology.chains for name in chain.path[1:-1]}
    for i, group in enumerate(view.topology.workers):
        path: Path = ("workers", i)
        for key in ("at_zero", "on_down"):
            leads = group.name in chained or any(mapped(group))
            if getattr(group, key) == "bypass" and not leads:
                yield view.problem(
                    (*path, key),
                    f"nothing says where packets go that bypass group `{group.name}`",
                    code="E0132",
                    why="it is on no chain and has no map of ports",
                    help=f'put it on a chain, or write {key} = "hold" or "drop"',
                )
        scale = group.scale
        most = scale.max or group.max
        if not group.is_autoscaled or not view.sound((*path, "scale"), (*path, "max")):
            continue
        if most > group.max:
            yield view.problem(
                (*path, "scale", "max"),
                f"`scale` goes up to {most} workers, `max` of the group is {group.max}",
                code="E0133",
                why="rings and slots are created for the group's `max` at start",
                help=f"write max = {most} in [[workers]], or less in scale",
            )
        if not scale.min <= group.count <= most or scale.min > most:
            yield view.problem(
                (*path, "scale"),
                f"`scale` keeps {scale.min} to {most} workers, `count` is {group.count}",
                code="E0133",
                why="the group starts with `count` workers",
                help=f"write a count from {scale.min} to {max(scale.min, most)}",
            )


# --- values that contradict each other ----------------------------------------------------------


def _groups(view: _View) -> Iterator[Problem]:
    for i, group in enumerate(view.topology.workers):
        path: Path = ("workers", i)
        if group.max < group.count and view.sound((*path, "max"), (*path, "count")):
            yield view.problem(
                (*path, "max"),
                f"`max` is {group.max}, below `count`, which is {group.count}",
                code="E0119",
                why="rings and slots are created for `max` workers at start",
                help=f"write max = {group.count}, or more",
            )
        size = len(group.plugin_path.encode())
        if size > limits.PLUGIN_PATH:
            yield view.problem(
                (*path, "plugin"),
                f"the plugin's path is {plural(size - limits.PLUGIN_PATH, 'byte')} too long",
                code="E0120",
                why=f"shared memory has room for {limits.PLUGIN_PATH}; with the directory of the"
                f" topology file it has {size}",
                help="put the plugin, or the topology file, in a directory nearer to /",
            )
        yield from _backoff(view, group.restart.backoff, (*path, "restart", "backoff"))


def _backoff(view: _View, backoff: Backoff, path: Path) -> Iterator[Problem]:
    if backoff.initial > backoff.max and view.sound((*path, "initial"), (*path, "max")):
        yield view.problem(
            (*path, "max" if "max" in backoff.model_fields_set else "initial"),
            f"`backoff` begins with {backoff.initial:g}s, above its `max` of {backoff.max:g}s",
            code="E0121",
            why="the waits grow from `initial` to `max`",
            help="raise max or lower initial",
        )


def _ports(view: _View) -> Iterator[Problem]:
    for i, port in enumerate(view.topology.ports):
        path: Path = ("ports", i)
        for way in ("rx", "tx"):
            key: Path = (*path, "thresholds", f"{way}_free")
            length = getattr(port.descriptors, way)
            free = getattr(port.thresholds, f"{way}_free")
            if free is not None and free >= length and view.sound(key, (*path, "descriptors", way)):
                yield view.problem(
                    key,
                    f"`{way}_free` is {free}, and the {way} queue has {length} descriptors",
                    code="E0122",
                    why="a threshold lies within its queue",
                    help=f"write {way}_free = {min(32, length - 1)}, or leave it out",
                )
        size = len((port.vdev or "").encode())
        if size > limits.DEVICE:
            yield view.problem(
                (*path, "vdev"),
                f"the device's arguments are {plural(size - limits.DEVICE, 'byte')} too long",
                code="E0120",
                why=f"there is room for {limits.DEVICE}; with the topology file's directory they"
                f" have {size}",
                help="use shorter paths",
            )
        if port.pci and port.mtu > 9710:
            yield view.problem(
                (*path, "mtu"),
                f"`mtu` of [[ports]] is {port.mtu}, and must be at most 9710",
                code="E0123",
                why="no NIC takes larger frames; only virtual devices do",
                help="write mtu = 9000",
            )


def _one_hash(view: _View) -> Iterator[Problem]:
    """io cores hash in software what a NIC did not, all of them with one key and set of fields."""
    feeding = view.topology.feeding()
    for i, port in feeding[1:]:
        first, model = feeding[0]
        path: Path = ("ports", i, "rss")
        there: Path = ("ports", first, "rss")
        one, other = (
            (rss.key, rss.fragments, set(rss.fields), set(rss.inner))
            for rss in (port.rss, model.rss)
        )
        keys = ("key", "fragments", "fields", "inner")
        values = [(*table, key) for table in (path, there) for key in keys]
        if one != other and view.sound(*values):
            yield view.problem(
                path,
                f"`rss` of port `{port.name}` is not that of port `{model.name}`",
                code="E0124",
                why=f"line {view.source.line(there)} decides for all ports that feed workers: io"
                " cores hash in software what a NIC does not, all with one key and set of fields",
                help="write the same `rss` for both, or leave it out of both",
            )


def _page_sizes(view: _View) -> Iterator[Problem]:
    first = ""
    for name, pool in view.topology.mempools.items():
        path: Path = ("mempools", name, "page_size")
        if not view.sound(path):
            continue
        first = first or name
        if pool.page_size != view.topology.mempools[first].page_size:
            yield view.problem(
                path,
                f"mempool `{name}` asks for other pages than `{first}`",
                code="E0125",
                why="this version of dpsup reserves its memory in pages of one size",
                help="use one page_size for all mempools",
            )
            return


def _kernel_paths(view: _View) -> Iterator[Problem]:
    first: dict[tuple[str, str], int] = {}
    for i, port in enumerate(view.topology.ports):
        path: Path = ("ports", i, "kernel")
        if not port.kernel or not view.sound(path, ("ports", i, "name")):
            continue
        if not port.kernel.tap and (fault := interface_fault(port.tap)):
            yield view.problem(
                path,
                f"the port's name cannot be its TAP's: {fault}",
                code="E0448",
                why=f"a TAP is named as its port, `{port.name}`, unless another name is given",
                help='give it one: kernel = { tap = "wan0" }',
            )
        where = (port.kernel.netns, port.tap)
        if where in first:
            line = view.source.line(("ports", first[where], "kernel"))
            yield view.problem(
                path,
                f"two ports have the TAP {port.tap}",
                code="E0448",
                why=f"the port on line {line} has it already",
                help="give each a name of its own",
            )
        first.setdefault(where, i)
        yield from _room_for_frames(view, i)


def _room_for_frames(view: _View, i: int) -> Iterator[Problem]:
    port = view.topology.ports[i]
    pool = view.topology.mempools.get(port.mempool)
    needed = port.mtu + limits.FRAME_MORE + limits.HEADROOM
    if not pool or pool.data_room >= needed:
        return
    if not view.sound(("ports", i, "mtu"), ("mempools", port.mempool, "data_room")):
        return
    yield view.problem(
        ("ports", i, "kernel"),
        f"a frame of the kernel's may need {needed} bytes, and mbufs have {pool.data_room}",
        code="E0449",
        why=f"the TAP has the port's mtu, {port.mtu}, and each frame is read into one mbuf",
        help=f"write data_room = {needed} in [mempools.{port.mempool}], or a lower mtu",
    )


def _followers(view: _View) -> Iterator[Problem]:
    """Groups whose tables have the kernel's routes."""
    ports = [port for port in view.topology.ports if port.kernel]
    for i, group in enumerate(view.topology.workers):
        path: Path = ("workers", i, "follow")
        if group.follow is None or not view.sound(path):
            continue
        spaces = sorted({port.kernel.netns for port in ports})
        if len(spaces) != 1:
            yield view.problem(
                path,
                "the ports' TAPs are in several network namespaces"
                if spaces
                else "no port has a way to the kernel",
                code="E0452",
                why="the routes that the tables follow lead out of TAPs, and are those of one"
                " network namespace",
                help=f"write the same `netns` in `kernel` of all: {', '.join(map(show, spaces))}"
                if spaces
                else 'write kernel = "tap" in [[ports]]',
            )
        names = {one.name for one in group.tables}
        if view.sound(("workers", i, "tables")) and not (
            "hops" in names and names & {"routes", "routes6"}
        ):
            yield view.problem(
                path,
                f"group `{group.name}` has not the tables that follow the kernel's routes",
                code="E0453",
                why="they are those of the plugin `route`: hops, and routes or routes6",
                help="`dpsup init --template router` writes a topology that has all of them",
            )


def _probed(view: _View) -> Iterator[Problem]:
    """Groups whose backends are asked: their addresses, and the table for the answers."""
    for i, group in enumerate(view.topology.workers):
        if not group.is_probed or not view.sound(("workers", i, "probe"), ("workers", i, "tables")):
            continue
        tables = {one.name: one for one in group.tables}
        backends, down = tables.get("backends"), tables.get("down")
        if (
            backends is None
            or backends.kind != "own"
            or backends.key != "text8"
            or not re.fullmatch(r"mac\+u16\+ipv[46]", backends.value)
        ):
            lacks = "has no table of backends with their IP addresses"
            help = 'write tables.backends with key = "text8", value = "mac+u16+ipv4" (or +ipv6)'
        elif down is None or (down.kind, down.key, down.value) != ("exact", "text8", "text8"):
            lacks = "has no table for what is down"
            help = (
                'write tables.down = { kind = "exact", key = "text8", value = "text8", entries ='
                f" {backends.entries} }}"
            )
        else:
            continue
        yield view.problem(
            ("workers", i, "probe"),
            f"group `{group.name}` is to be probed, and {lacks}",
            code="E0458",
            why="the process that asks the backends connects to the addresses in the table"
            " `backends`, and marks in `down` what does not answer",
            help=help,
        )


# --- room ---------------------------------------------------------------------------------------


_SLOTS = "workers, by `max` of all groups together,"


def _room(view: _View) -> Iterator[Problem]:
    """What shared memory has no room for."""
    topology = view.topology
    pools = tuple(topology.mempools)
    for path, words, most, there in (
        (("ports", limits.PORTS), "ports", limits.PORTS, len(topology.ports)),
        (("workers", limits.GROUPS), "groups", limits.GROUPS, len(topology.workers)),
        (("mempools", *pools[limits.MEMPOOLS :][:1]), "mempools", limits.MEMPOOLS, len(pools)),
    ):
        if there > most:
            yield _too_many(view, path, there, words, most)
    cores = 0
    for i, io in enumerate(topology.io):
        if cores <= limits.IO_CORES < cores + len(io.cores):
            n = len(topology.io_cores)
            yield _too_many(view, ("io", i, "cores"), n, "io cores", limits.IO_CORES)
        cores += len(io.cores)
    slots = 0
    for i, group in enumerate(topology.workers):
        if slots <= limits.SLOTS < slots + group.max:
            n = sum(group.max for group in topology.workers)
            key = "max" if "max" in group.model_fields_set else "count"
            yield _too_many(view, ("workers", i, key), n, _SLOTS, limits.SLOTS)
        slots += group.max
    spares = 0
    for i, group in enumerate(topology.workers):
        if spares <= limits.SPARES < spares + group.spares:
            n = sum(group.spares for group in topology.workers)
            yield _too_many(view, ("workers", i, "spares"), n, "spares", limits.SPARES)
        spares += group.spares


def _too_many(view: _View, path: Path, there: int, words: str, most: int) -> Problem:
    return view.problem(
        path,
        f"{there} {words} are more than dpsup has room for",
        code="E0126",
        why=f"shared memory is laid out for {most}, before anything starts",
        help=f"use at most {most}, or start a second instance",
    )


def _notes(view: _View) -> Iterator[Problem]:
    topology = view.topology
    host = topology.metrics.listen.rpartition(":")[0]
    if host and not host.startswith("127.") and host not in ("localhost", "[::1]", "::1"):
        yield view.problem(
            ("metrics", "listen"),
            f"metrics are served on {host}, to any peer that reaches it",
            code="E0134",
            why="there is neither a password nor encryption",
            help='write listen = "127.0.0.1:9464", or have a firewall in front',
            severity=Severity.WARNING,
        )
    for name in sorted(set(topology.bus.admin) & set(topology.bus.read)):
        yield view.problem(
            ("bus", "read"),
            f'"{name}" stands in `admin` and in `read`',
            code="E0473",
            why="`admin` holds, which has all that `read` has",
            help="leave it out of one of them",
            severity=Severity.WARNING,
        )
    if topology.host.eal_extra:
        yield view.problem(
            ("host", "eal_extra"),
            "`eal_extra` is handed to EAL unchecked",
            code="E0128",
            why="arguments that contradict dpsup's own break isolation, memory or cores",
            help="leave it out if a key of the topology can say the same",
            severity=Severity.WARNING,
        )


_LOOKS = (
    _missing,
    _named_twice,
    _devices,
    _mempools_of_ports,
    _inputs,
    _chains,
    _at_zero,
    _groups,
    _ports,
    _one_hash,
    _page_sizes,
    _kernel_paths,
    _followers,
    _probed,
    _room,
    _notes,
)
