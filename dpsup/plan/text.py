# SPDX-License-Identifier: BSD-3-Clause
"""A plan as text for people."""

from __future__ import annotations

import posixpath
import textwrap
from collections.abc import Iterator

from dpsup.plan.memory import MIB
from dpsup.plan.model import Plan
from dpsup.text import plural, ranges


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def format_plan(plan: Plan) -> str:
    """The plan for a terminal of 80 columns."""
    lines: list[str] = []
    for label, text in _paragraphs(plan):
        lines += textwrap.wrap(
            text,
            80,
            initial_indent=f"  {label:<11} " if label else "",
            subsequent_indent=" " * 14,
        )
    return "\n".join(lines)


def _paragraphs(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "", f"{plan.name}, generation {plan.generation}"
    yield "files", f"{plan.topology_file}, runtime {plan.runtime_dir}"
    yield "supervisor", f"CPU {ranges(plan.supervisor_cores)}, with the wardens"
    nodes = {one.numa for some in (plan.io, plan.pools, plan.groups) for one in some} != {0}
    for io in plan.io:
        where = f"CPU {io.core} of NUMA node {io.numa}" if nodes else f"CPU {io.core}"
        yield f"io {io.index}", f"{where}, a queue of each port, burst {io.burst}, {io.idle}"
    for pool in plan.pools:
        yield (
            "mempool",
            f"{pool.name}: {pool.mbufs} mbufs of {pool.data_room} bytes, cache {pool.cache}, "
            f"NUMA node {pool.numa}"
            + ("" if pool.apart else ", bytes among headers: its driver wants them there"),
        )
    queues = len(plan.io)
    for port in plan.ports:
        feeds = f"feeds {plan.groups[port.group].name}" if port.group >= 0 else "feeds no group"
        yield (
            "port",
            f"{port.name}: {port.device}, {feeds}, {plural(queues, 'queue')} each way "
            f"(rx {port.rx_desc}, tx {port.tx_desc}), mtu {port.mtu}",
        )
    for group in plan.groups:
        plugin = posixpath.basename(group.plugin)
        slots = ranges(range(group.first_slot, group.first_slot + group.max))
        slot_word = "slot" if group.max == 1 else "slots"
        yield (
            "group",
            f"{group.name}: {plugin}, {plural(group.count, 'worker')} of {group.max}, "
            f"{slot_word} {slots}, "
            f"CPU {ranges(sorted(set(group.cores)))}, "
            f"rings of {group.ring} ({plural(queues * group.max, 'lane')})"
            + (f" on NUMA node {group.numa}" if nodes else "")
            + (f", state of {plural(group.state, 'byte')} a worker" if group.state else "")
            + (f", {plural(group.bucket_state, 'byte')} a bucket" if group.bucket_state else "")
            + (f", down: {group.on_down}" if group.on_down != "hold" else ""),
        )
    for chain in plan.chains:
        yield "chain", f"{chain.name}: {' - '.join(chain.path)}, both ways; down: {chain.on_down}"
    memory = plan.memory
    yield (
        "memory",
        f"{_mib(memory.total)}: mempools {_mib(memory.pools)}, slots {_mib(memory.slots)}, "
        f"reserve {_mib(memory.reserve)}",
    )
    yield (
        "hugepages",
        f"{memory.pages_needed} of {_mib(memory.page_size)} needed, {memory.pages_free} free"
        + (f", in {plan.hugepage_dir}" if plan.hugepage_dir else ", no hugetlbfs mounted"),
    )
