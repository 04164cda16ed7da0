# SPDX-License-Identifier: BSD-3-Clause
"""Where every mbuf is: counted by place, and searched one by one where the counts do not add up.

It runs in a thread of its own, one audit at a time: to search a pool of a million mbufs takes long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from dpsup import _abi
from dpsup.documents.audit import AuditPool, Place, Stray
from dpsup.primary.layout import Layout
from dpsup.primary.shim import check, ffi, fields, lib

PLACES = {**_abi.DPS_PLACE_NAMES, _abi.DPS_PLACE_BACK: "handed_back"}


AGAIN = 5  # audits, where a port was opened or closed meanwhile
AGAIN_S = 0.05


class Audit:
    """`turns` counts the beginnings and the ends of what opens or closes a port."""

    def __init__(self, layout: Layout, turns: Callable[[], int]) -> None:
        self._layout, self._turns = layout, turns

    def take(self) -> list[AuditPool]:
        again = AGAIN
        while True:
            before = self._turns()
            pools = self._take()
            still = before % 2 == 0 and before == self._turns()
            if still or not again or not any(pool["unexplained"] for pool in pools):
                return pools
            again -= 1
            time.sleep(AGAIN_S)

    def _take(self) -> list[AuditPool]:
        pools: list[AuditPool] = []
        for i, pool in enumerate(self._layout.plan["pools"]):
            out = ffi.new("struct dps_audit *")
            # Several io cores answer one after the other: what moves between them meanwhile may
            # be counted twice or not at all, a leak is there each time.
            for _try in range(1 if len(self._layout.plan["io"]) == 1 else 20):
                check("audit_get", lib.dps_audit_get(i, out))
                if out.unexplained == 0:
                    break
            one = {
                "name": pool["name"],
                **fields(out),
                "moving": 0,
                "strays": [],
                "places": self._places(i),
            }
            found = cast(AuditPool, one)
            if out.unexplained:
                self._search(i, found)
            pools.append(found)
        return pools

    def _places(self, pool: int) -> list[Place]:
        """Where its mbufs are, io core by io core; then what each port's driver may have."""
        out = ffi.new("struct dps_audit_place[4096]")
        n = check("audit_places", lib.dps_audit_places(pool, out, 4096))
        places: list[Place] = []
        for at in out[0:n]:
            place = PLACES[at.place]
            places.append(
                {"io": int(at.io), "place": place, "of": self._of(place, at.index),
                 "mbufs": int(at.mbufs)}
            )  # fmt: skip
        return places

    def _of(self, place: str, index: int) -> str | None:
        if place in ("lent", "handed_back"):
            return self._layout.worker_name(index)
        if place in ("again", "front", "held"):
            return str(self._layout.plan["groups"][index]["name"])
        if place in ("tx", "kernel"):
            return self._layout.port_name(index)
        return f"io/{index}" if place == "xfer" else None

    def _search(self, pool: int, found: AuditPool) -> None:
        """The counts do not add up: look for each single mbuf. With several io cores, an mbuf that
        was on its way between their answers is no fault: those are `moving`."""
        out = ffi.new("struct dps_stray[]", lib.DPS_STRAYS)
        fresh = ffi.new("uint32_t *")
        nowhere = check("audit_search", lib.dps_audit_search(pool, out, lib.DPS_STRAYS, fresh))
        if len(self._layout.plan["io"]) > 1:
            lost = max(0, nowhere - found["rx_rings"] - found["tx_rings"])
            found["moving"] = found["unexplained"] - lost
            found["unexplained"] = lost
        if found["unexplained"] <= 0:
            return
        # What a driver took meanwhile is nowhere too, and no different: all are suspects then.
        certain = fresh[0] == found["unexplained"]
        for stray in out[0 : min(nowhere, lib.DPS_STRAYS, max(fresh[0], found["unexplained"]))]:
            found["strays"].append(self._stray(stray, certain))

    def _stray(self, stray: Any, certain: bool) -> Stray:
        return {
            "address": f"{stray.address:#x}",
            "holder": self._layout.worker_name(stray.slot) if stray.by else None,
            "holder_by": {lib.DPS_STRAY_BY_LANE: "lane", lib.DPS_STRAY_BY_BUCKET: "bucket"}.get(
                stray.by
            ),
            "port": self._layout.port_name(stray.port),
            "io": int(stray.io),
            "packets_since": int(stray.ago) if stray.by == lib.DPS_STRAY_BY_LANE else None,
            "length": int(stray.length),
            "refcnt": int(stray.refcnt),
            "bytes": bytes(ffi.buffer(stray.bytes))[: stray.n_bytes].hex(),
            "certain": certain,
        }
