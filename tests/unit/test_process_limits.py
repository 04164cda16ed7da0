# SPDX-License-Identifier: BSD-3-Clause
"""Limits of the process that a start would fail under, with words that name no limit."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path

import pytest
from unit.fakehost import FILE, FULL, GIB, MIB, MINIMAL, machine

from dpsup.check.topology import check
from dpsup.errors import Exit, Problem, Severity
from dpsup.host.machine import Host, read_host, read_limits
from dpsup.topology.load import load

ENOUGH = {
    "Max file size": 2 * MIB,
    "Max open files": 4096,
    "Max address space": 128 * GIB,
    "Max data size": GIB,
    "Max processes": 1000,
    "Max locked memory": GIB,
}


def judged(host: Host) -> list[Problem]:
    topology, _ = load(FILE, host)
    assert topology is not None
    return [p for p in check(topology, host) if p.code == "E0310"]


def found(text: str, limits: dict[str, float], *, is_root: bool = False) -> list[tuple[str, str]]:
    host = machine(text, is_root=is_root, uid=0 if is_root else 1000)
    host = dataclasses.replace(host, limits={name: (soft, soft) for name, soft in limits.items()})
    problems = judged(host)
    assert all(p.exit_code is Exit.HOST for p in problems if p.severity is Severity.ERROR)
    return [(p.message, p.help) for p in problems]


@pytest.mark.parametrize(
    ("name", "has", "says", "helps"),
    [
        ("Max file size", 2 * MIB - 1024, "2096128 bytes, and 2097152", "LimitFSIZE"),
        ("Max open files", 200, "200 files may be open", "ulimit -n"),
        ("Max address space", 64 * GIB, "65536 MiB of addresses", "ulimit -v"),
        ("Max data size", 100 * MIB, "100 MiB of data", "LimitDATA"),
        ("Max processes", 60, "60 processes and threads", "ulimit -u"),
        ("Max locked memory", 8 * MIB, "8 MiB may be locked", "LimitMEMLOCK"),
        ("Max cpu time", 60, "60 seconds of CPU time", "ulimit -t"),
    ],
)
def test_a_limit_that_is_too_low_is_named(name: str, has: float, says: str, helps: str) -> None:
    ((message, help_),) = found(FULL, ENOUGH | {name: has})
    assert says in message
    assert helps in help_


def test_enough_and_no_limit_at_all_are_fine() -> None:
    assert found(FULL, ENOUGH) == []
    assert found(FULL, {}) == []


def test_root_and_virtual_ports_need_less() -> None:
    low = ENOUGH | {"Max processes": 1, "Max locked memory": 1}
    assert found(FULL, low, is_root=True) == []
    assert found(MINIMAL, ENOUGH | {"Max locked memory": 1}) == []


def test_a_soft_limit_of_files_is_raised_by_dpsup_itself() -> None:
    host = dataclasses.replace(machine(MINIMAL), limits={"Max open files": (64, 65536)})
    assert judged(host) == []


def test_the_kernels_words_are_read() -> None:
    limits = read_host().limits
    for name, which in (
        ("Max cpu time", resource.RLIMIT_CPU),
        ("Max file size", resource.RLIMIT_FSIZE),
        ("Max data size", resource.RLIMIT_DATA),
        ("Max processes", resource.RLIMIT_NPROC),
        ("Max open files", resource.RLIMIT_NOFILE),
        ("Max locked memory", resource.RLIMIT_MEMLOCK),
        ("Max address space", resource.RLIMIT_AS),
    ):
        here = resource.getrlimit(which)
        assert limits[name] == tuple(
            float("inf") if one == resource.RLIM_INFINITY else one for one in here
        )
    assert read_limits(Path("/proc/self/limits").read_text()) == limits
    assert read_limits("") == {}
