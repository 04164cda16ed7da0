# SPDX-License-Identifier: BSD-3-Clause
"""Reads the files that a person names to a command: captures, reports."""

from __future__ import annotations

import errno
import os
import stat


def read_input(path: str) -> bytes:
    """All of it. A pipe may be meant (`<(zcat in.pcap.gz)`); a device may have no end. Raises:
    OSError."""
    with open(path, "rb") as file:  # noqa: PTH123
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "it is a device")
        return file.read()
