# SPDX-License-Identifier: BSD-3-Clause
"""What a topology needs from a machine."""

from __future__ import annotations

from dataclasses import dataclass

from dpsup.errors import Exit, Problem
from dpsup.host.tree import Machine
from dpsup.plan.memory import memory_nodes
from dpsup.plan.place import make_plan
from dpsup.topology.model import Topology


@dataclass(frozen=True, slots=True)
class Needs:
    """What a topology needs from a machine."""

    topology: Topology
    io: frozenset[int]  # CPUs
    workers: frozenset[int]
    supervisor: frozenset[int]
    page_size: int  # bytes
    pages: int
    by_node: dict[int, int]  # node: bytes
    problems: tuple[Problem, ...]  # those that `check` finds in topology and machine together

    @property
    def data(self) -> frozenset[int]:
        """The CPUs that move packets."""
        return self.io | self.workers

    @property
    def devices(self) -> list[str]:
        """Addresses of the PCI ports."""
        return [port.device for port in self.topology.ports if port.pci]


def needs_of(topology: Topology, machine: Machine, problems: list[Problem]) -> Needs:
    plan = make_plan(topology, machine.host)
    return Needs(
        topology=topology,
        io=frozenset(io.core for io in plan.io),
        workers=frozenset(c for group in plan.groups for c in group.cores[: group.count]),
        supervisor=frozenset(plan.supervisor_cores),
        page_size=plan.memory.page_size,
        pages=plan.memory.pages_needed,
        by_node=memory_nodes(topology, machine.host),
        problems=tuple(problems),
    )


def of_the_file(problem: Problem) -> bool:
    return problem.exit_code is Exit.BAD_TOPOLOGY
