# SPDX-License-Identifier: BSD-3-Clause
"""`probe`: how it is written, what counts as an answer, and which marks follow from the answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest
from unit.fakecore import FakeCore
from unit.fakehost import FILE, FULL, machine

from dpsup.plan.place import make_plan
from dpsup.probe.ask import Question, ask
from dpsup.probe.judge import Change, Judge, addresses_of
from dpsup.supervisor.adopt import plan_of
from dpsup.supervisor.group_process import FOLLOW, PROBE
from dpsup.topology.load import load

TABLES = """
tables.backends = {{ kind = "own", key = "text8", value = "mac+u16+ipv4", {room} }}
tables.down = {{ kind = "exact", key = "text8", value = "text8", entries = 9 }}
""".format(room='entries = 9, bytes = "256KiB"')
GROUP = 'plugin = "macswap"'


def written(probe: str, tables: str = TABLES) -> str:
    assert GROUP in FULL
    return FULL.replace(GROUP, f"{GROUP}\nprobe = {probe}{tables}", 1)


def test_it_reaches_the_plan_and_the_next_supervisor() -> None:
    text = written('{ kind = "http", port = 8080, path = "/x?y=1", on_down = "remove", rise = 3 }')
    topology, found = load(FILE, machine(text))
    assert topology is not None and not found
    plan = make_plan(topology, machine(text), 1)
    probe = plan.groups[0].probe
    assert probe is not None
    assert (probe.kind, probe.port, probe.path, probe.host) == ("http", 8080, "/x?y=1", "")
    assert (probe.interval, probe.timeout, probe.rise, probe.fall) == (2.0, 1.0, 3, 3)
    assert (probe.mark, probe.netns) == ("gone", "")
    assert plan_of(json.loads(json.dumps(dataclasses.asdict(plan)))) == plan
    topology, _ = load(FILE, machine(FULL))
    assert topology is not None
    assert make_plan(topology, machine(FULL), 1).groups[0].probe is None


@pytest.mark.parametrize(
    ("probe", "tables", "code", "says"),
    [
        ("{}", "", "E0458", "no table of backends with their IP addresses"),
        ("{}", TABLES.replace("+ipv4", ""), "E0458", "no table of backends with their IP"),
        ("{}", TABLES.replace("down", "dawn"), "E0458", "no table for what is down"),
        ('{ path = "health" }', TABLES, "E0107", "cannot be asked for"),
        ('{ path = "/a b" }', TABLES, "E0107", "cannot be asked for"),
        ('{ host = "a\\r\\nb" }', TABLES, "E0107", "is no host"),
        ('{ netns = "a/b" }', TABLES, "E0107", "network namespace"),
        ("{ port = 0 }", TABLES, "E0105", "port"),
        ('{ kind = "icmp" }', TABLES, "E0106", "icmp"),
    ],
)
def test_what_is_wrong_with_it(probe: str, tables: str, code: str, says: str) -> None:
    _, found = load(FILE, machine(written(probe, tables)))
    assert [(one.code, says in one.message) for one in found] == [(code, True)], found


HERE = {"a": "192.0.2.1", "b": "192.0.2.2"}


def judge(marks: dict[str, str] | None = None) -> Judge:
    one = Judge(rise=2, fall=3, mark="down")
    one.know(HERE, marks or {})
    return one


def test_so_many_failures_in_a_row_and_so_many_answers() -> None:
    one = judge()
    faults = ["x", "x", "", "x", "x", "x", "x", "", "x", "", ""]
    changes = [one.found("a", HERE["a"], fault) for fault in faults]
    assert [(n, c) for n, c in enumerate(changes) if c] == [
        (5, Change("a", False, "x")), (10, Change("a", True, "")),
    ]  # fmt: skip


def test_the_table_says_what_is_judged() -> None:
    one = judge()
    assert one.operations({}) == []
    for _ in range(3):
        one.found("a", HERE["a"], "x")
    assert one.operations({}) == ["set a down"]
    assert one.operations({"a": "gone", "b": "down"}) == ["del b", "set a down"]
    assert one.operations({"a": "down"}) == []
    # What an operator has written stays.
    assert one.operations({"a": "drain", "b": "remove"}) == []


def test_the_next_process_goes_on_from_the_marks() -> None:
    one = judge({"a": "down", "b": "drain"})
    assert one.operations({"a": "down", "b": "drain"}) == []
    assert one.found("a", HERE["a"], "") is None and one.found("b", HERE["b"], "") is None
    assert one.found("a", HERE["a"], "") == Change("a", True, "")
    assert one.operations({"a": "down", "b": "drain"}) == ["del a"]


def test_what_is_no_more_or_another_host_is_forgotten() -> None:
    one = judge()
    for _ in range(3):
        one.found("a", HERE["a"], "x")
    one.know({"b": HERE["b"]}, {"a": "down"})
    assert one.operations({"a": "down"}) == ["del a"]
    assert one.found("a", HERE["a"], "x") is None
    one.know({"a": "192.0.2.9"}, {})
    assert one.operations({}) == []


def test_addresses() -> None:
    entries = {"a": "02:00:00:00:00:01,10,192.0.2.1", "b": "02:00:00:00:00:02,0,0.0.0.0"}
    entries["c"] = "02:00:00:00:00:03,1,::"
    assert addresses_of(entries) == {"a": "192.0.2.1"}


def answer(kind: str, reply: bytes | None, timeout: float = 30.0) -> str:
    """What it comes to where a server says that; None: nothing listens."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "http":
            await reader.readuntil(b"\r\n\r\n")
            for part in (reply[:5], reply[5:]) if reply else ():
                writer.write(part)
                await writer.drain()
        if reply != b"":
            writer.close()
        else:
            await reader.read()  # says nothing until the other end has enough
            writer.close()

    async def both() -> str:
        server = await asyncio.start_server(say, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if reply is None:
            server.close()
            await server.wait_closed()
        found = await ask(Question(kind, port, "/health", "", timeout, ""), "127.0.0.1")
        server.close()
        return found

    return asyncio.run(both())


@pytest.mark.parametrize(
    ("kind", "reply", "fault"),
    [
        ("tcp", b"x", ""),
        ("tcp", None, "connection refused"),
        ("http", b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("http", b"HTTP/1.0 302 Found\r\n\r\n", ""),
        ("http", b"HTTP/1.1 503 Busy\r\n\r\n", "answers 503 to GET /health"),
        ("http", b"SSH-2.0\r\n", "does not answer in HTTP"),
        ("http", b"x" * 9000, "does not answer in HTTP"),
    ],
)
def test_answers(kind: str, reply: bytes | None, fault: str) -> None:
    found = answer(kind, reply)
    assert fault in found if fault else found == ""


def test_one_that_says_nothing() -> None:
    assert "did not answer in 0.2 s" in answer("http", b"", 0.2)


def test_no_socket_is_no_fault_of_a_backend() -> None:
    question = Question("tcp", 80, "/", "", 1, "dpsup-no-such-namespace")
    with pytest.raises(OSError, match="dpsup-no-such-namespace"):
        asyncio.run(ask(question, "127.0.0.1"))


def test_what_the_process_says_becomes_an_event() -> None:
    core = FakeCore()
    assert PROBE.name("web") == "probe/web" and FOLLOW.name("edge") == "follow/edge"
    assert PROBE.told(core, "web", "DOWN b1 192.0.2.1 port 80: connection refused")
    assert PROBE.told(core, "web", "UP b1 ")
    down, up = core.events.of("backend")
    assert (down["name"], down["backend"], down["new"]) == ("web", "b1", "down")
    assert down["message"] == "backend b1 is down: 192.0.2.1 port 80: connection refused"
    assert (up["new"], up["message"]) == ("up", "backend b1 is up")
    for word in ("DOWN", "UP", "LEFT b1 x", "x"):
        assert not PROBE.told(core, "web", word)
    assert not FOLLOW.told(core, "edge", "UP b1 ")
