# SPDX-License-Identifier: BSD-3-Clause
"""What clients that do not follow the protocol may cost a process with sockets."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from unit.fakecore import run

from dpsup.bus import guests, messages
from dpsup.bus.guests import Guests
from dpsup.bus.messages import Request
from dpsup.bus.sockets import Responder, Server

PATIENCE = 60

# Sockets of a process of its own, as the kernel tells clients apart by their process.
MANY = """
import socket, sys
held = []
for _ in range(int(sys.argv[2])):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    held.append(one)
print("there", flush=True)
sys.stdin.read()
"""

# ZMTP 3.0 by hand: libzmq sends no message before its last frame is there.
ENDLESS = r"""
import socket, struct, sys
one = socket.socket(socket.AF_UNIX)
one.connect(sys.argv[1])
one.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31))
ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
one.sendall(b"\x04" + bytes([len(ready)]) + ready)
said = b""
while b"READY" not in said:
    said += one.recv(4096)
frame = b"\x03" + struct.pack(">Q", 60000) + bytes(60000)
try:
    for _ in range(int(sys.argv[2])):
        one.sendall(frame)
    print("all sent", flush=True)
except OSError:
    print("shut", flush=True)
"""


@contextmanager
def client(program: str, path: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(number)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def word(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def asked(path: Path, id_: str = "1") -> Any:
    """What a client gets that follows the protocol."""
    peer: Any = zmq.Context.instance().socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    peer.connect(f"ipc://{path}")
    peer.send_multipart([b"", messages.encode_request(Request("ping", id_))])
    assert peer.poll(PATIENCE * 1000)
    reply = messages.decode_reply(peer.recv_multipart()[-1])
    peer.close()
    return reply.value()


@contextmanager
def served(path: Path) -> Iterator[Guests]:
    """A server in an event loop and a thread of its own, with its guests looked at."""
    found: list[Guests] = []
    there, over = threading.Event(), threading.Event()

    async def handle(_: Request) -> str:
        return "pong"

    async def main() -> None:
        server = Server(str(path), handle)
        kept = Guests(str(path))
        found.append(kept)
        tasks = [asyncio.create_task(c) for c in (server.serve(), kept.keep(lambda _: None))]
        there.set()
        await asyncio.to_thread(over.wait)
        for task in tasks:
            task.cancel()
        await server.close()

    thread = threading.Thread(target=run, args=(main(),))
    thread.start()
    assert there.wait(PATIENCE)
    try:
        yield found[0]
    finally:
        over.set()
        thread.join()


def until(what: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_connections_of_the_process_that_has_most_are_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ aborts a process that has no descriptor left for one more."""
    monkeypatch.setattr(guests, "CONNECTIONS_MOST", 100)
    path = tmp_path / "s"
    with served(path) as kept, client(MANY, path, 20) as few:
        assert word(few) == "there"
        with client(MANY, path, 180) as many:
            assert word(many) == "there"
            until(lambda: kept.shut >= 100)
            assert asked(path) == "pong"
            left = kept._connections()
            assert list(left.values()).count(few.pid) == 20


def test_a_message_without_an_end_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 GB, of which none can be refused before the last frame is there."""
    monkeypatch.setattr(guests, "MEMORY_MOST", 16 << 20)
    path = tmp_path / "s"
    with served(path) as kept, client(ENDLESS, path, 33_000) as peer:
        assert word(peer) == "shut"
        until(lambda: kept.shut >= 1)
        assert asked(path) == "pong"


def test_a_process_with_a_loop_of_its_own_looks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "MEMORY_MOST", 16 << 20)
    path = tmp_path / "s"
    responder = Responder(str(path), lambda _: "pong")
    with client(ENDLESS, path, 33_000) as peer:
        until(lambda: responder.poll(1.0) or responder._guests.shut)
        assert word(peer) == "shut"
    responder.finish()
    responder.close()


def test_descriptors_of_others_are_left_alone(tmp_path: Path) -> None:
    """Sockets of this process at another path, pipes, files."""
    path, other = tmp_path / "s", tmp_path / "other"
    with served(path) as kept, served(other), client(MANY, other, 3) as peer:
        assert word(peer) == "there"
        assert asked(path) == "pong"
        assert peer.pid not in kept._connections().values()


@pytest.mark.parametrize(
    ("before", "may_raise", "after"),
    [
        ((256, 1024), True, (guests.FILES, guests.FILES)),
        ((256, 1024), False, (1024, 1024)),
        ((256, -1), False, (guests.FILES, -1)),
        ((1024, 1 << 20), False, (guests.FILES, 1 << 20)),
        ((1 << 20, 1 << 20), False, (1 << 20, 1 << 20)),
    ],
)
def test_files_as_many_as_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
    before: tuple[int, int],
    may_raise: bool,
    after: tuple[int, int],
) -> None:
    """libzmq aborts a process that has no descriptor left for a connection."""
    limits = before

    def set_limit(_: int, to: tuple[int, int]) -> None:
        nonlocal limits
        if limits[1] != -1 and to[1] > limits[1] and not may_raise:
            raise ValueError("not allowed to raise maximum limit")
        limits = to

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    guests.allow_files()
    assert limits == after
