# SPDX-License-Identifier: BSD-3-Clause
"""What a check found."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dpsup.doctor import CHECKS
from dpsup.doctor.facts import Needs
from dpsup.errors import Exit, Severity
from dpsup.host.tree import Machine


class Level(enum.StrEnum):
    OK = "ok"
    INFO = "info"  # worth knowing, nothing to fix
    WARN = "warn"  # it runs, but not as well as it could
    ERROR = "error"  # it will not run
    SKIP = "skip"  # cannot be judged here; the message gives the reason


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` are commands; `manual` is what no command does. With `careful` the commands may cut a
    user's connection or remove wanted files: the script has them commented out."""

    id: str
    level: Level
    message: str
    read: str = ""
    why: str = ""
    fix: tuple[str, ...] = ()
    manual: str = ""
    careful: bool = False
    exit_code: Exit = Exit.HOST

    @property
    def title(self) -> str:
        return CHECKS[self.id].title


Check = Callable[[Machine, Needs | None], Iterator[Finding]]

NO_FILE = "depends on the topology: dpsup doctor FILE"


def ok(id: str, message: str, read: str = "") -> Finding:
    return Finding(id, Level.OK, message, read)


def skip(id: str, reason: str) -> Finding:
    return Finding(id, Level.SKIP, reason)


def info(id: str, message: str, read: str = "", manual: str = "") -> Finding:
    return Finding(id, Level.INFO, message, read, CHECKS[id].why, (), manual)


def warn(
    id: str, message: str, read: str, *fix: str, manual: str = "", careful: bool = False
) -> Finding:
    return Finding(id, Level.WARN, message, read, CHECKS[id].why, fix, manual, careful)


def error(
    id: str, message: str, read: str, *fix: str, manual: str = "", careful: bool = False
) -> Finding:
    return Finding(id, Level.ERROR, message, read, CHECKS[id].why, fix, manual, careful)


def checked(id: str, needs: Needs | None, *codes: str) -> Iterator[Finding]:
    """The problems that `dpsup check` found with these codes, as findings of a check."""
    for p in needs.problems if needs else ():
        if p.code in codes:
            level = Level.ERROR if p.severity is Severity.ERROR else Level.WARN
            where = f"{p.file}:{p.line}: {p.source}"
            yield Finding(id, level, p.message, where, p.why, manual=p.help, exit_code=p.exit_code)
