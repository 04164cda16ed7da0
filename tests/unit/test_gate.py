# SPDX-License-Identifier: BSD-3-Clause
"""The gate's parts: roles, the files of keys, and the sockets over the network, closed where the
process that knows the keys is silent."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dpsup.bus import messages, roles
from dpsup.bus.curve import new_pair, public_of
from dpsup.bus.messages import Origin, ProtocolError, Reply, Request
from dpsup.bus.roles import User
from dpsup.errors import DpsupError, NotPermitted
from dpsup.gate.process import Accepted, news_of
from dpsup.host import users
from dpsup.instance import far, hosts, keys
from dpsup.instance.keys import Keys

ALICE = User(frozenset({"alice", "1000"}), frozenset({"alice", "netops", "1000", "30"}))


@pytest.mark.parametrize(
    ("admin", "read", "role"),
    [
        ((), (), ""),
        (("alice",), (), "admin"),
        (("@alice",), (), "admin"),
        (("@netops",), ("alice",), "admin"),
        (("@30",), (), "admin"),
        (("1000",), (), "admin"),
        (("30",), ("@netops",), "read"),  # a user of the group's number
        (("bob", "@ops"), ("@netop",), ""),
        ((), ("alice",), "read"),
    ],
)
def test_the_role_of_a_user(admin: tuple[str, ...], read: tuple[str, ...], role: str) -> None:
    assert roles.role_of(ALICE, admin, read) == role


def test_what_a_role_may() -> None:
    for role, changes, allowed in (
        ("admin", True, True), ("admin", False, True), ("read", False, True),
        ("read", True, False), ("", False, False), ("", True, False), ("root", False, False),
    ):  # fmt: skip
        assert roles.may(role, changes=changes) is allowed
        if not allowed:
            with pytest.raises(NotPermitted, match="needs the role admin"):
                roles.demand(role, "scale", changes=changes)


def test_what_a_name_of_a_client_is() -> None:
    for name in ("alice", "@netops", "_apt", "1000", "@30", "host$", "a.b-c"):
        assert roles.is_name(name)
    for name in ("", "@", "a b", "a,b", "-a", "@@a", "a\n", "x" * 40, "ä"):
        assert not roles.is_name(name)


def test_users_as_the_system_knows_them() -> None:
    known = users.Users()
    root = known.user(0, 0)
    assert {"root", "0"} <= root.names and {"root", "0"} <= root.groups
    assert known.user(0, 0) is root  # an answer holds for some seconds
    nobody = known.user(3_999_999_999, 3_999_999_998)
    assert (nobody.names, nobody.groups) == ({"3999999999"}, {"3999999998"})
    uids, gids, unknown = users.numbers(["root", "@root", "77", "@78", "no-such", "@no-such"])
    assert (uids, gids, unknown) == ({0, 77}, {0, 78}, ["no-such", "@no-such"])


# --- messages -------------------------------------------------------------------------------------


def test_a_request_that_is_passed_on_says_whose_it_is() -> None:
    origin = Origin("read", uid=1000, pid=7, key="k", address="10.0.0.1")
    again = messages.decode_request(messages.encode_request(Request("ping", "1", origin=origin)))
    assert again.origin == origin
    for wrong in ({}, [], "x", {"role": 1}, {"role": "read", "uid": "0"}, {"role": "a", "more": 1}):
        raw = json.dumps({"v": 1, "id": "1", "verb": "ping", "args": {}, "origin": wrong}).encode()
        with pytest.raises(ProtocolError, match="origin"):
            messages.decode_request(raw)


def test_room_for_whose_it_is_is_no_room_for_anything_else() -> None:
    args = {"text": "x" * (messages.MAX_REQUEST - 60)}
    whole = messages.encode_request(Request("tell", "1", args))
    assert len(whole) <= messages.MAX_REQUEST
    origin = Origin("admin", uid=1000, key="k" * 32, address="f" * 64)
    longer = messages.encode_request(Request("tell", "a" * 64, args, origin=origin))
    assert messages.MAX_REQUEST < len(longer) <= messages.MAX_REQUEST + messages.MAX_ORIGIN
    assert messages.decode_request(longer).origin == origin
    raw = json.dumps({"v": 1, "id": "1", "verb": "tell", "args": {"t": "x" * 65500}}).encode()
    with pytest.raises(ProtocolError, match="at most"):
        messages.decode_request(raw)


def test_an_answer_gets_the_id_that_the_client_chose() -> None:
    id_ = "0f" * 32
    for reply in (Reply(id_, {"a": [1, "x"]}), Reply(id_, error={"code": 7, "message": "no"})):
        raw = messages.encode_reply(reply)
        assert messages.id_of(raw) == id_
        again = messages.decode_reply(messages.readdressed(raw, id_, 'it"s'))
        assert (again.id, again.result, again.error) == ('it"s', reply.result, reply.error)
    assert messages.id_of(b"{}") == messages.id_of(b"") == ""


# --- files of keys --------------------------------------------------------------------------------


@pytest.fixture
def there(tmp_path: Path) -> Keys:
    made = Keys(str(tmp_path / "keys"))
    made.init()
    return made


def test_keys_are_their_owner_s(there: Keys, tmp_path: Path) -> None:
    there.add("laptop", "read", out=str(tmp_path / "laptop.key"))
    for path, mode in (
        (there.path, 0o700), (there.path / "server.key", 0o600),
        (there.path / "clients.toml", 0o600), (tmp_path / "laptop.key", 0o600),
    ):  # fmt: skip
        assert stat.S_IMODE(path.stat().st_mode) == mode
    (one,) = there.accepted()
    assert (one.name, one.role) == ("laptop", "read")
    own = keys.identity(str(tmp_path / "laptop.key"))
    assert own.pair.public == one.public == public_of(own.pair.secret)
    assert own.server == there.server().public
    assert own.pair.secret not in (there.path / "clients.toml").read_text()


def test_what_is_refused_changes_nothing(there: Keys, tmp_path: Path) -> None:
    there.add("a", "admin", out=str(tmp_path / "a.key"))
    public = there.accepted()[0].public
    before = (there.path / "clients.toml").read_text()
    refused = [
        there.init,
        lambda: there.add("a", "read"),
        lambda: there.add("b", "read", public),
        lambda: there.add("b", "root"),
        lambda: there.add('"]', "read"),
        lambda: there.add("b", "read", "short"),
        lambda: there.add("b", "read", out=str(tmp_path / "a.key")),
        lambda: there.revoke("b"),
    ]
    for one in refused:
        with pytest.raises(DpsupError) as caught:
            one()
        assert caught.value.code in ("E0472", "E0479")
    assert (there.path / "clients.toml").read_text() == before
    there.revoke("a")
    assert there.accepted() == []


def test_keys_that_others_can_reach_are_not_used(there: Keys, tmp_path: Path) -> None:
    there.add("a", "read", out=str(tmp_path / "a.key"))
    for path, mode in ((there.path / "clients.toml", 0o640), (there.path, 0o777)):
        usual = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        with pytest.raises(NotPermitted) as caught:
            there.accepted()
        assert caught.value.code == "E0472"
        path.chmod(usual)
    assert len(there.accepted()) == 1
    (tmp_path / "a.key").chmod(0o644)
    with pytest.raises(NotPermitted, match="0644"):
        keys.identity(str(tmp_path / "a.key"))
    with pytest.raises(NotPermitted, match="No such file"):
        keys.identity(str(tmp_path / "b.key"))


def test_what_is_accepted_follows_the_file_and_fails_closed(there: Keys, tmp_path: Path) -> None:
    accepted = Accepted(there)
    assert accepted() == {}
    there.add("a", "read", out=str(tmp_path / "a.key"))
    assert [one.name for one in accepted().values()] == ["a"]
    file = there.path / "clients.toml"
    text = file.read_text()
    for wrong in ("[a]", '[a]\nrole = "root"\npublic = "x"', "=", "\xff"):
        file.write_text(wrong)
        assert accepted() == {}
        file.write_text(text)
        assert len(accepted()) == 1
    file.unlink()
    assert accepted() == {}


# --- hosts ----------------------------------------------------------------------------------------


def test_a_host_is_found_by_its_name(
    there: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSUP_HOSTS", str(tmp_path / "hosts.toml"))
    assert hosts.find("edge1") is None
    there.add("a", "read", out=str(tmp_path / "client.key"))
    (tmp_path / "hosts.toml").write_text('[edge1]\nendpoint = "tcp://[::1]:9470"\n')
    found = hosts.find("edge1")
    assert found is not None and found.is_network and found.name == "edge1"
    assert hosts.find("edge2") is None
    with pytest.raises(NotPermitted) as caught:
        found.file("control.sock")
    assert caught.value.code == "E0478"
    for wrong in ("[a", '[a]\nendpoint = "ipc"', "a = 1", '[a]\nendpoint = "tcp://h:1"\nkeys = ""'):
        (tmp_path / "hosts.toml").write_text(wrong)
        with pytest.raises(DpsupError) as broken:
            hosts.read()
        assert broken.value.code == "E0474"
    with pytest.raises(DpsupError, match="no endpoint"):
        hosts.find("tcp://nowhere")
    assert isinstance(found, far.Far)


def test_events_are_at_the_next_port() -> None:
    assert news_of("tcp://[::1]:9470") == "tcp://[::1]:9471"


# --- over the network, closed by default ----------------------------------------------------------

# A process of its own: ZeroMQ has one handler of keys in a process.
CLOSED = """
import asyncio, sys
import zmq, zmq.asyncio
from dpsup.bus import curve
from dpsup.bus.gate import Gate, Known, authenticate
from dpsup.bus.messages import Request, encode_request, decode_reply

