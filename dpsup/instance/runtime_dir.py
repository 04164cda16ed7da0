# SPDX-License-Identifier: BSD-3-Clause
"""The runtime directory of an instance: its lock, its state, and removing the files of dead ones.

The process that holds the lock is the supervisor. `state.json` names the processes of the running
generation, so that the next supervisor, or `dpsup stop`, finds them after a crash. Only files that
carry the instance's own name and belong to no live process are ever removed.

What the directory says is believed only where no other user can write to it (host/private.py). A
process that it names is signalled only if it is one of this instance's, of the same user. A lock
that the primary holds says that it lives, also to a process that cannot see it: one in another PID
namespace.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup.errors import DpsupError, Exit, NotPermitted, TimedOut
from dpsup.host import private, process
from dpsup.host.private import Unsafe
from dpsup.host.process import Identity
from dpsup.instance import places, remains
from dpsup.instance.places import HEALTH, PRIMARY_LOCK
from dpsup.instance.record import NAMES as RECORDS
from dpsup.instance.remains import children
from dpsup.plan.copies import PLUGINS

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.state import Memory

CONTROL = "control.sock"
EVENTS = "events.sock"
PRIMARY = "primary.sock"
SEED, BUILDER = "seed.sock", "builder.sock"
LOCK = "lock"
STATE = "state.json"
PLAN = "plan.json"
BUS = "bus"  # the gate's sockets, for users other than the owner
ROLLOUT, MARK = "rollout.json", "mark.json"
TABLES, TABLES_LOCK = "tables", ":lock"  # a builder that writes there holds it
# Everything that may be in a runtime directory, in the order of removal; "dpdk" is EAL's, if
# RUNTIME_DIRECTORY names this directory; the private copies of plugins: instance.plugins.
OURS = (
    CONTROL, EVENTS, HEALTH, PRIMARY, SEED, BUILDER, PLAN, f"{PLAN}.new", STATE, f"{STATE}.new",
    ROLLOUT, f"{ROLLOUT}.new", MARK, f"{MARK}.new",
    *RECORDS, PLUGINS, TABLES, BUS, "dpdk", PRIMARY_LOCK, LOCK,
)  # fmt: skip

DIRECTORIES = (PLUGINS, TABLES, BUS, "dpdk")
SOCKETS = (CONTROL, EVENTS, HEALTH, PRIMARY, SEED, BUILDER)

BUILDER_ENDS_S = 10.0
ACQUIRE_S = 0.3  # for processes that only test the lock to release it


def _nothing() -> Memory:
    return {}


@dataclass
class State:
    """The processes of the running generation."""

    name: str
    generation: int
    file_prefix: str
    hugepage_dir: str
    topology_file: str
    supervisor: Identity | None = None
    primary: Identity | None = None
    seed: Identity | None = None
    workers: dict[str, Identity] = field(default_factory=dict)
    memory: Memory = field(default_factory=_nothing)  # supervisor.snapshot

    def processes(self) -> list[Identity]:
        return [p for p in (self.primary, self.seed, *self.workers.values()) if p is not None]


def _state_of(text: str) -> State | None:
    def known(value: dict[str, int]) -> Identity:
        one = Identity(**value)
        if type(one.pid) is not int or type(one.start) is not int or one.pid <= 0:
            raise ValueError(value)
        return one

    def identity(value: dict[str, int] | None) -> Identity | None:
        return None if value is None else known(value)

    try:
        data = json.loads(text)
        for key in ("supervisor", "primary", "seed"):
            data[key] = identity(data[key])
        data["workers"] = {k: known(v) for k, v in data["workers"].items()}
        return State(**data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


class Runtime:
    """The runtime directory at `path`, of the instance `name`."""

    def __init__(self, path: str, name: str) -> None:
        given = Path(path)
        # One name for one directory: processes are found by it. What stands last is no link.
        self.path = Path(os.path.realpath(given.parent)) / given.name
        self._names = list(dict.fromkeys(p for p in (self.path, given) if p.is_absolute()))
        self.name = name
        self._lock: int | None = None
        self._dir: int | None = None  # while the lock is held

    def file(self, name: str) -> str:
        return str(self.path / name)

    @contextlib.contextmanager
    def at(self) -> Iterator[int]:
        """A descriptor of the directory. Root may look into another user's, who must be the only
        one to write there. Raises: OSError, Unsafe."""
        if self._dir is not None:
            yield self._dir
            return
        fd = private.open_directory(self.path, any_owner=os.geteuid() == 0)
        try:
            yield fd
        finally:
            os.close(fd)

    def is_gone(self) -> bool:
        """Was it removed, or another one put in its place, while the lock is held?"""
        try:
            with self.at() as directory:
                return not os.path.samestat(os.fstat(directory), os.lstat(self.path))
        except OSError:
            return True

    def owner(self) -> int:
        """The user that it belongs to. Raises: OSError, Unsafe."""
        with self.at() as directory:
            return os.fstat(directory).st_uid

    def read(self, name: str) -> str:
        """A file of it. Raises: OSError, Unsafe, UnicodeDecodeError (a ValueError)."""
        with self.at() as directory:
            return private.read(directory, name, {0, os.fstat(directory).st_uid}).decode()

    def has(self, name: str) -> bool:
        return os.path.lexists(self.file(name))

    # --- lock ------------------------------------------------------------------------------------

    def acquire(self, *, start: bool = True) -> None:
        """Become the supervisor of this instance; to `start` it, or to end what is left of it.
        Raises: DpsupError, which names the present supervisor or what is wrong with the files."""
        deadline = time.monotonic() + ACQUIRE_S
        while not self._try_lock(start=start):
            # A process that only tests the lock holds it for a moment, and the last owner removes
            # the directory only once.
            if time.monotonic() > deadline:
                if self.is_supervised():
                    raise self._already_running(self)
                raise TimedOut(
                    f"the runtime directory {self.path} is removed again and again", code="E0603"
                )
            time.sleep(0.01)
        try:
            other = instances().get(self.name)
            elsewhere = other is not None and other.path.resolve() != self.path.resolve()
            if other is not None and elsewhere and (other.is_supervised() or is_headless(other)):
                raise self._already_running(other)
            if start:
                self._close_to_others()
        except DpsupError:
            with contextlib.suppress(OSError), self.at() as directory:
                if stat.S_ISREG(os.lstat(self.file(LOCK)).st_mode):
                    os.unlink(LOCK, dir_fd=directory)
                self.path.rmdir()  # if nothing else is in it
            self.unlock()
            raise
        self._advertise()

    def _try_lock(self, *, start: bool) -> bool:
        directory = lock = -1
        try:
            directory = self._open(start=start)
            # First: a file named `lock` in a directory of others' is neither opened nor removed.
            self._demand_sound_files(directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(LOCK, flags, 0o600, dir_fd=directory)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock), os.lstat(self.file(LOCK))):
                raise FileNotFoundError(LOCK)  # the last owner has just removed it
        except (FileNotFoundError, BlockingIOError):
            for fd in (lock, directory):
                if fd >= 0:
                    os.close(fd)
            return False
        except (OSError, DpsupError) as e:
            for fd in (lock, directory):
                if fd >= 0:
                    os.close(fd)
            if isinstance(e, DpsupError):
                raise
            raise self._not_permitted(e) from e
        self._dir, self._lock = directory, lock
        return True

    def _open(self, *, start: bool) -> int:
        """The directory, created where one is started. Raises: OSError, Unsafe."""
        if start:
            return private.create_directory(self.path, _is_sound)
        return private.open_directory(self.path, any_owner=os.geteuid() == 0)

    def _demand_sound_files(self, directory: int) -> None:
        """Raises: DpsupError where a file is not ours, or not what it should be."""
        for name, found in private.entries(directory):
            if name not in OURS:
                error = DpsupError(
                    f"runtime directory {self.path} holds files that are not dpsup's: {name}",
                    code="E0604",
                    why="an instance removes its runtime directory when it ends",
                    help="set [host] runtime_dir to a directory of its own",
                )
                error.exit_code = Exit.BAD_TOPOLOGY
                raise error
            wrong = _misfit(name, found, os.fstat(directory).st_uid)
            if wrong:
                raise self._foreign(Path(name), wrong)

    def _foreign(self, file: Path, wrong: str) -> DpsupError:
        return NotPermitted(
            f"{self.path / file} {wrong}",
            code="E0613",
            why="dpsup did not create it, and would overwrite it or believe what it says",
            help="look at it, then remove it",
        )

    def _close_to_others(self) -> None:
        """Once it is known that only dpsup uses it. Raises: DpsupError."""
        assert self._dir is not None
        try:
            if os.fstat(self._dir).st_mode & 0o077:
                os.fchmod(self._dir, 0o700)
        except OSError as e:
            raise self._not_permitted(e) from e

    def _not_permitted(self, error: OSError) -> DpsupError:
        if isinstance(error, Unsafe):
            return NotPermitted(
                f"the runtime directory {self.path} is not safe: {error.reason}",
                code="E0614",
                why="a user that can change its files controls the instance",
                help="remove it, or set [host] runtime_dir to a directory of your own, below one "
                "that no other user can write to",
            )
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return DpsupError(
                f"cannot create the runtime directory {self.path}: {error.strerror}",
                code="E0603",
                why="sockets and state live there",
                help="free some space, or set [host] runtime_dir to a directory elsewhere",
            )
        return NotPermitted(
            f"not permitted to create the runtime directory {self.path}",
            code="E0603",
            help="run as root, or set [host] runtime_dir to a directory that you own",
        )

    @staticmethod
    def _already_running(where: Runtime) -> DpsupError:
        state = where.read_state()
        pid = f", pid {state.supervisor.pid}" if state and state.supervisor else ""
        return DpsupError(
            f'instance "{where.name}" is already running{pid}, in {where.path}',
            code="E0605",
            why="two supervisors would fight over the same workers",
            help=f"`dpsup -n {where.name} status` shows it, `dpsup -n {where.name} stop` ends it",
        )

    def demand_access(self) -> None:
        """Raises: NotPermitted if the directory belongs to another user, or is open to others."""
        with contextlib.suppress(OSError):
            try:
                with self.at():
                    pass
            except Unsafe as e:
                if os.access(self.path, os.W_OK):
                    raise self._not_permitted(e) from e
        if not os.access(self.path, os.W_OK):
            raise NotPermitted(
                f'not permitted to control instance "{self.name}"',
                code="E0606",
                help="run as the user that started it, or as root",
            )

    def is_supervised(self) -> bool:
        """Does a process hold the lock?"""
        return self._is_locked(LOCK)

    def is_held(self) -> bool:
        """Does a primary live, in whatever PID namespace?"""
        return self._is_locked(PRIMARY_LOCK)

    def _is_locked(self, name: str) -> bool:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with self.at() as directory:
                lock = os.open(name, flags, dir_fd=directory)
        except Unsafe:
            return self.has(name)
        except PermissionError:
            return True  # another user's, and it exists
        except OSError:
            return False
        try:
            # Shared, so that two processes that test it do not see each other.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _link(self) -> Path | None:
        usual = Path(os.path.realpath(roots()[0])) / self.name
        return None if usual == self.path else usual

    def _advertise(self) -> None:
        """If the directory is not at the usual place, create a link there for `dpsup -n NAME`."""
        link = self._link()
        if link is not None:
            with contextlib.suppress(OSError):
                link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(self.path)

    def release(self) -> None:
        """Remove our files, the lock last, and the directory if it is then empty."""
        link = self._link()
        if link is not None and link.is_symlink() and link.resolve() == self.path.resolve():
            link.unlink()
        with contextlib.suppress(OSError), self.at() as directory:
            for name in (PLUGINS, TABLES, BUS):
                with contextlib.suppress(OSError):
                    _empty(name, directory)
            for name in OURS:
                with contextlib.suppress(OSError):
                    remove = os.rmdir if name in DIRECTORIES else os.unlink
                    remove(name, dir_fd=directory)
            # A directory of that name that another process has created since stays.
            if os.path.samestat(os.fstat(directory), os.lstat(self.path)):
                for place in (self.path, self.path.parent, roots()[0]):
                    if place == self.path or place in roots():
                        with contextlib.suppress(OSError):
                            place.rmdir()
        self.unlock()

    def unlock(self) -> None:
        """Give the lock back, and leave everything as it is."""
        for fd in (self._lock, self._dir):
            if fd is not None:
                os.close(fd)
        self._lock = self._dir = None

    # --- state -----------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """Replace a file as a whole: a reader sees the old text or the new one. Raises: OSError."""
        with self.at() as directory:
            private.replace(directory, name, text.encode())

    def write_state(self, state: State) -> None:
        self.write(STATE, json.dumps(asdict(state)))

    def read_state(self) -> State | None:
        try:
            return _state_of(self.read(STATE))
        except (OSError, ValueError):
            return None

    # --- processes -------------------------------------------------------------------------------

    def primary(self) -> Identity | None:
        """The primary that lives: the one that the last supervisor noted, else (its disk was full)
        the one that holds the primary's lock."""
        state = self.read_state()
        if state is not None and state.primary is not None and state.primary.alive:
            return state.primary
        return next(iter(self.primaries()), None) if self.is_held() else None

    def primaries(self) -> list[Identity]:
        """The primaries of this directory, whatever `state.json` says."""
        return self._mine(self._with_words("dpsup.primary", PLAN))

    def strays(self) -> list[Identity]:
        """Primaries and seeds of this directory, even if `state.json` does not name them yet."""
        return [
            *self.primaries(),
            *self._mine(self._with_words("--socket", SEED)),
        ]

    def _with_words(self, word: str, file: str) -> list[Identity]:
        """By every name of the directory: a process has the one that it was started with."""
        return [p for name in self._names for p in process.with_words(word, str(name / file))]

    def _mine(self, found: list[Identity]) -> list[Identity]:
        """Without those of other users: every user may name a process as they like."""
        try:
            owner = self.owner()
        except OSError:
            return []
        return [one for one in found if process.user_of(one.pid) == owner]

    def is_ours(self, one: Identity) -> bool:
        """Is it a process of this instance, of the directory's user? `state.json` alone is not
        believed about whom to end: it may be old, a pid may be another's by now."""
        words = [f"dpsup-worker: {self.name} "]
        for name in self._names:
            words += [f"dpsup.primary\0{name / PLAN}\0", f"--socket\0{name / SEED}\0"]
        return one.alive and process.has_words(one.pid, *words) and self._mine([one]) == [one]

    def end_processes(self, state: State | None, timeout: float = 5.0) -> bool:
        """End the processes of a dead supervisor: the primary, and with it all others. False: some
        live on, perhaps a primary that cannot be told to be this directory's, by another path."""
        known = state.processes() if state is not None else []
        noted = [p for p in known if self.is_ours(p)]
        first = [p for p in noted if state is not None and p == state.primary]
        strays = self.strays()
        # One that is about to end has no command line any more, but its files and locks.
        leaving = [p for p in known if not process.has_command_line(p.pid)]
        alive = [p for p in dict.fromkeys((*noted, *strays)) if p.alive]
        for one in (*first, *strays):
            process.kill(one)
        if not process.wait_gone(alive, timeout):
            for one in alive:
                process.kill(one)
            if not process.wait_gone(alive, timeout):
                return False
        process.wait_gone(leaving, timeout)
        primary = state.primary if state is not None else None
        return primary is None or not (
            primary.alive
            and self._mine([primary]) == [primary]
            and process.has_words(primary.pid, "dpsup.primary\0")
        )

    # --- sweeping --------------------------------------------------------------------------------

    def sweep(self) -> list[str]:
        """Remove the files of past generations: sockets, EAL's directories, hugepage files. The
        caller holds the lock and has ended the processes; its own sockets stay. What a process
        still uses stays, too: it may run in another PID namespace. Returns what was removed."""
        removed = remains.remove(self.name, self.owner(), self.path / "dpdk")
        with contextlib.suppress(OSError, ValueError):
            removed += remains.dead_sockets(self.read(PLAN))
        with self.at() as here:
            for name in (PRIMARY, SEED, PLAN, ROLLOUT, PRIMARY_LOCK):
                with contextlib.suppress(FileNotFoundError):
                    try:
                        os.unlink(name, dir_fd=here)
                    except IsADirectoryError:  # put there since it was checked
                        os.rmdir(name, dir_fd=here)
        return removed

    def empty_tables(self) -> None:
        """Remove the live tables of an instance that is dead as a whole: they hold memory, and what
        their logs say is not true of the next one. The caller holds the lock and has ended the
        processes. Raises: OSError, TimedOut."""
        with (
            self.at() as here,
            contextlib.ExitStack() as opened,
            contextlib.suppress(FileNotFoundError),
        ):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(TABLES, flags, dir_fd=here)
            opened.callback(os.close, directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(TABLES_LOCK, flags, 0o600, dir_fd=directory)
            opened.callback(os.close, lock)
            deadline = time.monotonic() + BUILDER_ENDS_S
            while not _try_flock(lock):  # the builder ends with its supervisor, a moment later
                if time.monotonic() > deadline:
                    raise TimedOut(
                        f'the builder of a dead "{self.name}" does not end',
                        code="E0609",
                        why=f"it may still write to {self.path / TABLES}",
                        help="`ps` shows what it waits for: the disk of a table's file, perhaps",
                    )
                time.sleep(0.01)
            for one in os.listdir(directory):  # noqa: PTH208
                if one != TABLES_LOCK:
                    try:
                        os.unlink(one, dir_fd=directory)
                    except IsADirectoryError:
                        raise self._foreign(Path(TABLES, one), "is a directory") from None


def lock_primary(directory: Path) -> int:
    """The primary's lock, for as long as the process lives, or keeps the descriptor. Raises:
    OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(directory / PRIMARY_LOCK, flags, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)  # a process that tests it holds it for a moment
    return fd


def _try_flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_sound(name: str, found: os.stat_result) -> bool:
    return name in OURS and not _misfit(name, found, os.geteuid())


def _misfit(name: str, found: os.stat_result, owner: int) -> str:
    """What is wrong with a file of ours; "" if nothing is."""
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    if found.st_uid not in (owner, 0):
        return f"belongs to user {found.st_uid}"
    if name in DIRECTORIES:
        return "" if stat.S_ISDIR(mode) else "is not a directory"
    if stat.S_ISDIR(mode):
        return "is a directory"
    if name in SOCKETS:
        return "" if stat.S_ISSOCK(mode) else "is not a socket"
    return "" if stat.S_ISREG(mode) else "is not a regular file"


def _empty(name: str, place: int) -> None:
    """Remove the files of a directory of ours. Raises: OSError."""
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
    try:
        for one in os.listdir(directory):  # noqa: PTH208
            os.unlink(one, dir_fd=directory)
    finally:
        os.close(directory)


def roots() -> list[Path]:
    """Where runtime directories are, the usual place first."""
    return [Path(one) for one in places.roots()]


def instances() -> dict[str, Runtime]:
    """All runtime directories, also of dead instances, by name."""
    return {
        one.name: Runtime(str(one.resolve()), one.name)
        for root in reversed(roots())
        if _is_trusted(root)
        for one in children_of(root)
        if one.is_dir()
    }


def _is_trusted(root: Path) -> bool:
    """Another user's directory of instances is none: `sudo` may keep its caller's environment."""
    with contextlib.suppress(OSError):
        return not private.why_replaceable(root, root.lstat())
    return False


def children_of(root: Path) -> list[Path]:
    """What is in a directory of instances; of one where every user may create some (a tmpfs of a
    container, sticky as /tmp is), only root's and one's own."""
    with contextlib.suppress(OSError):
        if root.lstat().st_mode & stat.S_IWOTH:
            trusted = (0, os.geteuid())
            return [one for one in children(root) if one.lstat().st_uid in trusted]
    return children(root)


def is_headless(runtime: Runtime) -> bool:
    """No supervisor, but the data plane lives."""
    return has_primary(runtime) and not runtime.is_supervised()


def has_primary(runtime: Runtime) -> bool:
    """Does a primary live?"""
    return runtime.primary() is not None
