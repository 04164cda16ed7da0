# SPDX-License-Identifier: BSD-3-Clause
"""Runs the checks and formats their findings: as text, as JSON, as a script to review."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

from dpsup.doctor import CHECKS, cpus, devices, memory, system
from dpsup.doctor.facts import Needs, needs_of, of_the_file
from dpsup.doctor.finding import Check, Finding, Level
from dpsup.errors import Exit, Severity, TopologyError
from dpsup.host.tree import Machine

if TYPE_CHECKING:
    from dpsup.documents.printed import Doctor

MOST_FIXES = 6  # commands of one finding that the text shows

_FUNCTIONS: dict[str, Check] = {
    **memory.CHECKS, **cpus.CHECKS, **devices.CHECKS, **system.CHECKS,
}  # fmt: skip
# Problems of `check` that a check here reports too.
_TAKEN = {
    "E0201", "E0202", "E0203", "E0204", "E0207", "E0301", "E0302", "E0303", "E0304", "E0305",
    "E0306", "E0307", "E0308", "E0309", "E0401", "E0402", "E0406", "E0601", "E0602", "E0603",
}  # fmt: skip


def examine(file: str | None, machine: Machine) -> list[Finding]:
    """All findings, in the checks' order. Raises: TopologyError if the file is at fault."""
    needs = _needs(file, machine) if file else None
    return [finding for id in CHECKS for finding in _FUNCTIONS[id](machine, needs)]


def _needs(file: str, machine: Machine) -> Needs:
    from dpsup.check.topology import check
    from dpsup.topology.load import read

    reading = read(file, machine.host)
    topology = reading.topology
    if topology is None or not reading.sound:
        raise TopologyError(reading.problems)
    problems = check(topology, machine.host)
    faults = [
        p
        for p in problems
        if p.severity is Severity.ERROR and of_the_file(p) and p.code not in _TAKEN
    ]
    if faults:
        raise TopologyError(faults)
    return needs_of(topology, machine, problems)


def exit_code(findings: list[Finding]) -> Exit:
    codes = {f.exit_code for f in findings if f.level is Level.ERROR}
    order = (Exit.BAD_TOPOLOGY, Exit.NOT_PERMITTED, Exit.HOST)
    return next((code for code in order if code in codes), Exit.OK)


def _worst(findings: list[Finding]) -> dict[str, int]:
    """Checks by the worst of their findings: their sum is the number of checks."""
    order = (Level.ERROR, Level.WARN, Level.INFO, Level.OK, Level.SKIP)
    worst: dict[str, Level] = {}
    for f in findings:
        worst[f.id] = min(worst.get(f.id, Level.SKIP), f.level, key=order.index)
    return {str(level): sum(w is level for w in worst.values()) for level in Level}


def _count(findings: list[Finding]) -> dict[str, int]:
    return {str(level): sum(f.level is level for f in findings) for level in Level}


def document(findings: list[Finding], file: str | None, sysroot: str) -> Doctor:
    return {
        "apiVersion": "dpsup/v1",
        "kind": "Doctor",
        "file": file,
        "sysroot": sysroot,
        "ok": exit_code(findings) is Exit.OK,
        "summary": _count(findings),
        "checks": [
            {
                "id": f.id,
                "title": f.title,
                "level": str(f.level),
                "message": f.message,
                "read": f.read,
                "why": f.why,
                "fix": list(f.fix),
                "manual": f.manual,
            }
            for f in findings
        ],
    }


def text(findings: list[Finding], width: int = 0) -> str:
    """A line for each check, and more for each one that needs action."""
    width = max(60, min(100, width or shutil.get_terminal_size().columns))
    out = []
    for f in findings:
        out += _wrapped(f"{f.level:5} {f.id} {f.title}: ", f.message, width)
        if f.level in (Level.OK, Level.SKIP):
            continue
        for label, part in (("read", f.read), ("why", f.why)):
            if part:
                out += _wrapped(f"      {label}:".ljust(12), part, width)
        fixes = list(f.fix)
        if len(fixes) > MOST_FIXES:
            fixes = [
                *fixes[: MOST_FIXES - 1],
                f"({len(fixes) - MOST_FIXES + 1} more: --fix-script)",
            ]
        heads = ["      fix:  ", *[" " * 12] * len(fixes)]
        out += [f"{head:12}{one}" for head, one in zip(heads, fixes, strict=False)]
        if f.manual:
            out += _wrapped("      do:".ljust(12), f.manual, width)
    count = _worst(findings)
    total = [f"{count[key]} {word}" for key, word in (
        ("error", "to fix"), ("warn", "to improve"), ("info", "to know"), ("ok", "ok"),
        ("skip", "not judged"),
    ) if count[key]]  # fmt: skip
    out += ["", f"{len(CHECKS)} checks: {', '.join(total)}"]
    if any(f.fix for f in findings if f.level in (Level.WARN, Level.ERROR)):
        out.append("`dpsup doctor --fix-script` prints the commands as a script to review.")
    return "\n".join(out)


def _wrapped(head: str, text: str, width: int) -> list[str]:
    indent = " " * 12
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def script(findings: list[Finding], file: str | None) -> str:
    """The commands as a shell script for a person to review: dpsup never runs it."""
    of = f" {_plain(file)}" if file else ""
    out = [
        "#!/bin/sh",
        f"# Written by `dpsup doctor{of} --fix-script`. Read it before you run it, as root.",
        "# Commands that could cut your connection or remove wanted files are commented out.",
        "set -u",
    ]
    done: set[str] = set()
    for f in findings:
        if f.level not in (Level.WARN, Level.ERROR):
            continue
        out += ["", f"# {f.id} {f.title}: {_plain(f.message)}"]
        for command in f.fix:
            if command in done:
                continue
            done.add(command)
            out.append(f"# {_plain(command)}" if f.careful else command)
        if f.manual:
            out.append(f"# by hand: {_plain(f.manual)}")
    if len(out) == 4:
        out += ["", "# nothing to do"]
    return "\n".join(out)


def _plain(text: str) -> str:
    """On one line, so that a comment does not end early."""
    return " ".join(text.split())
