# SPDX-License-Identifier: BSD-3-Clause
"""The TAPs beside ports: opened at the start, kept in step with their ports, opened again where
one was deleted. The packets are C's (shim/io/kernel.c), which has a descriptor of each; its
number stays the same, whatever it is a descriptor of.

A TAP is not removed here: the next primary finds it again, and so do the kernel's addresses, routes
and connections.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dpsup.documents.counters import KernelPath
from dpsup.documents.plan import Plan, Port
from dpsup.errors import DpsupError, HostError
from dpsup.host import interfaces, tap
from dpsup.primary.shim import check, ffi, lib

RETRY_S = 1.0


class State(Protocol):
    """What the path must know of its port."""

    @property
    def absent(self) -> bool: ...
    @property
    def trouble(self) -> str: ...


def _nowhere() -> int:
    """A descriptor in place of a TAP's: it takes no packet and gives none."""
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


@dataclass
class Path:
    port: Port
    index: int  # of the port
    mark: str
    fd: int
    is_open: bool = False
    link: int = 0  # index of the TAP
    mac: str = ""  # that it was given
    carrier: bool | None = None
    trouble: str = ""  # why it does not forward, in words
    retry_at: float = 0.0


class KernelPaths:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._paths: dict[str, Path] = {}

    def create(self, index_of: Mapping[str, int]) -> list[str]:
        """Before the io cores start; returns notes. The first start fails without a TAP; later that
        is no reason to end everything else. Raises: DpsupError."""
        notes = []
        for port in self._plan["ports"]:
            if not port.get("kernel_tap"):
                continue
            mark = tap.mark_of(self._plan["name"], port["name"])
            path = Path(port, index_of[port["name"]], mark, _nowhere())
            self._paths[port["name"]] = path
            try:
                self._open(path)
            except DpsupError as e:
                if self._plan["generation"] == 1:
                    raise
                path.trouble = str(e)
                notes.append(f'port "{port["name"]}" has no way to the kernel: {e}')
            check(
                "kernel_create",
                lib.dps_kernel_create(path.index, path.fd, port["mtu"], port["kernel_rate"]),
                f'port "{port["name"]}": its way to the kernel',
            )
        return notes

    def _open(self, path: Path) -> None:
        port = path.port
        name, netns, mac = port["kernel_tap"], port["kernel_netns"], _mac_of(path.index)
        try:
            fd, link = tap.open_tap(name, netns, path.mark, mac, port["mtu"])
        except tap.Taken as e:
            raise taken(name, netns, str(e)) from None
        except OSError as e:
            raise HostError(
                f"the TAP {name} cannot be had: {e.strerror or e}",
                code="E0447",
                why=f'port `{port["name"]}` has kernel = "tap"',
                help="`dpsup explain E0447` lists what it takes",
            ) from None
        os.dup2(fd, path.fd, inheritable=False)
        os.close(fd)
        path.is_open, path.link, path.mac = True, link, mac
        path.carrier, path.trouble = None, ""

    # --- while it runs ---------------------------------------------------------------------------

    def observe(self, states: Mapping[str, State], now: float) -> None:
        for name, path in self._paths.items():
            if path.is_open and interfaces.tap_is_gone(path.fd):
                path.is_open, path.trouble = False, "its interface was deleted"
                path.retry_at = now
            if not path.is_open and now >= path.retry_at:
                path.retry_at = now + RETRY_S
                try:
                    self._open(path)
                except DpsupError as e:
                    path.trouble = str(e)
            if path.is_open:
                self._keep_in_step(path, states[name])

    def _keep_in_step(self, path: Path, state: State) -> None:
        """The port's MAC and link are the TAP's: a device that was opened anew may have another
        one."""
        mac = "" if state.absent else _mac_of(path.index)
        with contextlib.suppress(OSError):  # tried again at the next look
            if mac and mac != path.mac:
                with tap.inside(path.port["kernel_netns"]):
                    found = tap.find(path.port["kernel_tap"])
                    # One that was moved elsewhere is its owner's affair.
                    if found is not None and (found.number, found.mark) == (path.link, path.mark):
                        tap.change(found.number, mac=mac)
                path.mac = mac
            up = not state.absent and not state.trouble and _is_up(path.index)
            if up != path.carrier:
                tap.set_carrier(path.fd, on=up)
                path.carrier = up

    def states(self) -> dict[str, KernelPath]:
        """By port."""
        return {
            name: {
                "tap": path.port["kernel_tap"],
                "netns": path.port["kernel_netns"],
                "rate": path.port["kernel_rate"],
                "carrier": path.is_open and bool(path.carrier),
                "trouble": path.trouble,
            }
            for name, path in self._paths.items()
        }


def taken(name: str, netns: str, mark: str) -> DpsupError:
    where = f" in network namespace {netns}" if netns else ""
    whose = f"it is of `{mark}`" if mark.startswith("dpsup ") else "dpsup did not create it"
    return HostError(
        f"there is an interface {name}{where} already",
        code="E0448",
        why=f"{whose}; dpsup changes no other interface than its own",
        help='choose another name: kernel = { tap = "NAME" }, or remove that interface',
    )


def _mac_of(index: int) -> str:
    """ "": the port has no device."""
    info = ffi.new("struct dps_port_info *")
    if lib.dps_port_info_get(index, info) != 0:
        return ""
    mac = bytes(ffi.buffer(info.mac))[:6]
    return mac.hex(":") if any(mac) else ""


def _is_up(index: int) -> bool:
    info = ffi.new("struct dps_port_info *")
    return lib.dps_port_info_get(index, info) == 0 and bool(info.link_up)
