# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup where`: brings together a flow, the io cores' hash function, and the maps of a running
instance, or a topology file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

from dpsup.bus.client import Client
from dpsup.errors import DpsupError
from dpsup.instance import client
from dpsup.instance import where as composed
from dpsup.instance.runtime_dir import PRIMARY
from dpsup.packets.flow import parse
from dpsup.primary.flow_hash import flow_hash

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.counters import PortInfo
    from dpsup.documents.plan import Plan
    from dpsup.documents.where import Where
    from dpsup.errors import Problem


def running(name: str | None, flow: str, port: str) -> Where:
    """The answer for a running instance, with or without a supervisor. Raises: DpsupError."""
    parse(flow)  # what is wrong with it is said first
    with client.connect(name) as instance:
        doc = instance.status()
        if not doc["ports"]:
            raise DpsupError(
                "no primary is running yet", code="E0705", help="`dpsup status` shows the state"
            )
        plan = client.read_plan(instance.runtime)
        plan["generation"] = doc["generation"]
        where = instance.runtime
    primary = Client(where.file(PRIMARY), lambda: where.name in client.running())
    try:
        maps = [
            list(bytes.fromhex(primary.ask("map_read", group=g)))
            for g in range(len(plan["groups"]))
        ]
        info: list[PortInfo] = primary.ask("hello")["ports"]
    finally:
        primary.close()
    states = {w["id"]: w["state"] for g in doc["groups"] for w in g["workers"]}
    return composed.where(flow, plan, flow_hash, port=port, maps=maps, info=info, states=states)


def of_file(flow: str, file: str, port: str) -> tuple[Where, list[Problem]]:
    """As a start of that file would have it, and what is to be warned of. Raises: DpsupError."""
    from dpsup.check.topology import prepare

    parse(flow)
    _, plan, problems = prepare(file)
    document = cast("Plan", dataclasses.asdict(plan))
    return composed.where(flow, document, flow_hash, port=port), problems
