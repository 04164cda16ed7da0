# SPDX-License-Identifier: BSD-3-Clause
"""The runtime directory of an instance: its lock, its state, and removing the files of dead ones.

The process that holds the lock is the supervisor. `state.json` names the processes of the running
generation, so that the next supervisor, or `dpsup stop`, finds them after a crash. Only files that
carry the instance's own name and belong to no live process are ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup.errors import DpsupError, Exit, NotPermitted
from dpsup.host import eal, process
from dpsup.host.mounts import hugetlbfs
from dpsup.host.process import Identity
from dpsup.instance.record import NAMES as RECORDS

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.state import Memory

CONTROL = "control.sock"
EVENTS = "events.sock"
PRIMARY = "primary.sock"
SEED = "seed.sock"
LOCK = "lock"
STATE = "state.json"
PLAN = "plan.json"
ROLLOUT = "rollout.json"
# Everything that may be in a runtime directory, in the order of removal; "dpdk" is EAL's, if
# RUNTIME_DIRECTORY names this directory.
OURS = (
    CONTROL, EVENTS, PRIMARY, SEED, PLAN, f"{PLAN}.new", STATE, f"{STATE}.new", ROLLOUT,
    f"{ROLLOUT}.new",
    *RECORDS, "dpdk", LOCK,
)  # fmt: skip

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
    def identity(value: dict[str, int] | None) -> Identity | None:
        return None if value is None else Identity(**value)

    try:
        data = json.loads(text)
        for key in ("supervisor", "primary", "seed"):
            data[key] = identity(data[key])
        data["workers"] = {k: Identity(**v) for k, v in data["workers"].items()}
        return State(**data)
    except (ValueError, TypeError, KeyError):
        return None


class Runtime:
    """The runtime directory at `path`, of the instance `name`."""

    def __init__(self, path: str, name: str) -> None:
        self.path = Path(path)
        self.name = name
        self._lock: int | None = None

    def file(self, name: str) -> str:
        return str(self.path / name)

    # --- lock ------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Become the supervisor of this instance. Raises: DpsupError naming the present one."""
        deadline = time.monotonic() + ACQUIRE_S
        while True:
            self._make()
            try:
                lock = os.open(self.file(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # the last owner has just removed the directory
            except OSError as e:
                raise self._not_permitted() from e
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                # A process that only tests the lock holds it for a moment.
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise self._already_running(self) from None
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(lock).st_ino == os.stat(self.file(LOCK)).st_ino:  # noqa: PTH116
                    self._lock = lock
                    break
            os.close(lock)
        other = instances().get(self.name)
        elsewhere = other is not None and other.path.resolve() != self.path.resolve()
        if other is not None and elsewhere and (other.is_supervised() or is_headless(other)):
            self.release()
            raise self._already_running(other)
        self._advertise()

    def _make(self) -> None:
        """Create the directory if it is missing; refuse one that holds other files."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise self._not_permitted() from e
        strange = [one.name for one in _children(self.path) if one.name not in OURS]
        if strange:
            error = DpsupError(
                f"runtime directory {self.path} holds files that are not dpsup's: {strange[0]}",
                code="E0604",
                why="an instance removes its runtime directory when it ends",
                help="set [host] runtime_dir to a directory of its own",
            )
            error.exit_code = Exit.BAD_TOPOLOGY
            raise error

    def _not_permitted(self) -> NotPermitted:
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
        """Raises: NotPermitted if the directory belongs to another user."""
        if not os.access(self.path, os.W_OK):
            raise NotPermitted(
                f'not permitted to control instance "{self.name}"',
                code="E0606",
                help="run as the user that started it, or as root",
            )

    def is_supervised(self) -> bool:
        """Does a process hold the lock?"""
        try:
            lock = os.open(self.file(LOCK), os.O_RDWR | os.O_CLOEXEC)
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
        usual = roots()[0] / self.name
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
        for name in OURS:
            with contextlib.suppress(OSError):
                one = self.path / name
                one.rmdir() if one.is_dir() else one.unlink()
        for directory in (self.path, self.path.parent, roots()[0]):
            if directory == self.path or directory.name == "dpsup":
                with contextlib.suppress(OSError):
                    directory.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- state -----------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """Replace a file as a whole: a reader sees the old text or the new one. Raises: OSError."""
        new = self.path / f"{name}.new"
        new.write_text(text)
        new.replace(self.path / name)

    def write_state(self, state: State) -> None:
        self.write(STATE, json.dumps(asdict(state)))

    def read_state(self) -> State | None:
        try:
            return _state_of((self.path / STATE).read_text())
        except OSError:
            return None

    # --- sweeping --------------------------------------------------------------------------------

    def end_processes(self, state: State, timeout: float = 5.0) -> bool:
        """End the processes of a dead supervisor: the primary, and with it all others."""
        strays = self.strays()
        alive = [p for p in (*state.processes(), *strays) if p.alive]
        for one in strays if state.primary is None else (state.primary, *strays):
            process.kill(one)
        if not process.wait_gone(alive, timeout):
            for one in alive:
                process.kill(one)
            return process.wait_gone(alive, timeout)
        return True

    def strays(self) -> list[Identity]:
        """Primaries and seeds of this directory, even if `state.json` does not name them yet."""
        return [
            *process.with_words("dpsup.primary", self.file(PLAN)),
            *process.with_words("--socket", self.file(SEED)),
        ]

    def sweep(self) -> list[str]:
        """Remove the files of past generations: sockets, EAL's directories, hugepage files. The
        caller holds the lock and has ended the processes; its own sockets stay. Returns what was
        removed."""
        removed = []
        mine = re.compile(rf"dpsup-{re.escape(self.name)}-g\d+")
        for directory in (*map(Path, eal.runtime_dirs(os.environ)), self.path / "dpdk"):
            for one in _children(directory):
                if mine.fullmatch(one.name):
                    shutil.rmtree(one, ignore_errors=True)
                    removed.append(str(one))
            with contextlib.suppress(OSError):
                if directory.parent == self.path and not _children(directory):
                    directory.rmdir()
        for mount in hugetlbfs():
            for one in _children(mount):
                if re.fullmatch(mine.pattern + r"map_\d+", one.name):
                    one.unlink(missing_ok=True)
                    removed.append(str(one))
        removed += self._dead_sockets()
        for name in (PRIMARY, SEED, PLAN, ROLLOUT):
            (self.path / name).unlink(missing_ok=True)
        return removed

    def _dead_sockets(self) -> list[str]:
        """Remove what the plan's net_memif servers left: nobody could listen there again."""
        from dpsup.topology.values import memif_of

        try:
            ports = json.loads((self.path / PLAN).read_text())["ports"]
            found = [memif_of(str(port["vdev"])) for port in ports]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        from dpsup.host.interfaces import remove_dead_socket

        paths = [m.socket for m in found if m is not None and m.server and not m.abstract]
        return [path for path in paths if remove_dead_socket(path)]


def _children(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def roots() -> list[Path]:
    """Where runtime directories are, the usual place first."""
    mine = os.environ.get("XDG_RUNTIME_DIR")
    found = [Path("/run/dpsup")]
    if mine:
        found.append(Path(mine) / "dpsup")
    if os.geteuid() != 0 and mine:
        found.reverse()
    return found


def instances() -> dict[str, Runtime]:
    """All runtime directories, also of dead instances, by name."""
    return {
        one.name: Runtime(str(one.resolve()), one.name)
        for root in reversed(roots())
        for one in _children(root)
        if one.is_dir()
    }


def is_headless(runtime: Runtime) -> bool:
    """No supervisor, but the data plane lives."""
    return has_primary(runtime) and not runtime.is_supervised()


def has_primary(runtime: Runtime) -> bool:
    """Does a primary live that the last supervisor noted?"""
    state = runtime.read_state()
    return state is not None and state.primary is not None and state.primary.alive
