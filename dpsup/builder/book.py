# SPDX-License-Identifier: BSD-3-Clause
"""One table as the builder holds it: what it says, its log, and its copies for the workers.

The order of a batch, of which the builder's death may cut off any rest:

1. It is checked against what the table says; a fault refuses all of it.
2. It is written to the log: from here on it is true, and a builder that follows carries it out.
3. Once no worker that lives reads the copy that does not hold, that copy gets what it lacks, and
   the batch.
4. One store says that this copy holds.

A builder that follows does not trust the copy that does not hold: it rebuilds it from the other,
and brings it to what the log says.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import traceback
from collections import deque
from pathlib import Path

from dpsup.builder.log import Log, Record
from dpsup.builder.region import Region
from dpsup.documents.tables import Changed, TableRow
from dpsup.errors import DpsupError, NoSuchObject, Problem, TimedOut, TopologyError
from dpsup.tables import batch, file
from dpsup.tables.batch import Operation
from dpsup.tables.fields import Names
from dpsup.tables.model import Entries, Table

GRACE_S = 5.0  # for workers to leave the copy that does not hold: a burst takes microseconds
LOOK_S = 0.0002
Stamp = tuple[int, ...]
REQUESTS_KEPT = 256  # of which a builder that follows knows that they were carried out
SETTLED_NS = 2_000_000_000  # a file that changed later may change again without another time
READERS = 3  # versions whose lines are kept for those that read them in parts


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_text(path: str) -> tuple[str, Stamp]:
    """A file's text, and what is other once the file is. No request is answered meanwhile, so it
    does not wait for the other end of a FIFO. Raises: OSError, UnicodeDecodeError."""
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


class Book:
    def __init__(
        self, region: Region, index: int, names: Names, path: Path, source: str, group: str
    ) -> None:
        self.region, self.index, self.names = region, index, names
        self.group, self.source = group, source
        self.shape = region.shapes[index]
        self.table: Table = self.shape.table
        self.log = Log(path)
        self.entries: Entries = {}
        self.version = 0
        self.digest = "-"
        self._requests: deque[str] = deque(maxlen=REQUESTS_KEPT)
        self._on_disk: tuple[Stamp, str] = ((), "-")  # the topology's file as it was read last
        self._lacking: list[bytes] = []  # packed operations that the other copy lacks
        self._read: dict[int, list[str]] = {}  # version: its lines, in which it was read

    # --- the start -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read what is true, and bring the workers' copies to it. Raises: DpsupError of the file
        that the topology names, where nothing is true yet."""
        records = self.log.read()
        if not records:
            self._first()
            return
        seen = 0 if self.region.is_new else self.region.version(self.index)
        lacking: list[Operation] = []
        for n, record in enumerate(records):
            operations = self._parse(record.text)
            if n == 0 and record.version > seen:
                lacking.append(Operation(batch.Verb.CLEAR))
            if record.version > seen:
                lacking += operations
            batch.carry_out(self.entries, operations)
            self.version, self.digest = record.version, record.digest
            self._requests.extend(record.requests)
        if self.version < seen:  # the disk lost what the workers see
            self.version = seen + 1
            lacking = [Operation(batch.Verb.CLEAR), *batch.diff({}, self.entries)]
        self.log.snapshot_bytes = len(records[0].text)
        self._wait()
        self.region.renew(self.index)
        if lacking:
            self._show(self.shape.pack(lacking))

    def _first(self) -> None:
        if not self.source:
            return
        entries, digest = self.read_file(self.source)
        operations = batch.diff({}, entries)
        text = batch.text(self.table, operations, self.names)
        self.log.append(Record(1, (), digest, text))
        self.log.snapshot_bytes = self.log.bytes
        self.entries, self.digest, self.version = entries, digest, 1
        self._wait()
        self.region.renew(self.index)
        self._show(self.shape.pack(operations))

    def read_file(self, path: str) -> tuple[Entries, str]:
        """Raises: DpsupError with all that is wrong with it."""
        try:
            text, stamp = read_text(path)
        except (OSError, UnicodeDecodeError) as e:
            why = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
            raise DpsupError(
                f"cannot read {path}: {why}",
                code="E0521",
                why=f"it says what table {self.table.name} of group {self.group} holds",
                help="correct the path, or make the file readable for the instance's user",
            ) from None
        if path == self.source:
            self._on_disk = stamp, digest_of(text)
        reading = file.parse(text, self.table, self.names, path)
        if reading.problems:
            raise refusal(reading.problems)
        return reading.entries, digest_of(text)

    def _parse(self, text: str, name: str = "") -> list[Operation]:
        found = batch.parse(text, self.table, self.names, name)
        if found.problems:
            raise refusal(found.problems)
        return found.operations

    # --- changes ---------------------------------------------------------------------------------

    def change(self, text: str, name: str, request: str, *, dry_run: bool) -> Changed:
        """Carry out a batch of operations, whole or not at all. Raises: DpsupError."""
        if request in self._requests:
            # It was carried out, and the builder before this one died before it could say so.
            return self._changed([], dry_run=False)
        operations = self._parse(text, name)
        kept = text if text.endswith("\n") else f"{text}\n"
        return self._commit(operations, name, request, self.digest, kept, dry_run=dry_run)

    def load(self, path: str, request: str, *, dry_run: bool) -> Changed:
        """Change the table to what a file says. Raises: DpsupError."""
        if request in self._requests:
            return self._changed([], dry_run=False)
        entries, digest = self.read_file(path)
        if path != self.source:
            digest = self.digest
        operations = batch.diff(self.entries, entries)
        text = batch.text(self.table, operations, self.names)
        return self._commit(operations, path, request, digest, text, dry_run=dry_run)

    @property
    def is_changed_on_disk(self) -> bool:
        """Has the topology's file other contents than when it was read last?"""
        if not self.source:
            return False
        try:
            # A list of tables reads no file that is as it was.
            if self._on_disk[0] != stamp_of(os.stat(self.source)):  # noqa: PTH116
                text, stamp = read_text(self.source)
                self._on_disk = stamp, digest_of(text)
        except (OSError, UnicodeDecodeError):
            return True  # what reads it says what is wrong
        return self._on_disk[1] != self.digest

    def _commit(
        self,
        operations: list[Operation],
        name: str,
        request: str,
        digest: str,
        text: str,
        *,
        dry_run: bool,
    ) -> Changed:
        found, undo = batch.change(self.entries, operations, self.table, self.names, name)
        if found:
            raise refusal(found)
        if dry_run:
            batch.restore(self.entries, undo)
            return self._changed(operations, dry_run=True)
        if not operations and digest == self.digest:
            return self._changed([], dry_run=False)
        try:
            # Before it is true: a batch that no worker could be shown is refused.
            self._wait()
            self.log.append(Record(self.version + 1, (request,), digest, text))
        except OSError as e:
            batch.restore(self.entries, undo)
            raise DpsupError(
                f"the change cannot be kept: {e.strerror}",
                code="E0525",
                why="what the runtime directory has no room for would be lost with this process",
                help="free some space there, and try again",
            ) from None
        except TimedOut:
            batch.restore(self.entries, undo)
            raise
        try:
            self.version += 1
            self.digest = digest
            self._requests.append(request)
            self._show(self.shape.pack(operations))
            if self.log.is_long:
                self._compact()
        except Exception as e:
            # It is true, and this process cannot show it: the next one rebuilds the copy. What
            # answers requests would go on after any other exception.
            traceback.print_exc()
            raise SystemExit(1) from e
        return self._changed(operations, dry_run=False)

    def _compact(self) -> None:
        text = batch.text(self.table, batch.diff({}, self.entries), self.names)
        try:
            self.log.replace(Record(self.version, tuple(self._requests), self.digest, text))
        except OSError:
            self.log.snapshot_bytes = self.log.bytes  # tried again when it is twice as long

    def _show(self, packed: list[bytes]) -> None:
        """To the workers. No worker reads the other copy."""
        other = 1 - self.region.which(self.index)
        copy = self.region.copy(self.index, other)
        self.shape.apply(copy, self._lacking)
        self.shape.apply(copy, packed)
        self.region.note_version(self.index, other, self.version)
        self.region.publish(self.index)
        self._lacking = packed

    def settle(self) -> bool:
        """Give the other copy what it lacks, if no worker reads it. False: one still does."""
        if self._lacking:
            if self.region.readers_of_other(self.index):
                return False
            other = 1 - self.region.which(self.index)
            self.shape.apply(self.region.copy(self.index, other), self._lacking)
            self._lacking = []
        return True

    def _wait(self) -> None:
        """Until no worker that lives reads the copy that does not hold. Raises: TimedOut."""
        deadline = time.monotonic() + GRACE_S
        while readers := self.region.readers_of_other(self.index):
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"table {self.table.name} of group {self.group} cannot be changed: a worker,"
                    f" pid {readers[0]}, still works with the version before",
                    code="E0526",
                    why="it has been in one burst of packets since the last change: it is stopped,"
                    " or its plugin hangs",
                    help="`dpsup workers` shows it; end or continue it, then try again",
                )
            time.sleep(LOOK_S)

    # --- what it says ----------------------------------------------------------------------------

    def _changed(self, operations: list[Operation], *, dry_run: bool) -> Changed:
        verbs = [o.verb for o in operations]
        text = batch.text(self.table, operations[:200], self.names) if dry_run else ""
        return {
            "group": self.group,
            "table": self.table.name,
            "operations": len(operations),
            "removed": verbs.count(batch.Verb.DEL),
            "entries": len(self.entries),
            "version": self.version,
            "dry_run": dry_run,
            "text": text,
        }

    def row(self) -> TableRow:
        return {
            "group": self.group,
            "table": self.table.name,
            "kind": str(self.table.match),
            "entries": len(self.entries),
            "most": self.table.entries,
            "bytes": 2 * self.shape.bytes,
            "version": self.version,
            "file": self.source,
            "changed_on_disk": self.is_changed_on_disk,
        }

    def lines(
        self, first: int, most_bytes: int, version: int | None = None
    ) -> tuple[str, int | None]:
        """The table's file from a line on, and the line to go on with. `version`: of which the
        lines before were; the last few that were asked for are kept. Raises: DpsupError."""
        wanted = self.version if version is None else version
        if wanted not in self._read:
            if wanted != self.version:
                raise DpsupError(
                    f"version {wanted} of table {self.table.name} is not kept any more",
                    code="E0529",
                    why=f"it has changed to version {self.version} while it was read",
                    help="read it again from its first line",
                )
            text = file.text(self.table, self.entries, self.names)
            self._read[wanted] = text.splitlines(keepends=True)
            while len(self._read) > READERS:
                del self._read[next(iter(self._read))]
        found: list[str] = []
        size = 0
        for line in self._read[wanted][first:]:
            size += len(line)
            if size > most_bytes and found:
                return "".join(found), first + len(found)
            found.append(line)
        return "".join(found), None

    def get(self, words: str) -> str:
        """The line of a key. Raises: DpsupError."""
        key = self._parse(f"del {words}")[0].key
        assert key is not None
        if key not in self.entries:
            raise NoSuchObject(
                f"table {self.table.name} has no {words}",
                code="E0524",
                help=f"`dpsup table {self.table.name} show` lists all",
            )
        return file.text(self.table, {key: self.entries[key]}, self.names)
