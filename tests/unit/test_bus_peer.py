# SPDX-License-Identifier: BSD-3-Clause
"""Who asked: the kernel's word about the process at the other end of the control socket."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run

from dpsup.bus import messages
from dpsup.bus.messages import Peer, Request, peer_of
from dpsup.bus.sockets import Server
from dpsup.documents.events import TYPES
from dpsup.supervisor import verbs

NOBODY = 65534

# A client of another user: what it needs is imported while it may read it.
CLIENT = """
import os, sys, zmq
path, raw, uid = sys.argv[1:]
if int(uid) != os.geteuid():
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
one = zmq.Context().socket(zmq.DEALER)
one.connect(f"ipc://{path}")
one.send_multipart([b"", raw.encode()])
sys.exit(0 if one.poll(60_000) else 1)
"""


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("localhost:0:0:5552", Peer(0, 5552)),
        (":1000:100:77", Peer(1000, 77)),
        ("a:b:1000:100:0", Peer(1000, 0)),
        ("", None),
        ("10.0.0.1", None),
        ("localhost:0:0:", None),
        ("localhost:-1:0:5", None),
        ("localhost:0:0:5\\n", None),
    ],
)
def test_the_address_of_an_ipc_connection(address: str, peer: Peer | None) -> None:
    assert peer_of(address) == peer


@pytest.mark.parametrize("uid", [os.geteuid(), NOBODY])
def test_a_request_comes_with_the_process_that_sent_it(tmp_path: Path, uid: int) -> None:
    if uid != os.geteuid() and os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    asked: list[Request] = []
    # Not below tmp_path, which is closed to other users.
    path = f"/tmp/dpsup-test-{os.getpid()}.sock"

    async def handle(request: Request) -> None:
        asked.append(request)

    async def main() -> int:
        server = Server(path, handle)
        Path(path).chmod(0o666)
        serve = asyncio.create_task(server.serve())
        raw = messages.encode_request(Request("ping", "1", {"peer": [1, 1], "uid": 7}))
        # What a message says of its sender is nothing.
        raw = raw[:-1] + b',"peer":[7,7]}'
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, path, raw.decode(), str(uid)
        )
        async with asyncio.timeout(60):
            assert await child.wait() == 0
        serve.cancel()
        await server.close()
        return child.pid

    try:
        pid = run(main())
    finally:
        Path(path).unlink(missing_ok=True)
    (request,) = asked
    assert request.peer == Peer(uid, pid)


@pytest.fixture
def sup(tmp_path: Path) -> Any:
    return Parts(tmp_path)


@pytest.fixture
def ask(sup: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The events of a command that is then carried out by nobody."""

    async def nothing(*_: Any) -> None: ...

    def asked(verb: str, peer: Peer | None, **args: Any) -> list[dict[str, Any]]:
        sup.core.events.entries.clear()
        monkeypatch.setitem(verbs.VERBS, verb, nothing)
        run(verbs.handle(sup, Request(verb, "1", args, peer)))
        found: list[dict[str, Any]] = sup.core.events.of("command")
        return found

    return asked


@pytest.mark.parametrize("verb", sorted(verbs.CHANGING))
def test_each_command_that_changes_says_who_gave_it(ask: Any, verb: str) -> None:
    (event,) = ask(verb, Peer(1000, 77), group="fw", n="x" * 1000, worker="")
    assert event["verb"] == verb and (event["uid"], event["pid"]) == (1000, 77)
    assert event["name"] == "fw" and '"group": "fw"' in event["message"]
    assert len(event["message"]) < 400 and event["type"] in TYPES
    (event,) = ask(verb, None)
    assert (event["uid"], event["pid"], event["name"]) == (None, 0, "edge")


def test_frequent_changes_of_tables_are_summed_up(ask: Any, sup: Any) -> None:
    """Each event is one of 2000 that are kept, deaths among them."""

    def pass_time() -> float:
        wait, call, args = sup.core.timers.pop()
        assert not sup.core.timers
        sup.core.events.entries.clear()
        call(*args)
        return float(wait)

    assert len(ask("table_change", Peer(1000, 77), table="t", text="1")) == 1
    waits = []
    for _ in range(9):
        for n in range(100):
            assert not ask("table_change", Peer(1000, 78 + n), table="t", text=str(n))
        waits.append(pass_time())
        (event,) = sup.core.events.of("command")
        assert event["count"] == 100 and event["pid"] == 177
        assert '"text": "99"' in event["message"]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    # Another user's is told at once, and so is the first after a silence.
    assert len(ask("table_load", Peer(1001, 5), table="t")) == 1
    sup.core.timers.pop()
    pass_time()
    assert not sup.core.events.of("command")
    (event,) = ask("table_change", Peer(1000, 77), table="t", text="1")
    assert "count" not in event


def test_a_question_is_no_command(ask: Any) -> None:
    assert verbs.VERBS.keys() >= verbs.CHANGING
    assert not ask("scale", Peer(0, 1), group="fw", n="3", dry_run=True)
    for verb in verbs.VERBS.keys() - verbs.CHANGING:
        assert not ask(verb, Peer(0, 1))
