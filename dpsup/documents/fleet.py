# SPDX-License-Identifier: BSD-3-Clause
"""The document of a command for several hosts."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from dpsup.documents.status import Head


class HostAnswer(TypedDict):
    host: Annotated[str, "its name, as after -n"]
    exit_code: Annotated[int, "what the command would have ended with for this host alone"]
    code: Annotated[str, "the error's code, or empty"]
    error: Annotated[str, "the error in words, or empty"]
    seconds: Annotated[float, "how long the answer took"]
    document: Annotated[Any, "what the command prints for this host alone, null: an error"]


class Fleet(Head):
    hosts: list[HostAnswer]
