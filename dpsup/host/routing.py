# SPDX-License-Identifier: BSD-3-Clause
"""A socket to the kernel's routing (rtnetlink), in the network namespace where it was made."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from dpsup.host import tap

_NETLINK_ROUTE, _SOL_NETLINK, _EXT_ACK, _STRICT = 0, 270, 11, 12
_REQUEST, _DUMP, _CREATE, _REPLACE = 0x1, 0x300, 0x400, 0x100
_DONE, _ERROR, _INTERRUPTED = 3, 2, 0x10
_NEWNEIGH, _USE = 28, 0x01
_HEAD = struct.Struct("=IHHII")
# Changes of links, neighbours, IPv4 and IPv6 addresses and routes, and next hop objects.
_LINK, _NEIGHBOURS = 1, 3
_GROUPS = (_LINK, _NEIGHBOURS, 5, 7, 9, 11, 32)
_BYTES = 1 << 18  # the kernel puts up to 32 KiB of a dump into one message
_NEWS_BYTES = 1 << 21
_TRIES = 10
PATIENCE_S = 10.0


class Routing:
    """`news` is readable once anything has changed. Raises: OSError, as all of it."""

    def __init__(self, netns: str) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with tap.inside(netns):
            self._ask = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
            self.news = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        self._ask.bind((0, 0))
        self._ask.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            self.news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NEWS_BYTES)
        self.news.bind((0, 0))
        self.news.setblocking(False)
        for group in _GROUPS:
            with contextlib.suppress(OSError):  # a kernel without IPv6, or next hop objects
                self.news.setsockopt(_SOL_NETLINK, 1, group)
        self._serial = 0

    def drain(self) -> set[int]:
        """The types of messages that came; where some were lost, 0 too."""
        kinds: set[int] = set()
        while True:
            try:
                data = self.news.recv(_BYTES)
            except BlockingIOError:
                return kinds
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                kinds.add(0)
                continue
            at = 0
            while at + _HEAD.size <= len(data):
                length, kind, *_ = _HEAD.unpack_from(data, at)
                kinds.add(kind)
                at += max(_HEAD.size, length + 3 & ~3)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """What the kernel has of that kind, read anew where it changed meanwhile."""
        for _ in range(_TRIES):
            parts, whole = self._dump(kind, body)
            if whole:
                return parts
        raise OSError(errno.EAGAIN, "it changes faster than it can be read")

    def _dump(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._serial += 1
        head = _HEAD.pack(_HEAD.size + len(body), kind, _REQUEST | _DUMP, self._serial, 0)
        self._ask.send(head + body)
        parts: list[bytes] = []
        whole = True
        while True:
            data = self._ask.recv(_BYTES)
            at = 0
            while at + _HEAD.size <= len(data):
                length, what, flags, serial, _ = _HEAD.unpack_from(data, at)
                if serial != self._serial:
                    break  # of a dump before, that was given up
                if not parts or parts[-1] is not data:
                    parts.append(data)
                if flags & _INTERRUPTED:
                    whole = False
                if what == _DONE:
                    return parts, whole
                if what == _ERROR:
                    number = -struct.unpack_from("=i", data, at + _HEAD.size)[0]
                    raise OSError(number, os.strerror(number))
                at += max(_HEAD.size, length + 3 & ~3)

    def use(self, link: int, address: bytes) -> None:
        """Have the kernel find out a neighbour's MAC address, or see whether it is still there."""
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        body = struct.pack("=BxxxiHBB", family, link, 0, _USE, 0)
        body += struct.pack("=HH", 4 + len(address), 1) + address
        flags = _REQUEST | _CREATE | _REPLACE
        head = _HEAD.pack(_HEAD.size + len(body), _NEWNEIGH, flags, 0, 0)
        with contextlib.suppress(OSError):
            self._ask.send(head + body)
