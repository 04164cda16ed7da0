# SPDX-License-Identifier: BSD-3-Clause
"""TAP interfaces of the kernel path, in whatever network namespace.

Each carries a mark, as its alias: of which instance and port it is. An interface without that mark
is never attached to, changed or removed. A TAP is persistent, so that it keeps its addresses while
no process has it open, and of several queues, so that a queue that is detached keeps its carrier.

Supervisor, primary and `dpsup check` load this module: pyroute2 would take each of them 0.1 s and
25 MB, for four requests to the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dpsup._libraries import ffi

TUN = "/dev/net/tun"
NAMESPACES = "/run/netns"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETPERSIST, _TUNSETQUEUE = 0x400454CA, 0x400454CB, 0x400454D9
_TUNSETCARRIER = 0x400454E2
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_DETACH_QUEUE = 0x2, 0x1000, 0x100, 0x400
_FLAGS = _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE
_IFF_UP = 0x1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLM_F_REQUEST, _NLM_F_ACK, _NLMSG_ERROR = 1, 4, 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_IFALIAS = 1, 3, 4, 20
_HEADER, _LINK, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HH")


NO_RIGHT = "this process has not CAP_NET_ADMIN"


class Taken(Exception):
    """An interface of that name is there, and is not this port's."""


class Link(NamedTuple):
    number: int  # its index, as the kernel says
    mark: str  # its alias
    mac: str
    mtu: int
    up: bool


class Seen(NamedTuple):
    """What is there under a name, as far as can be seen."""

    trouble: str = ""  # why no interface could be there
    is_there: bool = False
    mark: str = ""

    def is_of(self, instance: str, port: str) -> bool:
        return self.mark == mark_of(instance, port)


def mark_of(instance: str, port: str) -> str:
    return f"dpsup {instance} {port}"


def namespace_path(name: str) -> str:
    """The path of a namespace, by its name, as `ip netns` has it, or by its path."""
    return name if "/" in name else f"{NAMESPACES}/{name}"


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """This thread in that network namespace; "": where it is. Raises: OSError."""
    if not netns:
        yield
        return
    with contextlib.ExitStack() as opened:
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, here)
        there = os.open(namespace_path(netns), os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, there)
        _enter(there)
        try:
            yield
        finally:
            _enter(here)


def _enter(fd: int) -> None:
    if ffi.dlopen(None).setns(fd, _CLONE_NEWNET):
        raise OSError(ffi.errno, os.strerror(ffi.errno))


# --- netlink --------------------------------------------------------------------------------------


def _attribute(kind: int, value: bytes) -> bytes:
    raw = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    return raw + bytes(-len(raw) % 4)


def _ask(kind: int, flags: int, body: bytes) -> bytes:
    """What the kernel answers to one message: its body, or b"" for a bare yes. Raises: OSError."""
    type_ = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, type_, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(5.0)
        head = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0)
        kernel.send(head + body)
        answer = kernel.recv(1 << 16)
    _, said, *_ = _HEADER.unpack_from(answer)
    if said != _NLMSG_ERROR:
        return answer[_HEADER.size :]
    error = -struct.unpack_from("=i", answer, _HEADER.size)[0]
    if error:
        raise OSError(error, os.strerror(error))
    return b""


