# SPDX-License-Identifier: BSD-3-Clause
"""Hugepages, hugetlbfs, the remains of dead processes in them, and memory that moves."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath

from dpsup.doctor.facts import Needs
from dpsup.doctor.finding import NO_FILE, Check, Finding, checked, error, info, ok, skip, warn
from dpsup.host.tree import Machine
from dpsup.text import plural

MIB = 1 << 20
USUAL_PAGES = 512  # what deploy/host-setup reserves
_EAL_DIRECTORIES = (
    "/run/dpsup/*/dpdk",
    "/var/run/dpdk",
    "/run/dpdk",
    "/tmp/dpdk",
    "/run/user/*/dpdk",
)
_MINE = re.compile(r"dpsup-(.+)-g\d+")


def _size(page: int) -> str:
    return "1 GiB" if page >= 1 << 30 else f"{page // MIB} MiB" if page >= MIB else f"{page} B"


def _directories(number: int) -> str:
    return "1 directory" if number == 1 else f"{number} directories"


def _file(page: int, node: int | None = None) -> str:
    top = "/sys/kernel/mm" if node is None else f"/sys/devices/system/node/node{node}"
    return f"{top}/hugepages/hugepages-{page // 1024}kB/nr_hugepages"


def _own(m: Machine, name: str) -> int:
    """Hugepages that the instance of this name holds now, and that a restart would reuse."""
    files = (one for mount in m.host.hugetlbfs for one in m.glob(f"{mount.path}/dpsup-{name}-g*"))
    return sum(bool(re.search(rf"/dpsup-{re.escape(name)}-g\d+map_\d+$", one)) for one in files)


def hugepages(m: Machine, n: Needs | None) -> Iterator[Finding]:
    sizes = m.host.hugepages
    read = "; ".join(
        f"{_file(page)[:-13]}: {p.total} reserved, {p.free} free"
        for page, p in sorted(sizes.items())
    )
    if not sizes:
        yield error(
            "D01", "the kernel has no hugepages", "/sys/kernel/mm/hugepages: missing",
            manual="use a kernel with CONFIG_HUGETLBFS; a container uses the hugepages of its host",
        )  # fmt: skip
    elif n is None:
        page = 2 * MIB if 2 * MIB in sizes else min(sizes)
        if not any(p.total or p.free for p in sizes.values()):
            fix = f"echo {USUAL_PAGES} > {_file(page)}"
            yield error("D01", "no hugepages are reserved", read, fix)
        elif not any(p.free for p in sizes.values()):
            total = max(p.total for p in sizes.values())
            fix = f"echo {total + USUAL_PAGES} > {_file(page)}"
            yield warn("D01", "no hugepage is free", read, fix)
        else:
            free = (f"{p.free} of {_size(page)}" for page, p in sorted(sizes.items()) if p.free)
            yield ok("D01", f"{', '.join(free)} free", read)
    else:
        yield from _hugepages_for(m, n, read)


def _hugepages_for(m: Machine, n: Needs, read: str) -> Iterator[Finding]:
    page, name = n.page_size, _size(n.page_size)
    pages = m.host.hugepages.get(page)
    if pages is None:
        yield error(
            "D01", f"this machine has no hugepages of {name}", read,
            manual='write page_size = "2M"' if page > 2 * MIB else "use a kernel that has them",
        )  # fmt: skip
        return
    own = _own(m, n.topology.name)
    free = pages.free + own
    held = f", {own} held by this instance" if own else ""
    at_boot = f"hugepagesz=1G hugepages={n.pages} on the kernel command line is safer"
    if free < n.pages:
        yield error(
            "D01", f"{plural(n.pages, 'hugepage')} of {name} needed, {pages.free} free{held}", read,
            f"echo {pages.total + n.pages - free} > {_file(page)}",
            manual=at_boot if page > 2 * MIB else "",
        )  # fmt: skip
        return
    short = False
    for node, size in sorted(n.by_node.items()) if len(m.host.numa) > 1 and not own else ():
        there = m.host.node_hugepages.get(node, {}).get(page)
        needed = size // page
        if there is not None and there.free < needed:
            short = True
            yield error(
                "D01",
                f"{plural(needed, 'hugepage')} needed on NUMA node {node}, {there.free} free",
                f"{_file(page, node)[:-13]}: {there.total} reserved, {there.free} free",
                f"echo {there.total + needed - there.free} > {_file(page, node)}",
                manual=at_boot if page > 2 * MIB else "",
            )
    if not short:
        yield ok("D01", f"{n.pages} of {name} needed, {pages.free} free{held}", read)


def _mounts(m: Machine) -> dict[str, str]:
    """hugetlbfs mounts: their options."""
    found = {}
    for line in m.text("/proc/mounts").splitlines():
        words = line.split()
        if len(words) > 3 and words[2] == "hugetlbfs":
            path = re.sub(r"\\([0-7]{3})", lambda o: chr(int(o[1], 8)), words[1])
            found[path] = words[3]
    return found


def _bytes(options: str, page: int) -> int | None:
    """The size= of a mount, None without one."""
    said = re.search(r"(?:^|,)size=(\d+)([kKmMgG%]?)", options)
    if not said or said[2] == "%":
        return None
    return int(said[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[said[2].lower()]


def mounts(m: Machine, n: Needs | None) -> Iterator[Finding]:
    options = _mounts(m)
    page = n.page_size if n else 2 * MIB
    size = "2M" if page < 1 << 30 else "1G"
    fit = [one for one in m.host.hugetlbfs if not n or one.page_size == page]
    read = f"/proc/mounts: {'; '.join(f'{path} {o}' for path, o in options.items()) or 'none'}"
    directory = "/dev/hugepages" if page < 1 << 30 else "/dev/hugepages-1G"
    if not fit:
        yield error(
            "D02", f"no hugetlbfs with pages of {size} is mounted", read,
            f"mkdir -p {directory} && mount -t hugetlbfs -o pagesize={size} nodev {directory}",
        )  # fmt: skip
        return
    ro = [one for one in fit if "ro" in options.get(one.path, "").split(",")]
    usable = [one for one in fit if one not in ro and m.may_write(one.path)]
    if not usable:
        path = shlex.quote(fit[0].path)
        fix = (
            f"mount -o remount,rw {path}"
            if ro
            else f"chown {m.uid} {path}"
        )  # fmt: skip
        why = "is mounted read-only" if ro else f"is not writable for uid {m.uid}"
        yield error("D02", f"{fit[0].path} {why}", read, fix)
        return
    needed = n.pages * page if n else 0
    small = {}
    for one in usable:
        room = _bytes(options.get(one.path, ""), page)
        if room is not None and room < needed:
            small[one.path] = room
    if small and len(small) == len(usable):
        path, room = next(iter(small.items()))
        yield error(
            "D02", f"{path} has room for {room // MIB} MiB, {needed // MIB} MiB are needed", read,
            f"mount -o remount,size={needed} {shlex.quote(path)}",
        )  # fmt: skip
        return
    yield ok("D02", f"{usable[0].path} is writable", read)


def leftovers(m: Machine, n: Needs | None) -> Iterator[Finding]:
    live: set[str] = set()
    dead: list[str] = []
    stale: list[str] = []
    seen: set[str] = set()
    for pattern in _EAL_DIRECTORIES:
        for directory in m.glob(f"{pattern}/*"):
            real = str(m.path(directory).resolve())
            if real in seen or not m.path(directory).is_dir():
                continue
            seen.add(real)
            prefix = PurePosixPath(directory).name
            if m.locked(f"{directory}/config"):
                live.add(prefix)
                stale += _of_dead_processes(m, directory)
            elif m.exists(f"{directory}/config") or _MINE.fullmatch(prefix):
                dead.append(directory)
    maps = _abandoned(m, live)
    yield from _prefix_taken(m, n, live)
    mine = [one for one in dead if _MINE.fullmatch(PurePosixPath(one).name)]
    if mine:
        what = _directories(len(mine))
        fix = dict.fromkeys(_removal(m, one) for one in mine)
        yield warn("D03", f"dead instances left {what}", ", ".join(mine), *fix)
    if maps:
        fix = dict.fromkeys(_removal(m, one) for one in maps)
        theirs = [one for one in maps if not PurePosixPath(one).name.startswith("dpsup-")]
        yield warn(
            "D03", f"{plural(len(maps), 'file')} of dead processes hold hugepages",
            ", ".join(maps[:4]) + (", ..." if len(maps) > 4 else ""), *fix,
            careful=bool(theirs),
        )  # fmt: skip
    if stale:
        yield warn(
            "D03", f"dead processes left {plural(len(stale), 'file')} beside a live primary's",
            ", ".join(stale[:4]) + (", ..." if len(stale) > 4 else ""),
            *(f"rm -f {shlex.quote(one)}" for one in stale),
        )  # fmt: skip
    other = len(dead) - len(mine)
    running = f"; live: {', '.join(sorted(live))}" if live else ""
    read = f"{', '.join(_EAL_DIRECTORIES)}, files in hugetlbfs"
    if not (mine or maps or stale):
        more = f"; {_directories(other)} of other programs, empty, no problem" if other else ""
        yield ok("D03", f"nothing left by dead processes{running}{more}", read)


def _removal(m: Machine, path: str) -> str:
    """The command that removes the remains of a dead process: `dpsup clean` only finds an instance
    that has a runtime directory."""
    name = _MINE.match(PurePosixPath(path).name)
    if name and m.exists(f"/run/dpsup/{name[1]}"):
        return "dpsup clean"
    return f"rm -rf {shlex.quote(path)}"


def _of_dead_processes(m: Machine, directory: str) -> list[str]:
    """Files in a primary's directory that name a dead process."""
    found = []
    for one in m.glob(f"{directory}/*"):
        name = PurePosixPath(one).name
        pid = re.match(r"mp_socket_(\d+)_", name) or re.match(r"fbarray_.*_(\d+)$", name)
        if pid and not m.alive(pid[1]):
            found.append(one)
    return found


