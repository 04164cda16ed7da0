# SPDX-License-Identifier: BSD-3-Clause
"""A long request delays no other one: an audit of a pool as large as the machine allows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from harness import HEAD, NULL, PATIENCE, Run, wait_for
from system.test_audit import leak

from dpsup.bus import messages
from dpsup.instance.runtime_dir import CONTROL, PRIMARY, instances

# Small buffers, so many: 512 hugepages of 2 MiB hold them.
LARGE = HEAD.replace("mbufs = 16383", "mbufs = 786431\ndata_room = 640")
CLIENTS = 200


@contextmanager
def dealers(path: str, n: int) -> Iterator[list[Any]]:
    context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, n + 1)
    sockets = [context.socket(zmq.DEALER) for _ in range(n)]
    try:
        for one in sockets:
            one.setsockopt(zmq.LINGER, 0)
            one.connect(f"ipc://{path}")
        yield sockets
    finally:
        for one in sockets:
            one.close()
        context.term()


def send(socket: Any, verb: str) -> None:
    request = messages.Request(verb, uuid.uuid4().hex)
    socket.send_multipart([b"", messages.encode_request(request)])


def answer(socket: Any, timeout: float = PATIENCE) -> Any:
    assert socket.poll(int(timeout * 1000)), "no answer"
    return messages.decode_reply(socket.recv_multipart()[-1]).value()


def test_an_audit_delays_no_other_request(instance: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSUP_TEST_LEAK", "1")
    instance.file.write_text(LARGE.format(name=instance.name) + NULL)
    instance.start()
    leak(instance)  # so that each audit looks at every mbuf
    where = instances()[instance.name]
    with dealers(where.file(PRIMARY), 2) as (long, short):
        for s in (long, short):
            send(s, "hello")
            answer(s)

        def overtaken() -> bool:
            """Did the question asked later get the first answer?"""
            send(long, "audit")
            send(short, "counters")
            answer(short)
            first = not long.poll(0)
            answer(long)
            return first

        wait_for(overtaken)

    # As many at once as may be: each is answered, and what else is asked is not late.
    alive = instance.status()["primary"]
    with dealers(where.file(CONTROL), CLIENTS) as many:
        for one in many:
            send(one, "audit")
        assert instance.status()["primary"] == alive
        for one in many:
            (pool,) = answer(one)["pools"]
            assert pool["unexplained"] == 1
    assert instance.status()["primary"] == alive
    errors = [e for e in instance.events() if e["type"] in ("error", "fault")]
    assert not errors
