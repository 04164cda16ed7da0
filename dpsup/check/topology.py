# SPDX-License-Identifier: BSD-3-Clause
"""Can this machine run this topology? Returns findings with file and line; changes nothing.

It judges what `topology` cannot know: CPUs, hugepages, drivers, devices, files, rights; and what
follows from several tables together, such as a mempool's least size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.check.buffers import buffers
from dpsup.check.devices import devices
from dpsup.check.drivers import drivers, kept
from dpsup.check.kernel import kernel_paths
from dpsup.check.memory import hugepages, pools
from dpsup.check.own_tables import own_tables
from dpsup.check.process_limits import process_limits
from dpsup.check.sharing import sharing
from dpsup.errors import Exit, Problem, Severity, TopologyError
from dpsup.host import eal
from dpsup.host.plugin_file import NoPlugin, PluginFile
from dpsup.plan.copies import DIGEST, plugin_copy
from dpsup.plan.model import Plan
from dpsup.plan.paths import runtime_dir
from dpsup.plan.place import args_of, make_plan, worker_cores
from dpsup.plugin_source import SUFFIX
from dpsup.tables import file as table_file
from dpsup.tables.fields import Names
from dpsup.tables.model import Match
from dpsup.text import cpus, listing, plural, show, suggest
from dpsup.topology.load import read
from dpsup.topology.model import Group, Topology
from dpsup.topology.typed import Path
from dpsup.topology.values import UNCHOSEN

if TYPE_CHECKING:
    from dpsup.host.machine import Host

UNMAPPED = ("sink",)  # those that take no map of ports

_SOCKET_PATH = 107  # sun_path without its closing zero
_SOCKET_NAME = 12  # the longest name of a socket in the runtime directory
_EAL_SOCKET = len("mp_socket_") + 7 + 1 + 16  # mp_socket_<pid>_<tsc>
_GENERATION = 6  # digits that a generation may grow to

Check = Callable[[Topology, "Host"], Iterator[Problem]]


def prepare(
    path: str, host: Host | None = None, generation: int = 1, *, apply: bool = False
) -> tuple[Topology, Plan, list[Problem]]:
    """What a start needs, and the warnings. `apply`: plugins say what is wrong in the files of
    tables of their own kind, as they will at a start. Raises: TopologyError with all problems."""
    if host is None:
        from dpsup.host.machine import read_host

        host = read_host()
    reading = read(path, host)
    problems = list(reading.problems)
    topology = reading.topology
    if topology is not None:
        # The model holds the default of a faulty value, which the user did not write.
        faulty = {p.line for p in problems if p.severity is Severity.ERROR}
        found = check(topology, host, sound=reading.sound)
        problems += [p for p in found if p.line not in faulty]
        problems.sort(key=lambda p: p.line)
    if topology is None or any(p.severity is Severity.ERROR for p in problems):
        raise TopologyError(problems)
    if apply and (refused := list(own_tables(topology))):
        raise TopologyError(problems + refused)
    return topology, make_plan(topology, host, generation), problems


def check(
    topology: Topology, host: Host, *, sound: bool = True, tables: bool = True
) -> list[Problem]:
    """Every finding, in the file's order. `tables`: also what is wrong in the files of live tables,
    which may have millions of lines.

    A topology that is not `sound` lacks its faulty values: only what is said about single values
    that are there holds, and only that is reported.
    """
    checks = SINGLE + RELATED if sound else SINGLE
    wanted = [one for one in checks if tables or one is not _tables]
    found = [problem for one in wanted for problem in one(topology, host)]
    return sorted(found, key=lambda p: p.line)


# --- CPUs ---------------------------------------------------------------------------------------


def _core_lists(topology: Topology) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    yield ("host", "supervisor_cores"), "the supervisor", topology.host.supervisor_cores
    for i, io in enumerate(topology.io):
        yield ("io", i, "cores"), "an io core", io.cores
    for i, group in enumerate(topology.workers):
        yield ("workers", i, "cores"), f"group `{group.name}`", group.cores


def _cores_exist(topology: Topology, host: Host) -> Iterator[Problem]:
    for path, purpose, cores in _core_lists(topology):
        absent = [core for core in cores if core not in host.online and core != UNCHOSEN]
        barred = [core for core in cores if core in host.online and core not in host.allowed]
        if absent:
            yield topology.source.problem(
                path,
                f"{cpus(absent)} for {purpose} is not on this machine"
                if len(absent) == 1
                else f"{cpus(absent)} for {purpose} are not on this machine",
                code="E0201",
                why=f"it has {cpus(host.online)} online",
                help=f"use {cpus(host.allowed)}",
                exit_code=Exit.HOST,
            )
        if barred:
            yield topology.source.problem(
                path,
                f"dpsup may not use {cpus(barred)}, meant for {purpose}",
                code="E0202",
                why=f"its CPU affinity or cpuset allows {cpus(host.allowed)}",
                help="start it without taskset or AllowedCPUs=, or name CPUs that are allowed",
                exit_code=Exit.HOST,
            )


def _cores_shared(topology: Topology, host: Host) -> Iterator[Problem]:
    problem = topology.source.problem
    shared_ok = topology.host.shared_cores
    io: dict[int, int] = {}  # CPU: the line that claims it for an io core
    for i, table in enumerate(topology.io):
        path: Path = ("io", i, "cores")
        for core in table.cores:
            if core in io and not shared_ok:
                yield problem(
                    path,
                    f"CPU {core} is an io core already",
                    code="E0204",
                    why=f"line {io[core]} claims it, and an io core never yields its CPU",
                    help="give each io core a CPU of its own, or set [host] shared_cores = true",
                )
            io.setdefault(core, topology.source.line(path))
    both = [core for core in topology.host.supervisor_cores if core in io]
    if both:
        yield problem(
            ("host", "supervisor_cores"),
            f"the supervisor shares {cpus(both)} with an io core",
            code="E0205",
            why="Python and wardens then wait for an io core that polls, and slow it",
            help=f"free CPU {both[0]} of one of them",
            severity=Severity.WARNING,
        )
    yield from _workers_shared(topology, host, io)


def _workers_shared(topology: Topology, host: Host, io: dict[int, int]) -> Iterator[Problem]:
    problem = topology.source.problem
    placed: dict[int, list[str]] = {}  # CPU: the workers on it that start
    crowded: dict[int, set[int]] = {}  # group: its CPUs on which others were before
    for i, cores in enumerate(worker_cores(topology, host)):
        group = topology.workers[i]
        clash = sorted(core for core in group.cores if core in io)
        if clash and not topology.host.shared_cores:
            yield problem(
                ("workers", i, "cores"),
                f"group `{group.name}` uses {cpus(clash)}, which is an io core",
                code="E0203",
                why=f"line {io[clash[0]]} claims it, and an io core never yields its CPU",
                help='write cores = "auto", name others, or set [host] shared_cores = true',
            )
        for slot, core in enumerate(cores[: group.count]):
            # A user who names one core for both means it; a user who leaves it to dpsup is warned.
            unasked = core in io or core in topology.host.supervisor_cores
            if core in placed or (unasked and not group.cores):
                crowded.setdefault(i, set()).add(core)
            placed.setdefault(core, []).append(f"{group.name}/{slot}")
    if crowded:
        groups = [f"`{topology.workers[i].name}`" for i in crowded]
        shared = sorted(set().union(*crowded.values()))
        others = [worker for core in shared for worker in placed[core]]
        others += ["the supervisor"] * any(c in topology.host.supervisor_cores for c in shared)
        others += ["an io core"] * any(core in io for core in shared)
        first = next(iter(crowded))
        yield problem(
            ("workers", first, "cores"),
            f"workers of group{'s' * (len(groups) > 1)} {listing(groups)} share {cpus(shared)}",
            code="E0206",
            why=f"{listing(others)} take turns there: each is slower, and its packets wait",
            help="name as many free CPUs as there are workers"
            if topology.workers[first].cores
            else "use fewer workers, or a machine with more CPUs",
            severity=Severity.WARNING,
        )


def _numa(topology: Topology, host: Host) -> Iterator[Problem]:
    for name, pool in topology.mempools.items():
        if pool.numa not in host.numa:
            nodes = ", ".join(map(str, sorted(host.numa)))
            yield topology.source.problem(
                ("mempools", name, "numa"),
                f"mempool `{name}` wants NUMA node {pool.numa}, which is not there",
                code="E0207",
                why=f"this machine has node {nodes}",
                help=f"write numa = {min(host.numa, default=0)}",
                exit_code=Exit.HOST,
            )


# --- plugins ------------------------------------------------------------------------------------


def _plugins(topology: Topology, host: Host) -> Iterator[Problem]:
    for i, group in enumerate(topology.workers):
        path: Path = ("workers", i, "plugin")
        if group.is_file:
            if not host.is_file(group.plugin_path):
                yield topology.source.problem(
                    path,
                    f"there is no plugin {group.plugin_path}",
                    code="E0501",
                    why=f"the workers of group `{group.name}` load it",
                    help="build it, or correct the path, which begins at the file's directory",
                )
            else:
                yield from _plugin_file(topology, host, path, group)
        elif group.plugin not in limits.BUILT_IN:
            close = suggest(group.plugin, limits.BUILT_IN + limits.FUNCTIONS)
            yield topology.source.problem(
                path,
                f"there is no built-in plugin {show(group.plugin)}",
                code="E0502",
                why=f"built in are {', '.join(limits.BUILT_IN + limits.FUNCTIONS)}",
                help=f"did you mean `{close}`?"
                if close
                else 'write plugin = "./NAME.so" for a file of your own',
            )


def _files(topology: Topology, host: Host) -> Iterator[Problem]:
    directory = runtime_dir(topology, host)
    for i, group in enumerate(topology.workers):
        # Plugins are handed paths of private copies.
        copies = {
            f"{limits.FILE}{k}": plugin_copy(directory, " " * DIGEST, v) for k, v in group.files
        }
        handed = tuple((k, copies.get(k, v)) for k, v in args_of(group, directory))
        size = limits.args_size(handed)
        if size > limits.ARGS >= limits.args_size(group.args):  # else it is told already
            key = "files" if group.files else "args" if group.args else "tables"
            yield topology.source.problem(
                ("workers", i, key),
                f"what the plugin of group `{group.name}` is handed takes {size} bytes",
                code="E0511",
                why=f"shared memory has room for {limits.ARGS}: for `args`, the paths of `files`,"
                " and where `tables` lie",
                help="hand it shorter `args` or fewer `files`, or choose a shorter [host]"
                " runtime_dir",
            )
        for name, file in group.files:
            if not host.is_file(file):
                yield topology.source.problem(
                    ("workers", i, "files", name),
                    f"there is no file {file}",
                    code="E0511",
                    why=f"the plugin of group `{group.name}` is handed its contents",
                    help="write it, or correct the path, which begins at the file's directory",
                )


def _tables(topology: Topology, host: Host) -> Iterator[Problem]:
    names = Names(tuple(p.name for p in topology.ports), tuple(g.name for g in topology.workers))
    for i, group in enumerate(topology.workers):
        for one in group.tables:
            if not one.file:
                continue
            table = one.table()
            try:
                text = host.read_data(one.file, table.file_most)
            except (OSError, ValueError) as e:
                why = (isinstance(e, OSError) and e.strerror) or "it is not UTF-8"
                yield topology.source.problem(
                    ("workers", i, "tables", one.name),
                    f"cannot read {one.file}: {why}",
                    code="E0521",
                    why=f"it says what table `{one.name}` of group `{group.name}` holds",
                    help="write it, or correct the path, which begins at the file's directory",
                )
                continue
            yield from table_file.parse(text, table, names, one.file).problems


def _plugin_file(topology: Topology, host: Host, path: Path, group: Group) -> Iterator[Problem]:
    """What a worker would refuse, before one is started."""
    how = "correct the path, or build it: `dpsup init --template plugin` shows how"
    if group.plugin.endswith(SUFFIX):
        how = "correct it: `dpsup init --template python` writes one to begin with"
    why, help = "", how
    try:
        found = host.read_plugin(group.plugin_path)
    except NoPlugin as e:
        why = str(e)
    except OSError as e:
        why, help = f"it cannot be read: {e.strerror}", "make it readable, or correct the path"
    else:
        for key, of, declared, reserved in (
            ("state", "worker", found.state, group.state),
            ("bucket_state", "bucket", found.bucket_state, group.bucket_state),
        ) if found else ():  # fmt: skip
            if declared > reserved != limits.AUTO_STATE:
                why = (
                    f"it keeps {declared} bytes of state for each {of}, and the topology reserves"
                    f" {reserved}"
                )
                help = (
                    f'write {key} = {declared} in [[workers]] of group "{group.name}", or'
                    f' {key} = "auto"'
                )
        auto = limits.AUTO_STATE in (group.state, group.bucket_state)
        if auto and found is None:
            why = "it does not say how many bytes of state it keeps, and the topology says `auto`"
            help = "write the bytes as a number"
    if why:
        yield topology.source.problem(
            path,
            f"the workers of group `{group.name}` cannot load {group.plugin}",
            code="E0510",
            why=why,
            help=help,
        )


def _map(group: Group) -> dict[str, str]:
    return {k.removeprefix("map."): v for k, v in group.args if k.startswith("map.")}


def _maps(topology: Topology, _: Host) -> Iterator[Problem]:
    ports = tuple(port.name for port in topology.ports)
    if "" in ports:
        return  # a name that is faulty itself
    groups = {group.name for group in topology.workers}
    for i, group in enumerate(topology.workers):
        if group.is_file or group.plugin in UNMAPPED:
            continue
        if "map" in dict(group.args):
            yield topology.source.problem(
                ("workers", i, "args", "map"),
                f"`map` of group `{group.name}` is not a table",
                code="E0503",
                why="it says for each port where its packets leave",
                help='write map = { wan = "lan", lan = "wan" }',
            )
        for key, value in _map(group).items():
            for name in dict.fromkeys((key, value)):
                if not ports or name in ports:
                    continue
                close = suggest(name, ports)
                yield topology.source.problem(
                    ("workers", i, "args", "map", key),
                    f"`map` of group `{group.name}` names a port that is not there: {show(name)}",
                    code="E0504",
                    why=f"`{name}` is a group"
                    if name in groups
                    else f"the file has {', '.join(f'`{port}`' for port in ports)}",
                    help=f"did you mean `{close}`?" if close else "name one of the file's ports",
                )


def _fed(topology: Topology, _: Host) -> Iterator[Problem]:
    fed = {name for group in topology.workers for name in group.input or ()}
    outputs = {name for group in topology.workers for name in _map(group).values()}
    # A plugin that the user wrote may send to any port.
    anywhere = any(group.is_file for group in topology.workers)
    for i, port in enumerate(topology.ports):
        if port.name not in fed | outputs and not anywhere:
            yield topology.source.problem(
                ("ports", i, "name"),
                f"port `{port.name}` feeds no group, and no map sends to it",
                code="E0505",
                why="what it receives is dropped, and it sends nothing",
                help=f'add it to the input of a group: input = ["{port.name}"]',
                severity=Severity.WARNING,
            )
    for i, group in enumerate(topology.workers):
        if not group.input:
            yield topology.source.problem(
                ("workers", i, "input"),
                f"no port feeds group `{group.name}`",
                code="E0506",
                why="its workers get packets only if another group's plugin sends them on",
                help='add input = ["PORT"]',
                severity=Severity.WARNING,
            )


# --- what has no effect -------------------------------------------------------------------------


def _log(topology: Topology, _: Host) -> Iterator[Problem]:
    if topology.log.level != "info":
        yield topology.source.problem(
            ("log", "level"),
            f"`level` of [log] is {show(topology.log.level)} and has no effect",
            code="E0150",
            why="nothing reads it: all lines are kept",
            help="leave it out; `dpsup logs NAME` and `dpsup events --type` choose among them",
            severity=Severity.WARNING,
        )


def _unread_tables(topology: Topology, _: Host) -> Iterator[Problem]:
    for i, group in enumerate(topology.workers):
        if group.tables and group.plugin in limits.BUILT_IN:
            yield topology.source.problem(
                ("workers", i, "tables"),
                f"group `{group.name}` has live tables, and its plugin looks nothing up",
                code="E0534",
                why=f"the built-in plugin `{group.plugin}` has no use for them: they take their"
                " memory, and change no packet",
                help="leave `tables` out, or name a plugin that looks them up",
                severity=Severity.WARNING,
            )


def _readable(group: Group, host: Host) -> PluginFile | None:
    """What the plugin's file says; None: it does not tell, or `_plugins` says what is wrong."""
    if not group.is_file:
        return PluginFile() if group.plugin in limits.BUILT_IN else None
    try:
        return host.read_plugin(group.plugin_path) if host.is_file(group.plugin_path) else None
    except (NoPlugin, OSError):
        return None


