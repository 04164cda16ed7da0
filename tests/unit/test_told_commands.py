# SPDX-License-Identifier: BSD-3-Clause
"""Each command that a message tells a person to type is one: its name and its options exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dpsup.cli.root import cli

PACKAGE = Path(__file__).resolve().parents[2] / "dpsup"
# {do} is "dpsup -n NAME" in view/hints. `...` stands for more.
TOLD = re.compile(r"`(?:dpsup|\{do\}) ([^`]+)`")


def texts(node: ast.AST) -> Iterator[str]:
    """Strings, those with values in braces whole."""
    if isinstance(node, ast.JoinedStr):
        parts = (
            one.value if isinstance(one, ast.Constant) else "{" + ast.unparse(one.value) + "}"
            for one in node.values
            if isinstance(one, (ast.Constant, ast.FormattedValue))
        )
        yield "".join(map(str, parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def told() -> set[tuple[str, str]]:
    return {
        (source.relative_to(PACKAGE).as_posix(), " ".join(found.split()))
        for source in sorted(PACKAGE.rglob("*.py"))
        for text in texts(ast.parse(source.read_text()))
        for found in TOLD.findall(text)
    }


def options_of(command: click.Command) -> dict[str, bool]:
    """Does it take a value?"""
    found = {"-h": False, "--help": False}
    for one in command.params:
        if isinstance(one, click.Option):
            found |= dict.fromkeys((*one.opts, *one.secondary_opts), not one.is_flag)
    return found


@pytest.mark.parametrize(("where", "line"), sorted(told()))
def test_a_told_command_exists(where: str, line: str) -> None:
    words = re.sub(r"\{[^{}]*\}", " x", line).split(" | ")[0].split(" > ")[0].split()
    command: click.Command = cli
    known = options_of(cli)
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            assert word in known, f"{where}: `dpsup {line}`: no option {word}"
            if known[word] and words:
                words.pop(0)
        elif isinstance(command, click.Group) and word.islower() and word != "x":
            found = command.get_command(click.Context(command), word)
            if found is None and command is not cli:  # words of the group itself follow
                break
            assert found is not None, f"{where}: `dpsup {line}`: no command {word}"
            command = found
            known |= options_of(found)
        elif command.name == "init":
            assert word.endswith(".toml"), f"{where}: `dpsup {line}`: the word is a file"
