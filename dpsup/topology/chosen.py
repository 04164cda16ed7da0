# SPDX-License-Identifier: BSD-3-Clause
"""The values that a topology leaves to the machine: CPUs (`cores = "auto"`) and PCI addresses
(`pci = "env:NAME"`).

They are chosen when the file is read, so that all else sees a topology of numbers and addresses.
The same file on the same machine gives the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dpsup.errors import Exit, Problem
from dpsup.text import cpus, plural, show
from dpsup.topology.model import Topology
from dpsup.topology.typed import Path
from dpsup.topology.values import UNCHOSEN, pci_address, pci_variable

if TYPE_CHECKING:
    from dpsup.host.machine import Host


def chosen(topology: Topology, host: Host) -> tuple[Topology, list[tuple[Path, Problem]]]:
    """The same with values of this machine, and what could not be chosen, which stays as it is."""
    topology, problems = _addresses(topology, host)
    more, problem = _cores(topology, host)
    return more, [*problems, *problem]


# --- PCI addresses ------------------------------------------------------------------------------


def _addresses(topology: Topology, host: Host) -> tuple[Topology, list[tuple[Path, Problem]]]:
    problems: list[tuple[Path, Problem]] = []
    ports = list(topology.ports)
    taken: Counter[str] = Counter()  # variable: the ports that had one of its addresses
    for i, port in enumerate(ports):
        variable = pci_variable(port.pci or "")
        if not variable:
            continue
        found = host.variable(variable)
        given = found or ""
        addresses = [one.strip() for one in given.split(",") if one.strip()]
        at, path = taken[variable], ("ports", i, "pci")
        taken[variable] += 1
        wrong, help = "", ""
        if not addresses:
            wrong = f"the variable {variable} is {'not set' if found is None else 'empty'}"
            help = (
                "request the device of which a device plugin sets it (resources, or a claim), or"
                f" set it by hand: {variable}=0000:3b:00.0"
            )
        elif at >= len(addresses):
            wrong = f"the variable {variable} holds {plural(len(addresses), 'address')}:" + (
                f" {show(given)}"
            )
            help = (
                f"{at + 1} ports name it, in the order of its addresses: request as many devices,"
                " or leave ports out"
            )
        elif not pci_address(addresses[at]):
            wrong = f"{show(addresses[at])} in the variable {variable} is not a PCI address"
            help = "name the variable that holds addresses such as 0000:3b:00.0"
        if wrong:
            problem = topology.source.problem(
                path,
                wrong,
                code="E0480",
                why=f"port `{port.name}` takes its device from it",
                help=help,
                exit_code=Exit.HOST,
            )
            problems.append((path, problem))
            continue
        _, comma, devargs = (port.pci or "").partition(",")
        update = {"pci": f"{pci_address(addresses[at])}{comma}{devargs}"}
        ports[i] = port.model_copy(update=update)
    if not taken:
        return topology, []
    done = topology.model_copy(update={"ports": tuple(ports)})
    return done.read_from(topology.source, topology.file), problems


# --- CPUs ---------------------------------------------------------------------------------------


def _cores(topology: Topology, host: Host) -> tuple[Topology, list[tuple[Path, Problem]]]:
    """One CPU for the supervisor, then those of io cores: near the ports, each on a physical core
    of its own where there are enough."""
    lists = dict(_lists(topology))
    wanted = sum(cores.count(UNCHOSEN) for cores in lists.values())
    if not wanted:
        return topology, []
    named = {core for cores in lists.values() for core in cores if core != UNCHOSEN}
    named |= {core for group in topology.workers for core in group.cores}
    free = host.allowed - named
    if topology.host.shared_cores:
        free = free or host.allowed
    elif len(free) < wanted:
        return topology, [_too_few(topology, host, lists, wanted, named)]
    near = _near(topology, host)
    uses: Counter[int] = Counter()
    physical: Counter[int] = Counter(_core_of(host, core) for core in named)

    def choose() -> int:
        core = min(
            free,
            key=lambda cpu: (uses[cpu], cpu not in near, physical[_core_of(host, cpu)], cpu),
        )
        uses[core] += 1
        physical[_core_of(host, core)] += 1
        return core

    filled = {
        path: tuple(choose() if core == UNCHOSEN else core for core in cores)
        for path, cores in lists.items()
    }
    table = topology.host.model_copy(update={"supervisor_cores": filled.pop(_SUPERVISOR)})
    io = tuple(
        one.model_copy(update={"cores": cores})
        for one, cores in zip(topology.io, filled.values(), strict=True)
    )
    done = topology.model_copy(update={"host": table, "io": io})
    return done.read_from(topology.source, topology.file), []


_SUPERVISOR: Path = ("host", "supervisor_cores")


def _lists(topology: Topology) -> Iterator[tuple[Path, tuple[int, ...]]]:
    yield _SUPERVISOR, topology.host.supervisor_cores
    for i, io in enumerate(topology.io):
        yield ("io", i, "cores"), io.cores


def _core_of(host: Host, cpu: int) -> int:
    """The physical core of a CPU, by the first CPU on it."""
    return min(host.siblings.get(cpu, frozenset()), default=cpu)


def _near(topology: Topology, host: Host) -> frozenset[int]:
    """The CPUs of the ports' NUMA nodes: the devices', else those of the ports' mempools."""
    found = [host.pci.get(port.device) for port in topology.ports if port.pci]
    nodes = {device.numa for device in found if device is not None and device.numa >= 0}
    if not nodes:
        pools: Iterable[str] = (port.mempool for port in topology.ports)
        nodes = {topology.mempools[one].numa for one in pools if one in topology.mempools}
    return frozenset(cpu for node in nodes for cpu in host.numa.get(node, frozenset()))


def _too_few(
    topology: Topology,
    host: Host,
    lists: dict[Path, tuple[int, ...]],
    wanted: int,
    named: set[int],
) -> tuple[Path, Problem]:
    path = next(path for path, cores in lists.items() if UNCHOSEN in cores)
    has = f"it has {cpus(host.allowed)}"
    others = sorted(named & host.allowed)
    if others:
        has += f", of which the file gives {cpus(others)} to others"
    return path, topology.source.problem(
        path,
        f"`auto` needs {plural(wanted, 'CPU')} for the supervisor and io cores, and"
        f" {len(host.allowed - named)} {'is' if len(host.allowed - named) == 1 else 'are'} free"
        " for this process",
        code="E0481",
        why=f"{has}: an io core never yields its CPU, and workers need more of them",
        help="give the container or unit more CPUs (whole ones: requests equal to limits), use"
        " fewer io cores, or set [host] shared_cores = true to try dpsup out",
        exit_code=Exit.HOST,
    )