def _functions(topology: Topology, host: Host) -> Iterator[Problem]:
    """What the topology has for functions that the plugin does not have."""
    for i, group in enumerate(topology.workers):
        own = [one.name for one in group.tables if one.kind == Match.OWN]
        found = _readable(group, host) if own or group.control else None
        if found is None:
            continue
        if group.control and not found.control:
            yield topology.source.problem(
                ("workers", i, "control"),
                f"the plugin of group `{group.name}` has no control()",
                code="E0537",
                why="`dpsup tell` refuses a text that no worker would do anything about",
                help="leave `control` out, or give the plugin one (dpsup_plugin.h)",
                severity=Severity.WARNING,
            )
        if own and not found.table_apply:
            yield topology.source.problem(
                ("workers", i, "tables", own[0]),
                f"the plugin of group `{group.name}` has no table_apply",
                code="E0539",
                why=f'table `{own[0]}` is of the kind "own": the plugin makes its bytes',
                help="give the plugin one (dpsup_plugin.h), or write another `kind`",
            )


# --- runtime directory --------------------------------------------------------------------------


def _runtime(topology: Topology, host: Host) -> Iterator[Problem]:
    problem = topology.source.problem
    path: Path = ("host", "runtime_dir")
    directory = runtime_dir(topology, host)
    over = len(directory.encode()) + 1 + _SOCKET_NAME - _SOCKET_PATH
    if over > 0:
        yield problem(
            path,
            f"the runtime directory's path is {plural(over, 'byte')} too long:"
            f" {show(directory)[1:-1]}",
            code="E0601",
            why=f"a path of a Unix socket has room for {_SOCKET_PATH} bytes",
            help='write a shorter runtime_dir, such as "/run/dpsup/edge"',
        )
    sockets = f"{eal.runtime_dir(host.env, is_root=host.is_root)}/dpsup-{topology.name}-g"
    over = len(sockets.encode()) + _GENERATION + 1 + _EAL_SOCKET - _SOCKET_PATH
    if over > 0:
        yield problem(
            ("name",),
            f"EAL's sockets would have paths {plural(over, 'byte')} too long:"
            f" {show(sockets)[1:-1]}",
            code="E0602",
            why=f"a path of a Unix socket has room for {_SOCKET_PATH} bytes",
            help="write a shorter name, or start with a shorter $RUNTIME_DIRECTORY or"
            " $XDG_RUNTIME_DIR",
        )
    if not host.can_write(directory):
        yield problem(
            path,
            f"not permitted to create the runtime directory {directory}",
            code="E0603",
            why="sockets and state live there",
            help="run as root, or set runtime_dir to a directory below one that is yours alone"
            if not host.is_root
            else "mount its file system read-write, or set another runtime_dir",
            exit_code=Exit.HOST if host.is_root else Exit.NOT_PERMITTED,
        )


# A single value's faults, and what needs all values to be right.
SINGLE: tuple[Check, ...] = (
    _cores_exist, _numa, devices, drivers, kernel_paths, _plugins, _files, _tables, _maps,
)  # fmt: skip
RELATED: tuple[Check, ...] = (
    _cores_shared, _fed, pools, kept, hugepages, process_limits, _runtime, sharing, buffers, _log,
    _unread_tables, _functions,
)  # fmt: skip
