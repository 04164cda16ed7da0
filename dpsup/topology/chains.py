# SPDX-License-Identifier: BSD-3-Clause
"""Where packets go from group to group: chains, both ways. Pure.

The input port of a packet says which chain it is on, and in which direction; it stays with the
packet from group to group. So a group's next hop is a table by input port, which workers read
(`dps_next` of the plugin SDK) and which io cores follow while no worker of the group is up.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from dpsup.topology.model import Group, Topology

BUILT_IN_MAPS = ("forward", "macswap", "delay", "crash")


class Hop(NamedTuple):
    """Out of a port, or on to a group, by its index."""

    kind: str  # "port" | "group" | "": nowhere
    to: int = -1


NOWHERE = Hop("")


def inputs(topology: Topology) -> dict[str, tuple[str, ...]]:
    """By group: the ports that feed it, those at the ends of chains included."""
    given = {name for group in topology.workers for name in group.input or ()}
    fed = {group.name: group.input for group in topology.workers}
    for chain in topology.chains:
        if len(chain.path) < 3:
            continue
        for port, group in ((chain.path[0], chain.path[1]), (chain.path[-1], chain.path[-2])):
            if group in fed and port not in given and topology.port(port):
                given.add(port)
                fed[group] = (*(fed[group] or ()), port)
    if len(fed) == 1 and not topology.chains:
        only = next(iter(fed))
        if fed[only] is None:
            fed[only] = tuple(port.name for port in topology.ports)
    return {name: ports or () for name, ports in fed.items()}


def steps(path: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """(input port, group, what comes next) for both directions of a chain."""
    for way in (path, path[::-1]):
        for here, there in pairwise(way[1:]):
            yield way[0], here, there


def hops(topology: Topology) -> tuple[tuple[Hop, ...], ...]:
    """By group and input port: the next hop. Of a group on no chain: what its `map` says."""
    ports = {port.name: i for i, port in enumerate(topology.ports)}
    groups = {group.name: i for i, group in enumerate(topology.workers)}
    table = [[NOWHERE] * len(ports) for _ in groups]
    for i, group in enumerate(topology.workers):
        for source, target in mapped(group):
            if source in ports and target in ports:
                table[i][ports[source]] = Hop("port", ports[target])
    for chain in topology.chains:
        for source, here, there in steps(chain.path):
            last = there in (chain.path[0], chain.path[-1])
            hop = Hop("port", ports[there]) if last else Hop("group", groups[there])
            table[groups[here]][ports[source]] = hop
    return tuple(map(tuple, table))


def mapped(group: Group) -> Iterator[tuple[str, str]]:
    """The `map` of a built-in plugin: output port by input port."""
    if group.plugin in BUILT_IN_MAPS:
        for key, value in group.args:
            if key.startswith("map."):
                yield key.removeprefix("map."), value


def reach(topology: Topology, table: tuple[tuple[Hop, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """By group: the groups that its packets may come to, itself included. A plugin
    that the user wrote may send on to any."""
    n = len(table)
    anywhere = set(range(n))
    direct = [
        anywhere if topology.workers[i].is_file else {h.to for h in row if h.kind == "group"}
        for i, row in enumerate(table)
    ]
    found = []
    for i in range(n):
        seen, todo = {i}, [i]
        while todo:
            fresh = direct[todo.pop()] - seen
            seen |= fresh
            todo += fresh
        found.append(tuple(sorted(seen)))
    return tuple(found)


def on_down(topology: Topology, group: Group) -> str:
    """What becomes of a group's packets while none of its workers is up."""
    passing = (c.on_down for c in topology.chains if group.name in c.path[1:-1])
    return group.on_down or next(passing, "hold")
