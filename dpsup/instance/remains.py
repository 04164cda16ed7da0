# SPDX-License-Identifier: BSD-3-Clause
"""What EAL's dead processes of an instance left: directories and hugepage files. What a process
still uses stays: it may run in another PID namespace."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from dpsup.host import eal
from dpsup.host.mounts import hugetlbfs


def remove(name: str, owner: int, own: Path) -> list[str]:
    """Remove what is left of the instance `name` of that user; what was removed. `own`: the
    directory that EAL has in the instance's."""
    removed = []
    mine = re.compile(rf"dpsup-{re.escape(name)}-g\d+")
    for directory in (*map(Path, eal.runtime_dirs(os.environ)), own):
        for one in children(directory):
            if mine.fullmatch(one.name) and _is_dead(one, owner, one / "config", fcntl.lockf):
                shutil.rmtree(one, ignore_errors=True)
                removed.append(str(one))
        with contextlib.suppress(OSError):
            if directory.parent == own.parent and not children(directory):
                directory.rmdir()
    for mount in hugetlbfs():
        for one in children(mount):
            page = re.fullmatch(mine.pattern + r"map_\d+", one.name)
            if page and _is_dead(one, owner, one, fcntl.flock):
                one.unlink(missing_ok=True)
                removed.append(str(one))
    return removed


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
