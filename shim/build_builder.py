# SPDX-License-Identifier: BSD-3-Clause
"""Emit the C source of `dpsup._builder`: live tables as their builder writes them."""

import sys
from pathlib import Path

import cffi

here = Path(__file__).parent
ffi = cffi.FFI()
ffi.cdef((here / "abi.h").read_text())
ffi.cdef((here.parent / "workers" / "builder.h").read_text())
ffi.set_source("dpsup._builder", '#include "dpsup.h"\n#include "builder.h"\n')
ffi.emit_c_code(sys.argv[1])
