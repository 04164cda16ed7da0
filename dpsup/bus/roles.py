# SPDX-License-Identifier: BSD-3-Clause
"""What a client of the gate may do: the role of a local user, by user and group, or of a key. Pure:
the names, and what the system says of a user, are given.

A name of a group is written "@netops". The role `admin` holds all that `read` holds.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from dpsup.errors import NotPermitted

READ, ADMIN = "read", "admin"
ROLES = (READ, ADMIN)
GROUP = "@"
# What useradd and groupadd accept at most; what NSS knows beyond is written by its number.
_NAME = re.compile(rf"{GROUP}?(?:[A-Za-z_][A-Za-z0-9_.-]{{0,31}}\$?|[0-9]{{1,10}})")
KEY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")


@dataclass(frozen=True, slots=True)
class User:
    """A local user: the name and number, and those of all groups."""

    names: frozenset[str]  # "alice", "1000"
    groups: frozenset[str]


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def role_of(user: User, admin: Collection[str], read: Collection[str]) -> str:
    """The role of a local user; "" for one that has none."""
    known = user.names | {GROUP + group for group in user.groups}
    if known & set(admin):
        return ADMIN
    return READ if known & set(read) else ""


def may(role: str, *, changes: bool) -> bool:
    """May this role order a verb, which changes the instance or does not?"""
    return role == ADMIN or (role == READ and not changes)


def demand(role: str, verb: str, *, changes: bool) -> None:
    """Raises: NotPermitted."""
    if not may(role, changes=changes):
        raise NotPermitted(
            f"`{verb}` needs the role admin, and yours is {role or 'none'}",
            code="E0470",
            why="the role read looks, and changes nothing",
            help="the owner of the instance gives roles: `admin` of [bus], `dpsup keys add`",
        )


def nothing(who: str, *, has_key: bool) -> NotPermitted:
    """The answer to a client that has no role, or none any more."""
    if has_key:
        return NotPermitted(
            "this key was revoked", code="E0471", help="`dpsup keys add` on the host makes one"
        )
    return NotPermitted(
        f"{who} has no role on this instance",
        code="E0470",
        why="its owner says which users may look and which may order",
        help='the owner writes the user, or a group as "@name", in `read` or `admin` of [bus]',
    )
