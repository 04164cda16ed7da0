# SPDX-License-Identifier: BSD-3-Clause
"""What `dpsup table` prints, and what the builder answers."""

from __future__ import annotations

from typing import Annotated, TypedDict

from dpsup.documents.status import Learned, Named


class Told(TypedDict):
    group: Annotated[str, "the group"]
    number: Annotated[int, "the text's number: later ones have higher numbers"]
    kept: Annotated[int, "texts that a worker gets that starts now"]
    workers: Annotated[int, "workers that are there"]


class TableRow(TypedDict):
    group: Annotated[str, "the group whose workers look things up in it"]
    table: Annotated[str, "its name"]
    kind: Annotated[str, "`exact`, `ipv4`, `ipv6`, `array`, `own`"]
    entries: Annotated[int, "entries in it"]
    most: Annotated[int, "entries that it has room for"]
    bytes: Annotated[int, "bytes of both copies"]
    version: Annotated[int, "number of batches applied to it"]
    file: Annotated[str, "the file that the topology names, empty: none"]
    changed_on_disk: Annotated[bool, "whether the file has other contents than when it was read"]
    persists: Annotated[str, "the file in which it outlives the instance, empty: it does not"]
    learned: Annotated[Learned | None, "what workers told, null: it does not learn"]


class Tables(Named):
    tables: list[TableRow]


class Changed(TypedDict):
    group: Annotated[str, "the group"]
    table: Annotated[str, "the table"]
    operations: Annotated[int, "operations of the batch; 0: nothing differed"]
    removed: Annotated[int, "of which removed an entry"]
    entries: Annotated[int, "entries before a dry run, else after the batch"]
    version: Annotated[int, "number of batches applied to the table"]
    dry_run: Annotated[bool, "whether it was only checked"]
    text: Annotated[str, "of a dry run the first operations, as text"]


class TableEntry(TypedDict):
    key: Annotated[str, "as in the table's file"]
    value: Annotated[str, "its value, as in the table's file"]


class Table(Named):
    group: Annotated[str, "the group"]
    table: Annotated[str, "the table"]
    version: Annotated[int, "number of batches applied to the table"]
    entries: list[TableEntry]


class TableLines(TypedDict):
    group: Annotated[str, "the group"]
    table: Annotated[str, "the table"]
    text: Annotated[str, "lines of the table's file"]
    next: Annotated[int | None, "the line to go on with, null: that was all"]
    version: Annotated[int, "number of batches applied to the table"]
