# SPDX-License-Identifier: BSD-3-Clause
"""The bus against a real instance: noise, limits, idempotence, sequence numbers, the client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from typing import Any

import pytest
import zmq
from harness import CALM, PATIENCE, Run, wait_for

import dpsup
from dpsup import DpsupError
from dpsup.bus import messages

pytestmark = pytest.mark.beside


class Raw:
    """A peer that says what it likes."""

    def __init__(self, instance: Run) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f"ipc:///run/dpsup/{instance.name}/control.sock")

    def say(self, raw: bytes) -> dict[str, Any] | None:
        self.socket.send_multipart([b"", raw])
        if not self.socket.poll(int(PATIENCE * 1000)):
            return None
        return json.loads(self.socket.recv_multipart()[-1])


@pytest.mark.fault(21)
def test_bad_messages_get_an_error_and_the_bus_goes_on(shared: Run) -> None:
    raw = Raw(shared)
    for noise in (b"", b"\0\xff" * 10, b"{}", b'{"v":9}', b"[" * 1000, b'{"v":1,"id":"a"}'):
        reply = raw.say(noise)
        assert reply is not None
        assert reply["ok"] is False
        assert reply["error"]["message"]
    wrong = messages.encode_request(messages.Request("scale", "x1", {"group": 5, "n": "two"}))
    reply = raw.say(wrong)
    assert reply is not None
    assert "args.group" in reply["error"]["message"]
    reply = raw.say(messages.encode_request(messages.Request("dance", "x2")))
    assert reply is not None
    assert "no such verb" in reply["error"]["message"]
    assert shared.status()["state"] == "running"


@pytest.mark.fault(21)
def test_an_oversized_message_costs_only_its_sender(shared: Run) -> None:
    Raw(shared).socket.send_multipart([b"", b"x" * (messages.MAX_REQUEST + 1)])
    with dpsup.connect(shared.name) as client:
        assert client.status()["state"] == "running"


@pytest.mark.fault(20)
def test_a_flood_is_refused_and_others_are_served(shared: Run) -> None:
    raw = Raw(shared)
    request = messages.encode_request(messages.Request("ping", "same"))
    refused = 0

    def flooded() -> bool:
        """On a busy machine a peer may not be fast enough the first time."""
        nonlocal refused
        for _ in range(5000):
            raw.socket.send_multipart([b"", request])
        while raw.socket.poll(500):
            refused += b"too many requests" in raw.socket.recv_multipart()[-1]
        return refused > 100

    wait_for(flooded)
    with dpsup.connect(shared.name) as client:
        assert client.status()["state"] == "running"


# As fast as its CPU lets it, until it is ended; what is answered it never reads.
FLOODER = """
import sys, zmq
one = zmq.Context().socket(zmq.DEALER)
one.setsockopt(zmq.SNDHWM, 10_000)
one.connect(f"ipc://{sys.argv[1]}")
print("begins", flush=True)
while True:
    one.send_multipart([b"", sys.argv[2].encode()])
"""


@pytest.mark.fault(20)
def test_a_worker_comes_back_and_commands_are_answered_during_a_flood(instance: Run) -> None:
    """None of it waits for the flood's end: it has none."""
    instance.start(CALM)
    request = messages.encode_request(messages.Request("status", "same")).decode()
    path = f"/run/dpsup/{instance.name}/control.sock"
    flooder = subprocess.Popen(
        [sys.executable, "-c", FLOODER, path, request], stdout=subprocess.PIPE
    )
    try:
        assert flooder.stdout is not None and flooder.stdout.readline()
        before = instance.worker("fw/0")["pid"]
        os.kill(before, signal.SIGKILL)
        after = wait_for(lambda: instance.worker("fw/0")["pid"] not in (0, None, before))
        assert after and flooder.poll() is None
        assert instance.until(lambda s: s["state"] == "running")
        assert flooder.poll() is None
    finally:
        flooder.kill()
        flooder.wait()
        flooder.stdout.close()
    assert instance.status()["recovery"]["deaths"] == 1


@pytest.mark.fault(25)
def test_the_same_request_is_carried_out_once(instance: Run) -> None:
    instance.start(CALM)
    raw = Raw(instance)
    request = messages.encode_request(
        messages.Request("kill", uuid.uuid4().hex, {"worker": "fw/0", "signal": 9})
    )
    first = raw.say(request)
    assert first is not None
    assert first["ok"]
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
    assert raw.say(request) == first
    assert instance.status()["recovery"]["deaths"] == 1
    # Who did it is written down, once.
    (event,) = [e for e in instance.events() if e["type"] == "command"]
    assert (event["name"], event["verb"], event["uid"]) == ("fw/0", "kill", os.geteuid())
    assert event["pid"] == os.getpid()


def test_events_are_numbered_and_a_snapshot_fills_gaps(instance: Run) -> None:
    instance.start(CALM)
    with dpsup.connect(instance.name) as client:
        events = client.events()
        numbers = [e["seq"] for e in events]
        assert numbers == list(range(1, len(numbers) + 1))
        following = client.follow("event")
        seen = None
        # A subscription takes a moment to arrive: kill until something is heard.
        for publication in _with(following, lambda: client.kill("fw/1"), client):
            seen = publication
            break
        assert seen is not None
        assert seen.seq > numbers[-1]
        missed = client.events(since=numbers[-1])
        assert [e["seq"] for e in missed][: seen.seq - numbers[-1]] == list(
            range(numbers[-1] + 1, seen.seq + 1)
        )


def _with(following: Any, provoke: Any, client: dpsup.Instance) -> Any:
    import threading

    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.2):
            with dpsup.connect(client.name) as mine:
                try:
                    mine.kill("fw/1")
                except DpsupError:
                    continue

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield next(following)
    finally:
        stop.set()
        thread.join()
        wait_for(lambda: client.status()["state"] == "running")


def test_the_client_has_the_nouns_of_the_command_line(instance: Run) -> None:
    instance.start(CALM)
    with dpsup.connect(instance.name) as client:
        assert client.scale("fw", 3)["ready"] == 3
        assert client.status()["groups"][0]["ready"] == 3
        assert client.audit()["kind"] == "Audit"
        assert client.stats()["kind"] == "Stats"
        assert any(line["name"] == "primary" for line in client.logs())
        with pytest.raises(DpsupError, match="no worker"):
            client.kill("fw/9")
    with pytest.raises(dpsup.errors.NotRunning):
        dpsup.connect("nobody-of-that-name")


@pytest.mark.fault(22)
def test_nobody_else_may_use_the_sockets(shared: Run) -> None:
    from pathlib import Path

    folder = Path("/run/dpsup", shared.name)
    assert folder.stat().st_mode & 0o077 == 0
    for socket in folder.glob("*.sock"):
        assert socket.stat().st_mode & 0o077 == 0, socket
