# SPDX-License-Identifier: BSD-3-Clause
"""What can go wrong, as messages for users.

Every error that reaches a user is a `DpsupError`: what is wrong, why it matters, what to do, a code
of the table in `codes` for `dpsup explain`, and the exit code that scripts rely on. A topology's
problems are collected as `Problem`s, so that one run of `dpsup check` shows all of them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Exit(enum.IntEnum):
    """Exit codes of every dpsup command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    NO_SUCH_OBJECT = 4
    DEGRADED = 5
    HOST = 6
    NOT_PERMITTED = 7
    TIMED_OUT = 8
    BAD_TOPOLOGY = 78


class DpsupError(Exception):
    """An error for users: `message` says what, `why` the consequence, `help` what to do; `code` is
    its entry in `error_codes.CODES`, each class having a general one."""

    exit_code = Exit.FAILED
    code = "E0005"

    def __init__(self, message: str, *, code: str = "", why: str = "", help: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.why = why
        self.help = help

    def __str__(self) -> str:
        lines = [self.message]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


class UsageError(DpsupError):
    exit_code = Exit.USAGE
    code = "E0002"


class NotRunning(DpsupError):
    exit_code = Exit.NOT_RUNNING
    code = "E0003"


class Unsupervised(DpsupError):
    """The instance forwards, but has no supervisor that could be asked."""

    code = "E0607"


class NoSuchObject(DpsupError):
    exit_code = Exit.NO_SUCH_OBJECT
    code = "E0004"


class HostError(DpsupError):
    """The machine lacks something: hugepages, cores, kernel features."""

    exit_code = Exit.HOST
    code = "E0006"


class NotPermitted(DpsupError):
    exit_code = Exit.NOT_PERMITTED
    code = "E0007"


class TimedOut(DpsupError):
    exit_code = Exit.TIMED_OUT
    code = "E0008"


class ShimError(DpsupError):
    """A call into the C shim returned -errno."""

    code = "E0009"

    def __init__(
        self, call: str, errno_: int, message: str, *, why: str = "", help: str = ""
    ) -> None:
        super().__init__(message, why=why, help=help)
        self.call = call
        self.errno = errno_


class Severity(enum.StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about a topology file.

    `line` is 1-based, 0 where no line of the file can be named; `source` is that line's text.
    `exit_code` tells a topology's own fault (78) from what the host lacks (6) or forbids (7).
    """

    message: str
    file: str = ""
    line: int = 0
    source: str = ""
    why: str = ""
    help: str = ""
    severity: Severity = Severity.ERROR
    exit_code: Exit = Exit.BAD_TOPOLOGY
    code: str = "E0107"

    @property
    def in_one_line(self) -> str:
        """For commands that are about something else: `dpsup check` shows the rest."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        more = f"`dpsup check {self.file}`" if self.file else f"`dpsup explain {self.code}`"
        at = f" ({where})" if where else ""
        return f"{self.severity}[{self.code}]: {self.message}{at}: {more}"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        out = [f"{self.severity}[{self.code}]: {self.message}"]
        if where:
            out.append(f"  --> {where}")
        if self.source:
            gutter = str(self.line)
            out.append(f"  {gutter} | {self.source}")
        if self.why:
            out.append(f"  why:  {self.why}")
        if self.help:
            out.append(f"  help: {self.help}")
        return "\n".join(out)


class TopologyError(DpsupError):
    """A topology that cannot be started, with all its problems."""

    exit_code = Exit.BAD_TOPOLOGY

    def __init__(self, problems: list[Problem]) -> None:
        errors = [p for p in problems if p.severity is Severity.ERROR]
        super().__init__("\n\n".join(str(p) for p in problems))
        self.problems, self.errors = problems, errors
        self.code = (errors or problems)[0].code
        # The file's own faults come first: a host is judged by what a sound file asks for.
        codes = {p.exit_code for p in errors}
        for code in (Exit.BAD_TOPOLOGY, Exit.NOT_PERMITTED, Exit.HOST):
            if code in codes:
                self.exit_code = code
                break

    def __str__(self) -> str:
        return self.message
