# SPDX-License-Identifier: BSD-3-Clause
"""Do the limits of a process (ulimit, Limit…= of systemd) leave room for a topology?

EAL says of most of them that memory could not be allocated, and names no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from dpsup.errors import Exit, Problem, Severity
from dpsup.plan.memory import MIB
from dpsup.plan.place import make_plan
from dpsup.text import plural
from dpsup.topology.model import Topology

if TYPE_CHECKING:
    from dpsup.host.machine import Host

FILES_MORE = 256  # descriptors in addition to those of hugepages
EAL_FILE = MIB  # bytes of the largest of EAL's own files, and some room
ADDRESSES = 96 << 30  # EAL reserves 64 GiB of them
DATA = 256 * MIB  # 84 of the primary with two io cores, and more threads
PROCESSES = 64  # threads of all processes but workers
OF_A_WORKER = 2


class _Limit(NamedTuple):
    """`is_hard`: dpsup itself raises the soft one as far as this."""

    name: str  # in /proc/PID/limits
    needed: int
    text: str  # "{has}", "{needed}"
    why: str
    ulimit: str
    unit: str
    is_hard: bool = False


def process_limits(topology: Topology, host: Host) -> Iterator[Problem]:
    for limit in _needed(topology, host):
        soft, hard = host.limits.get(limit.name, (float("inf"), float("inf")))
        has = hard if limit.is_hard else soft
        if has < limit.needed:
            yield topology.source.problem(
                ("version",),
                limit.text.format(has=int(has), needed=limit.needed, mib=_mib(has)),
                code="E0310",
                why=limit.why,
                help=f"`ulimit {limit.ulimit}` before the start, or {limit.unit} in the unit",
                exit_code=Exit.HOST,
            )
    seconds, _ = host.limits.get("Max cpu time", (float("inf"), 0))
    if seconds != float("inf"):
        yield topology.source.problem(
            ("version",),
            f"the kernel ends each process once it has used {plural(int(seconds), 'second')} of CPU"
            " time",
            code="E0310",
            why="an io core that polls uses a second of it each second",
            help="`ulimit -t unlimited` before the start, or LimitCPU=infinity in the unit",
            severity=Severity.WARNING,
        )


def _needed(topology: Topology, host: Host) -> Iterator[_Limit]:
    memory = make_plan(topology, host).memory
    page, pages = memory.page_size, memory.pages_needed
    yield _Limit(
        "Max file size", max(page, EAL_FILE),
        "a file may have {has} bytes, and {needed} are needed",
        "each hugepage is a file to EAL", "-f unlimited", "LimitFSIZE=infinity",
    )  # fmt: skip
    yield _Limit(
        "Max open files", pages + FILES_MORE,
        "{has} files may be open, and {needed} are needed",
        "each hugepage is a file to EAL", "-n 65536", "LimitNOFILE=65536", is_hard=True,
    )  # fmt: skip
    yield _Limit(
        "Max address space", ADDRESSES + memory.total,
        "a process may have {mib} of addresses",
        "EAL reserves 64 GiB of them, whatever memory it uses", "-v unlimited",
        "LimitAS=infinity",
    )  # fmt: skip
    yield _Limit(
        "Max data size", DATA,
        "a process may have {mib} of data",
        f"the primary takes up to {_mib(DATA)} beside the hugepages", "-d unlimited",
        "LimitDATA=infinity",
    )  # fmt: skip
    if host.is_root:
        return
    slots = sum(group.max + group.spares for group in topology.workers)
    yield _Limit(
        "Max processes", PROCESSES + OF_A_WORKER * slots,
        "this user may have {has} processes and threads, and {needed} are needed",
        "those of the user's other programs count, too", "-u unlimited",
        "LimitNPROC=infinity",
    )  # fmt: skip
    if any(port.pci for port in topology.ports):
        yield _Limit(
            "Max locked memory", memory.total,
            "{mib} may be locked, but vfio locks " + _mib(memory.total),
            "a NIC writes to that memory by itself", "-l unlimited",
            "LimitMEMLOCK=infinity",
        )  # fmt: skip


def _mib(size: float) -> str:
    return f"{int(size) // MIB} MiB"
