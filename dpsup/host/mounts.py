# SPDX-License-Identifier: BSD-3-Clause
"""Where this process finds hugetlbfs."""

from __future__ import annotations

from pathlib import Path


def hugetlbfs() -> list[Path]:
    mounts = []
    for line in Path("/proc/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "hugetlbfs":
            mounts.append(Path(fields[1]))
    return mounts