def find(name: str) -> Link | None:
    """The interface of that name, in this thread's namespace."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    try:
        answer = _ask(_RTM_GETLINK, 0, body + _attribute(_IFLA_IFNAME, name.encode() + b"\0"))
    except OSError as e:
        if e.errno == errno.ENODEV:
            return None
        raise
    _, _, index, flags, _ = _LINK.unpack_from(answer)
    found: dict[int, bytes] = {}
    at = _LINK.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        found.setdefault(kind & 0x3FFF, answer[at + _ATTRIBUTE.size : at + length])
        at += max(_ATTRIBUTE.size, length + 3 & ~3)
    return Link(
        index,
        found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
        found.get(_IFLA_ADDRESS, b"").hex(":"),
        struct.unpack("=I", found.get(_IFLA_MTU, bytes(4)))[0],
        bool(flags & _IFF_UP),
    )


def inspect(name: str, netns: str) -> Seen:
    try:
        with inside(netns):
            found = find(name)
    except FileNotFoundError:
        return Seen(f"there is no {namespace_path(netns)}")
    except OSError as e:
        return Seen(e.strerror or str(e))
    return Seen("", found is not None, found.mark if found else "")


def change(index: int, *, mac: str = "", mtu: int = 0, mark: str = "", up: bool = False) -> None:
    """Raises: OSError."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP if up else 0, _IFF_UP if up else 0)
    if mark:
        body += _attribute(_IFLA_IFALIAS, mark.encode())
    if mac:
        body += _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    if mtu:
        body += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
    _ask(_RTM_NEWLINK, _NLM_F_ACK, body)


# --- TAPs -----------------------------------------------------------------------------------------


def _attach(name: str) -> int:
    """A queue of the TAP of that name, which is created if it is not there. Raises: OSError."""
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _FLAGS))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_tap(name: str, netns: str, mark: str, mac: str, mtu: int) -> tuple[int, int]:
    """The TAP of a port, created or found again: a descriptor that does not block, and its index.
    A new one is up; whether one that was there is, and its addresses, stay as they are. Raises:
    Taken, OSError."""
    with inside(netns):
        before = find(name)
        if before is not None and before.mark != mark:
            raise Taken(before.mark)
        fd = _attach(name)
        try:
            found = find(name)
            if found is None:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            _fit(found, mark, mac, mtu, up=before is None)
            fcntl.ioctl(fd, _TUNSETPERSIST, 1)
        except BaseException:
            os.close(fd)
            raise
    return fd, found.number


def _fit(found: Link, mark: str, mac: str, mtu: int, *, up: bool) -> None:
    """Change what differs: one that was prepared for a process without CAP_NET_ADMIN needs no
    change."""
    wanted = {
        "mark": mark if found.mark != mark else "",
        "mac": mac if mac and found.mac != mac else "",
    }
    if any(wanted.values()) or found.mtu != mtu or up:
        change(found.number, **wanted, mtu=mtu if found.mtu != mtu else 0, up=up)


def set_carrier(fd: int, *, on: bool) -> None:
    """Raises: OSError."""
    fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("=i", on))


def hold(name: str, netns: str, mark: str) -> int:
    """A detached queue of a TAP with that mark: while a process has it open, the TAP keeps its
    carrier. Raises: Taken, OSError."""
    with inside(netns):
        found = find(name)
        if found is None or found.mark != mark:
            raise Taken(found.mark if found else "")
        fd = _attach(name)
        try:
            fcntl.ioctl(fd, _TUNSETQUEUE, struct.pack("16sH22x", b"", _IFF_DETACH_QUEUE))
        except BaseException:
            os.close(fd)
            raise
    return fd


def remove(name: str, netns: str, mark: str) -> bool:
    """Remove a TAP with that mark. False: there is none, or it may not be removed."""
    try:
        with inside(netns):
            found = find(name)
            if found is None or found.mark != mark:
                return False
            _ask(_RTM_DELLINK, _NLM_F_ACK, _LINK.pack(socket.AF_UNSPEC, 0, found.number, 0, 0))
    except OSError:
        return False
    return True


def why_unusable() -> str:
    """Why this process can create no TAP; "": it can, as far as can be seen."""
    try:
        if not Path(TUN).is_char_device():
            return f"{TUN} is not a device"
        os.close(os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as e:
        return f"{TUN}: {e.strerror}"
    return "" if _has_net_admin() else NO_RIGHT


def _has_net_admin() -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/thread-self/status").read_text().splitlines()
        effective = next(line for line in lines if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) >> 12 & 1)
    return os.geteuid() == 0
