# SPDX-License-Identifier: BSD-3-Clause
"""What the system says of a user: names and groups. A directory service may be asked, which takes
its time, so that an answer holds for some seconds."""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Iterable

from dpsup.bus.roles import GROUP, User

HOLDS_S = 5.0
KNOWN_MOST = 256


class Users:
    """Local users, by the numbers that the kernel knows of a peer."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[float, User]] = {}

    def user(self, uid: int, gid: int) -> User:
        now = time.monotonic()
        at, found = self._known.get((uid, gid), (0.0, None))
        if found is None or now - at > HOLDS_S:
            found = _look_up(uid, gid)
            self._known.pop((uid, gid), None)
            self._known[uid, gid] = now, found
            while len(self._known) > KNOWN_MOST:
                del self._known[next(iter(self._known))]
        return found


def _look_up(uid: int, gid: int) -> User:
    """A user that the system does not know has its number, and the group of the process."""
    names, numbers = {str(uid)}, {gid}
    try:
        known = pwd.getpwuid(uid)
        names.add(known.pw_name)
        numbers |= set(os.getgrouplist(known.pw_name, known.pw_gid))
    except (KeyError, OSError):
        pass
    groups = {str(number) for number in numbers}
    for number in numbers:
        try:
            groups.add(grp.getgrgid(number).gr_name)
        except (KeyError, OSError):
            continue
    return User(frozenset(names), frozenset(groups))


def numbers(names: Iterable[str]) -> tuple[set[int], set[int], list[str]]:
    """The numbers of users and of groups that names like "alice" and "@netops" mean, and the names
    that the system does not know."""
    uids: set[int] = set()
    gids: set[int] = set()
    unknown = []
    for name in names:
        word = name.removeprefix(GROUP)
        is_group = name != word
        try:
            if word.isdecimal():
                number = int(word)
            else:
                number = grp.getgrnam(word).gr_gid if is_group else pwd.getpwnam(word).pw_uid
        except (KeyError, OSError):
            unknown.append(name)
            continue
        (gids if is_group else uids).add(number)
    return uids, gids, unknown
