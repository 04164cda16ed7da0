# SPDX-License-Identifier: BSD-3-Clause
"""The gate as a process: from the plan's words to sockets (bus/gate.py), until its supervisor ends.

argv: the runtime directory, the instance's name, and what [bus] says, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
from functools import partial
from typing import TypedDict

from dpsup.bus import roles
from dpsup.bus.curve import Pair
from dpsup.bus.gate import Gate, Known
from dpsup.bus.guests import Guests
from dpsup.errors import DpsupError
from dpsup.host import process, rights
from dpsup.host.users import Users, numbers
from dpsup.instance.keys import Keys
from dpsup.instance.runtime_dir import BUS, CONTROL, EVENTS, Runtime
from dpsup.plan import rights as of

ROOT = 0


class Wanted(TypedDict):
    """What [bus] says."""

    endpoint: str  # "": local users alone
    keys: str
    admin: list[str]
    read: list[str]
    reads: list[str]  # verbs that change nothing


class Roles:
    """The roles of local users. The owner of the instance, and root, hold what they hold anyway."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted, self._users = wanted, Users()

    def __call__(self, uid: int, gid: int) -> str:
        if uid in (ROOT, os.geteuid()):
            return roles.ADMIN
        user = self._users.user(uid, gid)
        return roles.role_of(user, self._wanted["admin"], self._wanted["read"])


class Accepted:
    """The keys that are accepted now. A file that cannot be read, or believed, accepts none."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._stamp: object = ()
        self._known: dict[str, Known] = {}
        self._told = ""

    def __call__(self) -> dict[str, Known]:
        stamp = self._keys.stamp()
        if stamp != self._stamp or stamp is None:
            self._stamp, why = stamp, ""
            try:
                accepted = self._keys.accepted()
                self._known = {one.public: Known(one.name, one.role) for one in accepted}
            except DpsupError as e:
                self._known, why = {}, e.message
            if why and why != self._told:
                print(f"no key is accepted: {why}", flush=True)
            self._told = why
        return self._known


def news_of(endpoint: str) -> str:
    """The endpoint of events: the next port."""
    head, _, port = endpoint.rpartition(":")
    return f"{head}:{int(port) + 1}"


async def serve(where: Runtime, wanted: Wanted, ready: int) -> None:
    """Raises: DpsupError, OSError, ExceptionGroup."""
    keys = Keys(wanted["keys"])
    pair: Pair | None = keys.server() if wanted["endpoint"] else None
    gate = Gate(
        where.file(CONTROL), Roles(wanted), Accepted(keys), frozenset(wanted["reads"]).__contains__,
        lambda text: print(f"refused {text}", flush=True),
    )  # fmt: skip
    handler = None
    paths: list[str] = []
    names = (*wanted["admin"], *wanted["read"])
    if names:
        uids, gids, unknown = numbers(names)
        for name in unknown:
            print(f'[bus]: this machine knows no "{name}"', flush=True)
        control, events = paths = [str(where.path / BUS / one) for one in (CONTROL, EVENTS)]
        _open_directory(where)
        gate.open_local(control, events, uids | {ROOT, os.geteuid()}, gids)
    if pair is not None:
        handler = gate.open_network(wanted["endpoint"], news_of(wanted["endpoint"]), pair)
    guests = Guests(*paths, ports=_ports(wanted["endpoint"]))
    os.write(ready, b"READY\n")
    os.close(ready)
    async with asyncio.TaskGroup() as group:
        group.create_task(gate.run(where.file(EVENTS), handler))
        group.create_task(guests.keep(partial(print, flush=True)))


def _open_directory(where: Runtime) -> None:
    """Let other users reach the gate's sockets, and nothing else: what is in the runtime directory
    can be neither listed nor, by its own mode, opened. Raises: OSError, Unsafe."""
    with where.at() as here:
        with contextlib.suppress(FileExistsError):
            os.mkdir(BUS, 0o700, dir_fd=here)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        inner = os.open(BUS, flags, dir_fd=here)
        try:
            os.fchmod(inner, 0o711)
            os.fchmod(here, 0o711)
        finally:
            os.close(inner)


def _ports(endpoint: str) -> tuple[int, ...]:
    if not endpoint:
        return ()
    return tuple(int(one.rpartition(":")[2]) for one in (endpoint, news_of(endpoint)))


def main(argv: list[str]) -> int:
    path, name, words, _, ready = argv[1:]
    process.die_with_parent(yes=True)
    process.ignore_accidents()
    process.ignore_terminal()
    wanted: Wanted = json.loads(words)
    rights.keep(of.mask(of.gate(wanted["endpoint"])))
    os.nice(10)  # a worker may have to share the supervisor's core: it comes first
    # libzmq aborts where it has no descriptor left; what that shows is known.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        asyncio.run(serve(Runtime(path, name), wanted, int(ready)))
    except DpsupError as e:
        os.write(int(ready), f"{e.message}\n".encode())
        return 1
    return 0
