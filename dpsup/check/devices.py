# SPDX-License-Identifier: BSD-3-Clause
"""Are a topology's devices there: NICs, drivers, interfaces?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup.check.captures import missing_device, pcap_files
from dpsup.errors import Exit, Problem, Severity
from dpsup.host.pci import FOR_DPDK
from dpsup.plan.place import driver_of
from dpsup.text import show, suggest
from dpsup.topology.model import Port, Topology
from dpsup.topology.typed import Path
from dpsup.topology.values import interfaces_of, parse_vdev, pci_variable

if TYPE_CHECKING:
    from dpsup.host.machine import Host

# Drivers that see frames as the kernel passes them on.
OFFLOADED = ("net_af_packet", "net_pcap", "net_tap")
PEER = "on its other end, in that network namespace: ethtool -K NAME tx off tso off gso off"


def devices(topology: Topology, host: Host) -> Iterator[Problem]:
    for i, port in enumerate(topology.ports):
        if pci_variable(port.pci or ""):
            continue  # it gives no address, which is told of already
        if port.pci:
            yield from _pci(topology, host, i, port)
        elif port.vdev:
            yield from _vdev(topology, host, i, port)
    yield from _loops(topology, host)


def _loops(topology: Topology, host: Host) -> Iterator[Problem]:
    """Two ports of one switch that are one link: what it floods comes back to it."""
    for g, group in enumerate(topology.workers):
        if group.plugin != "switch":
            continue
        args = dict(group.args)
        seen: dict[str, str] = {}  # a segment of the kernel's: the port on it
        for port in topology.ports:
            if port.name not in (group.input or ()):
                continue
            for interface in offloaded(port):
                found = host.offloads(interface) if interface in host.interfaces else None
                if found is None:
                    continue
                veth = "-".join(sorted((interface, found.peer))) if found.peer else ""
                for segment in filter(None, (found.bridge, veth)):
                    other = seen.setdefault(segment, port.name)
                    vlans = {args.get(f"access.{name}", "") for name in (other, port.name)}
                    if other != port.name and (len(vlans) == 1 or "" in vlans):
                        link = (
                            f"the bridge {segment}"
                            if segment == found.bridge
                            else "one veth's ends"
                        )
                        yield topology.source.problem(
                            ("workers", g, "input"),
                            f"ports `{other}` and `{port.name}` of a switch are one link: {link}",
                            code="E0455",
                            why="what the switch sends by one of them comes back by the other:"
                            " a loop, which it limits and does not end",
                            help="leave one of the two out, or put them in different VLANs",
                            severity=Severity.WARNING,
                        )


def offloaded(port: Port) -> tuple[str, ...]:
    """The kernel's interfaces that a port sees frames of as the kernel passes them on."""
    spec = port.vdev or ""
    driver = next((d for d in OFFLOADED if spec.startswith(d)), "")
    return interfaces_of(driver, spec) if driver else ()


def _pci(topology: Topology, host: Host, i: int, port: Port) -> Iterator[Problem]:
    path: Path = ("ports", i, "pci")
    device = host.pci.get(port.device)
    if device is None:
        yield topology.source.problem(
            path,
            f"there is no PCI device {port.device}",
            code="E0401",
            why="the start fails without it"
            if port.required
            else f"port `{port.name}` is left out, and the topology runs degraded",
            help="see dpdk-devbind.py --status-dev net, or set required = false"
            if port.required
            else "see dpdk-devbind.py --status-dev net",
            severity=missing_device(port),
            exit_code=Exit.HOST,
        )
    elif device.driver not in ("", *FOR_DPDK):
        yield topology.source.problem(
            path,
            f"{port.device} is driven by the kernel's {device.driver}",
            code="E0402",
            why="DPDK reaches most NICs only through vfio-pci",
            help=f"dpdk-devbind.py -b vfio-pci {port.device}, unless its DPDK driver shares it",
            severity=Severity.WARNING,
            exit_code=Exit.HOST,
        )


def _vdev(topology: Topology, host: Host, i: int, port: Port) -> Iterator[Problem]:
    problem = topology.source.problem
    path: Path = ("ports", i, "vdev")
    name, devargs = parse_vdev(port.vdev or "")
    driver = driver_of(name, host)
    drivers = tuple(
        pmd for pmd in host.pmds if pmd.startswith("net_") and pmd not in host.pci_drivers
    )
    if drivers and driver in host.pci_drivers:
        yield problem(
            path,
            f"`{driver}` drives PCI devices, not virtual ones",
            code="E0403",
            why=f"{name} has no hardware behind it",
            help='name the device: pci = "0000:3b:00.0"',
        )
    elif drivers and driver not in drivers:
        number = name[len(driver) :] or "0"
        close = suggest(driver, drivers) or suggest(f"net_{driver}", drivers)
        common = ("net_null0", "net_pcap0", "net_af_packet0", "net_tap0", "net_memif0")
        yield problem(
            path,
            f"DPDK has no driver for the virtual device {show(name)[1:-1]}",
            code="E0404",
            why=f"none of the drivers in {host.pmd_dir} begins its name",
            help=f"did you mean `{close}{number}`?" if close else f"such as {', '.join(common)}",
        )
    known = host.pmds.get(driver, "")
    for key, _ in devargs if known else ():
        # Some drivers run their parameters together ("yes|nomac=<mac>"): a tail may be the key.
        if not re.search(rf"(?<![_-]){re.escape(key)}[=(]", known):
            close = suggest(key, tuple(re.findall(r"([A-Za-z][\w-]*)[=(]", known)))
            yield problem(
                path,
                f"{driver} does not list a parameter `{key}`",
                code="E0405",
                why=f"it has {known.strip()}",
                help=f"did you mean `{close}`?" if close else "leave it out",
                severity=Severity.WARNING,
            )
    if driver in ("net_af_packet", "net_af_xdp") and not any(key == "iface" for key, _ in devargs):
        yield problem(
            path,
            f"{name} names no network interface",
            code="E0406",
            why=f"port `{port.name}` would send and receive through it, and the driver refuses to"
            " start without a word",
            help=f"write {name},iface=NAME; ip link shows those that are there",
        )
    for value in interfaces_of(driver, port.vdev or ""):
        if value not in host.interfaces:
            close = suggest(value, host.interfaces)
            yield problem(
                path,
                f"there is no network interface {show(value)[1:-1]}",
                code="E0406",
                why=f"port `{port.name}` sends and receives through it",
                help=f"did you mean `{close}`?" if close else "ip link shows those that are there",
                severity=missing_device(port),
                exit_code=Exit.HOST,
            )
        elif driver in OFFLOADED:
            yield from _offloads(topology, host, i, value)
    if driver == "net_pcap":
        yield from pcap_files(topology, host, i, port, devargs)


def _offloads(topology: Topology, host: Host, i: int, interface: str) -> Iterator[Problem]:
    """What users of kernel interfaces complain of first."""
    found = host.offloads(interface)
    if found is None or not (commands := found.commands(interface)):
        return
    on = ", ".join(dict.fromkeys((*found.on, *found.peer_on)))
    yield topology.source.problem(
        ("ports", i, "vdev"),
        f"{interface} has offloads on ({on}): `{'; '.join(commands)}`",
        code="D29",
        why="frames come without their checksums or longer than the MTU: ping works, TCP stalls",
        help=f"{'; '.join(commands)}{'; ' + PEER if found.is_veth and not found.peer else ''}",
        severity=Severity.WARNING,
        exit_code=Exit.HOST,
    )
