# SPDX-License-Identifier: BSD-3-Clause
"""Writes what `dpsup init` and `dpsup man` make: nothing that is there is overwritten unasked."""

from __future__ import annotations

import shlex
from pathlib import Path

from dpsup.errors import DpsupError, Exit, TopologyError
from dpsup.host.machine import read_host
from dpsup.topology import templates
from dpsup.topology.load import parse


def write(file: str, template: str, name: str, *, force: bool = False) -> list[str]:
    """Write a template's files, the topology at `file` and the others beside it. Returns what to
    say. Raises: DpsupError; TopologyError where `name` cannot be one."""
    folder, topology = Path(file).parent, Path(file).name
    start = templates.make(template, name, topology, sorted(read_host().allowed))
    reading = parse(start.files[topology].decode(), file, str(Path(file).absolute()))
    if not reading.sound:
        raise TopologyError(reading.problems)
    files = {str(folder / one): content for one, content in start.files.items()}
    there = [one for one in files if Path(one).exists()]
    if there and not force:
        raise DpsupError(
            f"{there[0]} is there already",
            code="E1001",
            why="it may be somebody's work",
            help="name another file, or say --force",
        )
    write_files(files)
    cd = [] if str(folder) == "." else [f"  cd {shlex.quote(str(folder))}"]
    return [f"wrote {', '.join(files)}", "then:", *cd, *(f"  {line}" for line in start.then)]


def write_files(files: dict[str, bytes]) -> None:
    for file, content in files.items():
        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_bytes(content)
        except OSError as e:
            error = DpsupError(
                f"cannot write {file}: {e.strerror}",
                code="E1003",
                help="name a file in a folder of yours",
            )
            if isinstance(e, PermissionError):
                error.exit_code = Exit.NOT_PERMITTED
            raise error from None
