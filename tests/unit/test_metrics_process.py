# SPDX-License-Identifier: BSD-3-Clause
"""The metrics process beside the supervisor: tried for ever, said once, at nobody else's cost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, descriptors, run

from dpsup.host import process
from dpsup.supervisor import metrics_process

WORDS = "import os, sys; print('hi'); os.write(int(sys.argv[-1]), b'REFUSED in use\\n')"
SERVES = "import os, sys, time; os.write(int(sys.argv[-1]), b'READY\\n'); time.sleep(60)"


class Keep(Parts):
    """`started` are the pids; `program` is what is started instead."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        process.reap()  # what another test left is not an end of ours
        self.started: list[int] = []
        self.program: str | None = WORDS
        real = process.spawn

        def spawn(argv: list[str]) -> Any:
            assert argv[3] == "dpsup.instance.openmetrics" and argv[5] == "edge"
            self.started.append(0)
            if self.program is None:
                raise OSError(24, "Too many open files")
            spawned = real(["python3", "-c", self.program])
            self.started[-1] = spawned.pid
            return spawned

        monkeypatch.setattr(metrics_process.process, "spawn", spawn)
        monkeypatch.setattr(metrics_process, "AGAIN_S", 0.0)
        self.ends: list[int] = []
        self.children._on_end = lambda pid, _: self.ends.append(pid)

    def until(self, condition: Callable[[], bool]) -> None:
        """Keep one until then; no descriptor and no process is left."""

        async def work() -> None:
            await asyncio.sleep(0)
            before = descriptors()
            core: Any = self.core
            keeping = asyncio.create_task(metrics_process.keep(core, self.model, self.children))
            async with asyncio.timeout(60):
                while not condition():
                    await asyncio.sleep(0.001)
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                while descriptors() - before:
                    await asyncio.sleep(0.001)

        run(work())
        pids = [process.identify(pid) for pid in self.started if pid]
        assert process.wait_gone([one for one in pids if one.start], 60)
        self.children.reap()


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    return Keep(tmp_path, monkeypatch)


def test_one_that_cannot_serve_is_said_once_and_tried_for_ever(keep: Keep) -> None:
    keep.until(lambda: len(keep.started) > 3)
    messages = [e["message"] for e in keep.core.events.of("warning")]
    assert messages[0] == "no metrics are served: REFUSED in use" and len(messages) <= 2
    assert {"name": "metrics", "line": "hi"} in keep.core.log.entries
    assert not keep.ends, "its end is nobody else's affair"


def test_with_no_descriptor_it_is_tried_again(keep: Keep) -> None:
    keep.program = None
    keep.until(lambda: len(keep.started) > 3)
    (event,) = keep.core.events.of("warning")
    assert "Too many" in event["message"]


def test_it_ends_with_its_supervisor(keep: Keep) -> None:
    keep.program = SERVES
    keep.until(lambda: len(keep.started) == 1 and process.start_ticks(keep.started[0]) > 0)
    assert not keep.core.events.of("warning") and not keep.ends
    assert os.getpid() not in keep.started
