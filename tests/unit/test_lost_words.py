# SPDX-License-Identifier: BSD-3-Clause
"""Words of the seed's that are late or lost, and processes that die meanwhile: no place stays
empty, no foreign process is taken for one of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run, sitter
from unit.test_deaths import told
from unit.test_rejoin import Heir, seat
from unit.test_seed_socket import FakeSeed, turns
from unit.test_stories import story

from dpsup.supervisor import deaths, rejoin
from dpsup.supervisor.seed_socket import Seed, SeedError

LONG_S = 600.0  # to catch what hangs


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(deaths, "STATUS_WAIT_S", 0.0)
    monkeypatch.setattr(deaths, "FATE_S", 0.0)
    return Parts(tmp_path, call_off=0)


@pytest.fixture
def heir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heir:
    monkeypatch.setattr(rejoin, "LOOK_S", 0.0)
    monkeypatch.setattr(deaths, "STATUS_WAIT_S", 0.0)
    monkeypatch.setattr(rejoin.process, "with_words", lambda *_: [])
    return Heir(tmp_path)


# --- who dies while it is being met ---------------------------------------------------------------


@pytest.mark.parametrize("successor", [False, True])
def test_a_worker_that_dies_while_it_is_adopted_leaves_no_empty_place(
    heir: Heir, monkeypatch: pytest.MonkeyPatch, successor: bool
) -> None:
    """It was buried before its machine knew of it: nothing else would ever say that it is dead."""
    heir.sits(seat(500, 0), seat(510))
    more = {"successor": 510, "successor_sitter": 10} if successor else {}
    heir.core.answers |= {"fate": 1, "stories": lambda since: heir.news[since:]}

    async def resume() -> None:
        heir.news = [story(seq=1, pid=500, **more)]
        heir.model.told = 0
        await heir.deaths.read_stories()

    monkeypatch.setattr(heir.rollouts, "resume", resume)
    heard = [event for name, event in heir.begin() if name == "fw/0"]
    if successor:
        assert heard[-1] == "found" and heir.worker.pid == 510
    else:
        assert heard[-1] == "recall" and heir.worker.sitter is None and not heir.worker.fed


def test_a_primary_that_goes_while_a_successor_is_awaited_takes_the_place_with_it(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next generation would find a process of the last one in the slot, and fork none."""
    parts.seat(0, 500)
    late = sitter(600, 4, ready=True)

    async def successor(_: Any) -> Any:
        parts.workers.forget(parts.worker)
        parts.sitters.forget_all()
        return late

    monkeypatch.setattr(parts.deaths, "_successor", successor)
    told(parts, story(pid=500, successor=600, successor_sitter=4))
    assert parts.worker.sitter is None and parts.worker.pid is None
    assert ("fw/0", "succeeded") not in parts.core.fired


def test_a_dead_process_does_not_bury_another_with_its_pid(parts: Parts) -> None:
    """Of a generation that is gone: pids come round again."""
    old = sitter(500, 3)
    parts.core.answers |= {"fate": 1, "stories": []}
    parts.sitters.on_death(old)
    new = parts.seat(0, 500)
    run(parts.core.settle())
    assert parts.model.sitters == {500: new} and not parts.core.fired
    parts.sitters.forget(old)
    assert parts.model.sitters == {500: new}


# --- the seed's socket ----------------------------------------------------------------------------


def test_a_connection_that_was_cut_is_made_anew(parts: Parts) -> None:
    """A second client came between: the seed lives, and takes orders again."""
    parts.model.seed.state = "running"
    parts.worker.state, parts.worker.wanted = "starting", True

    async def work() -> None:
        path = parts.model.runtime.file("seed.sock")
        first = FakeSeed(path)
        parts.sitters.open_orders()
        assert first.one
        first.close()
        await turns()
        assert not parts.sitters.can_fork
        Path(path).unlink()
        parts.core.timers.pop()[1]()  # nobody listens yet
        second = FakeSeed(path)
        parts.core.timers.pop()[1]()
        assert second.one and parts.sitters.can_fork
        assert parts.worker.forking, "the one whose order was lost"
        parts.sitters.drop_orders()
        second.close()
        await turns()

    run(work())
    parts.core.drop()
    assert parts.core.events.of("seed")[0]["message"] == "takes orders again"


def test_a_seed_that_is_dead_is_not_called_again(parts: Parts) -> None:
    async def work() -> None:
        fake = FakeSeed(parts.model.runtime.file("seed.sock"))
        parts.sitters.open_orders()
        assert fake.one
        fake.close()
        await turns()
        parts.model.seed.state = "absent"
        parts.core.timers.pop()[1]()
        assert not parts.core.timers and not parts.sitters.can_fork

    run(work())


def test_more_orders_than_the_socket_holds_wait_for_room(tmp_path: Path) -> None:
    orders = 600

    async def work() -> None:
        fake = FakeSeed(str(tmp_path / "s"))
        seed = Seed(str(tmp_path / "s"), lambda *_: None)
        fake.one.settimeout(LONG_S)
        sent = [asyncio.create_task(seed.fork(n, 1, 1, 2, LONG_S)) for n in range(orders)]
        await turns()
        got = await asyncio.to_thread(lambda: [fake.order() for _ in range(orders)])
        assert sorted(got) == sorted(f"fork {n} 1 with 2" for n in range(orders))
        seed.close()
        done = await asyncio.gather(*sent, return_exceptions=True)
        assert all(isinstance(one, SeedError) and "is gone" in str(one) for one in done)
        fake.close()

    run(work())
