# SPDX-License-Identifier: BSD-3-Clause
"""The files of a machine below a sysroot: this machine's, or a copy of another's."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import stat
import struct
from pathlib import Path

from dpsup.host.machine import Host, parse_cpulist, read_host, read_limits

_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux


class Machine:
    """Files below `sysroot`, by their absolute paths, as this process (or `uid`) may use them."""

    def __init__(
        self, sysroot: str = "/", *, uid: int | None = None, build: tuple[str, str] | None = None
    ) -> None:
        self.root = Path(sysroot)
        self.live = self.root.resolve() == Path("/")
        self.uid = os.geteuid() if uid is None else uid
        self.groups = set(os.getgroups()) | {os.getegid()} if uid is None else set()
        # DPDK as dpsup was built with it: its version, and its drivers' directory.
        self.build = build if build is not None else _build()
        host = read_host(sysroot)
        listed = re.search(r"^Cpus_allowed_list:\s*(\S+)", self.text("/proc/self/status"), re.M)
        if listed:
            host = dataclasses.replace(host, allowed=parse_cpulist(listed[1]) & host.online)
        self.host: Host = dataclasses.replace(host, uid=self.uid, is_root=self.uid == 0)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """A file's text without the space around it, "" if it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        text = self.text(name)
        return int(text) if re.fullmatch(r"-?\d+", text) else None

    def cpus(self, name: str) -> frozenset[int]:
        try:
            return parse_cpulist(self.text(name))
        except ValueError:
            return frozenset()  # "(null)", as nohz_full says on some kernels

    def glob(self, pattern: str) -> list[str]:
        """Absolute paths, as a process inside the tree sees them."""
        found = sorted(self.root.glob(pattern.lstrip("/")))
        return [f"/{path.relative_to(self.root)}" for path in found]

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def link(self, name: str) -> str:
        """The last part of a symbolic link's target, "" if it is no link."""
        path = self.path(name)
        return Path(path.readlink()).name if path.is_symlink() else ""

    def mode(self, name: str) -> int | None:
        try:
            return stat.S_IMODE(self.path(name).stat().st_mode)
        except OSError:
            return None

    def may_write(self, name: str) -> bool:
        """By owner, group and mode alone: also for other users than this process's."""
        try:
            found = self.path(name).stat()
        except OSError:
            return False
        if self.uid == 0:
            return True
        bits = found.st_mode & 7
        if found.st_uid == self.uid:
            bits = found.st_mode >> 6 & 7
        elif found.st_gid in self.groups:
            bits = found.st_mode >> 3 & 7
        return bool(bits & 2)

    def alive(self, pid: str) -> bool:
        return self.exists(f"/proc/{pid}")

    def locked(self, name: str) -> bool:
        """Has a process a record lock on the file, as a DPDK primary has on its `config`?"""
        try:
            with self.path(name).open("rb") as file:
                ask = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, ask))
        except OSError:
            return False
        return bool(answer[0] != fcntl.F_UNLCK)

    def flocked(self, name: str) -> bool:
        """Has a process locked the whole file, as a supervisor has its `lock`?"""
        try:
            with self.path(name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def free_bytes(self, name: str) -> int:
        """Space on the file system that holds `name`, or the nearest directory above it."""
        here = self.path(name)
        while not here.exists() and here != here.parent:
            here = here.parent
        found = os.statvfs(here)
        return found.f_bavail * found.f_frsize

    def limit(self, name: str) -> tuple[float, float]:
        """The soft and the hard limit "Max open files", ...; infinite where it is not said."""
        found = read_limits(self.text("/proc/self/limits"))
        return found.get(name, (float("inf"), float("inf")))


def _build() -> tuple[str, str]:
    try:
        from dpsup import _build as build
    except ImportError:
        return "", ""  # running from the source tree
    return str(build.DPDK_VERSION), str(build.PMD_DIR)
