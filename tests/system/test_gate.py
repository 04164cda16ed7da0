# SPDX-License-Identifier: BSD-3-Clause
"""Clients other than the owner, through the gate of a real instance: roles of local users, keys
over the network, and what clients cannot do to an instance that forwards."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import pwd
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from harness import CALM, LONG, NULL, PATIENCE, Run, dies, here, lives, wait_for
from system.conftest import started_by

import dpsup
from dpsup import cli, documents, inspect, instance, view
from dpsup.bus import curve, messages
from dpsup.errors import DpsupError, TimedOut
from dpsup.instance.keys import Keys, identity

pytestmark = pytest.mark.beside

# Users that every Debian has: one may order, one may look (by its group), one may do nothing.
ADMIN, READER, STRANGER = "games", "news", "uucp"


def free_port() -> int:
    """The first of two ports that are free."""
    for _ in range(100):
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two ports are free")


class Site:
    """An instance with a gate, and its keys."""

    def __init__(self, instance: Run, folder: Path) -> None:
        self.instance = instance
        self.folder = folder
        self.keys = Keys(str(folder / "keys"))
        self.keys.init()
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        for name, role in (("boss", "admin"), ("eye", "read")):
            self.key(name, role)
        known = "".join(
            f'[{name}]\nendpoint = "{self.endpoint}"\nkey = "{name}.key"\n'
            for name in ("boss", "eye", "left", "gone", "stranger")
        )
        (folder / "hosts.toml").write_text(known)

    def key(self, name: str, role: str) -> None:
        (self.folder / f"{name}.key").unlink(missing_ok=True)
        self.keys.add(name, role, out=str(self.folder / f"{name}.key"))

    def start(self, text: str = CALM) -> Site:
        self.instance.start(
            text
            + f"""
            [bus]
            endpoint = "{self.endpoint}"
            keys = "{self.folder}/keys"
            admin = ["{ADMIN}"]
            read = ["@{READER}"]
            """.replace("            ", "")
        )
        wait_for(lambda: self.gate() != 0)
        return self

    def gate(self) -> int:
        """The gate's pid, once it is ready."""
        for line in reversed(self.instance.ask("logs")):
            if line["name"] == "gate" and line["line"].startswith("ready, pid "):
                pid = int(line["line"].rpartition(" ")[2])
                return pid if Path(f"/proc/{pid}").exists() else 0
        return 0

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A command as the user of the hosts file."""
        return here(*args)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("gate")
    before = os.environ.get("DPSUP_HOSTS")
    os.environ["DPSUP_HOSTS"] = str(folder / "hosts.toml")
    try:
        with started_by("gate", folder) as one:
            yield Site(one, folder).start()
    finally:
        if before is None:
            del os.environ["DPSUP_HOSTS"]
        else:
            os.environ["DPSUP_HOSTS"] = before


def as_user(name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns in a process of that user."""
    user = pwd.getpwnam(name)
    for package in (cli, documents, inspect, instance, view):  # that user may not read the sources
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.initgroups(name, user.pw_gid)
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
            os.environ["HOME"] = "/nonexistent"
            os.write(its, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(its)
    with os.fdopen(ours) as said:
        text = said.read()
    os.waitpid(child, 0)
    return json.loads(text)


def ran(*args: str) -> tuple[int, str, str]:
    done = here(*args)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.fault(22)
def test_a_user_does_what_the_role_allows(site: Site) -> None:
    name = site.instance.name

    def reader() -> Any:
        looks = [
            ran("-n", name, *words)
            for words in (
                ("status", "-o", "json"), ("stats", "-o", "json"), ("events",), ("workers",),
                ("table",), ("rollout", "status"),
            )
        ]  # fmt: skip
        orders = [
            ran("-n", name, *words)
            for words in (
                ("scale", "fw", "1"), ("kill", "fw/0"), ("stop",), ("restart",), ("rebalance",),
                ("reload",), ("rollout", "fw", "--args", "a=b"), ("reset-failed",),
            )
        ]  # fmt: skip
        return looks, orders

    looks, orders = as_user(READER, reader)
    assert [code for code, _, _ in looks] == [0] * len(looks), looks
    assert json.loads(looks[0][1])["name"] == name
    for code, _, said in orders:
        assert code == 7, said
        assert "E0470" in said and "needs the role admin" in said
    assert site.instance.status()["groups"][0]["desired"] == 2

    code, said, _ = as_user(ADMIN, lambda: ran("-n", name, "scale", "fw", "3"))
    assert code == 0 and "2 -> 3" in said
    code, said, _ = as_user(ADMIN, lambda: ran("-n", name, "scale", "fw", "2"))
    assert code == 0
    (event, _) = [e for e in site.instance.events() if e["type"] == "command"][-2:]
    assert (event["verb"], event["uid"]) == ("scale", pwd.getpwnam(ADMIN).pw_uid)
    assert event["pid"] > 0


def test_a_user_without_a_role_learns_nothing(site: Site) -> None:
    name = site.instance.name
    code, out, said = as_user(STRANGER, lambda: ran("-n", name, "status", "-o", "json"))
    assert (code, out) == (7, "")
    assert "E0470" in said and "has no role" in said


def subscribed(address: str, seconds: float) -> int:
    one = zmq.Context.instance().socket(zmq.SUB)
    one.setsockopt(zmq.LINGER, 0)
    one.setsockopt(zmq.SUBSCRIBE, b"")
    one.connect(address)
    found = one.poll(int(seconds * 1000))
    one.close()
    return int(found)


def test_events_are_for_those_who_may_look(site: Site) -> None:
    """Statistics are published all the time."""
    address = f"ipc:///run/dpsup/{site.instance.name}/bus/events.sock"
    assert as_user(READER, lambda: subscribed(address, PATIENCE)) == 1
    assert as_user(STRANGER, lambda: subscribed(address, 3)) == 0


def test_only_the_gate_s_sockets_are_open_to_others(site: Site) -> None:
    """The directory can be passed, and neither listed nor written to."""
    folder = Path("/run/dpsup", site.instance.name)
    assert folder.stat().st_mode & 0o777 == 0o711
    open_to_others = {
        str(one.relative_to(folder)) for one in folder.rglob("*") if one.lstat().st_mode & 0o077
    }
    assert open_to_others == {"bus", "bus/control.sock", "bus/events.sock"}


# --- over the network -----------------------------------------------------------------------------


def test_a_key_does_what_its_role_allows(site: Site) -> None:
    for words in (("status", "-o", "json"), ("stats", "-o", "json"), ("events",), ("workers",)):
        code, out, said = ran("-n", "eye", *words)
        assert code == 0, said
    code, _, said = ran("-n", "eye", "scale", "fw", "3")
    assert code == 7 and "E0470" in said
    code, out, said = ran("-n", "boss", "scale", "fw", "3")
    assert code == 0 and "2 -> 3" in out, said
    assert ran("-n", "boss", "scale", "fw", "2")[0] == 0
    event = [e for e in site.instance.events() if e["type"] == "command"][-1]
    assert (event["key"], event["remote"], event["uid"]) == ("boss", "127.0.0.1", None)


def test_an_endpoint_can_be_named_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSUP_KEY", str(site.folder / "eye.key"))
    code, out, said = ran("-n", site.endpoint, "status", "-o", "json")
    assert code == 0, said
    assert json.loads(out)["name"] == site.instance.name


def test_what_is_not_on_the_bus_says_so(site: Site) -> None:
    for words in (("capture", "fw/0", "-c", "1"), ("perf", "fw/0"), ("mark",)):
        code, _, said = ran("-n", "boss", *words)
        assert code == 7 and "E0478" in said, (words, said)


@pytest.mark.fault(22)
def test_a_key_that_is_not_known_is_refused(site: Site) -> None:
    pair, server = curve.new_pair(), site.keys.server().public
    other = curve.new_pair()
    for file, own, host in (("left", pair, server), ("stranger", pair, other.public)):
        path = site.folder / f"{file}.key"
        path.write_text(f'public = "{own.public}"\nsecret = "{own.secret}"\nserver = "{host}"\n')
        path.chmod(0o600)
    code, _, said = ran("-n", "left", "status", "-o", "json")
    assert code == 7 and "E0471" in said
    with (
        dpsup.connect("stranger") as client,
        pytest.raises(TimedOut),  # it is not the host that the key is for
    ):
        client.status(timeout=1)
    (site.folder / "left.key").chmod(0o644)
    code, _, said = ran("-n", "left", "status")
    assert code == 7 and "E0472" in said and "0644" in said


def test_a_key_that_is_revoked_ends_on_the_connections_that_are_there(site: Site) -> None:
    site.key("gone", "admin")
    with dpsup.connect("gone") as client, dpsup.connect("eye") as other:
        assert client.status()["state"] == "running"
        heard = zmq.Context.instance().socket(zmq.SUB)
        heard.setsockopt(zmq.LINGER, 0)
        heard.setsockopt(zmq.SUBSCRIBE, b"stat")
        curve.present(heard, identity(str(site.folder / "gone.key")))
        heard.connect(f"tcp://127.0.0.1:{site.port + 1}")
        assert heard.poll(PATIENCE * 1000)
        follows = other.follow("stat", timeout=PATIENCE)
        next(follows)
        site.keys.revoke("gone")
        with pytest.raises(DpsupError) as caught:
            client.scale("fw", 3)
        assert caught.value.code == "E0471"

        def is_silent() -> bool:
            while heard.poll(0):
                heard.recv_multipart()
            return not heard.poll(2000)

        wait_for(is_silent)
        heard.close()
        # The others' connections come back by themselves.
        before = next(follows).seq
        assert wait_for(lambda: next(follows).seq > before + 2)
        assert other.status()["state"] == "running"
    assert site.instance.status()["groups"][0]["desired"] == 2


def test_keys_that_cannot_be_believed_accept_nobody(site: Site) -> None:
    """Fails closed: the file was opened to others, or is damaged."""
    file = site.folder / "keys/clients.toml"
    for wrong in (lambda: file.chmod(0o644), lambda: file.write_text("no toml")):
        text = file.read_text()
        with dpsup.connect("eye") as client:
            assert client.status()["state"] == "running"
            wrong()
            with pytest.raises(DpsupError) as caught:
                client.status()
            assert caught.value.code == "E0471"
        file.write_text(text)
        file.chmod(0o600)
        assert wait_for(lambda: ran("-n", "eye", "status", "-o", "json")[0] == 0)


# --- abuse ----------------------------------------------------------------------------------------


@pytest.mark.fault(47)
def test_the_gate_may_die_alone(site: Site) -> None:
    before = site.gate()
    workers = {w["id"]: w["pid"] for w in site.instance.status()["groups"][0]["workers"]}
    os.kill(before, 9)
    after = wait_for(lambda: site.gate() not in (0, before))
    assert after
    assert wait_for(lambda: ran("-n", "eye", "status", "-o", "json")[0] == 0)
    now = site.instance.status()
    assert {w["id"]: w["pid"] for w in now["groups"][0]["workers"]} == workers
    assert now["supervisor"]["pid"]


def test_a_supervisor_that_follows_has_a_gate_of_its_own(site: Site) -> None:
    before, pid = site.gate(), site.instance.status()["supervisor"]["pid"]
    dies(pid)
    assert wait_for(lambda: not lives(before))
    site.instance.start()
    assert wait_for(lambda: site.gate() not in (0, before))
    assert wait_for(lambda: ran("-n", "eye", "status", "-o", "json")[0] == 0)
    code, _, said = as_user(READER, lambda: ran("-n", site.instance.name, "status"))
    assert code == 0, said


def test_no_process_may_speak_for_another_client(site: Site) -> None:
    """Not even the owner's: what an event says of a command is true."""
    said = messages.Request("kill", "x", {"worker": "fw/0"}, origin=messages.Origin("admin", 7))
    one = zmq.Context.instance().socket(zmq.DEALER)
    one.setsockopt(zmq.LINGER, 0)
    one.connect(f"ipc:///run/dpsup/{site.instance.name}/control.sock")
    one.send_multipart([b"", messages.encode_request(said)])
    assert one.poll(PATIENCE * 1000)
    assert b"origin" in one.recv_multipart()[-1]
    one.close()


class Raw:
    """A client that says what it likes, by a key."""

    def __init__(self, site: Site, key: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        curve.present(self.socket, identity(str(site.folder / f"{key}.key")))
        self.socket.connect(site.endpoint)

    def say(self, raw: bytes) -> dict[str, Any]:
        self.socket.send_multipart([b"", raw])
        assert self.socket.poll(PATIENCE * 1000)
        return json.loads(self.socket.recv_multipart()[-1])


@pytest.mark.fault(25)
def test_an_order_that_is_repeated_is_carried_out_once(site: Site) -> None:
    """Also over another connection, and after many that only read. Another client that uses the
    same id has an order of its own."""
    before = site.instance.status()["recovery"]["deaths"]
    order = messages.encode_request(messages.Request("kill", "1", {"worker": "fw/0"}))
    first = Raw(site, "boss")
    answer = first.say(order)
    assert answer["ok"], answer
    site.instance.until(lambda s: s["state"] == "running" and s["recovery"]["deaths"] > before)
    for n in range(20):
        assert first.say(messages.encode_request(messages.Request("ping", f"p{n}")))["ok"]
    first.socket.close()
    assert Raw(site, "boss").say(order) == answer
    refused = Raw(site, "eye").say(order)
    assert (refused["ok"], refused["error"]["id"]) == (False, "E0470")
    assert site.instance.status()["recovery"]["deaths"] == before + 1
    said = [e for e in site.instance.events() if e["type"] == "command" and e["verb"] == "kill"]
    assert len(said) == 1 and said[0]["key"] == "boss"


@pytest.mark.fault(21)
def test_bad_messages_get_an_error_and_the_gate_goes_on(site: Site) -> None:
    gate, raw = site.gate(), Raw(site, "boss")
    for noise in (b"", b"\0\xff" * 10, b"{}", b'{"v":9}', b"[" * 1000, b'{"v":1,"id":"a"}'):
        assert raw.say(noise)["error"]["message"]
    said = messages.Request("ping", "x", origin=messages.Origin("admin"))
    assert "origin" in raw.say(messages.encode_request(said))["error"]["message"]
    for long in ('"\u00e4' + "\u00e4" * 32000 + '"', "1e999", "[" * 14 + "]" * 14):
        text = f'{{"v":1,"id":"{len(long)}","verb":"tables","args":{{"a":{long}}}}}'
        assert raw.say(text.encode())["id"] == str(len(long))
    many = [b"x"] * 50
    raw.socket.send_multipart([b"", *many])
    assert raw.socket.poll(PATIENCE * 1000)
    noise = random.Random(7)
    bus = f"/run/dpsup/{site.instance.name}/bus"
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", site.port)), (socket.AF_INET, ("127.0.0.1", site.port + 1)),
        (socket.AF_UNIX, f"{bus}/control.sock"), (socket.AF_UNIX, f"{bus}/events.sock"),
    ):  # fmt: skip
        for head in (b"", b"\xff" + bytes(8) + b"\x7f\x03\x00NULL", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.socket(family) as one, contextlib.suppress(OSError):
                one.connect(address)
                one.sendall(head + noise.randbytes(3000))
    assert ran("-n", "eye", "status", "-o", "json")[0] == 0
    assert site.gate() == gate


@pytest.mark.fault(25)
def test_an_order_for_another_generation_is_refused(site: Site) -> None:
    with dpsup.connect("boss") as client:
        client.only(client.status()["generation"])
        assert client.scale("fw", 2)["desired"] == 2
        client.only(99)
        with pytest.raises(DpsupError) as caught:
            client.kill("fw/0")
        assert caught.value.code == "E0477"


@pytest.mark.fault(20)
def test_a_client_that_floods_keeps_no_other_waiting(site: Site) -> None:
    begun = time.monotonic()
    ends = begun + (10 if LONG else 1)

    def flood() -> int:
        request = messages.encode_request(messages.Request("status", "same"))
        many = []
        for _ in range(20):
            one = zmq.Context.instance().socket(zmq.DEALER)
            one.setsockopt(zmq.LINGER, 0)
            one.connect(f"ipc:///run/dpsup/{site.instance.name}/bus/control.sock")
            many.append(one)
        sent = 0
        while time.monotonic() < ends:
            for one in many:
                try:
                    one.send_multipart([b"", request], zmq.NOBLOCK)
                    sent += 1
                except zmq.Again:
                    time.sleep(0.001)
        return sent

    slowest, answered = 0.0, 0

    def ask() -> None:
        nonlocal slowest, answered
        with dpsup.connect(site.instance.name) as client, dpsup.connect("boss") as far:
            while time.monotonic() < ends:
                for one in (client, far):
                    at = time.monotonic()
                    one.status()
                    slowest = max(slowest, time.monotonic() - at)
                    answered += 1

    asks = threading.Thread(target=ask)
    asks.start()
    sent = as_user(READER, flood)
    asks.join()
    assert sent > 400 and answered > 2
    print(f"{sent} requests, {answered} of others answered, the slowest in {slowest:.3f} s")
    assert slowest < PATIENCE / 6


CROWD = """
import socket, sys, time
ends = time.monotonic() + float(sys.argv[1])
while time.monotonic() < ends:
    held = []
    for _ in range(800):
        for where in sys.argv[2:]:
            host, _, port = where.rpartition(":")
            one = socket.socket(socket.AF_INET if host else socket.AF_UNIX)
            held.append(one)
            try:
                one.connect((host, int(port)) if host else where)
                one.sendall(bytes(100))
            except OSError:
                pass
    for one in held:
        one.close()
"""


@pytest.mark.fault(20, 24)
@pytest.mark.long
def test_an_instance_under_load_does_not_notice(tmp_path: Path) -> None:
    """All at once: crowds of connections, floods, subscribers that read nothing, while packets come
    as fast as they are polled. No worker dies, no packet is lost, the owner is answered."""
    with started_by("gateload", tmp_path) as one:
        site = Site(one, tmp_path)
        site.start(NULL)
        seconds = 20.0
        before = one.stats()["account"]
        bus = f"/run/dpsup/{one.name}/bus"
        crowds = [
            subprocess.Popen([sys.executable, "-c", CROWD, str(seconds), *where])
            for where in (
                (f"{bus}/control.sock", f"{bus}/events.sock"),
                (f"127.0.0.1:{site.port}", f"127.0.0.1:{site.port + 1}"),
            )
        ]
        deaf = []
        for _ in range(20):
            sub = zmq.Context.instance().socket(zmq.SUB)
            sub.setsockopt(zmq.LINGER, 0)
            sub.setsockopt(zmq.RCVHWM, 1)
            sub.setsockopt(zmq.SUBSCRIBE, b"")
            curve.present(sub, identity(str(tmp_path / "eye.key")))
            sub.connect(f"tcp://127.0.0.1:{site.port + 1}")
            deaf.append(sub)
        slowest, answered, most = 0.0, 0, 0
        ends = time.monotonic() + seconds
        with dpsup.connect(one.name) as owner:
            while time.monotonic() < ends:
                at = time.monotonic()
                owner.status()
                slowest, answered = max(slowest, time.monotonic() - at), answered + 1
                gate = site.gate()
                with contextlib.suppress(OSError, IndexError):
                    pages = int(Path(f"/proc/{gate}/statm").read_text().split()[1])
                    most = max(most, pages * 4096)
                time.sleep(0.05)
        for crowd in crowds:
            crowd.wait(PATIENCE)
        for sub in deaf:
            sub.close()
        after = one.stats()
        print(f"{answered} answers, the slowest in {slowest:.3f} s; the gate's memory {most >> 20}")
        assert slowest < PATIENCE / 6 and most < 400 << 20
        assert after["account"]["received"] > before["received"]
        assert one.status()["recovery"]["deaths"] == 0
        assert not any(p["unexplained"] for p in one.audit()["pools"])
        # The gate, or the one after it, lets those in who may.
        assert wait_for(lambda: as_user(READER, lambda: ran("-n", one.name, "status")[0]) == 0)
