# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's network interfaces, in the network namespace of this process, and Unix sockets.

Netlink only says that something has changed, and what was deleted; how an interface is now is asked
of the kernel by name. That is thirty lines; pyroute2, which the mirror of routes uses, would take
0.1 s to load in each process that looks at an interface, and decode 40 attributes of each.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from pathlib import Path
from typing import NamedTuple

_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_NETLINK_ROUTE, _RTMGRP_LINK, _RTM_DELLINK = 0, 1, 17
_TUNGETIFF = 0x800454D2
_NLMSGHDR, _IFINFOMSG = struct.Struct("=IHHII"), struct.Struct("=BxHiII")


class Interface(NamedTuple):
    number: int  # its index, as the kernel says
    trouble: str  # "": it is up and has a carrier
    up: bool = True  # with or without a carrier


class Interfaces:
    """`fd` is readable once any interface has changed, -1 where the kernel does not tell."""

    def __init__(self) -> None:
        self._ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._news: socket.socket | None = None
        with contextlib.suppress(OSError):  # looked at once a second instead
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._news = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
            self._news.bind((0, _RTMGRP_LINK))

    @property
    def fd(self) -> int:
        return self._news.fileno() if self._news is not None else -1

    def deleted(self) -> set[int]:
        """Indexes of the interfaces that were deleted, or left this namespace, since last asked."""
        found: set[int] = set()
        while self._news is not None:
            try:
                found |= _deleted(self._news.recv(1 << 16))
            except BlockingIOError:
                break
            except OSError as e:
                if e.errno != errno.ENOBUFS:  # some were missed: `find` shows what has changed
                    raise
        return found

    def find(self, name: str) -> Interface | None:
        try:
            index = socket.if_nametoindex(name)
            ifreq = struct.pack("16sH14x", name.encode(), 0)
            raw = fcntl.ioctl(self._ask, _SIOCGIFFLAGS, ifreq)
        except OSError:
            return None
        flags = struct.unpack_from("16xH", raw)[0]
        if not flags & _IFF_UP:
            return Interface(index, f"interface {name} is down", up=False)
        return Interface(index, "" if flags & _IFF_RUNNING else f"interface {name} has no carrier")


def _deleted(data: bytes) -> set[int]:
    found = set()
    at = 0
    while at + _NLMSGHDR.size + _IFINFOMSG.size <= len(data):
        length, kind, *_ = _NLMSGHDR.unpack_from(data, at)
        family, _, index, _, _ = _IFINFOMSG.unpack_from(data, at + _NLMSGHDR.size)
        # A bridge says with its own family that a port left it.
        if kind == _RTM_DELLINK and family == socket.AF_UNSPEC:
            found.add(index)
        at += max(_NLMSGHDR.size, length + 3 & ~3)
    return found


def name_of(index: int) -> str:
    """The name of an interface, "" where there is none of that index here."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def tap_is_gone(fd: int) -> bool:
    """Was the interface of this TAP descriptor deleted? One in another namespace lives."""
    if fd < 0:
        return False
    try:
        fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
    except OSError as e:
        return e.errno == errno.EBADFD
    return False


def takes_connection(address: str) -> bool:
    """Does a server of net_memif take a connection now? The driver's own attempt would wait for
    one whose process is stopped. An abstract address begins with NUL."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.setblocking(False)
        try:
            s.connect(address)
        except OSError:
            return False
        return True


def remove_dead_socket(path: str) -> bool:
    """Remove the socket of a dead process of this user: no process listens
    there. False: it is not there, not ours, not a socket, or alive."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.setblocking(False)
        try:
            s.connect(path)
        except OSError as e:
            if e.errno != errno.ECONNREFUSED:
                return False
        else:
            return False
    with contextlib.suppress(OSError):
        Path(path).unlink()
        return True
    return False
