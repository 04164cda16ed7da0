# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's routing (rtnetlink) of one network namespace. The one module that imports pyroute2.

pyroute2 asks, and decodes links and neighbours. It is not used for two things, measured with its
0.9.7: it decodes 100,000 routes in 6.9 s of a CPU, so routes are taken as they come, which takes
0.2 s, and `follow.kernel` decodes them in 0.5 s; and its socket is of no use once news were lost
(ENOBUFS), so the news, of which only the types matter, come by a socket of our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, NLM_F_DUMP_INTR, NLM_F_MULTI, SOL_NETLINK
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_GETROUTE, RTM_NEWROUTE, ndmsg, rtmsg

from dpsup.host import tap

_HEAD = struct.Struct("=IHHII")
# Changes of links, neighbours, IPv4 and IPv6 addresses and routes, and next hop objects.
_GROUPS = (1, 3, 5, 7, 9, 11, 32)
_BYTES = 1 << 16  # the kernel sends news one by one
_NEWS_BYTES = 1 << 21
_TRIES = 10
PATIENCE_S = 10.0
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

T = TypeVar("T")


class Neighbour(NamedTuple):
    link: int
    address: bytes
    mac: bytes
    state: int


class Routing:
    """`news` is readable once anything has changed. Raises: OSError, as all of it."""

    def __init__(self, netns: str, news_bytes: int = _NEWS_BYTES) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._runner = asyncio.Runner()
        with tap.inside(netns):
            self.news = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._kernel = self._run(self._open())
        self.news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, news_bytes)
        self.news.bind((0, 0))
        self.news.setblocking(False)
        for group in _GROUPS:
            with contextlib.suppress(OSError):  # a kernel without IPv6, or next hop objects
                self.news.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def __enter__(self) -> Routing:
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.close()
        self._runner.close()
        self.news.close()

    async def _open(self) -> Any:
        kernel = AsyncIPRoute()
        await kernel.setup_endpoint()
        return kernel

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        async def in_time() -> T:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        try:
            return self._runner.run(in_time())
        except NetlinkError as e:
            raise OSError(e.code, os.strerror(e.code)) from None

    def _whole(self, read: Callable[[], Awaitable[T]]) -> T:
        """What it reads, once nothing has changed meanwhile."""

        async def tries() -> T:
            for _ in range(_TRIES):
                with contextlib.suppress(NetlinkDumpInterrupted):
                    return await read()
            raise OSError(errno.EAGAIN, "it changes faster than it can be read")

        return self._run(tries())

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

    def links(self) -> dict[str, int]:
        """Indexes of interfaces by their alias: dpsup's TAPs have one that says whose they are."""

        async def read() -> dict[str, int]:
            links = [_sound(one) async for one in await self._kernel.link("dump")]
            named = ((one.get_attr("IFLA_IFALIAS"), one["index"]) for one in links)
            return {alias: index for alias, index in named if alias}

        return self._whole(read)

    def neighbours(self) -> list[Neighbour]:
        """Those of both families that are no proxies."""

        async def read() -> list[Neighbour]:
            found = [_sound(one) async for one in await self._kernel.neigh("dump")]
            return [
                Neighbour(
                    one["ifindex"],
                    socket.inet_pton(one["family"], address),
                    bytes.fromhex((one.get_attr("NDA_LLADDR") or "").replace(":", "")),
                    one["state"],
                )
                for one in found
                if one["family"] in _FAMILIES
                and not one["flags"] & ndmsg.flags["proxy"]
                and (address := one.get_attr("NDA_DST"))
            ]

        return self._whole(read)

    def routes(self, family: int) -> list[bytes]:
        """As `struct rtmsg` and its attributes."""

        async def read() -> list[bytes]:
            taken = _Taken(self._kernel.marshal.parse_one_message)
            message = rtmsg.rtmsg()
            message["family"] = family
            request = NetlinkRequest(self._kernel, message, msg_type=RTM_GETROUTE, parser=taken)
            await request.send()
            async for _ in request.response():
                pass
            if taken.is_interrupted:
                raise NetlinkDumpInterrupted
            return taken.routes

        return self._whole(read)

    def use(self, link: int, address: bytes) -> None:
        """Have the kernel find out a neighbour's MAC address, or see whether it is still there."""
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        asked = self._kernel.neigh(
            "set", ifindex=link, family=family, dst=socket.inet_ntop(family, address),
            state=0, flags=ndmsg.flags["use"],
        )  # fmt: skip
        with contextlib.suppress(OSError):  # the link is gone meanwhile
            self._run(asked)


def _sound(message: Any) -> Any:
    """Raises: NetlinkDumpInterrupted, which pyroute2 has, and does not raise (0.9.7)."""
    if message["header"]["flags"] & NLM_F_DUMP_INTR:
        raise NetlinkDumpInterrupted
    return message


class _Taken:
    """A parser for pyroute2. For a datagram of which nothing is left it would give up the dump: so
    each route is the same message to it."""

    def __init__(self, other: Callable[..., Any]) -> None:
        self.routes: list[bytes] = []
        self.is_interrupted = False
        self._other = other
        header = {"type": RTM_NEWROUTE, "flags": NLM_F_MULTI, "error": None}
        self._message: dict[str, Any] = {"header": header}

    def __call__(self, data: bytes, offset: int, length: int) -> Any:
        _, kind, flags, serial, _ = _HEAD.unpack_from(data, offset)
        self.is_interrupted |= bool(flags & NLM_F_DUMP_INTR)
        if kind != RTM_NEWROUTE:
            return self._other(kind, flags, serial, data, offset, length)
        self.routes.append(data[offset + _HEAD.size : offset + length])
        return self._message
