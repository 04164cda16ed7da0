# SPDX-License-Identifier: BSD-3-Clause
"""Where the packets of a flow go: bucket, io core, group, worker, from the plan and the maps. Pure;
the caller brings the hash function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from dpsup._abi import DPS_BUCKETS, DPS_NO_SLOT
from dpsup.errors import NoSuchObject, UsageError
from dpsup.instance.status import API
from dpsup.packets import tunnels
from dpsup.packets.flow import SCTP, TCP, UDP, WITH_PORTS, Flow, frame, parse
from dpsup.text import listing, suggest

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.counters import PortInfo
    from dpsup.documents.plan import Group, Plan, Port
    from dpsup.documents.where import Arrival, Stop, Where

Hash = Callable[[str, list[str], bytes], int]
_IN_UDP = {6081: "geneve", 2152: "gtpu"}  # by port; those of VXLAN are the topology's
_IN_IP = {47: "gre", 4: "ipip", 41: "ipip"}  # by protocol
# Of RTE_ETH_RSS_*: what a NIC hashes with ports, by version of IP and protocol.
_NIC = {
    (4, TCP): 1 << 4, (4, UDP): 1 << 5, (4, SCTP): 1 << 6,
    (6, TCP): 1 << 10, (6, UDP): 1 << 11, (6, SCTP): 1 << 12,
}  # fmt: skip


def where(
    text: str,
    plan: Plan,
    hash: Hash,
    *,
    port: str = "",
    maps: list[list[int]] | None = None,
    info: list[PortInfo] | None = None,
    states: dict[str, str] | None = None,
) -> Where:
    """`maps` by group, `info` and `states` of a running instance; without, of a topology file.
    Raises: UsageError, NoSuchObject."""
    flow = parse(text)
    ports = [p for p in plan["ports"] if p["group"] >= 0]
    if port:
        ports = [p for p in ports if p["name"] == port] or [_no_port(plan, port)]
    if not ports:
        raise UsageError("no port feeds a group: no packet is steered", code="E0761")
    fields = ports[0]["rss_fields"]  # `check` demands the same of all ports
    flow, notes = _complete(flow, fields)
    found = hash(ports[0]["rss_key"], fields, frame(flow))
    known = {one["name"]: one for one in info or []}
    paths = _Paths(plan, maps, states or {}, found % DPS_BUCKETS)
    arrivals: list[Arrival] = []
    for p in ports:
        one = known.get(p["name"])
        arrivals.append(_arrival(p, plan, one, flow, found))
        arrivals[-1]["path"] = paths.of(plan["ports"].index(p))
        note = _doubt(one, flow, fields)
        notes += [note] if note else []
    if maps is None and any(g["count"] != 1 for g in plan["groups"]):
        notes.append(
            "a file does not tell which worker of several has a bucket: that depends on the order "
            "in which they get ready, and on what happens later"
        )
    return {
        "apiVersion": API,
        "kind": "Where",
        "name": plan["name"],
        "flow": str(flow),
        "source": "file" if maps is None else "running",
        "generation": None if maps is None else plan["generation"],
        "hash": found,
        "bucket": found % DPS_BUCKETS,
        "by": _by(flow, fields),
        "notes": notes,
        "arrivals": arrivals,
    }


def _no_port(plan: Plan, port: str) -> Port:
    names = [p["name"] for p in plan["ports"]]
    if port in names:
        raise UsageError(
            f'port "{port}" feeds no group: packets that arrive there are dropped (no_group)',
            code="E0761",
            help="`dpsup plan FILE` shows what each port feeds",
        )
    close = suggest(port, names)
    raise NoSuchObject(
        f'no port "{port}"',
        code="E0762",
        help=f'did you mean "{close}"?' if close else f"there are: {listing(names)}",
    )


def _with_ports(flow: Flow, fields: list[str]) -> bool:
    """Do its ports count?"""
    name = WITH_PORTS.get(flow.protocol) if flow.protocol is not None else None
    return flow.version > 0 and not flow.fragment and name in fields


def _by(flow: Flow, fields: list[str]) -> str:
    if not flow.version:
        return "MAC addresses" if not flow.type else "MAC addresses and EtherType"
    return "addresses and ports" if _with_ports(flow, fields) else "addresses"


def _complete(flow: Flow, fields: list[str]) -> tuple[Flow, list[str]]:
    """With a protocol, if it matters; and what is to be said of it. Raises: UsageError where its
    hash depends on what was not said."""
    version = {4: "ipv4", 6: "ipv6"}.get(flow.version, "")
    if version and version not in fields:
        raise UsageError(
            f"this topology does not hash {version} (rss.fields): its packets are steered by MAC "
            "addresses",
            code="E0761",
            help=f'ask with those: "02:00:00:00:00:01 > 02:00:00:00:00:02 {version}"',
        )
    kind = {0x0800: "ipv4", 0x86DD: "ipv6"}.get(flow.type or 0, "")
    if not version:
        if kind in fields:
            raise UsageError(
                f"{kind} packets are steered by their addresses, not by MAC addresses",
                code="E0761",
                help="ask with their IP addresses",
            )
        return flow, []
    if flow.ports is not None and flow.protocol is None and not flow.fragment:
        hashed = [n for n, name in WITH_PORTS.items() if name in fields]
        if hashed and not {TCP, UDP} <= set(hashed):
            raise UsageError(
                "which protocol? This topology does not hash the ports of all of tcp and udp",
                code="E0761",
                help="write tcp, udp or sctp behind it",
            )
        flow = replace(flow, protocol=TCP)
        return flow, ["tcp was assumed; udp has the same bucket"]
    if flow.ports is None and _with_ports(flow, fields):
        name = WITH_PORTS[flow.protocol or 0]
        raise UsageError(
            f"the ports of {name} are hashed, and none are given",
            code="E0761",
            help=f'write both ends with a port, or, of fragments, "... {name} fragment"',
        )
    notes = []
    if flow.ports is None and flow.protocol is None:
        notes.append("no protocol is given: packets without ports, such as ICMP and fragments")
    if flow.fragment and "fragments" in fields:
        notes.append(
            "fragments are tracked (rss.fragments): one of a protocol with ports goes where its"
            " flow goes, once its first one came; this is where it goes before"
        )
    elif flow.fragment and flow.ports is not None:
        notes.append("the ports do not count: a fragment is steered by its addresses")
    tunnel = _IN_IP.get(flow.protocol or 0)
    if flow.ports and flow.protocol == UDP:
        to = flow.ports[1]
        tunnel = tunnels.vxlan(to) if to in tunnels.vxlan_ports(fields) else _IN_UDP.get(to)
    if tunnel in fields and not flow.fragment:
        notes.append(
            f"packets of {tunnel} are steered by their inner headers (rss.inner): ask for the flow "
            "inside; this is where one goes whose inside cannot be read"
        )
    return flow, notes


def _arrival(port: Port, plan: Plan, info: PortInfo | None, flow: Flow, hash: int) -> Arrival:
    """Without its path."""
    n_io = len(plan["io"])
    by_nic = info is not None and bool(info["hw_rss"]) and flow.version > 0
    queue = None
    if info is not None:
        if info["rx_queues"] == 1:
            queue = 0
        elif by_nic and info["reta"]:
            queue = info["reta"][hash % len(info["reta"])]
    io = None if queue is None and n_io > 1 else (queue or 0) % n_io
    return {
        "port": port["name"],
        "hashed_by": "nic" if by_nic else "software",
        "queue": queue,
        "io": None if io is None else f"io/{io}",
        "io_core": None if io is None else plan["io"][io]["core"],
        "path": [],
    }


def _doubt(info: PortInfo | None, flow: Flow, fields: list[str]) -> str:
    """Why a NIC may hash otherwise than dpsup."""
    if info is None or not info["hw_rss"] or not _with_ports(flow, fields):
        return ""
    bit = _NIC[flow.version, flow.protocol or 0]
    if info["rss_offloads"] & bit:
        return ""
    name = WITH_PORTS[flow.protocol or 0]
    return (
        f"the NIC of port {info['name']} does not say that it hashes the ports of {name} over "
        f"IPv{flow.version}: it may hash the addresses alone, which is another bucket"
    )


class _Paths:
    def __init__(
        self, plan: Plan, maps: list[list[int]] | None, states: dict[str, str], bucket: int
    ) -> None:
        self._plan, self._maps, self._states, self._bucket = plan, maps, states, bucket

    def of(self, port: int) -> list[Stop]:
        """From that port on. Behind a plugin that decides, the groups that it may send to."""
        at = self._plan["ports"][port]["group"]
        found: list[Stop] = []
        seen: set[int] = set()
        while at not in seen:
            seen.add(at)
            group = self._plan["groups"][at]
            kind, index = self._next(group, port)
            named = self._plan["groups" if kind == "group" else "ports"] if kind else []
            name = named[index]["name"] if kind else ""
            found.append(self._stop(at, name, certain=True))
            if kind != "group":
                break
            at = index
        if not found[-1]["then"]:
            others = [g for g in self._plan["groups"][at]["reach"] if g not in seen]
            found += [self._stop(g, "", certain=False) for g in others]
        return found

    @staticmethod
    def _next(group: Group, port: int) -> tuple[str, int]:
        hops = group["next"]
        kind, index = hops[port] if port < len(hops) else ("", -1)
        return kind, index

    def _stop(self, index: int, then: str, *, certain: bool) -> Stop:
        group: Group = self._plan["groups"][index]
        member = None
        if self._maps is not None:
            member = self._maps[index][self._bucket]
            member = None if member == DPS_NO_SLOT else member
        elif group["count"] == 1:
            member = 0
        worker = None if member is None else f"{group['name']}/{member}"
        return {
            "group": group["name"],
            "certain": certain,
            "worker": worker,
            "state": self._states.get(worker or ""),
            "core": None if member is None else group["cores"][member],
            "then": then,
        }
