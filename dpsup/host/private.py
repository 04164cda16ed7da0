# SPDX-License-Identifier: BSD-3-Clause
"""Directories that only their owner can write to: opened once and checked, then worked in by
descriptor, so that nothing can be exchanged between the check and the use. No symbolic link is
followed inside them, nor in place of them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
DIRECTORY = "dpsup"  # of all instances, or of what they leave
_OVERFLOW_UID = 65534  # of owners outside of this user namespace


class Unsafe(PermissionError):
    """A directory or a file that another user can change."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)
        self.reason = reason


def open_directory(path: Path, *, any_owner: bool = False) -> int:
    """A descriptor of a directory that belongs to this user, or to root, and that no other can
    write to; `any_owner`: it may belong to any user. Raises: OSError, Unsafe."""
    fd = _open(path)
    try:
        _judge(path, os.fstat(fd), any_owner=any_owner)
    except Unsafe:
        os.close(fd)
        raise
    return fd


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as e:
        if path.is_symlink():
            raise Unsafe(f"{path} is a symbolic link") from None
        if e.errno == errno.ENOTDIR:
            raise Unsafe(f"{path} is not a directory") from None
        raise


def _judge(path: Path, found: os.stat_result, *, any_owner: bool) -> None:
    if found.st_uid not in (0, os.geteuid()) and not any_owner:
        raise Unsafe(f"{path} belongs to user {found.st_uid}, not to user {os.geteuid()}")
    if found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise Unsafe(f"{path} has mode {mode:04o}: other users can write to it")


def create_directory(path: Path, is_ours: Callable[[str, os.stat_result], bool]) -> int:
    """The same, created where it is missing. A volume of a container and a directory of systemd may
    come open to other users: such a one is closed to their writes if it is this user's and all that
    is in it `is_ours`, so never one that others use, /run for example. Raises: OSError, Unsafe."""
    _create(path)
    _shut_parents(path)
    demand_safe_parents(path)
    fd = _open(path)
    try:
        if all(is_ours(name, found) for name, found in _if_open(fd)):
            _shut(fd, sticky=_is_volume(path))
        _judge(path, os.fstat(fd), any_owner=False)
    except OSError:
        os.close(fd)
        raise
    return fd


def _if_open(fd: int) -> Iterator[tuple[str, os.stat_result]]:
    return entries(fd) if os.fstat(fd).st_mode & _OTHERS else iter(())


def _is_volume(path: Path) -> bool:
    """Is it mounted for dpsup alone? Its path says so: DIRECTORY, or something below one."""
    return DIRECTORY in path.parts and os.path.ismount(path)


def _shut(fd: int, *, sticky: bool = False) -> None:
    """Take away what lets others write. A `sticky` directory is meant to be shared, unless it is
    the volume of an engine that mounts all of them so."""
    found = os.fstat(fd)
    if (
        found.st_uid == os.geteuid()
        and found.st_mode & _OTHERS
        and (sticky or not found.st_mode & stat.S_ISVTX)
    ):
        with contextlib.suppress(OSError):  # it is judged by its mode, whatever came of this
            os.fchmod(fd, stat.S_IMODE(found.st_mode) & ~(_OTHERS | stat.S_ISVTX))


def _shut_parents(path: Path) -> None:
    """The directory of all instances may be a volume, which is open to every user; so may be one
    that holds nothing but what is on the way to this one."""
    below = path.name
    for one in _above(path):
        if why_replaceable(one, one.stat()) and (one.name == DIRECTORY or _is_volume(one)):
            fd = _open(one)
            try:
                if one.name == DIRECTORY or {name for name, _ in entries(fd)} <= {below}:
                    _shut(fd)
            finally:
                os.close(fd)
        below = one.name


def _create(path: Path) -> None:
    if not path.parent.exists():
        _create(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        if os.geteuid() == 0 and path.name == DIRECTORY:
            path.chmod(0o755)  # the directory of all instances: their names are no secret


def _above(path: Path) -> tuple[Path, ...]:
    parent = Path(os.path.realpath(path.parent))
    return parent, *parent.parents


def demand_safe_parents(path: Path) -> None:
    """Raises: Unsafe where another user could put a directory of theirs in place of that one."""
    for one in _above(path):
        why = why_replaceable(one, one.stat())
        if why:
            raise Unsafe(why)


def why_replaceable(one: Path, found: os.stat_result) -> str:
    """Why another user can replace what is in that directory; "" if none can."""
    known = found.st_uid in (0, os.geteuid())
    if not known and not (found.st_uid == _OVERFLOW_UID and _has_foreign_ids()):
        return f"{one} belongs to user {found.st_uid}, who can replace what is in it"
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return f"{one} is open to every user, who can replace what is in it"
    return ""


def _has_foreign_ids() -> bool:
    """In a user namespace that does not know all users, theirs appear as one."""
    with contextlib.suppress(OSError, ValueError):
        first, _, size = Path("/proc/self/uid_map").read_text().split()
        return (first, size) != ("0", "4294967295")
    return True


def read(
    directory: int, name: str, owners: Collection[int] = (), *, is_secret: bool = False
) -> bytes:
    """A regular file, of one of these users if any are named; a secret, that no other can read.
    Raises: OSError, Unsafe."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Unsafe(f"{name} is not a regular file")
        if owners and found.st_uid not in owners:
            raise Unsafe(f"{name} belongs to user {found.st_uid}")
        if is_secret and found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise Unsafe(f"{name} has mode {mode:04o}: other users can read or change it")
        return file.read()


def replace(directory: int, name: str, content: bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new one. Raises: OSError."""
    new = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(new, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:  # a full disk: what was written takes room, too
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise


def entries(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    """What is in it, links not followed."""
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=directory, follow_symlinks=False)
