# SPDX-License-Identifier: BSD-3-Clause
"""What EAL's dead processes of an instance left: directories and hugepage files. What a process
still uses stays: it may run in another PID namespace."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from dpsup.host import eal
from dpsup.host.mounts import hugetlbfs

_PREFIX = re.compile(r"dpsup-(.+)-g\d+(?:map_\d+)?")


def names() -> set[str]:
    """Instances of which something is there, whether or not they have a runtime directory."""
    found = [one.name for mount in hugetlbfs() for one in children(mount)]
    for directory in map(Path, eal.runtime_dirs(os.environ)):
        # One without is only being created, perhaps.
        found += [one.name for one in children(directory) if (one / "config").exists()]
    return {match[1] for name in found if (match := _PREFIX.fullmatch(name))}


def remove(name: str, owner: int, own: Path | None = None) -> list[str]:
    """Remove what is left of the instance `name` of that user; what was removed. `own`: the
    directory that EAL has in the instance's."""
    removed = []
    mine = re.compile(rf"dpsup-{re.escape(name)}-g\d+")
    for directory in (*map(Path, eal.runtime_dirs(os.environ)), *([own] if own else [])):
        for one in children(directory):
            if mine.fullmatch(one.name) and _is_dead(one, owner, one / "config", fcntl.lockf):
                shutil.rmtree(one, ignore_errors=True)
                removed.append(str(one))
        with contextlib.suppress(OSError):
            if own and directory.parent == own.parent and not children(directory):
                directory.rmdir()
    for mount in hugetlbfs():
        for one in children(mount):
            page = re.fullmatch(mine.pattern + r"map_\d+", one.name)
            if page and _is_dead(one, owner, one, fcntl.flock):
                one.unlink(missing_ok=True)
                removed.append(str(one))
    return removed


def in_use(name: str) -> list[str]:
    """Hugepage files of an instance of this name that a process still holds, once what is dead is
    removed: it runs where this process sees none of it, or as another user."""
    page = re.compile(rf"dpsup-{re.escape(name)}-g\d+map_\d+")
    found = [one for mount in hugetlbfs() for one in children(mount) if page.fullmatch(one.name)]
    return [str(one) for one in found if _is_held(one)]


def _is_held(one: Path) -> bool:
    try:
        fd = os.open(one, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def dead_sockets(plan: str) -> list[str]:
    """Remove what the plan's net_memif servers left: no primary could listen there again. Raises:
    ValueError where it is no plan."""
    from dpsup.topology.values import memif_of

    try:
        found = [memif_of(str(port["vdev"])) for port in json.loads(plan)["ports"]]
    except (TypeError, KeyError):
        return []
    from dpsup.host.interfaces import remove_dead_socket

    paths = [m.socket for m in found if m is not None and m.server and not m.abstract]
    return [path for path in paths if remove_dead_socket(path)]


def _is_dead(one: Path, owner: int, file: Path, lock: Callable[[int, int], object]) -> bool:
    """Is it the owner's, and does no process hold EAL's lock on its file? EAL's processes hold
    theirs as long as they live, in whatever PID namespace."""
    try:
        if os.lstat(one).st_uid != owner:
            return False
        fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # EAL died before it created it
    except OSError:
        return False
    try:
        lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def children(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
