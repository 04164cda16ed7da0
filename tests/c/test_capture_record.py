# SPDX-License-Identifier: BSD-3-Clause
"""What C and Python must agree on for captures and measurements."""

from __future__ import annotations

from dpsup._shim import ffi
from dpsup.inspect import capture


def test_a_record_is_read_as_it_is_written() -> None:
    names = [name for name, _ in ffi.typeof("struct dps_captured").fields]
    assert names == [
        "tsc", "size", "length", "captured", "index", "verdict", "what", "io", "port", "slot",
        "version", "bad",
    ]  # fmt: skip
    record = ffi.new("struct dps_captured *")
    for i, name in enumerate(names, 1):
        setattr(record, name, i)
    assert capture._RECORD.size == ffi.sizeof("struct dps_captured")
    assert capture._RECORD.unpack(bytes(ffi.buffer(record))) == tuple(range(1, 13))
