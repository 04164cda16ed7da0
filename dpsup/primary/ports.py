# SPDX-License-Identifier: BSD-3-Clause
"""Watches the ports while they run: interfaces and PCI devices that go down, vanish and come back,
and net_memif servers that do. All of it works without a supervisor, and outside of the io cores'
loops.

A port whose interface is down is shut: io cores leave it alone, and what is sent to it is dropped
by name. One whose device is gone is closed too, and opened again, with a growing pause between
attempts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dpsup import _abi
from dpsup.documents.plan import Port
from dpsup.errors import ShimError
from dpsup.host import interfaces, pci
from dpsup.host.interfaces import Interfaces
from dpsup.primary.layout import Layout, no_server
from dpsup.primary.shim import check, ffi, lib
from dpsup.topology.values import interfaces_of, memif_of

LOOK_S = 1.0  # without news
GREETING_S = 1.0  # after an opening, in which a link may still come up
RETRY_S, RETRY_MOST_S = 0.5, 30.0  # between attempts to open; again from the first once it holds


class State(NamedTuple):
    absent: bool
    trouble: str
    reopened: int
    nic_hash: str


_HASHES = {
    _abi.DPS_HASHES_NONE: "none",
    _abi.DPS_HASHES_COMPARED: "compared",
    _abi.DPS_HASHES_USED: "used",
    _abi.DPS_HASHES_DIFFER: "differs",
}


@dataclass
class Watched:
    port: Port
    index: int
    trouble: str = ""  # why it does not forward, in words
    absent: bool = False
    reopened: int = 0
    nic_hash: str = "none"
    shut: bool | None = False  # to the io cores; None: not all of them answered
    was_up: bool = False
    fell: bool = False  # an interface of it has been set down since it was opened
    indexes: dict[str, int] = field(default_factory=dict)  # of its interfaces, as it was opened
    opened_at: float = 0.0
    retry_at: float = 0.0
    pause: float = RETRY_S


class Ports:
    def __init__(self, layout: Layout, kernel: Interfaces | None = None) -> None:
        self._layout = layout
        self._kernel = kernel or Interfaces()
        self._looked_at = 0.0
        self._watched: list[Watched] = []
        self.turns = 0  # odd while a driver takes mbufs for a port, or gives them back

    @property
    def fd(self) -> int:
        return self._kernel.fd

    def begin(self, now: float) -> None:
        """Once the ports are laid out."""
        for index, port in enumerate(self._layout.plan["ports"]):
            one = Watched(port, index)
            self._watched.append(one)
            why = self._layout.absent.get(port["name"])
            if why is None:
                self._opened(one, now)
            else:
                one.absent, one.trouble, one.retry_at = True, why, now + RETRY_S

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The audit reads beside this, and what drivers hold is not sure now."""
        self.turns += 1
        try:
            yield
        finally:
            self.turns += 1

    def states(self) -> dict[str, State]:
        """By port."""
        return {
            one.port["name"]: State(one.absent, one.trouble, one.reopened, one.nic_hash)
            for one in self._watched
        }

    def observe(self, now: float, *, news: bool = False) -> None:
        if not news and now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        deleted = self._kernel.deleted()
        for one in self._watched:
            try:
                if not one.absent:
                    self._watch(one, deleted, now)
                if one.absent:
                    self._reopen(one, now)
            except ShimError as e:  # an io core that does not answer: tried again at the next look
                one.trouble = str(e)
        check("view_update", lib.dps_view_update())  # what plugins see of it

    # --- one that is open ------------------------------------------------------------------------

    def _opened(self, one: Watched, now: float) -> None:
        one.absent, one.trouble, one.was_up, one.opened_at = False, "", False, now
        one.fell = False
        info = ffi.new("struct dps_port_info *")
        check("port_info_get", lib.dps_port_info_get(one.index, info))
        names = interfaces_of(one.port["driver"], one.port["vdev"])
        if one.port["driver"] == "net_tap":
            names = (*names, interfaces.name_of(int(info.if_index)))
        found = {name: self._kernel.find(name) for name in names if name}
        one.indexes = {name: at.number for name, at in found.items() if at is not None}

    def _watch(self, one: Watched, deleted: set[int], now: float) -> None:
        gone, down = self._trouble(one, deleted, now)
        one.nic_hash = _HASHES[check("port_hashes", lib.dps_port_hashes(one.index))]
        if gone:
            self._close(one, gone)
            if now - one.opened_at >= RETRY_MOST_S:
                one.pause = RETRY_S
            # The kernel needs a moment for what it waited for.
            at_once = one.pause == RETRY_S and one.port["vdev"]
            one.retry_at = now if at_once else now + one.pause
            return
        one.trouble = down
        want = bool(down and one.indexes)
        if want == one.shut:
            return
        if not want and one.fell and one.port["driver"] == "net_af_packet":
            self._renew(one, now)
        else:
            self._shut(one, want)

    def _close(self, one: Watched, why: str) -> None:
        one.shut = None  # the first thing that closing does
        with self._turn():
            check("port_close", lib.dps_port_close(one.index))
        one.absent = one.shut = True
        one.trouble = why

    def _renew(self, one: Watched, now: float) -> None:
        """While its interface is down, net_af_packet says of frames that it did not send them, and
        leaves them in the kernel's ring, which would send them now."""
        pause = one.pause
        self._close(one, "it is opened again")
        one.retry_at = now
        self._reopen(one, now)
        if not one.absent:
            one.pause = pause

    def _shut(self, one: Watched, want: bool) -> None:
        """Tried again at the next look where it fails: some io cores may have heard of it."""
        one.shut = None
        check("port_shut", lib.dps_port_shut(one.index, want))
        one.shut = want

    def _trouble(self, one: Watched, deleted: set[int], now: float) -> tuple[str, str]:
        """Why its device is gone, and why it is down."""
        if not one.port["vdev"] and lib.dps_port_leaves(one.index) > 0:
            return "its PCI device is taken away", ""
        is_tap = one.port["driver"] == "net_tap"
        if is_tap and interfaces.tap_is_gone(lib.dps_port_fd(one.index)):
            return "its interface was deleted", ""
        down = ""
        for name, index in one.indexes.items():
            found = self._kernel.find(name)
            if found is None or found.number != index or index in deleted:
                # A TAP may be moved to another namespace, and goes on there.
                if not is_tap:
                    return f"interface {name} is gone", ""
            else:
                down = down or found.trouble
                one.fell = one.fell or not found.up
        if down or one.indexes:
            return "", down
        info = ffi.new("struct dps_port_info *")
        check("port_info_get", lib.dps_port_info_get(one.index, info))
        if info.link_up:
            one.was_up = True
            return "", ""
        memif = memif_of(one.port["vdev"])
        if memif is not None and not memif.server:
            late = one.was_up or now - one.opened_at > GREETING_S
            return (no_server(memif.socket) if late else ""), ""
        return "", "its link is down" if one.was_up else ""

    # --- one that is not -------------------------------------------------------------------------

    def _reopen(self, one: Watched, now: float) -> None:
        if one.port.get("left_out", ""):
            return
        if now < one.retry_at or not self._is_there(one):
            return
        with self._turn():
            ret, why = self._layout.open(one.index)
        if ret < 0:
            one.trouble = why
            one.retry_at = now + one.pause
            one.pause = min(one.pause * 2, RETRY_MOST_S)
            return
        one.pause = min(one.pause * 2, RETRY_MOST_S)
        one.reopened += 1
        one.shut = True
        self._opened(one, now)
        _, down = self._trouble(one, set(), now)
        one.trouble = down
        if not (down and one.indexes):
            self._shut(one, False)

    def _is_there(self, one: Watched) -> bool:
        """What the driver would look for; without it no attempt can succeed."""
        if not one.port["vdev"]:
            device = one.port["device"]
            why = pci.trouble(device)
            one.trouble = why or one.trouble
            return not why or pci.is_free(device)
        for name in interfaces_of(one.port["driver"], one.port["vdev"]):
            found = self._kernel.find(name)
            if found is None or not (found.up or one.port["driver"] == "net_tap"):
                one.trouble = f"interface {name} is gone" if found is None else found.trouble
                return False
        memif = memif_of(one.port["vdev"])
        if memif is None or memif.server:
            return True
        one.trouble = no_server(memif.socket)
        return interfaces.takes_connection(memif.address)
