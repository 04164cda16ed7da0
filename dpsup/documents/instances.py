# SPDX-License-Identifier: BSD-3-Clause
"""The documents of `dpsup list` and `dpsup health`."""

from __future__ import annotations

from typing import Annotated, TypedDict

from dpsup.documents.status import Head


class Listed(TypedDict):
    name: Annotated[str, "the instance"]
    state: Annotated[
        str,
        "starting, running, degraded, stopping, as in Status; `headless`: it forwards without a"
        " supervisor; `silent`: its supervisor lives and does not answer; `dead`: only files are"
        " left; `unknown`: this user may not look",
    ]
    why: Annotated[str, "what else is known of that, in words, or empty"]
    generation: Annotated[int | None, "starts of the primary so far, null: not known"]
    supervisor: Annotated[int | None, "its pid, null: none lives, or it is not known"]
    primary: Annotated[int | None, "its pid, null: none lives, or it is not known"]
    up_s: Annotated[
        float | None, "seconds since the supervisor started, of a headless one the primary"
    ]
    ports: Annotated[int | None, "its ports, null: not known"]
    ports_up: Annotated[int | None, "those that are there and have a link"]
    workers: Annotated[int | None, "workers wanted in all groups, null: not known"]
    workers_ready: Annotated[int | None, "workers that run"]
    user: Annotated[str, "whose it is: the owner of its directory"]
    directory: Annotated[str, "its runtime directory"]
    named: Annotated[
        bool, "whether `-n NAME` means this one: not where another directory has the name too"
    ]
    topology_file: Annotated[str, "the file that it was started with, or empty"]


class Skipped(TypedDict):
    directory: Annotated[str, "a directory of instances that was not looked at"]
    why: Annotated[str, "why it was not looked at"]


class Instances(Head):
    instances: list[Listed]
    skipped: list[Skipped]


class Health(Head):
    name: Annotated[str, "the instance, or empty: none was found, or several"]
    state: Annotated[
        str,
        "as in Status; `headless`: it forwards without a supervisor; `silent`: its supervisor lives"
        " and does not answer; `absent`: there is none",
    ]
    live: Annotated[bool, "its supervisor answers, or it forwards without one"]
    ready: Annotated[bool, "packets come in, and each group has a worker that is ready"]
    started: Annotated[bool, "its start is over"]
    why: Annotated[str, "why it is not ready, or empty"]
