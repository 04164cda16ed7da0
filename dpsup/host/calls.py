# SPDX-License-Identifier: BSD-3-Clause
"""Names of this machine's system calls, of libseccomp's."""

from __future__ import annotations

from dpsup._libraries import ffi

_LIBRARY = "libseccomp.so.2"


def call_name(number: int) -> str:
    """ "socket"; "syscall 999" where it has no name, or the library is missing."""
    try:
        library = ffi.dlopen(_LIBRARY)
    except OSError:
        return f"syscall {number}"
    found = library.seccomp_syscall_resolve_num_arch(library.seccomp_arch_native(), number)
    if found == ffi.NULL:
        return f"syscall {number}"
    name = str(ffi.string(found).decode())
    ffi.dlopen(None).free(found)
    return name
