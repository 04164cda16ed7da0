# SPDX-License-Identifier: BSD-3-Clause
"""The Python client where things go wrong: a supervisor that dies, threads, a closed connection;
and pages of events."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from unit.test_bus import responding
from unit.test_client import instance, root

from dpsup.bus.messages import ProtocolError, Request, want
from dpsup.bus.sockets import Publisher
from dpsup.errors import DpsupError, NotRunning, TimedOut, UsageError
from dpsup.host import process
from dpsup.instance import client
from dpsup.instance.client import Instance
from dpsup.instance.runtime_dir import Runtime, State
from dpsup.supervisor.journal import Journal
from dpsup.supervisor.verbs import REPLY_BYTES, _page

__all__ = ["root"]  # the fixture


def supervisor_dies(where: Runtime, *, forwards: bool) -> None:
    """Its lock is free; the primary lives on, or not."""
    if forwards:
        where.write_state(State(where.name, 3, "p", "/h", "f", primary=process.own()))
    assert where._lock is not None
    os.close(where._lock)
    where._lock = None


def test_a_supervisor_that_died_is_not_an_instance_that_ended(root: Path) -> None:
    where = instance(root, "edge")
    with Instance(where) as edge:
        assert not edge.headless
        supervisor_dies(where, forwards=True)
        for call in (edge.stats, edge.events, edge.stop):
            with pytest.raises(DpsupError) as caught:
                call()
            assert caught.value.code == "E0607" and "it forwards" in caught.value.message
        assert edge.headless
        # The next one has the same socket: the same object goes on.
        where.acquire()
        with responding(root / "edge" / "control.sock", lambda _: {"events": [7]}):
            assert edge.events() == [7]
    where.release()


def test_a_supervisor_that_dies_during_a_call(root: Path) -> None:
    where = instance(root, "edge")
    with Instance(where) as edge:
        threading.Timer(0.1, supervisor_dies, (where,), {"forwards": True}).start()
        with pytest.raises(DpsupError) as caught:
            edge.stats(timeout=30)
        assert caught.value.code == "E0607"


def test_an_instance_that_ended_is_said_to_have(root: Path) -> None:
    where = instance(root, "edge")
    with Instance(where) as edge:
        supervisor_dies(where, forwards=False)
        with pytest.raises(NotRunning, match='"edge" has ended') as caught:
            edge.stats(timeout=30)
        assert caught.value.code == "E0906"


def test_a_reload_waits_for_what_its_rollouts_may_take(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, given = instance(root, "edge"), []
    with Instance(where) as edge:
        monkeypatch.setattr(edge, "_ask", lambda _, timeout, **__: given.append(timeout))
        edge.reload()
        edge.reload(judge=600)
        edge.reload(judge=600, timeout=5.0)
    assert given == [1200.0, 1200.0 + 16 * (4 * 600 + 310), 5.0]
    where.release()


def test_every_call_has_a_timeout(root: Path) -> None:
    where = instance(root, "edge")
    with Instance(where) as edge:
        calls: list[Any] = [
            edge.status, edge.audit, edge.stats, edge.events, edge.logs, edge.restart,
            edge.rebalance, edge.rollout_undo, edge.rollout_status, edge.rollout_history,
            edge.reload, edge.reset_failed, edge.stop,
            lambda **k: edge.state("fw", **k), lambda **k: edge.scale("fw", 1, **k),
            lambda **k: edge.rollout("fw", **k), lambda **k: edge.kill("fw/0", **k),
            lambda **k: next(edge.follow(**k)),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(TimedOut):
                call(timeout=0.02)
    where.release()


def test_a_closed_connection_says_so(root: Path) -> None:
    where = instance(root, "edge")
    edge = Instance(where)
    waiting: list[BaseException] = []

    def ask() -> None:
        try:
            edge.stats(timeout=60)
        except DpsupError as e:
            waiting.append(e)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.05)
    edge.close()
    edge.close()
    thread.join(30)
    for call in (edge.stats, edge.status, edge.events):
        with pytest.raises(UsageError, match="is closed"):
            call()
    assert [type(e) for e in waiting] == [UsageError]
    where.release()
    with pytest.raises(UsageError, match="is closed"):
        edge.stats()


def test_threads_share_one_instance(root: Path) -> None:
    def handle(request: Request) -> Any:
        return {"events": [request.args["since"]]}

    where = instance(root, "edge")
    wrong: list[Any] = []
    with responding(root / "edge" / "control.sock", handle), Instance(where) as edge:

        def work(n: int) -> None:
            for k in range(30):
                found = edge.events(n * 1000 + k, timeout=60)
                if found != [n * 1000 + k]:
                    wrong.append(found)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    where.release()
    assert wrong == []


def test_following_ends_with_a_word(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SUCCESSOR_S", 0.2)
    monkeypatch.setattr(client, "FOLLOW_S", 0.05)
    where = instance(root, "edge")
    with Instance(where) as edge:
        supervisor_dies(where, forwards=True)
        with pytest.raises(DpsupError) as caught:
            list(edge.follow())
        assert caught.value.code == "E0607"
        where.write_state(State(where.name, 3, "p", "/h", "f"))
        assert list(edge.follow()) == []  # it has ended


def test_following_goes_on_with_the_next_supervisor(root: Path) -> None:
    where = instance(root, "edge")
    with Instance(where) as edge:
        found = edge.follow(timeout=60)
        publisher = Publisher(where.file("events.sock"))
        over = threading.Event()

        def publish() -> None:
            nonlocal publisher
            while not over.wait(0.02):
                publisher.publish("event", {"type": "x"})

        thread = threading.Thread(target=publish)
        thread.start()
        next(found)
        supervisor_dies(where, forwards=True)
        where.acquire()
        next(found)
        over.set()
        thread.join()
        publisher.close()
        found.close()  # type: ignore[attr-defined]
    where.release()


def test_events_page_forward() -> None:
    journal: Journal[Any] = Journal("event", lambda *_: len(seen) + 1)
    seen: list[int] = []
    for n in range(10):
        journal.add(n=n)
        seen.append(n)
    got, since = [], 0
    while page := journal.after(since, 3):
        got += [e["n"] for e in page]
        since = page[-1]["seq"]
    assert got == list(range(10))
    assert [e["n"] for e in journal.since(0, 3)] == [7, 8, 9]
    assert journal.after(0, 0) == journal.after(0, -1) == []


def test_a_page_fits_a_reply_and_is_never_empty() -> None:
    big = {"x": "y" * (REPLY_BYTES // 3)}
    assert _page([big] * 5) == [big] * 2
    huge = {"x": "y" * (REPLY_BYTES + 1)}
    assert _page([huge, big]) == [huge]


def test_an_integer_is_a_number_too() -> None:
    assert want({"drain": 5}, "drain", float) == 5.0
    assert isinstance(want({"drain": 5}, "drain", float, None), float)
    for bad in (True, "5", 10**400, [5]):
        with pytest.raises(ProtocolError):
            want({"drain": bad}, "drain", float)
    with pytest.raises(ProtocolError):
        want({"n": 5.0}, "n", int)
