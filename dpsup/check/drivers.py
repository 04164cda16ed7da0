# SPDX-License-Identifier: BSD-3-Clause
"""What a virtual driver would refuse at start with an error number and no cause, or worse, take.

The figures are those of the drivers' sources, DPDK 22.11 to 24.11.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from mmap import PAGESIZE
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.check.memory import pool_needs
from dpsup.errors import Problem, Severity
from dpsup.plan.place import driver_of
from dpsup.text import plural
from dpsup.topology.model import Port, Topology
from dpsup.topology.typed import Path
from dpsup.topology.values import memif_of, number, parse_vdev

if TYPE_CHECKING:
    from dpsup.host.machine import Host

Devargs = tuple[tuple[str, str], ...]

_FILES_MOST = 16  # of one net_pcap in one direction
_FRAME = 2048  # net_af_packet's framesz, if the file does not say
_FRAME_UNIT = 16  # bytes, of which it is a multiple
_BLOCK, _FRAMES = 4096, 512  # blocksz and framecnt, likewise
_FRAME_HEAD = 32  # of the kernel's in each of those frames
_MEMIF_PATH = 107  # bytes


def drivers(topology: Topology, host: Host) -> Iterator[Problem]:
    for i, port in enumerate(topology.ports):
        if port.vdev and port.mempool in topology.mempools:
            name, devargs = parse_vdev(port.vdev)
            driver = driver_of(name, host)
            if driver in _CHECKS:
                yield from _CHECKS[driver](topology, host, i, devargs)


def _room(topology: Topology, port: Port) -> int:
    return topology.mempools[port.mempool].data_room - limits.HEADROOM


def _af_packet(topology: Topology, _: Host, i: int, devargs: Devargs) -> Iterator[Problem]:
    port, path = topology.ports[i], ("ports", i, "vdev")
    queues = number(devargs, "qpairs", 1)
    if not 1 <= queues <= limits.POLLED_QUEUES:
        yield topology.source.problem(
            path,
            f"net_af_packet cannot have {queues} queues here",
            code="E0430",
            why=f"the kernel spreads packets over all of them, and io cores poll 1 to"
            f" {limits.POLLED_QUEUES}",
            help=f"write qpairs = {len(topology.io_cores) or 1}, one for each io core",
        )
    yield from _ring(topology, path, devargs)
    frame = number(devargs, "framesz", _FRAME) - _FRAME_HEAD
    room = _room(topology, port)
    if frame > room:
        yield topology.source.problem(
            path,
            f"a frame of net_af_packet's ring holds {frame} bytes, an mbuf of"
            f" `{port.mempool}` {room}",
            code="E0431",
            why="the driver copies each frame into one mbuf, and refuses to start",
            help=f"write data_room = {frame + limits.HEADROOM} for the mempool, or a smaller"
            " framesz",
        )


def _ring(topology: Topology, path: Path, devargs: Devargs) -> Iterator[Problem]:
    """What the kernel demands of PACKET_RX_RING; it answers with EINVAL."""
    frame = number(devargs, "framesz", _FRAME)
    block = number(devargs, "blocksz", _BLOCK)
    count = number(devargs, "framecnt", _FRAMES)
    if frame <= 0:
        return  # said by `buffers`
    fits = block // frame
    whole = frame % _FRAME_UNIT == 0 and block % PAGESIZE == 0
    if whole and fits > 0 and count > 0 and count % fits == 0:
        return
    frame += -frame % _FRAME_UNIT
    block = max(block, frame)
    block += -block % PAGESIZE
    fits = block // frame
    count = max(fits, count + -count % fits)
    yield topology.source.problem(
        path,
        "the kernel lays out no ring of such framesz, blocksz and framecnt",
        code="E0451",
        why=f"a frame's size is a multiple of {_FRAME_UNIT}, a block's one of {PAGESIZE}; a block"
        " holds a frame at least, and the frames fill all blocks",
        help=f"write framesz={frame},blocksz={block},framecnt={count}",
    )


def _pcap(topology: Topology, host: Host, i: int, devargs: Devargs) -> Iterator[Problem]:
    path: Path = ("ports", i, "vdev")
    for key, n in Counter(key for key, _ in devargs).items():
        if n > _FILES_MOST and key.startswith(("rx_", "tx_")):
            yield topology.source.problem(
                path,
                f"the port has {n} times `{key}`",
                code="E0430",
                why=f"net_pcap has room for {_FILES_MOST} queues",
                help="divide them among several ports, or join the files: mergecap",
            )
    for key, value in devargs:
        if key == "tx_pcap" and host.kind_of(value) == "fifo":
            yield topology.source.problem(
                path,
                f"{value} is a FIFO",
                code="E0435",
                why="the io core would sleep in its driver as long as no process reads there,"
                " and nothing at all be forwarded",
                help="write a file, or read live: dpsup capture PORT --pcap - | ...",
            )
    if any(key in ("iface", "tx_iface") for key, _ in devargs):
        yield _untested(topology, i, "net_pcap sending to an interface")
    if number(devargs, "infinite_rx", 0) > 0:
        yield from _infinite(topology, host, i, devargs)


def _infinite(topology: Topology, host: Host, i: int, devargs: Devargs) -> Iterator[Problem]:
    """With `infinite_rx` the driver keeps a copy of the whole capture in mbufs of the pool."""
    port, path = topology.ports[i], ("ports", i, "vdev")
    room = _room(topology, port)
    for file in (value for key, value in devargs if key == "rx_pcap" and host.is_file(value)):
        try:
            capture = host.scan_capture(file, room)
        except OSError:
            continue  # said by `devices`
        if capture is None:
            continue
        if capture.packets == 0:
            yield topology.source.problem(
                path,
                f"{file} has no packets to repeat forever",
                code="E0433",
                why="with infinite_rx the driver would take mbufs for nothing, until the pool is"
                " empty",
                help="name a capture with packets, or leave infinite_rx out",
            )
        if capture.long:
            yield topology.source.problem(
                path,
                f"packet {capture.first_long} of {file} is longer than an mbuf of"
                f" `{port.mempool}`, {room} bytes",
                code="E0434",
                why="with infinite_rx the driver takes packets of one mbuf only",
                help=f"write data_room = {capture.longest + limits.HEADROOM} for the mempool",
            )


def infinite_mbufs(topology: Topology, host: Host, pool: str) -> int:
    """The mbufs of a pool in which ports with `infinite_rx` keep their captures."""
    held = 0
    for port in topology.ports:
        name, devargs = parse_vdev(port.vdev or "")
        if port.mempool != pool or driver_of(name, host) != "net_pcap":
            continue
        if number(devargs, "infinite_rx", 0) == 0:
            continue
        for file in (value for key, value in devargs if key == "rx_pcap" and host.is_file(value)):
            try:
                capture = host.scan_capture(file, 1 << 20)
            except OSError:
                continue
            held += capture.packets if capture is not None else 0
    return held


def kept(topology: Topology, host: Host) -> Iterator[Problem]:
    """Captures that are kept in a mempool: is there room for them, and for traffic?"""
    for name, pool in topology.mempools.items():
        held = infinite_mbufs(topology, host, name)
        least = pool_needs(topology, name)[0]
        if held and pool.mbufs >= least and pool.mbufs < least + held:
            yield topology.source.problem(
                ("mempools", name, "mbufs"),
                f"mempool `{name}` has {pool.mbufs} mbufs; the captures of its ports with"
                f" infinite_rx take {held} of them, and at least {least} are needed beside",
                code="E0432",
                why="the driver keeps such a capture in mbufs, packet by packet, and does not"
                " start without them",
                help=f"write mbufs = {(1 << (least + held).bit_length()) - 1}, or a shorter"
                f" capture: editcap -r IN OUT 1-{max(1, pool.mbufs - least)}",
            )


def _memif(topology: Topology, host: Host, i: int, _: Devargs) -> Iterator[Problem]:
    port, path = topology.ports[i], ("ports", i, "vdev")
    memif = memif_of(port.vdev or "")
    if memif is None or memif.abstract:
        return
    socket = memif.socket
    directory = socket.rpartition("/")[0] or "/"
    kind = host.kind_of(socket)
    over = len(socket.encode()) - _MEMIF_PATH
    if over > 0:
        yield topology.source.problem(
            path,
            f"the socket's path is {plural(over, 'byte')} too long: {socket}",
            code="E0436",
            why=f"a path of a Unix socket has room for {_MEMIF_PATH} bytes",
            help="write a shorter one, such as socket=/run/dpsup.memif",
        )
    elif kind not in ("absent", "socket"):
        yield topology.source.problem(
            path,
            f"{socket} is no socket",
            code="E0436",
            why="the ports of both sides meet there, and dpsup removes no file that may be yours",
            help="remove the file, or name another socket",
        )
    elif not host.is_dir(directory):
        yield topology.source.problem(
            path,
            f"the directory of the socket {socket} does not exist",
            code="E0436",
            why="the ports of both sides meet there",
            help=f"mkdir -p {directory}, or correct socket=",
            severity=Severity.ERROR if port.required else Severity.WARNING,
        )
    elif not memif.server and kind == "absent":
        yield topology.source.problem(
            path,
            f"no process listens at {socket}",
            code="E0437",
            why="this port is the client of a net_memif server; it is opened once that is there,"
            " and the instance runs degraded until then",
            help="start the other side, or write role=server",
            severity=Severity.WARNING,
        )


def _untested(topology: Topology, i: int, what: str) -> Problem:
    return topology.source.problem(
        ("ports", i, "vdev"),
        f"{what} is not tested with dpsup",
        code="E0446",
        why="whether its driver loses packets, blocks an io core or works with processes that die"
        " is not known",
        help="use net_af_packet, which is tested, or try it with traffic that may be lost",
        severity=Severity.WARNING,
    )


def _af_xdp(topology: Topology, _: Host, i: int, __: Devargs) -> Iterator[Problem]:
    yield _untested(topology, i, "net_af_xdp")


_CHECKS = {
    "net_af_packet": _af_packet,
    "net_af_xdp": _af_xdp,
    "net_pcap": _pcap,
    "net_memif": _memif,
}
