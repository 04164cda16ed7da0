# SPDX-License-Identifier: BSD-3-Clause
"""From a file to a `Topology`, with every problem of the file at once.

It does not judge the machine (`check` does), and does not stop at the first fault: it leaves out
what is wrong and reads the rest.
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpsup import limits
from dpsup.errors import Exit, Problem, Severity
from dpsup.topology.chains import inputs
from dpsup.topology.chosen import chosen
from dpsup.topology.lines import Source
from dpsup.topology.model import Topology
from dpsup.topology.problems import distinct, fault, syntax_fault
from dpsup.topology.rules import default_pool, relations
from dpsup.topology.typed import Path, validate
from dpsup.topology.values import AUTO, parse_vdev

if TYPE_CHECKING:
    from dpsup.host.machine import Host


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says. With errors, `topology` is what is left without the faulty values: enough
    to look for further problems of single values, and never to be started."""

    topology: Topology | None
    problems: list[Problem]
    sound: bool


def load(path: str, host: Host) -> tuple[Topology | None, list[Problem]]:
    """The topology, if nothing is wrong with it, and every problem of the file."""
    reading = read(path, host)
    return (reading.topology if reading.sound else None), reading.problems


def read(path: str, host: Host) -> Reading:
    absolute = posixpath.normpath(posixpath.join(host.cwd, path))
    try:
        text = host.read_text(absolute)
    except UnicodeDecodeError as error:
        reason, code = f"byte {error.start + 1} is not UTF-8", Exit.BAD_TOPOLOGY
        why, help = "TOML files are UTF-8", "save the file as UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        refused = isinstance(error, PermissionError)
        code = Exit.NOT_PERMITTED if refused else Exit.BAD_TOPOLOGY
        why = "there is nothing to start without a topology"
        help = "grant read permission on it, or run as root"
        if not refused:
            help = "name a file that is there; `dpsup init` writes one to begin with"
    else:
        return parse(text, path, absolute, host)
    problem = Problem(
        f"cannot read {path}: {reason}", path, code="E0100", why=why, help=help, exit_code=code
    )
    return Reading(None, [problem], sound=False)


def parse(text: str, file: str, absolute: str, host: Host | None = None) -> Reading:
    """Read a topology's text; `file` is what messages call it. Without a host, what the machine is
    to choose stays open. Never raises."""
    source = Source.scan(file, text)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return Reading(None, [syntax_fault(error, source)], sound=False)

    topology, issues = validate(Topology, data)
    problems = [fault(issue, source) for issue in distinct(issues)]
    faulty = {issue.path for issue in issues}
    # What is left can be wrong in another way: a list of which all elements were faulty is empty.
    while topology is None and issues:
        topology, issues = validate(Topology, _without(data, faulty, ()))
        issues = [issue for issue in issues if issue.path not in faulty]
        faulty |= {issue.path for issue in issues}
    if topology is not None:
        topology = _complete(topology, source, absolute)
        if host is not None:
            topology, unchosen = chosen(topology, host)
            problems += [problem for _, problem in unchosen]
            faulty |= {path for path, _ in unchosen}
        problems += relations(topology, faulty)
    sound = topology is not None and not any(p.severity is Severity.ERROR for p in problems)
    return Reading(topology, sorted(problems, key=lambda p: p.line), sound)


def _without(value: Any, faulty: set[Path], path: Path) -> Any:
    """`value` without what is faulty. Elements of lists of tables stay, empty, for their number."""
    if isinstance(value, dict):
        return {
            key: _without(item, faulty, (*path, key))
            for key, item in value.items()
            if (*path, key) not in faulty
        }
    if isinstance(value, list) and len(path) == 1:
        return [
            {} if (*path, i) in faulty else _without(item, faulty, (*path, i))
            for i, item in enumerate(value)
        ]
    if isinstance(value, list):
        return [item for i, item in enumerate(value) if (*path, i) not in faulty]
    return value


def _complete(topology: Topology, source: Source, path: str) -> Topology:
    """The topology with absolute paths, and with the values that the file may leave out."""
    directory = posixpath.dirname(path)

    def absolute(name: str) -> str:
        return posixpath.normpath(posixpath.join(directory, name))

    pool = default_pool(tuple(topology.mempools))
    fed = inputs(topology)
    ports = tuple(
        port.model_copy(
            update={
                "mempool": port.mempool or pool,
                "vdev": port.vdev and _absolute_vdev(port.vdev, absolute),
            }
        )
        for port in topology.ports
    )
    groups = tuple(
        group.model_copy(
            update={
                "input": fed[group.name],
                "plugin": absolute(group.plugin)
                if limits.is_plugin_file(group.plugin)
                else group.plugin,
                "files": tuple((name, absolute(file)) for name, file in group.files),
                "tables": tuple(
                    one._replace(file=absolute(one.file)) if one.file else one
                    for one in group.tables
                ),
            }
        )
        for group in topology.workers
    )
    directories = {
        key: getattr(topology.host, key) for key in ("runtime_dir", "quarantine_dir", "tables_dir")
    }
    host = topology.host.model_copy(
        update={k: path if path == AUTO else absolute(path) for k, path in directories.items()}
    )
    bus = topology.bus
    if bus.keys != AUTO:
        bus = bus.model_copy(update={"keys": absolute(bus.keys)})
    done = topology.model_copy(update={"ports": ports, "workers": groups, "host": host, "bus": bus})
    return done.read_from(source, path)


def _absolute_vdev(spec: str, absolute: Callable[[str], str]) -> str:
    name, devargs = parse_vdev(spec)
    pcap = ("rx_pcap", "tx_pcap")
    keys: dict[str, tuple[str, ...]] = {"net_pcap": pcap, "eth_pcap": pcap}
    # An abstract socket's name is no path.
    if ("socket-abstract", "yes") not in devargs:
        keys["net_memif"] = ("socket",)
    paths = next((keys[driver] for driver in keys if name.startswith(driver)), ())
    parts = [name]
    for part in spec.split(",")[1:]:
        key, _, value = part.partition("=")
        parts.append(f"{key}={absolute(value)}" if key.strip() in paths and value else part)
    return ",".join(parts)
