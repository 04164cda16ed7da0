# SPDX-License-Identifier: BSD-3-Clause
"""Private copies of plugin files. Workers load these: the file that the topology names may then be
overwritten, truncated or deleted at any time, and no process that runs, or is started, sees it.

A copy is named after its contents and lies in the runtime directory. A plugin that has `$ORIGIN` in
it finds its libraries by its own place, so it is loaded from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup import limits
from dpsup.errors import DpsupError
from dpsup.limits import FILE
from dpsup.plan.copies import DIGEST, PLUGINS, plugin_copy

if TYPE_CHECKING:
    from dpsup.plan.model import GroupPlan, Plan

Args = tuple[tuple[str, str], ...]

SAME, CHANGED, MISSING, IN_PLACE = "same", "changed", "missing", "in place"


def _read(path: str) -> tuple[bytes, os.stat_result]:
    """Raises: OSError, also where it is no regular file."""
    # A FIFO is opened without waiting for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as f:  # noqa: PTH123
        found = os.fstat(f.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no regular file")
        return f.read(), found


def digest_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST]


def take(directory: Path, path: str) -> tuple[str, str]:
    """Copy a plugin file. Returns the digest of its contents and the file to load. "" for a
    built-in plugin. Raises: DpsupError."""
    if not path:
        return "", ""
    try:
        data, found = _read(path)
    except OSError as e:
        raise DpsupError(
            f"cannot read plugin {path}: {e.strerror or e}",
            code="E0501",
            why="the workers load it",
            help="build it, or correct the path",
        ) from None
    digest = digest_of_bytes(data)
    if b"$ORIGIN" in data and not path.endswith(".py"):
        return digest, path
    copy = Path(plugin_copy(str(directory), digest, path))
    try:
        _write(copy, data, found.st_mtime_ns)
    except OSError as e:
        raise DpsupError(
            f"cannot copy plugin {path} to {copy}: {e.strerror or e}",
            code="E0501",
            why="the workers load a private copy, so that the file may change",
            help="make room there, or set [host] runtime_dir",
        ) from None
    return digest, str(copy)


def take_files(directory: Path, args: Args) -> Args:
    """Copy the files that a plugin is handed; the arguments with the copies, which are named after
    their contents. Raises: DpsupError."""
    return tuple(
        (k, _take_file(directory, k.removeprefix(FILE), v) if k.startswith(FILE) else v)
        for k, v in args
    )


def _take_file(directory: Path, name: str, path: str) -> str:
    if Path(path).parent == directory / PLUGINS:
        return path  # what ran before runs again
    try:
        data, found = _read(path)
        copy = Path(plugin_copy(str(directory), digest_of_bytes(data), path))
        _write(copy, data, found.st_mtime_ns)
    except OSError as e:
        raise DpsupError(
            f"cannot copy {path}, the plugin's file `{name}`: {e.strerror or e}",
            code="E0511",
            why="the workers read a private copy, so that the file may change",
            help="correct the path, or make the file readable",
        ) from None
    return str(copy)


def digests(paths: Iterable[str]) -> dict[str, str]:
    """The digest of each file's contents; "" where it cannot be read: a rollout says why."""
    found = dict.fromkeys(paths, "")
    for path in found:
        with contextlib.suppress(OSError):
            found[path] = digest_of_bytes(_read(path)[0])
    return found


def files_of(args: Args) -> dict[str, str]:
    """The files among a plugin's arguments, by name."""
    return {k.removeprefix(FILE): v for k, v in args if k.startswith(FILE)}


def digests_of(groups: Iterable[GroupPlan], started: Iterable[GroupPlan]) -> dict[str, str]:
    """The digest of each file that the topology's `groups` name, as it was when it was copied for
    those that were started."""
    copies = {g.name: files_of(g.args) for g in started}
    return {
        path: digest_in(copies[g.name][name])
        for g in groups
        for name, path in files_of(g.args).items()
        if name in copies.get(g.name, {})
    }


def _write(copy: Path, data: bytes, mtime_ns: int) -> None:
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    new = copy.with_name(f"{copy.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o500), "wb") as f:  # noqa: PTH123
            f.write(data)
            f.flush()
            # By which a look at the file sees at once that it is the same.
            os.utime(f.fileno(), ns=(mtime_ns, mtime_ns))
        new.replace(copy)
    except OSError:  # half a copy would keep a full disk full
        new.unlink(missing_ok=True)
        raise


def copied(directory: Path, plan: Plan) -> Plan:
    """The plan with a private copy of each plugin file, and of those that plugins are handed.
    Raises: DpsupError."""
    taken = {path: take(directory, path)[1] for path in {g.plugin_path for g in plan.groups}}
    groups = tuple(
        dataclasses.replace(g, plugin_copy=taken[g.plugin_path], args=take_files(directory, g.args))
        for g in plan.groups
    )
    for group in groups:
        if (size := limits.args_size(group.args)) > limits.ARGS:
            raise DpsupError(
                f"the arguments of group {group.name} take {size} bytes, of which paths of files",
                code="E0511",
                why=f"shared memory has room for {limits.ARGS} in each group",
                help="hand the plugin fewer files, or choose a shorter [host] runtime_dir",
            )
    return dataclasses.replace(plan, groups=groups)


def digest_in(copy: str) -> str:
    """The digest that a copy's name has."""
    return Path(copy).name[:DIGEST]


def file_in(copy: str) -> str:
    """The name of the file that it is a copy of."""
    return Path(copy).name[DIGEST + 1 :]


def digest_of(path: str, copy: str) -> str:
    """The digest of what is loaded of a plugin file; "" where that cannot be read."""
    if not path or path != copy:
        return digest_in(copy)
    try:
        return digest_of_bytes(_read(path)[0])
    except OSError:
        return ""


def prune(directory: Path, used: Iterable[str]) -> None:
    """Remove the copies that no version needs any more."""
    kept = set(used)
    with contextlib.suppress(OSError):
        for one in (directory / PLUGINS).iterdir():
            if str(one) not in kept:
                one.unlink()


@functools.lru_cache(maxsize=64)
def _digest_at(path: str, _: tuple[int, ...]) -> str:
    """Remembered, since the supervisor looks each second and a file may be large. Raises: OSError,
    which is not remembered."""
    return digest_of_bytes(_read(path)[0])


def on_disk(path: str, copy: str) -> str:
    """Is the file that the topology names what runs? "" for a built-in plugin."""
    if not path or not copy:
        return ""
    if path == copy:
        return IN_PLACE
    try:
        there, here = os.stat(path), os.stat(copy)  # noqa: PTH116
        if (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns):
            return SAME
        stamp = (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns)
        return SAME if _digest_at(path, stamp) == digest_in(copy) else CHANGED
    except FileNotFoundError:
        return MISSING
    except OSError:
        return CHANGED
