# SPDX-License-Identifier: BSD-3-Clause
"""A file that says what a table holds, as it is read, and whether it has changed since."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time

from dpsup.errors import DpsupError, Problem, TopologyError

Stamp = tuple[int, ...]
SETTLED_NS = 2_000_000_000  # a file that changed later may change again without another time


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_text(path: str) -> tuple[str, Stamp]:
    """A file's text, and what is other once the file is. No other process answers requests
    meanwhile, so it does not wait for the other end of a FIFO. Raises: OSError,
    UnicodeDecodeError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="utf-8") as f:  # noqa: PTH123
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        text = f.read()
        found = os.fstat(fd)
    late = max(found.st_mtime_ns, found.st_ctime_ns) > time.time_ns() - SETTLED_NS
    return text, () if late else stamp_of(found)


def stamp_of(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def refusal(problems: list[Problem]) -> DpsupError:
    """Over the bus goes one text."""
    if len(problems) == 1:
        one = problems[0]
        where = f"{one.file}:{one.line}: " if one.file and one.line else ""
        where = where or (f"line {one.line}: " if one.line > 1 else "")
        error = DpsupError(f"{where}{one.message}", code=one.code, why=one.why, help=one.help)
    else:
        error = DpsupError(str(TopologyError(problems)), code=problems[0].code)
    return error
