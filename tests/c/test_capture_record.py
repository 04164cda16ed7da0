# SPDX-License-Identifier: BSD-3-Clause
"""What C and Python must agree on for captures and measurements."""

from __future__ import annotations

import pytest

from dpsup._shim import ffi, lib
from dpsup.inspect import capture, perf_report


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
    kinds = (lib.DPS_CAPTURE_RX, lib.DPS_CAPTURE_TX, lib.DPS_CAPTURE_LENT, lib.DPS_CAPTURE_BACK)
    assert kinds == (capture.RX, capture.TX, capture.LENT, capture.BACK)
    verdicts = (lib.DPS_V_DROP, lib.DPS_V_OUT, lib.DPS_V_GROUP, lib.DPS_V_QUARANTINE,
                lib.DPS_V_REQUEUE)  # fmt: skip
    assert verdicts == (capture._DROP, capture._OUT, capture._GROUP, capture._QUARANTINE,
                        capture._REQUEUE)  # fmt: skip


@pytest.mark.parametrize("power", range(34))
def test_classes_are_those_of_the_header(power: int) -> None:
    for value in {(1 << power) + d for d in (-1, 0, 1, 1 << power >> 1)} - {-1}:
        index = lib.dps_class_of(value)
        if index < lib.DPS_CLASSES - 1:
            assert perf_report.lowest(index) <= value <= perf_report.highest(index)
    assert lib.dps_class_of((1 << 64) - 1) == lib.DPS_CLASSES - 1
