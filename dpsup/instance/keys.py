# SPDX-License-Identifier: BSD-3-Clause
"""The directory of an instance's CURVE keys, and the file of a client's: `dpsup keys`.

`server.key` is the pair of the host. `clients.toml` says by name which public keys are accepted,
and with which role; a key that is not in it is refused, so a file that cannot be read accepts none.
A client's file has its own pair and the host's public key: each side knows the other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dpsup.bus import roles
from dpsup.bus.curve import Identity, Pair, is_key, new_pair
from dpsup.errors import DpsupError, NoSuchObject, NotPermitted, UsageError
from dpsup.host import private
from dpsup.host.private import Unsafe

SERVER, CLIENTS = "server.key", "clients.toml"
MOST = 1000  # keys


class Accepted(NamedTuple):
    """A key that the host accepts."""

    name: str
    role: str
    public: str
    added: str  # "2026-12-01"


class Keys:
    """The keys in the directory `path`. Every method raises DpsupError."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def init(self) -> str:
        """Create the directory and the pair of the host, whose public key is returned."""
        try:
            os.close(private.create_directory(self.path, lambda *_: False))
        except OSError as e:
            raise self._refused(e) from e
        with self._changing() as directory:
            if SERVER in os.listdir(directory):  # noqa: PTH208
                raise UsageError(
                    f"{self.path / SERVER} is there already",
                    code="E0479",
                    why="with another pair, no client that has a key of this host could connect",
                    help=f"`dpsup keys add NAME` adds a client; to begin anew, remove {self.path}",
                )
            pair = new_pair()
            self._write(directory, SERVER, _pair_text(pair))
            self._write(directory, CLIENTS, _clients_text([]))
        return pair.public

    def add(self, name: str, role: str, public: str = "", out: str = "") -> str:
        """Accept a key from now on. That of a new pair, which is kept nowhere: the client's file is
        written to `out`, or its text returned. Or `public`: the host's public key is returned."""
        if roles.KEY_NAME.fullmatch(name) is None or role not in roles.ROLES:
            raise UsageError(
                f'a key cannot be called "{name}"',
                code="E0479",
                help="up to 32 letters, digits, _, - and .",
            )
        if public and not is_key(public):
            raise UsageError(
                f'"{public}" is no public key', code="E0479", help="it has 40 characters (Z85)"
            )
        with self._changing() as directory:
            server = self._pair(directory)
            known = self._clients(directory)
            pair = None if public else new_pair()
            public = pair.public if pair else public
            for one in known:
                if name == one.name or public == one.public:
                    raise UsageError(
                        f'there is a key "{one.name}"'
                        + ("" if name == one.name else ", which is that one"),
                        code="E0479",
                        help=f"`dpsup keys revoke {one.name}` takes it back",
                    )
            if len(known) >= MOST:
                raise UsageError(f"there are {MOST} keys", code="E0479", help="revoke some first")
            text = _client_text(name, role, pair, server.public) if pair else server.public
            if out:
                _save(out, text)  # before a key is accepted that would be lost
            known.append(Accepted(name, role, public, time.strftime("%Y-%m-%d")))
            self._write(directory, CLIENTS, _clients_text(known))
        return text

    def revoke(self, name: str) -> None:
        with self._changing() as directory:
            known = self._clients(directory)
            left = [one for one in known if one.name != name]
            if len(left) == len(known):
                there = ", ".join(one.name for one in known)
                raise NoSuchObject(
                    f'no key "{name}"',
                    code="E0479",
                    help=f"there are: {there}" if there else "there are none",
                )
            self._write(directory, CLIENTS, _clients_text(left))

    def accepted(self) -> list[Accepted]:
        with self._opened() as directory:
            return self._clients(directory)

    def server(self) -> Pair:
        with self._opened() as directory:
            return self._pair(directory)

    def stamp(self) -> object:
        """Equal as long as the accepted keys are the same."""
        try:
            found = (self.path / CLIENTS).lstat()
        except OSError:
            return None
        mode, owner = found.st_mode, found.st_uid
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, mode, owner

    # --- files -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            directory = private.open_directory(self.path)
        except OSError as e:
            raise self._refused(e) from e
        try:
            yield directory
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[int]:
        """One command at a time."""
        with self._opened() as directory:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield directory

    def _read(self, directory: int, name: str) -> dict[str, Any]:
        try:
            raw = private.read(directory, name, {0, os.geteuid()}, is_secret=True)
            return tomllib.loads(raw.decode())
        except OSError as e:
            raise self._refused(e) from e
        except ValueError as e:
            raise self._broken(name, str(e)) from e

    def _pair(self, directory: int) -> Pair:
        found = self._read(directory, SERVER)
        public, secret = found.get("public"), found.get("secret")
        if not is_key(public) or not is_key(secret):
            raise self._broken(SERVER, "it has no pair of keys")
        return Pair(str(public), str(secret))

    def _clients(self, directory: int) -> list[Accepted]:
        found = []
        for name, one in self._read(directory, CLIENTS).items():
            public = one.get("public") if isinstance(one, dict) else None
            if not is_key(public) or one.get("role") not in roles.ROLES:
                raise self._broken(CLIENTS, f"[{name}] has no public key, or no role that is known")
            found.append(Accepted(name, one["role"], str(public), str(one.get("added", ""))))
        return found

    def _write(self, directory: int, name: str, text: str) -> None:
        try:
            private.replace(directory, name, text.encode())
        except OSError as e:
            raise self._refused(e) from e

    def _refused(self, error: OSError) -> DpsupError:
        reason = error.reason if isinstance(error, Unsafe) else f"{error.strerror}"
        if error.errno == errno.ENOENT:
            return DpsupError(
                f"there are no keys in {self.path}",
                code="E0472",
                why="without them, no client can connect over the network",
                help="`dpsup keys init` creates them",
            )
        return NotPermitted(
            f"the keys in {self.path} are not used: {reason}",
            code="E0472",
            why="a user that can read or change them controls the instance",
            help=f"run as their owner; the directory has mode 0700, its files 0600: "
            f"chmod -R go= {self.path}",
        )

    def _broken(self, name: str, why: str) -> DpsupError:
        return DpsupError(
            f"{self.path / name} cannot be understood: {why}",
            code="E0472",
            why="no key is accepted until it can",
            help="correct it, or remove the directory and begin with `dpsup keys init`",
        )


