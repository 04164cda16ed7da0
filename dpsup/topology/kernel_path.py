# SPDX-License-Identifier: BSD-3-Clause
"""The value of a port's `kernel`: its way to the kernel."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from dpsup import limits
from dpsup.text import show, suggest
from dpsup.topology.typed import AfterValidator, BeforeValidator, invalid, written_either


class KernelPath(NamedTuple):
    """The way to the kernel that `kernel` asks for."""

    tap: str = ""  # the TAP's name; "": the port's
    netns: str = ""  # the network namespace that the TAP is in, a name or a path; "": dpsup's own
    rate: int = 20_000  # packets per second that each io core hands to the kernel


_RATE_MOST = 10_000_000


def _kernel(value: object) -> object:
    """ "tap" -> KernelPath(); {"tap": "wan0"} -> KernelPath("wan0")"""
    if value == "tap":
        return KernelPath()
    if not isinstance(value, dict):
        raise invalid(
            f'`kernel` is a table or "tap", not {show(value)}',
            help='write kernel = "tap", or kernel = { tap = "wan0", netns = "edge", rate = 20000 }',
        )
    for key, word in value.items():
        if key not in KernelPath._fields:
            close = suggest(key, KernelPath._fields)
            raise invalid(
                f"`kernel` has no key `{key}`",
                help=f"did you mean `{close}`?" if close else "it has tap, netns and rate",
                path=(key,),
            )
        if key == "rate" and (type(word) is not int or not 0 < word <= _RATE_MOST):
            raise invalid(
                f"`rate` is a number from 1 to {_RATE_MOST}, not {show(word)}",
                why="it is the packets per second that each io core hands to the kernel",
                path=(key,),
            )
        if key == "tap" and (fault := interface_fault(word)):
            raise invalid(f"{show(word)} cannot be a TAP's name: {fault}", path=(key,))
        if key == "netns" and not _is_namespace(word):
            raise invalid(
                f"{show(word)} cannot be a network namespace",
                help='write its name, as `ip netns` has it, or its path: netns = "edge"',
                path=(key,),
            )
    return KernelPath(**value)


def interface_fault(name: object) -> str:
    """Why the kernel takes that as no interface's name; "": it does."""
    if not isinstance(name, str) or not name:
        return "it is a text"
    if len(name.encode()) > limits.INTERFACE_NAME:
        return f"the kernel's names have at most {limits.INTERFACE_NAME} bytes"
    if name in (".", "..") or not name.isprintable() or any(c in "/:% " for c in name):
        return "the kernel's names have no slash, colon, percent sign or space"
    return ""


def _is_namespace(name: object) -> bool:
    if not isinstance(name, str) or not name.isprintable():
        return False
    return name.startswith("/") or (name not in ("", ".", "..") and "/" not in name)


def _netns(value: str) -> str:
    if value and not _is_namespace(value):
        raise invalid(
            f"{show(value)} cannot be a network namespace",
            help='write its name, as `ip netns` has it, or its path: netns = "edge"',
        )
    return value


Netns = Annotated[str, AfterValidator(_netns)]  # "": dpsup's own
Kernel = Annotated[
    Any, BeforeValidator(_kernel),
    written_either({"const": "tap"}, {
        "type": "object", "additionalProperties": False, "properties": {
            "tap": {"type": "string", "maxLength": limits.INTERFACE_NAME},
            "netns": {"type": "string"},
            "rate": {"type": "integer", "minimum": 1, "maximum": _RATE_MOST},
        },
    }),
]  # fmt: skip
