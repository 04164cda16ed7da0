# SPDX-License-Identifier: BSD-3-Clause
"""Tables of a plugin's own kind: its `table_apply` changes a copy, in a process of its own.

The builder itself runs no code of a plugin's. For each batch it starts `dpsup-apply`, which maps
the copy that no worker reads. What crashes there, hangs or refuses changes nothing: the batch is
refused, and the copy is written anew before it is used.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dpsup.builder.region import Region
from dpsup.errors import DpsupError
from dpsup.plan.copies import file_name
from dpsup.tables import batch
from dpsup.tables.batch import Operation
from dpsup.tables.model import Entries

PROGRAM = Path(__file__).resolve().parent.parent / "dpsup-apply"
APPLY_S = 20.0  # the builder answers nothing meanwhile
_LINE_MOST = 4096


class Own(NamedTuple):
    """How the tables of a group's plugin are changed."""

    plugin: Callable[[], str]  # the file that workers load now
    held: Sequence[int] = ()  # descriptors that such a process keeps: the builder's lock
    ports: Sequence[str] = ()  # their names, as the plugin's env has them


class _Failed(Exception):
    """What became of table_apply."""


def lay_out(
    own: Own, region: Region, i: int, operations: Sequence[Operation], entries: Entries
) -> None:
    """Let the plugin change the copy of table i that no worker reads; `entries`: as they are after
    the batch. Whatever became of that copy before, it begins as the one that holds, or with zero
    bytes where the batch clears the table. Raises: DpsupError; the copy then may be half of it."""
    other = 1 - region.which(i)
    cleared = max((n for n, o in enumerate(operations) if o.key is None), default=-1)
    if cleared < 0:
        region.renew(i)
    else:
        region.begin_anew(i, other)
    shape = region.shapes[i]
    changes = shape.changes(operations[cleared + 1 :])
    layout = _apply(own, region, i, changes, lambda: shape.changes(batch.diff({}, entries)))
    if region.is_new:
        region.note_layout(i, layout)
    elif layout != region.layout(i):
        raise DpsupError(
            f"the plugin's table_layout is {layout}, and table {shape.table.name} is laid out as"
            f" {region.layout(i)}",
            code="E0539",
            why="workers that run read it as it is laid out, until the next start",
            help="`dpsup rollout` a version with the same table_layout, or start the instance anew",
        )


def _apply(own: Own, region: Region, i: int, changes: bytes, entries: Callable[[], bytes]) -> int:
    """`changes` and `entries` are as workers/apply.c reads them. Returns the plugin's
    table_layout. Raises: DpsupError."""
    shape = region.shapes[i]
    path, offset = own.plugin(), region.offset(i, 1 - region.which(i))
    argv = [
        str(PROGRAM), str(os.getpid()), path, str(region.file), str(offset),
        str(shape.bytes), shape.table.name, str(shape.key_bytes), str(shape.value_bytes),
        str(shape.table.entries), *own.ports,
    ]  # fmt: skip
    try:
        return _run(argv, own.held, changes, entries)
    except (_Failed, OSError) as e:
        name = file_name(path)
        raise DpsupError(
            f"the plugin of table {shape.table.name} does not take the change: {e}",
            code="E0538",
            why=f"table_apply of {name} lays the table out, and a batch takes effect whole or not"
            " at all: the table is as it was",
            help="`dpsup logs builder` shows what it printed; correct the change, or the plugin"
            " and `dpsup rollout` it",
        ) from None


def _run(
    argv: Sequence[str], held: Sequence[int], changes: bytes, entries: Callable[[], bytes]
) -> int:
    """Raises: _Failed, OSError."""
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, pass_fds=held
    )
    deadline = time.monotonic() + APPLY_S
    # It may stop reading at any moment: only its end is sure to end what waits for it.
    late = threading.Timer(APPLY_S, child.kill)
    late.start()
    try:
        return _talk(child, deadline, changes, entries)
    finally:
        late.cancel()
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _talk(
    child: subprocess.Popen[bytes], deadline: float, changes: bytes, entries: Callable[[], bytes]
) -> int:
    layout = -1
    buffer = b""
    assert child.stdout is not None
    while True:
        line, end, buffer = buffer.partition(b"\n")
        if not end:
            buffer = line + _more(child, deadline)
            if len(buffer) > _LINE_MOST:
                raise _Failed("it wrote what is no answer")
            continue
        word, _, rest = line.decode(errors="replace").partition(" ")
        if word == "layout":
            layout = int(rest)
            _send(child, changes)
        elif word == "all":
            _send(child, entries())
        elif word == "done":
            return layout
        else:
            raise _Failed(rest)


def _send(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    left = memoryview(data)
    # What became of it is read next.
    with contextlib.suppress(BrokenPipeError):
        while left:
            left = left[child.stdin.write(left) :]


def _more(child: subprocess.Popen[bytes], deadline: float) -> bytes:
    """What it says next. Raises: _Failed with how it ended, where it says no more."""
    assert child.stdout is not None
    left = max(0.0, deadline - time.monotonic())
    if not select.select([child.stdout], [], [], left)[0]:
        raise _Failed(f"it took longer than {APPLY_S:g} s, and was ended")
    if found := os.read(child.stdout.fileno(), _LINE_MOST):
        return found
    code = child.wait()
    if code == -signal.SIGKILL and time.monotonic() >= deadline:
        raise _Failed(f"it took longer than {APPLY_S:g} s, and was ended")
    if code < 0:
        raise _Failed(f"it crashed ({signal.Signals(-code).name})")
    raise _Failed(f"it ended with exit code {code}, and gave no answer")