def _pair_text(pair: Pair) -> str:
    return f'public = "{pair.public}"\nsecret = "{pair.secret}"\n'


def _clients_text(clients: list[Accepted]) -> str:
    head = "# Written by `dpsup keys`; the bus accepts what stands here.\n"
    return head + "".join(
        f'\n[{_quoted(one.name)}]\nrole = "{one.role}"\npublic = "{one.public}"\n'
        f'added = "{one.added}"\n'
        for one in clients
    )


def _quoted(name: str) -> str:
    return f'"{name}"'  # it may have dots


# --- a client's -----------------------------------------------------------------------------------


def _client_text(name: str, role: str, pair: Pair, server: str) -> str:
    return (
        f'# The key "{name}" ({role}) of a dpsup host. Keep it to yourself: mode 0600.\n'
        f'{_pair_text(pair)}server = "{server}"\n'
    )


def _save(file: str, text: str) -> None:
    """Write a client's key, for its owner alone. Raises: DpsupError."""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as out:
            out.write(text)
    except OSError as e:
        raise DpsupError(
            f"cannot write {file}: {e.strerror}",
            code="E0472",
            help="name a file that is not there yet, and that this user can create",
        ) from e


def identity(file: str) -> Identity:
    """A client's key. Raises: DpsupError."""
    path = Path(file)
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            raw = private.read(directory, path.name, {0, os.geteuid()}, is_secret=True)
        finally:
            os.close(directory)
        found = tomllib.loads(raw.decode())
        parts = [found.get(key) for key in ("public", "secret", "server")]
        if not all(map(is_key, parts)):
            raise ValueError("it lacks public, secret or server")
    except OSError as e:
        reason = e.reason if isinstance(e, Unsafe) else f"{e.strerror}"
        raise NotPermitted(
            f"cannot use the key {path}: {reason}",
            code="E0472",
            why="a host accepts a client by its key, which no other user may read",
            help=f"chmod 600 {path}; `dpsup keys add` on the host makes one",
        ) from e
    except ValueError as e:
        raise UsageError(
            f"{path} is no key of a client: {e}",
            code="E0472",
            help="`dpsup keys add` on the host makes one",
        ) from e
    public, secret, server = map(str, parts)
    return Identity(Pair(public, secret), server)
