# SPDX-License-Identifier: BSD-3-Clause
"""Limits, DPDK's own files, the runtime directory, disks, sockets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from dpsup.doctor.facts import Needs
from dpsup.doctor.finding import Check, Finding, checked, error, info, ok, skip, warn
from dpsup.host import landlock
from dpsup.host.tree import Machine

MIB = 1 << 20
STATE_BYTES = 16 * MIB
CORE_BYTES = 512 * MIB  # twice what a worker's core takes without its hugepages
MAPS_MORE = 2048  # mappings in addition to those of hugepages
EAL_PROCESSES = 3  # primary, seed, and the seed that replaces it
OLDEST = (22, 11)
NEWEST = {"22.11": 11}  # the newest stable releases known


def limits(m: Machine, n: Needs | None) -> Iterator[Finding]:
    pages = n.pages if n else 0
    found = list(checked("D14", n, "E0310"))
    maps = m.number("/proc/sys/vm/max_map_count")
    if maps is not None and maps < pages + MAPS_MORE:
        found.append(
            error(
                "D14", f"{maps} mappings are allowed, but {pages + MAPS_MORE} are needed",
                f"/proc/sys/vm/max_map_count: {maps}",
                f"sysctl -w vm.max_map_count={2 * (pages + MAPS_MORE)}",
            )
        )  # fmt: skip
    yield from found
    if not found:
        yield ok(
            "D14", "enough", f"/proc/self/limits; /proc/sys/vm/max_map_count: {maps or 'missing'}"
        )


def randomisation(m: Machine, _: Needs | None) -> Iterator[Finding]:
    file = "/proc/sys/kernel/randomize_va_space"
    yield ok("D15", "no effect: workers are forked", f"{file}: {m.text(file) or '-'}")


def one_dpdk(m: Machine, _: Needs | None) -> Iterator[Finding]:
    version, directory = m.build
    if not directory:
        yield skip("D16", "dpsup runs from its source tree")
        return
    read = f"built with DPDK {version}, drivers in {directory}"
    abi = directory.rpartition("-")[2].partition(".")[0]
    library = str(PurePosixPath(directory).parent.parent / f"librte_eal.so.{abi}")
    rebuild = "rebuild dpsup: ./deploy/host-setup, or pip install"
    if not m.exists(directory):
        other = m.glob("/usr/lib/*/dpdk/pmds-*")
        there = f"; there is {other[-1]}" if other else ""
        yield error("D16", f"no drivers in {directory}{there}", read, manual=rebuild)
        return
    if not m.exists(library):
        yield error("D16", f"there is no {library}", read, manual=rebuild)
        return
    installed = _installed(m)
    if installed and version and installed != version:
        yield error(
            "D16", f"dpsup was built with DPDK {version}, but {installed} is installed",
            "/var/lib/dpkg/status: librte-eal", manual=rebuild,
        )  # fmt: skip
    else:
        yield ok("D16", f"DPDK {version}", read)


def _installed(m: Machine) -> str:
    """The installed version of EAL, without the package's revision, or ""."""
    for part in m.text("/var/lib/dpkg/status").split("\n\n"):
        if re.match(r"Package: librte-eal\d+(t64)?\n", part) and " installed\n" in part:
            said = re.search(r"(?m)^Version: (?:\d+:)?([\d.]+)", part)
            return said[1] if said else ""
    return ""


def dpdk_version(m: Machine, _: Needs | None) -> Iterator[Finding]:
    version = _installed(m) or m.build[0]
    numbers = tuple(int(word) for word in re.findall(r"\d+", version))
    if len(numbers) < 2:
        yield skip("D17", "DPDK's version is unknown")
        return
    read = f"DPDK {version}"
    series = f"{numbers[0]}.{numbers[1]:02}"
    micro = numbers[2] if len(numbers) > 2 else 0
    upgrade = "apt-get install --only-upgrade libdpdk-dev"
    if numbers[:2] < OLDEST:
        yield error("D17", f"DPDK {version} is older than 22.11", read, upgrade)
    elif micro < NEWEST.get(series, 0):
        yield warn(
            "D17", f"DPDK {version} is not the newest of its series: {series}.{NEWEST[series]} is",
            read, upgrade, manual="then rebuild dpsup",
        )  # fmt: skip
    else:
        yield ok("D17", read)


