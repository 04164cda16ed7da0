# SPDX-License-Identifier: BSD-3-Clause
"""Emit the C source of `dpsup._shim`: the two headers as they stand are the binding."""

import sys
from pathlib import Path

import cffi

here = Path(__file__).parent
ffi = cffi.FFI()
for header in ("abi.h", "shim.h"):
    ffi.cdef((here / header).read_text())
ffi.set_source("dpsup._shim", '#include "dpsup.h"\n#include "shim.h"\n')
ffi.emit_c_code(sys.argv[1])
