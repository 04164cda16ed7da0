# SPDX-License-Identifier: BSD-3-Clause
"""Writes down the packets in quarantine that wait in the primary, on a thread of its own: a disk
that hangs must not stop the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dpsup.documents.quarantine import Death, Story
from dpsup.documents.story import Evidence
from dpsup.host.symbols import Loaded, named
from dpsup.instance.plugins import digest_in, digest_of_bytes, file_in
from dpsup.instance.quarantine import Folder, describe
from dpsup.plan.model import Plan
from dpsup.supervisor.disk import aside

WORKER = "dpsup-worker"


def loaded(death: Death, plugins: Path, seed: int | None) -> list[Loaded]:
    """The files that a worker had mapped, as they were: the program that its seed runs, and the
    private copy of its plugin, which is looked up by its contents."""
    found = []
    with contextlib.suppress(OSError):
        if base := int(death["program_base"], 16):
            program = Path(f"/proc/{seed}/exe").read_bytes()
            found.append(Loaded(WORKER, base, program))
    with contextlib.suppress(OSError):
        base, digest = int(death["plugin_base"], 16), death["plugin_digest"]
        for copy in plugins.glob(f"{digest}-*") if base and digest else ():
            data = copy.read_bytes()
            if digest_in(copy.name) == digest_of_bytes(data):
                found.append(Loaded(file_in(copy.name), base, data))
    return found


class Keeper:
    """Writes down what waits in the primary; `say` gets an event about each. `files` of a death are
    those that name its frames, while they are there: the copies end with the instance."""

    def __init__(
        self,
        directory: Folder,
        say: Callable[..., None],
        files: Callable[[Death], list[Loaded]] = lambda _: [],
    ) -> None:
        self.directory = directory
        self._say, self._files = say, files
        self._lock = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    async def collect(self, plan: Plan, ask: Callable[..., Awaitable[Any]]) -> None:
        """Write them down until none waits. Raises: DpsupError of `ask`."""
        async with self._lock:
            while packets := await ask("quarantine"):
                for packet in packets:
                    await self._keep(plan, packet)
                    await ask("release", io=packet["io"], n=1)

    async def _keep(self, plan: Plan, packet: Evidence) -> None:
        story = describe(plan, packet, time.time(), time.monotonic_ns())
        frame = bytes.fromhex(packet["bytes"])
        event = {k: story[k] for k in ("why", "port", "length", "flow_hash")}
        try:
            number = await aside(lambda: self._write(frame, story))
        except OSError as e:
            lost = f"not written down: {e}"
            self._say(type="quarantine", name=story["worker"], **event, number=None, message=lost)
            return
        file = self.directory.pcap(number)
        self._say(type="quarantine", name=story["worker"], **event, number=number, file=file)

    def _write(self, frame: bytes, story: Story) -> int:
        for death in story["deaths"]:
            death["symbols"] = named(death["backtrace"], self._files(death))
        return self.directory.keep(frame, story)
