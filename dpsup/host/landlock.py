# SPDX-License-Identifier: BSD-3-Clause
"""Does this kernel have Landlock, which closes files off for processes that ask for it?"""

from __future__ import annotations

from dpsup._libraries import ffi

_CREATE_RULESET = 444  # the same for all processors
_VERSION = 1


def version() -> int:
    """The version of its interface; 0: the kernel has none, or it is turned off."""
    return max(0, int(ffi.dlopen(None).syscall(_CREATE_RULESET, 0, 0, _VERSION)))
