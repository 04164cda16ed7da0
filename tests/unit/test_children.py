# SPDX-License-Identifier: BSD-3-Clause
"""The primary and the seed as processes; and what a worker's line of refusal says."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.fakecore import Parts, descriptors, run

from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.supervisor.children import refusal

SAYS = "import os, sys; print('hello'); os.write(int(sys.argv[-1]), {said!r})"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


class Nursery(Parts):
    """`ended`: what is heard of children that are neither."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ended: list[tuple[int, int]] = []
        self.children._on_end = lambda pid, status: self.ended.append((pid, status))

    @property
    def seed(self) -> Any:
        return self.model.seed

    async def raise_one(self, said: bytes) -> Identity:
        """A seed that says so, and ends; all that it said has been read."""
        argv = ["python3", "-c", SAYS.format(said=said)]
        before = descriptors()
        one = self.children.spawn(self.seed, argv, 5.0)
        await until(lambda: not descriptors() - before)
        assert [e["line"] for e in self.core.log.entries] == ["hello"]
        return one

    def gone(self) -> None:
        """Its end is heard of a moment after it."""
        (last,) = [t for t in self.core.timers if t[2] == (self.seed, "died")]
        assert last[1] == self.core.fire


@pytest.fixture
def nursery(tmp_path: Path) -> Nursery:
    return Nursery(tmp_path)


def test_a_child_says_that_it_is_ready_and_ends(nursery: Nursery) -> None:
    async def work() -> None:
        one = await nursery.raise_one(b"READY\n")
        assert nursery.seed.identity == one and nursery.seed.pidfd == -1

    run(work())
    assert nursery.core.fired == [("seed", "ready")]
    assert nursery.core.timers[0][0] == 5.0 and nursery.core.timers[0][2][1] == "late"
    nursery.gone()
    assert nursery.core.recorded == 1
    nursery.children.reap()
    (event,) = nursery.core.events.of("exit")
    assert (event["name"], event["how"]) == ("seed", "exit 0")
    assert not nursery.ended


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (b"REFUSED 105 no room\n", "105 no room"),
        (b"REFUSED abc\nREFUSED", "abc"),
        (b"\xff\xfe\nREADY?\n", ""),
        (b"", ""),
    ],
)
def test_a_child_that_refuses_is_not_ready(nursery: Nursery, said: bytes, refused: str) -> None:
    run(nursery.raise_one(said))
    assert nursery.seed.refused == refused and not nursery.core.fired
    nursery.gone()
    nursery.children.reap()


def test_a_child_that_cannot_be_had_leaves_nothing(nursery: Nursery) -> None:
    async def work() -> None:
        before = descriptors()
        with pytest.raises(OSError):
            nursery.children.spawn(nursery.seed, ["/no/such/program"], 1.0)
        assert not descriptors() - before

    run(work())
    assert nursery.seed.identity is None and not nursery.core.timers


def test_the_end_of_others_is_told_to_whom_it_concerns(nursery: Nursery) -> None:
    foreign, orphan = (subprocess.Popen(["true"]) for _ in range(2))
    heard: list[str] = []
    nursery.children.expect(foreign.pid, heard.append)
    for one in (foreign, orphan):
        assert process.wait_gone([process.identify(one.pid)], 60)
        one.returncode = 0
    nursery.children.reap()
    assert heard == ["exit 0"]
    assert nursery.ended == [(orphan.pid, 0)] and not nursery.core.events.of("exit")
    nursery.children.reap()


def test_a_child_of_another_supervisor_is_met_or_gone(nursery: Nursery) -> None:
    read, write = process.lasting_pipe()
    with subprocess.Popen(["sh", "-c", "echo before; exec sleep 60"], stdout=write) as child:
        alive = process.identify(child.pid)

        async def work() -> None:
            before = descriptors()
            meet = nursery.children.meet
            assert not meet(nursery.seed, Identity(alive.pid, alive.start + 1))
            assert not meet(nursery.seed, Identity(2**22 + 1, 1))
            assert not descriptors() - before
            assert meet(nursery.seed, alive)
            await until(lambda: bool(nursery.core.log.entries))
            child.kill()
            await until(lambda: nursery.seed.pidfd < 0)
            os.close(write)
            os.close(read)
            await until(lambda: not descriptors() - before)

        run(work())
    assert nursery.core.log.entries[0]["line"] == "before"
    nursery.gone()


def test_all_are_killed_together(nursery: Nursery) -> None:
    with subprocess.Popen(["sleep", "60"]) as seed, subprocess.Popen(["sleep", "60"]) as worker:
        nursery.seed.pidfd = os.pidfd_open(seed.pid)
        nursery.seat(0, worker.pid).pidfd = os.pidfd_open(worker.pid)
        nursery.seat(1, 501)
        nursery.children.kill_all()
        assert (seed.wait(), worker.wait()) == (-9, -9)
        os.close(nursery.seed.pidfd)
        os.close(nursery.model.sitters[worker.pid].pidfd)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("REFUSED 106 no such plugin", (106, "no such plugin")),
        ("REFUSED 106", (106, "")),
        ("REFUSED abc", (None, "abc")),
        ("REFUSED 99999999999 x", (None, "99999999999 x")),
        ("REFUSED ١٠٦ x", (None, "١٠٦ x")),
        ("REFUSED ² x", (None, "² x")),
        ("REFUSED -1 x", (None, "-1 x")),
        ("REFUSED ", (None, "")),
    ],
)
def test_a_refusal_is_read_with_suspicion(line: str, found: tuple[int | None, str]) -> None:
    assert refusal(line) == found


@given(st.text())
def test_any_line_is_a_reason(text: str) -> None:
    code, why = refusal(f"REFUSED {text}")
    assert why in text and (code is None or 0 <= code < 1000)