def runtime(m: Machine, n: Needs | None) -> Iterator[Finding]:
    found = list(checked("D24", n, "E0601", "E0602", "E0603"))
    directories = m.glob("/run/dpsup/*")
    for directory in directories:
        mode = m.mode(directory)
        if mode is not None and mode & 0o022 and not m.path(directory).is_symlink():
            found.append(
                warn(
                    "D24", f"other users may write to {directory}", f"{directory}: mode {mode:o}",
                    f"chmod 700 {directory}",
                )
            )  # fmt: skip
    yield from found
    if not found:
        yield ok("D24", f"{len(directories)} instances, private" if directories else "none yet")


def room(m: Machine, _: Needs | None) -> Iterator[Finding]:
    free = m.free_bytes("/run/dpsup")
    if free < STATE_BYTES:
        yield warn(
            "D25", f"{free // MIB} MiB are free for state and sockets", f"statvfs /run: {free}",
            manual="free some space on /run",
        )  # fmt: skip
        return
    soft, _hard = m.limit("Max core file size")
    pattern = m.text("/proc/sys/kernel/core_pattern")
    read = f"core_pattern: {pattern or '-'}; RLIMIT_CORE: {soft:g}"
    if pattern.startswith("/") and soft > 0:
        directory = str(PurePosixPath(pattern).parent)
        if not m.exists(directory):
            yield warn("D25", f"core files go to {directory}, which does not exist", read,
                       f"mkdir -p {directory}")  # fmt: skip
            return
        if m.free_bytes(directory) < CORE_BYTES:
            yield warn(
                "D25",
                f"{m.free_bytes(directory) // MIB} MiB are free for core files in {directory}",
                read,
                manual="free some space there",
            )
            return
    if pattern.startswith("|"):
        program = pattern[1:].split()[0]
        yield info("D25", f"core files go to {program}, not to a directory", read)
    else:
        cores = "kept" if soft > 0 else "off (RLIMIT_CORE is 0)"
        yield ok("D25", f"{free // MIB} MiB for state; core files {cores}", read)


def sockets(m: Machine, _: Needs | None) -> Iterator[Finding]:
    file = "/proc/sys/net/unix/max_dgram_qlen"
    length = m.number(file)
    need = 2 * EAL_PROCESSES
    if length is not None and length < need:
        yield warn(
            "D28", f"a queue holds {length} datagrams, but {need} can arrive at once",
            f"{file}: {length}",
            "sysctl -w net.unix.max_dgram_qlen=64",
        )  # fmt: skip
    else:
        yield ok("D28", f"{length if length is not None else 'unknown'} datagrams", file)


def confinement(m: Machine, _: Needs | None) -> Iterator[Finding]:
    file = "/proc/sys/kernel/seccomp/actions_avail"
    actions = m.text(file).split()
    read = f"{file}: {' '.join(actions) or 'missing'}"
    if not {"trap", "kill_process"} <= set(actions):
        yield warn(
            "D30", "this kernel filters no system calls, and workers need that", read,
            manual='a kernel with CONFIG_SECCOMP_FILTER; or confine = "off" in each group',
        )  # fmt: skip
    elif not m.host.is_here:
        yield ok("D30", "seccomp", read)
    elif landlock.version() == 0:
        yield info("D30", "seccomp; this kernel has no Landlock, or it is turned off", read)
    else:
        yield ok("D30", f"seccomp, and Landlock {landlock.version()}", read)


CHECKS: dict[str, Check] = {
    "D14": limits, "D15": randomisation, "D16": one_dpdk, "D17": dpdk_version, "D24": runtime,
    "D25": room, "D28": sockets, "D30": confinement,
}  # fmt: skip
