# SPDX-License-Identifier: BSD-3-Clause
"""Give capabilities up for good: of this process, and all that it starts."""

from __future__ import annotations

from dpsup._libraries import ffi

# <linux/capability.h>; the numbers of prctl(2)'s options.
_MOST = 64
_VERSION_3 = 0x20080522
_BOUNDING_DROP, _NO_NEW_PRIVILEGES = 24, 38
_AMBIENT, _AMBIENT_LOWER = 47, 3


def keep(wanted: int) -> None:
    """Give up all capabilities but these, bit by number, and whatever exec could bring. Before the
    first thread: a thread gives up its own alone. What this process has not, it does not get."""
    system = ffi.dlopen(None)
    system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for number in range(_MOST):
        if not wanted >> number & 1:
            # The bounding set first: to change it is a right too.
            system.prctl(_BOUNDING_DROP, number, 0, 0, 0)
            system.prctl(_AMBIENT, _AMBIENT_LOWER, number, 0, 0)
    head = ffi.new("struct capability_head *", {"version": _VERSION_3})
    sets = ffi.new("struct capability_set[2]")
    if system.capget(head, sets):
        return
    for i in range(2):
        part = wanted >> 32 * i & 0xFFFFFFFF
        sets[i].effective &= part
        sets[i].permitted &= part
        sets[i].inheritable &= part
    system.capset(head, sets)
