# SPDX-License-Identifier: BSD-3-Clause
"""Writes the files of `dpsup init` and `dpsup man`; never overwrites a file without --force."""

from __future__ import annotations

import shlex
from pathlib import Path

from dpsup.errors import DpsupError, Exit, TopologyError
from dpsup.host.machine import read_host
from dpsup.packets.pcap import to_bytes
from dpsup.packets.traffic import Traffic
from dpsup.topology import templates
from dpsup.topology.load import parse


def write(file: str, template: str, name: str, *, force: bool = False) -> list[str]:
    """Write a template's files, the topology at `file` and the others beside it. Returns the lines
    to print. Raises: DpsupError; TopologyError if `name` is not valid."""
    directory, topology = Path(file).parent, Path(file).name
    start = templates.make(template, name, topology, sorted(read_host().allowed))
    if template == "ci":  # a job has no input of its own yet
        start.files[templates.CAPTURE] = to_bytes(Traffic(flows=16, numbers=16).frames())
    reading = parse(start.files[topology].decode(), file, str(Path(file).absolute()))
    if not reading.sound:
        raise TopologyError(reading.problems)
    files = {str(directory / one): content for one, content in start.files.items()}
    there = [one for one in files if Path(one).exists()]
    if there and not force:
        raise DpsupError(
            f"{there[0]} already exists",
            code="E1001",
            why="it may hold work of yours",
            help="name another file, or give --force",
        )
    write_files(files)
    cd = [] if str(directory) == "." else [f"  cd {shlex.quote(str(directory))}"]
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
                help="name a file in a directory that you may write to",
            )
            if isinstance(e, PermissionError):
                error.exit_code = Exit.NOT_PERMITTED
            raise error from None
