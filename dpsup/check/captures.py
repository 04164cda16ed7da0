# SPDX-License-Identifier: BSD-3-Clause
"""Are the files there that ports of `net_pcap` read and write, and what do the captures hold?"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.errors import Exit, Problem, Severity
from dpsup.packets import pcap
from dpsup.plan.place import driver_of
from dpsup.text import plural
from dpsup.topology.model import Port, Topology
from dpsup.topology.typed import Path
from dpsup.topology.values import number, parse_vdev

if TYPE_CHECKING:
    from dpsup.host.machine import Host


def missing_device(port: Port) -> Severity:
    return Severity.ERROR if port.required else Severity.WARNING


def pcap_files(
    topology: Topology, host: Host, i: int, port: Port, devargs: tuple[tuple[str, str], ...]
) -> Iterator[Problem]:
    for key, value in devargs:
        directory = posixpath.dirname(value)
        if key == "rx_pcap" and not host.is_file(value):
            yield topology.source.problem(
                ("ports", i, "vdev"),
                f"there is no file {value}",
                code="E0407",
                why=f"port `{port.name}` reads its packets from it",
                help="correct rx_pcap; relative paths begin at the topology file's directory",
                severity=missing_device(port),
            )
        elif key == "rx_pcap":
            yield from _capture(topology, host, i, port, value)
        elif key == "tx_pcap" and not host.is_dir(directory):
            yield topology.source.problem(
                ("ports", i, "vdev"),
                f"the directory {directory} does not exist",
                code="E0408",
                why=f"port `{port.name}` writes its packets there",
                help=f"mkdir -p {directory}, or correct tx_pcap",
                severity=missing_device(port),
            )


def _capture(topology: Topology, host: Host, i: int, port: Port, file: str) -> Iterator[Problem]:
    """What a capture holds that a start would not forward as people expect."""
    problem = topology.source.problem
    path: Path = ("ports", i, "vdev")
    longest = port.mtu + limits.FRAME_MORE
    try:
        capture = host.scan_capture(file, longest)
    except OSError as error:
        yield problem(
            path,
            f"cannot read {file}: {error.strerror}",
            code="E0409",
            why=f"port `{port.name}` reads its packets from it",
            help="grant read permission on it, or correct rx_pcap",
            severity=missing_device(port),
            exit_code=Exit.NOT_PERMITTED
            if isinstance(error, PermissionError)
            else Exit.BAD_TOPOLOGY,
        )
        return
    if capture is None:
        yield problem(
            path,
            f"{file} is no capture file",
            code="E0410",
            why="it begins neither as pcap nor as pcapng",
            help="name a file as tcpdump -w or Wireshark writes it, not compressed",
            severity=missing_device(port),
        )
        return
    packets = plural(capture.packets, "packet")
    of = f"of {'' if capture.whole else 'the first '}{packets} in {file}"
    if capture.link_type != pcap.ETHERNET:
        yield problem(
            path,
            f"the packets in {file} have no Ethernet header (link type {capture.link_type})",
            code="E0411",
            why="a port takes them for Ethernet frames all the same",
            help="capture on one interface, not on `any`",
            severity=Severity.WARNING,
        )
    if capture.skipped:
        yield problem(
            path,
            f"{capture.skipped} {of} would be passed over, the first is number"
            f" {capture.first_skipped}",
            code="E0445",
            why="they are of an interface whose link type or snapshot length is not the first"
            " one's, or longer than that; libpcap reads only the others",
            help=f"merge again into one interface: editcap -F pcap {posixpath.basename(file)} NEW",
        )
    if capture.clipped:
        yield problem(
            path,
            f"{capture.clipped} {of} would be cut to {plural(capture.snap, 'byte')}, the first is"
            f" number {capture.first_clipped}",
            code="E0445",
            why="the file's head says that no packet is longer (its snapshot length), and libpcap"
            " hands on no more of any",
            help=f"write it anew: mergecap -F pcap -w NEW {posixpath.basename(file)}",
        )
    if capture.cut:
        yield problem(
            path,
            f"{capture.cut} {of} were cut at capture, the first is number {capture.first_cut}",
            code="E0412",
            why="they are forwarded as captured, shorter than they were",
            help="capture whole packets: tcpdump -s 0",
            severity=Severity.WARNING,
        )
    if capture.long:
        mtu = capture.longest - limits.ETHERNET
        yield problem(
            path,
            f"{capture.long} {of} are too long for the port, the first is number"
            f" {capture.first_long}",
            code="E0413",
            why=f"with an mtu of {port.mtu} they are dropped and counted as oversize",
            help=f"write mtu = {mtu}" if mtu <= 65535 else "leave them out: no mtu is that large",
            severity=Severity.WARNING,
        )
    if capture.damaged:
        yield problem(
            path,
            f"{file} is damaged after {packets}",
            code="E0414",
            why="reading ends there",
            help="leave the damaged end out: editcap, or tcpdump -r OLD -w NEW",
            severity=Severity.WARNING,
        )


def promised(topology: Topology, host: Host) -> dict[str, int]:
    """By port, the packets that a job will read: those of its captures, read once."""
    found: dict[str, int] = {}
    for port in topology.ports:
        name, devargs = parse_vdev(port.vdev or "")
        if driver_of(name, host) != "net_pcap" or number(devargs, "infinite_rx", 0) > 0:
            continue
        for key, value in devargs:
            if key == "rx_pcap":
                try:
                    capture = host.scan_capture(value, port.mtu + limits.FRAME_MORE)
                except OSError:
                    continue
                packets = capture.packets if capture else 0
                found[port.name] = found.get(port.name, 0) + packets
    return found