async def main():
    folder, handler_runs = sys.argv[1], sys.argv[2] == "runs"
    context = zmq.asyncio.Context.instance()
    control = context.socket(zmq.ROUTER)
    control.bind(f"ipc://{folder}/control")
    server, known, stranger = (curve.new_pair() for _ in range(3))
    gate = Gate(f"{folder}/control", lambda *_: "", lambda: {known.public: Known("a", "read")},
                lambda verb: True, print)
    handler = gate.open_network("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", server)
    door = gate._doors[0]
    tasks = [asyncio.create_task(gate._serve(door)), asyncio.create_task(gate._answers())]
    if handler_runs:
        tasks.append(asyncio.create_task(authenticate(handler)))
    found = []
    for pair in (known, stranger, None):
        peer = context.socket(zmq.DEALER)
        peer.setsockopt(zmq.LINGER, 0)
        if pair:
            curve.present(peer, curve.Identity(pair, server.public))
        peer.connect(door.getsockopt_string(zmq.LAST_ENDPOINT))
        await peer.send_multipart([b"", encode_request(Request("ping", "1"))])
        found.append(bool(await control.poll(1500)))
        if found[-1]:
            await control.recv_multipart()
        peer.close()
    print(*found)

asyncio.run(main())
"""


@pytest.mark.fault(23)
@pytest.mark.parametrize(("handler", "let_in"), [("runs", "True False False"), ("dead", "False")])
def test_no_key_is_let_in_while_nobody_knows_the_keys(
    tmp_path: Path, handler: str, let_in: str
) -> None:
    """ZeroMQ lets every key in, unless it is told to ask."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CLOSED, str(tmp_path), handler],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (let_in.split() if handler == "runs" else ["False"] * 3)


def test_a_pair_is_a_pair() -> None:
    pair = new_pair()
    assert public_of(pair.secret) == pair.public and len(pair.public) == 40