def _abandoned(m: Machine, live: set[str]) -> list[str]:
    """Files in hugetlbfs of DPDK processes whose primary is dead."""
    found = []
    for mount in m.host.hugetlbfs:
        for one in m.glob(f"{mount.path}/*map_*"):
            named = re.fullmatch(r"(.+)map_\d+", PurePosixPath(one).name)
            if named and named[1] not in live:
                found.append(one)
    return found


def _prefix_taken(m: Machine, n: Needs | None, live: set[str]) -> Iterator[Finding]:
    if n is None:
        return
    name = n.topology.name
    mine = [one for one in live if (is_mine := _MINE.fullmatch(one)) and is_mine[1] == name]
    supervised = m.flocked(f"/run/dpsup/{name}/lock")
    if mine and supervised:
        yield info("D03", f"instance `{name}` is running: a second start is refused", mine[0])
    elif mine:
        yield error(
            "D03", f"a primary with the prefix {mine[0]} runs without a supervisor", mine[0],
            f"dpsup -n {shlex.quote(name)} stop", careful=True,
        )  # fmt: skip


def moving(m: Machine, _: Needs | None) -> Iterator[Finding]:
    bad = []
    if m.number("/proc/sys/kernel/numa_balancing") and len(m.host.numa) > 1:
        bad.append(
            warn(
                "D19", "NUMA balancing is on", "/proc/sys/kernel/numa_balancing: 1",
                "sysctl -w kernel.numa_balancing=0",
            )
        )  # fmt: skip
    if m.number("/sys/kernel/mm/ksm/run") == 1:
        bad.append(
            warn(
                "D19", "KSM merges pages", "/sys/kernel/mm/ksm/run: 1",
                "echo 0 > /sys/kernel/mm/ksm/run",
            )
        )  # fmt: skip
    used = [line.split() for line in m.text("/proc/swaps").splitlines()[1:]]
    if any(len(words) > 3 and words[3].isdigit() and int(words[3]) for words in used):
        first = " ".join(used[0])
        bad.append(warn("D19", "swap is in use", f"/proc/swaps: {first}", "swapoff -a"))
    yield from bad
    if not bad:
        thp = re.search(r"\[(\w+)\]", m.text("/sys/kernel/mm/transparent_hugepage/enabled"))
        yield ok(
            "D19", f"nothing moves it (transparent hugepages: {thp[1] if thp else 'none'})",
            "kernel.numa_balancing, /sys/kernel/mm/ksm/run, /proc/swaps",
        )  # fmt: skip


def pools(_: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D23", NO_FILE)
        return
    found = list(checked("D23", n, "E0301", "E0302", "E0303", "E0304"))
    yield from found
    if not found:
        sizes = ", ".join(f"{name} {pool.mbufs}" for name, pool in n.topology.mempools.items())
        yield ok("D23", f"large enough ({sizes})")


CHECKS: dict[str, Check] = {
    "D01": hugepages, "D02": mounts, "D03": leftovers, "D19": moving, "D23": pools,
}  # fmt: skip
