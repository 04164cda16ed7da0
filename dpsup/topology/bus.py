# SPDX-License-Identifier: BSD-3-Clause
"""[bus]: where it listens, and which clients it lets in."""

from __future__ import annotations

import re
from typing import Annotated

from dpsup.bus.roles import is_name
from dpsup.text import show
from dpsup.topology.typed import AfterValidator, Field, Model, invalid
from dpsup.topology.values import ARRAY, AUTO

IPC = "ipc"  # no endpoint but the local sockets


def _endpoint(value: str) -> str:
    if value == IPC:
        return value
    scheme, _, rest = value.partition("://")
    host, _, port = rest.rpartition(":")
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 65535
    # A name would be looked up, and may be another's tomorrow.
    if scheme != "tcp" or not is_port or not re.fullmatch(r"[0-9.]{7,15}|\[[0-9A-Fa-f:.]+\]", host):
        raise invalid(
            f"{show(value)} is not an endpoint",
            why="it is the address and port of an interface, and the port after it is free too",
            help='write endpoint = "ipc", or "tcp://10.0.0.1:9470"',
        )
    return value


def _client(value: str) -> str:
    if not is_name(value):
        raise invalid(
            f"{show(value)} is not the name of a user or of a group",
            help='write "alice" for a user, "@netops" for a group',
        )
    return value


Endpoint = Annotated[str, AfterValidator(_endpoint)]
Clients = Annotated[tuple[Annotated[str, AfterValidator(_client)], ...], ARRAY]


class Bus(Model):
    endpoint: Endpoint = Field(
        IPC,
        description="where the bus listens beside the local sockets; of `tcp://` the next port has"
        " the events",
        examples=['"ipc" or "tcp://10.0.0.1:9470"'],
    )
    keys: str = Field(
        AUTO,
        description="the directory of the keys that `tcp://` accepts: `dpsup keys`",
        examples=['"auto"'],
        min_length=1,
    )
    admin: Clients = Field(
        (),
        description="the users and groups that may order what the owner may",
        examples=['["alice", "@netops"]'],
    )
    read: Clients = Field(
        (),
        description="the users and groups that may look, and change nothing",
        examples=['["bob", "@monitor"]'],
    )
