# SPDX-License-Identifier: BSD-3-Clause
"""Ports in trouble: the primary shuts, closes and opens them; here it is said, and judged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from dpsup.documents.counters import Counters
from dpsup.errors import DpsupError
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Model

DIFFERS = "its NIC hashes flows otherwise than its driver says: they are hashed in software"


class Ports:
    """`judge` hears that the instance may be degraded, or whole again."""

    def __init__(self, core: Core, model: Model, judge: Callable[[], None]) -> None:
        self._core, self._model, self._judge = core, model, judge
        self._reopened: dict[str, int] | None = None  # not known yet
        self._hashes: dict[str, str] = {}

    def observe(self, counters: Counters) -> None:
        model = self._model
        before = model.troubles
        model.troubles = {p["name"]: p["trouble"] for p in counters["ports"] if p.get("trouble")}
        for name in sorted({*before, *model.troubles}):
            trouble = model.troubles.get(name, "")
            if trouble != before.get(name, ""):
                message = trouble or "it forwards again"
                self._core.events.add(type="port", name=name, message=message)
        reopened = {p["name"]: p.get("reopened", 0) for p in counters["ports"]}
        for name in reopened.keys() - before.keys() - model.troubles.keys():
            if self._reopened is not None and reopened[name] > self._reopened.get(name, 0):
                message = "its device was gone, and is opened again"
                self._core.events.add(type="port", name=name, message=message)
        self._reopened = reopened
        hashes = {p["name"]: p.get("nic_hash", "none") for p in counters["ports"]}
        for name, now in hashes.items():
            if now == "differs" and self._hashes.get(name) != now:
                self._core.events.add(type="port", name=name, message=DIFFERS)
        decided, self._hashes = bool(self._hashes) and hashes != self._hashes, hashes
        absent = [p["name"] for p in counters["ports"] if p.get("absent")]
        if absent != model.absent or decided:
            self._core.spawn(self._hear_again(), feature="ports")
        elif before != model.troubles:
            self._judge()

    async def _hear_again(self) -> None:
        """What is said of the ports at the start of a generation is no longer so."""
        with contextlib.suppress(DpsupError):  # there is a next look
            self._model.hello = await self._core.ask("hello")
            self._judge()
