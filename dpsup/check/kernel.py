# SPDX-License-Identifier: BSD-3-Clause
"""Can this machine give the ports of a topology their ways to the kernel?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup.check.devices import offloaded
from dpsup.errors import Exit, Problem, Severity
from dpsup.host.tap import NO_RIGHT
from dpsup.topology.model import Port, Topology
from dpsup.topology.typed import Path

if TYPE_CHECKING:
    from dpsup.host.machine import Host


def kernel_paths(topology: Topology, host: Host) -> Iterator[Problem]:
    wanted = [(i, port) for i, port in enumerate(topology.ports) if port.kernel]
    if not wanted:
        return
    why = host.no_taps()
    # What was prepared for this port, an ordinary user may open.
    is_prepared = why == NO_RIGHT and all(_is_there(topology, host, port) for _, port in wanted)
    if why and not is_prepared:
        yield topology.source.problem(
            ("ports", wanted[0][0], "kernel"),
            "this process can create no TAP",
            code="E0447",
            why=why,
            help="run as root, or with CAP_NET_ADMIN and the device /dev/net/tun; or have root"
            " prepare the TAP: docs/security.md",
            exit_code=Exit.HOST,
        )
        return
    yield from _followers(topology, host)
    for i, port in wanted:
        yield from _tap(topology, host, i, port)


def _followers(topology: Topology, host: Host) -> Iterator[Problem]:
    for i, group in enumerate(topology.workers):
        if group.follow and not host.can_import("pyroute2"):
            yield topology.source.problem(
                ("workers", i, "follow"),
                "the pyroute2 package of Python is not installed",
                code="E0460",
                why="it reads the kernel's routes; without it the tables would stay as they are",
                help="pip install 'pyroute2>=0.9.1', into the environment that dpsup runs in",
                exit_code=Exit.HOST,
            )


def _is_there(topology: Topology, host: Host, port: Port) -> bool:
    return host.tap(port.tap, port.kernel.netns).is_of(topology.name, port.name)


def _tap(topology: Topology, host: Host, i: int, port: Port) -> Iterator[Problem]:
    path: Path = ("ports", i, "kernel")
    netns = port.kernel.netns
    where = f" in network namespace {netns}" if netns else ""
    found = host.tap(port.tap, netns)
    if found.trouble:
        yield topology.source.problem(
            path,
            f"there can be no TAP{where}",
            code="E0447",
            why=found.trouble,
            help="`ip netns` lists the namespaces that are there; to enter one takes CAP_SYS_ADMIN"
            if netns
            else "`ip link` shows what is there",
            exit_code=Exit.HOST,
        )
    elif found.is_there and not found.is_of(topology.name, port.name):
        yield topology.source.problem(
            path,
            f"there is an interface {port.tap}{where} already",
            code="E0448",
            why="dpsup changes no other interface than its own",
            help='choose another name: kernel = { tap = "NAME" }, or remove that interface',
            exit_code=Exit.HOST,
        )
    if not netns and (interfaces := offloaded(port)):
        yield topology.source.problem(
            path,
            f"the kernel sees the packets of {interfaces[0]} too, in the TAP's network namespace",
            code="E0450",
            why="it answers there by itself, beside what it does at the TAP: ARP, ping, TCP resets",
            help='put the TAP into another namespace: kernel = { netns = "NAME" }',
            severity=Severity.WARNING,
            exit_code=Exit.HOST,
        )
