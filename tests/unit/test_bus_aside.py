# SPDX-License-Identifier: BSD-3-Clause
"""Long readings beside the loop of a Responder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from dpsup.bus import aside, messages
from dpsup.bus.messages import Request
from dpsup.bus.sockets import Responder
from dpsup.errors import DpsupError
from dpsup.primary import eal_locks

PATIENCE = 60


class Served:
    """A Responder whose `audit` waits until it may `go`; it returns which one it was."""

    def __init__(self, path: Path) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.audits = 0
        self.at_rest: list[bool] = []
        self.responder = Responder(str(path), self.handle, frozenset({"audit"}))
        self.path = path

    def handle(self, request: Request) -> Any:
        if request.verb != "audit":
            return request.verb
        self.audits += 1
        self.began.release()
        assert self.go.acquire(timeout=PATIENCE)
        if request.args.get("fail"):
            raise DpsupError("so it is", code="E0705")
        return self.audits

    @contextmanager
    def peers(self, n: int) -> Iterator[list[Any]]:
        sockets = [zmq.Context.instance().socket(zmq.DEALER) for _ in range(n)]
        for one in sockets:
            one.setsockopt(zmq.LINGER, 0)
            one.connect(f"ipc://{self.path}")
        try:
            yield sockets
        finally:
            for one in sockets:
                one.close()

    def until(self, what: Callable[[], Any]) -> None:
        for _ in range(PATIENCE * 100):
            if what():
                return
            self.responder.poll(0.01)
        raise AssertionError("in vain")

    def answers(self, peer: Any) -> Any:
        self.until(lambda: peer.poll(0))
        return messages.decode_reply(peer.recv_multipart()[-1]).value()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path / "s")
    yield one
    for _ in range(1000):
        one.go.release()
    one.responder.finish()
    one.responder.close()


def ask(peer: Any, verb: str, id_: str, **args: Any) -> None:
    peer.send_multipart([b"", messages.encode_request(Request(verb, id_, args))])


def begun(served: Served) -> None:
    served.until(lambda: served.began.acquire(blocking=False))


def test_other_requests_are_answered_meanwhile(served: Served) -> None:
    with served.peers(2) as (long, short):
        ask(long, "audit", "a")
        begun(served)
        for n in range(3):
            ask(short, "counters", f"c{n}")
            assert served.answers(short) == "counters"
        assert not long.poll(0)
        served.go.release()
        assert served.answers(long) == 1


def test_those_who_wait_share_one_that_begins_after_they_asked(served: Served) -> None:
    with served.peers(201) as (first, *rest):
        ask(first, "audit", "first")
        begun(served)
        for n, peer in enumerate(rest):
            ask(peer, "audit", str(n))
        for n, peer in enumerate(rest):  # all are in: each peer's messages keep their order
            ask(peer, "counters", f"c{n}")
            assert served.answers(peer) == "counters"
        served.go.release()
        served.go.release()
        assert served.answers(first) == 1
        assert [served.answers(peer) for peer in rest] == [2] * 200


def test_an_error_reaches_all_of_them_and_the_next_ones_go_on(served: Served) -> None:
    with served.peers(2) as (one, other):
        for id_, peer in (("1", one), ("2", other)):
            ask(peer, "audit", id_, fail=True)
        for _ in range(10):
            served.go.release()
        for peer in (one, other):
            with pytest.raises(DpsupError, match="so it is"):
                served.answers(peer)
        ask(one, "audit", "3")
        assert served.answers(one) >= 2


def test_the_end_waits_for_the_one_that_is_carried_out(tmp_path: Path) -> None:
    served = Served(tmp_path / "s")
    with served.peers(1) as (peer,):
        ask(peer, "audit", "a")
        begun(served)
        ending = threading.Thread(target=served.responder.finish)
        ending.start()
        ending.join(0.05)
        assert ending.is_alive()
        served.go.release()
        ending.join(PATIENCE)
        assert not ending.is_alive()
        served.responder.close()
    assert aside.THREAD not in {t.name for t in threading.enumerate()}


def test_eal_may_be_put_right_during_a_long_reading(served: Served) -> None:
    """A thread that is awake and may be in a call of EAL's would keep locks of the dead held."""
    assert aside.THREAD.startswith(eal_locks._INNOCENT)
    stop = threading.Event()
    responder = served.responder

    def spin(_: Request) -> None:
        served.began.release()
        while not stop.is_set():
            pass

    responder._aside._handle = spin
    with served.peers(1) as (peer,):
        ask(peer, "audit", "a")
        begun(served)
        try:
            served.until(eal_locks.at_rest)
        finally:
            stop.set()
