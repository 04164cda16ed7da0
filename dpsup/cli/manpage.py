# SPDX-License-Identifier: BSD-3-Clause
"""man pages generated from the commands: the text of `--help`, as roff.

Takes the command objects and uses only their methods, without importing click. A library for this
would be one more package for a hundred lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from dpsup.errors import Exit

SECTION = 1
EXITS = {
    Exit.OK: "success",
    Exit.FAILED: "failed",
    Exit.USAGE: "wrong usage",
    Exit.NOT_RUNNING: "not running",
    Exit.NO_SUCH_OBJECT: "no such object",
    Exit.DEGRADED: "running, but degraded",
    Exit.HOST: "the host lacks something: hugepages, CPUs, kernel features",
    Exit.NOT_PERMITTED: "not permitted",
    Exit.TIMED_OUT: "timed out",
    Exit.BAD_TOPOLOGY: "bad topology",
}


def pages(context: Any, version: str) -> Iterator[tuple[str, str]]:
    """(file name, roff) of the whole command and each of its commands."""
    root = context.command
    shown = [name for name in root.list_commands(context) if not root.commands[name].hidden]
    yield f"dpsup.{SECTION}", _page(context, version, [(n, root.commands[n]) for n in shown])
    for name in shown:
        inner = type(context)(root.commands[name], info_name=name, parent=context)
        yield f"dpsup-{name}.{SECTION}", _page(inner, version, [])


def _page(context: Any, version: str, commands: list[tuple[str, Any]]) -> str:
    command = context.command
    path = context.command_path
    title = path.replace(" ", "-")
    what, prose, examples = parts(command.help or "")
    usage = " ".join(command.collect_usage_pieces(context))
    out = [
        f'.TH {title.upper()} {SECTION} "" "dpsup {version}" "dpsup"',
        ".SH NAME",
        f"{_safe(title)} \\- {_safe(what)}",
        ".SH SYNOPSIS",
        f".B {_safe(path)}",
        _safe(usage),
        ".SH DESCRIPTION",
    ]
    for paragraph in [what, *prose]:
        out += [".PP", _safe(paragraph)]
    out.append(".SH OPTIONS")
    for record in (param.get_help_record(context) for param in command.get_params(context)):
        if record:
            out += [".TP", f".B {_safe(record[0])}", _safe(record[1])]
    if commands:
        out.append(".SH COMMANDS")
        for name, one in commands:
            out += [".TP", f".BR dpsup\\-{_safe(name)} ({SECTION})", _safe(parts(one.help)[0])]
    if examples:
        out += [".SH EXAMPLES", ".nf", ".RS", *(_safe(line) for line in examples), ".RE", ".fi"]
    out.append(".SH EXIT STATUS")
    for code, meaning in EXITS.items():
        out += [".TP", f".B {int(code)}", meaning]
    out.append(".SH SEE ALSO")
    others = [name for name, _ in commands[:4]]
    also = ["dpsup", *(f"dpsup-{name}" for name in others)] if not commands else [
        f"dpsup-{name}" for name in others
    ]  # fmt: skip
    out += [", ".join(f"\\fB{_safe(one)}\\fR({SECTION})" for one in also)]
    return "\n".join(out) + "\n"


def parts(help: str) -> tuple[str, list[str], list[str]]:
    """The first sentence, the paragraphs after it, and the example's lines."""
    prose: list[str] = []
    examples: list[str] = []
    for paragraph in textwrap.dedent(help).strip().split("\n\n"):
        if paragraph.lstrip().startswith("\b"):
            examples += textwrap.dedent(paragraph.lstrip().removeprefix("\b\n")).split("\n")
        else:
            prose.append(" ".join(paragraph.split()))
    first, *rest = prose or [""]
    what, dot, more = first.partition(". ")
    return what + dot.strip(), [one for one in (more, *rest) if one], examples


def _safe(text: str) -> str:
    """Text that roff prints unchanged."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
