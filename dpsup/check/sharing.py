# SPDX-License-Identifier: BSD-3-Clause
"""Do two ports, or two instances, use one file or one interface? And can an output be written?

A port empties its output file when it opens it, so whatever else that file is for is lost; an
interface hands each packet to every listener. Files are told apart by device and inode: links, and
paths that are written differently, do not deceive it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from dpsup.errors import Problem, Severity
from dpsup.plan.paths import quarantine_dir, runtime_dir, tables_dir
from dpsup.plan.place import driver_of
from dpsup.text import show
from dpsup.topology.model import Topology
from dpsup.topology.typed import Path
from dpsup.topology.values import memif_of, parse_vdev

if TYPE_CHECKING:
    from dpsup.host.machine import Host

# Arguments that name an interface from which the port receives.
_RECEIVES = {
    "net_af_packet": ("iface",),
    "net_af_xdp": ("iface",),
    "net_pcap": ("iface", "rx_iface", "rx_iface_in"),
    "net_tap": ("remote",),
}
_ONCE = ("net_af_packet", "net_af_xdp", "net_tap")  # an argument that is repeated replaces the last
_OURS = (
    (runtime_dir, "the instance's runtime directory"),
    (quarantine_dir, "its quarantine"),
    (tables_dir, "its tables_dir"),
)
_VHOST = ("net_vhost", "eth_vhost")  # the driver takes a second port at one socket without a word


class _Use(NamedTuple):
    """What a port does with a file, an interface, or a TAP of that name."""

    what: str  # "reads" | "writes" | "receives" | "creates" | "serves" | "joins"
    name: str


def _uses(vdev: str, host: Host) -> list[_Use]:
    name, devargs = parse_vdev(vdev)
    driver = driver_of(name, host)
    if driver in _ONCE:
        devargs = tuple(dict(devargs).items())
    found = []
    for key, value in devargs:
        if driver == "net_pcap" and key in ("rx_pcap", "tx_pcap"):
            found.append(_Use("reads" if key == "rx_pcap" else "writes", value))
        elif key in _RECEIVES.get(driver, ()):
            found.append(_Use("receives", value))
        elif (driver == "net_tap" or driver in _VHOST) and key == "iface":
            found.append(_Use("creates", value))
    if (memif := memif_of(vdev)) is not None:
        name = f"{memif.socket} with id={memif.number}"
        found.append(_Use("serves" if memif.server else "joins", name))
    return found


def sharing(topology: Topology, host: Host) -> Iterator[Problem]:
    ports = [(i, port.name, _uses(port.vdev, host)) for i, port in enumerate(topology.ports)
             if port.vdev]  # fmt: skip
    if not any(uses for _, _, uses in ports):
        return
    inputs: dict[object, str] = {host.file_id(topology.file): "it is the topology file"}
    for group in topology.workers:
        if group.is_file:
            inputs[host.file_id(group.plugin_path)] = f"it is the plugin of group `{group.name}`"
        for _, file in group.files:
            inputs[host.file_id(file)] = f"the plugin of group `{group.name}` reads it"
        for table in group.tables:
            if table.file:
                inputs[host.file_id(table.file)] = f"it is table {table.name} of `{group.name}`"
    for stream in ("/dev/stdout", "/dev/stderr"):
        if host.is_file(stream):
            inputs[host.file_id(stream)] = "what this command says goes there"
    for _, name, uses in ports:
        for use in uses:
            if use.what == "reads":
                inputs[host.file_id(use.name)] = f"port `{name}` reads its packets from it"
    outputs: dict[object, str] = {}
    names: dict[_Use, str] = {}
    others = _Others(topology, host)
    for i, name, uses in ports:
        path: Path = ("ports", i, "vdev")
        for use in uses:
            if use.what == "writes":
                yield from _output(topology, host, path, use.name, inputs, outputs, others)
                outputs.setdefault(host.file_id(use.name), f"port `{name}` writes to it too")
            elif use.what != "reads":
                yield from _interface(topology, path, use, names, others)
                names.setdefault(use, name)


def _output(
    topology: Topology,
    host: Host,
    path: Path,
    file: str,
    inputs: dict[object, str],
    outputs: dict[object, str],
    others: _Others,
) -> Iterator[Problem]:
    kind = host.kind_of(file)
    if kind in ("null", "fifo"):  # FIFOs are refused in drivers.py
        return
    if kind not in ("file", "absent"):
        yield topology.source.problem(
            path,
            f"{show(file)[1:-1]} is no file that packets can be written to",
            code="E0442",
            why="a device takes anything and keeps nothing, so that no count can say what arrived",
            help="name a file, or /dev/null",
        )
        return
    one = host.file_id(file)
    why = inputs.get(one) or outputs.get(one) or others.file(one)
    directory = host.file_id(posixpath.dirname(file))
    for ours, its in _OURS:
        if directory == host.file_id(ours(topology, host)):
            why = f"it lies in {its}, whose files are dpsup's"
    if why:
        yield topology.source.problem(
            path,
            f"tx_pcap would overwrite {show(file)[1:-1]}",
            code="E0440",
            why=f"{why}, and a port empties the file that it writes to",
            help="name another file",
        )


def _interface(
    topology: Topology, path: Path, use: _Use, names: dict[_Use, str], others: _Others
) -> Iterator[Problem]:
    if use.what in ("serves", "joins"):
        other = others.interface(use)
        has = f"port `{names[use]}`" if use in names else f'the instance "{other}"'
        if use in names or other:
            yield topology.source.problem(
                path,
                f"{has} {use.what} {show(use.name)[1:-1]} too",
                code="E0441",
                why="net_memif connects one server with one client, and refuses a second one",
                help="write another id= here and at the other end, or another socket=",
                severity=Severity.ERROR if use in names else Severity.WARNING,
            )
    elif use in names:
        yield topology.source.problem(
            path,
            f"two ports use the interface {show(use.name)[1:-1]}"
            if names[use] != topology.ports[int(path[1])].name
            else f"the port receives from the interface {show(use.name)[1:-1]} twice",
            code="E0441",
            why=f"port `{names[use]}` has it already, and each packet would be received twice, or"
            " by either of them",
            help="use another interface; [[chains]] takes packets through several groups",
        )
    elif other := others.interface(use):
        yield topology.source.problem(
            path,
            f'the instance "{other}" uses the interface {show(use.name)[1:-1]} too',
            code="E0441",
            why="both receive each packet: what both forward arrives twice",
            help=f'stop "{other}", or let one of the two only look: plugin = "sink"',
            severity=Severity.WARNING,
        )


class _Others:
    """What other instances use."""

    def __init__(self, topology: Topology, host: Host) -> None:
        self._files: dict[object, str] = {}
        self._names: dict[_Use, str] = {}
        mine = runtime_dir(topology, host)
        for other in host.neighbours():
            if other.runtime_dir == mine or other.topology_file == topology.file:
                continue  # itself, which runs: another user's environment names other directories
            for use in (use for vdev in other.vdevs if vdev for use in _uses(vdev, host)):
                if use.what in ("reads", "writes") and host.kind_of(use.name) != "null":
                    verb = "reads from" if use.what == "reads" else "writes to"
                    self._files[host.file_id(use.name)] = f'the instance "{other.name}" {verb} it'
                else:
                    self._names[use] = other.name

    def file(self, one: object) -> str | None:
        return self._files.get(one)

    def interface(self, use: _Use) -> str | None:
        return self._names.get(use)
