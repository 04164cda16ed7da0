# SPDX-License-Identifier: BSD-3-Clause
"""One table as the builder holds it: what it says, its log, and its copies for the workers.

The order of a batch, of which the builder's death may cut off any rest:

1. It is checked against what the table says; a fault refuses all of it.
2. It is written to the log: from here on it is true, and a builder that follows carries it out.
3. Once no worker that lives reads the copy that does not hold, that copy gets what it lacks, and
   the batch.
4. One store says that this copy holds.

A builder that follows does not trust the copy that does not hold: it rebuilds it from the other,
and brings it to what the log says. A table of the plugin's own kind is laid out on that copy before
the log has the batch, as the plugin may refuse it.

Over 600 lines: it is one batch's way from its text to the workers.
"""

from __future__ import annotations

import os
import time
import traceback
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any, cast

from dpsup.builder import own as owns
from dpsup.builder.log import Corrupt, Log, Record
from dpsup.builder.own import Own
from dpsup.builder.region import Region
from dpsup.builder.source import Stamp, digest_of, read_text, refusal, stamp_of
from dpsup.documents.status import Learned
from dpsup.documents.tables import Changed, TableRow, Told
from dpsup.errors import DpsupError, NoSuchObject, TimedOut, UsageError
from dpsup.limits import TELL_BYTES
from dpsup.tables import batch, file
from dpsup.tables.batch import Operation
from dpsup.tables.fields import Names, Unreadable
from dpsup.tables.model import Entries, Key, Match, Table

GRACE_S = 5.0  # for workers to leave the copy that does not hold: a burst takes microseconds
LOOK_S = 0.0002
REQUESTS_KEPT = 256  # of which a builder that follows knows that they were carried out
LEARNED = "  # learned"
READERS = 3  # versions whose lines are kept for those that read them in parts


class Book:
    def __init__(
        self,
        region: Region,
        index: int,
        names: Names,
        path: Path,
        source: str,
        group: str,
        *,
        persists: bool = False,
        own: Own | None = None,
    ) -> None:
        """`own`: what changes a table of the plugin's own kind."""
        self.region, self.index, self.names = region, index, names
        self.group, self.source = group, source
        self.shape = region.shapes[index]
        self.table: Table = self.shape.table
        self.use = region.uses[index]
        self.warnings: list[str] = []  # of the start
        self._persists = str(path) if persists else ""
        self.log = self._open(path)
        self.entries: Entries = {}
        self.told: list[tuple[bytes, int]] = []  # by workers: keys and values as they wrote them
        self._learned: OrderedDict[Key, float] = OrderedDict()  # and when, the oldest first
        self.version = 0
        self.digest = "-"
        self._requests: deque[str] = deque(maxlen=REQUESTS_KEPT)
        self._on_disk: tuple[Stamp, str] = ((), "-")  # the topology's file as it was read last
        self._lacking: list[bytes] = []  # packed operations that the other copy lacks
        self._read: dict[int, list[str]] = {}  # version: its lines, in which it was read
        self._own = own if self.table.match is Match.OWN else None

    # --- the start -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read what is true, and bring the workers' copies to it. Raises: DpsupError of the file
        that the topology names, where nothing is true yet."""
        records = self._records()
        if not records:
            self._first()
            return
        seen = 0 if self.region.is_new else self.region.version(self.index)
        lacking: list[Operation] = []
        for n, (record, operations) in enumerate(records):
            if n == 0 and record.version > seen:
                lacking.append(Operation(batch.Verb.CLEAR))
            if record.version > seen:
                lacking += operations
            batch.carry_out(self.entries, operations)
            self._note_learned(operations, learned=record.learned)
            self.version, self.digest = record.version, record.digest
            self._requests.extend(record.requests)
        if len(self.entries) > self.table.entries:
            raise DpsupError(
                f"table {self.table.name} of group {self.group} persists with"
                f" {len(self.entries)} entries, and has room for {self.table.entries}",
                code="E0535",
                why=f"they are in {self._persists}",
                help="give it as many `entries` in the topology file, or remove that file",
            )
        if self.version < seen:  # the disk lost what the workers see
            self.version = seen + 1
            lacking = [Operation(batch.Verb.CLEAR), *batch.diff({}, self.entries)]
        is_start = self.region.is_new
        if is_start:
            # Not by the records: they may change what was learned, which is left out.
            lacking = batch.diff({}, self.entries)
        self.log.snapshot_bytes = len(records[0][0].text)
        self._wait()
        self.region.renew(self.index)
        if lacking or is_start:
            if self._own is not None:
                self._make([Operation(batch.Verb.CLEAR), *batch.diff({}, self.entries)])
            self._show(lacking)
        if is_start and self.is_changed_on_disk:
            # As `reload` would: the file was changed while no instance ran.
            self.warnings.append(
                f"table {self.group}/{self.table.name} is what {self.source} says: the file has"
                " changed since it was read, so what was changed by hand is not used"
            )
            self.load(self.source, "", dry_run=False)
        self._count_learned()

    def _open(self, path: Path) -> Log:
        """Raises: DpsupError, OSError."""
        if not self._persists:
            return Log(path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Log(path, durable=True)
        except OSError as e:
            raise DpsupError(
                f"table {self.table.name} of group {self.group} cannot persist in {path}:"
                f" {e.strerror}",
                code="E0535",
                why="the topology says persist = true: changes are kept there",
                help="let the instance's user write there, or set [host] tables_dir to a directory"
                " of its own",
            ) from None

    def _records(self) -> list[tuple[Record, list[Operation]]]:
        """What is true. Of a table that persists, a file that cannot be used is set aside."""
        try:
            records = self.log.read()
            # What workers learned ends with the instance.
            kept = [r for r in records if not (r.learned and self.region.is_new)]
            found = [(record, self._parse(record.text)) for record in kept]
            if len(kept) < len(records):
                self.log.replace(*kept)
        except (Corrupt, DpsupError) as e:
            if not self._persists:
                raise
            old = self.log.set_aside()
            self.warnings.append(
                f"what table {self.group}/{self.table.name} was is not used: {e}; it is in {old}"
            )
            return []
        if self._persists and self.log.cut:
            self.warnings.append(
                f"{self._persists}: {self.log.cut} bytes of a change that was under way at the end"
                " are left out"
            )
        return found

    def _first(self) -> None:
        if not self.source:
            self._count_learned()
            if self._own is not None and self.region.is_new:
                self._make([Operation(batch.Verb.CLEAR)])
                self._show([])
            return
        entries, digest = self.read_file(self.source)
        operations = batch.diff({}, entries)
        text = batch.text(self.table, operations, self.names)
        self.entries = entries
        self._wait()
        self.region.renew(self.index)
        if self._own is not None:
            self._make([Operation(batch.Verb.CLEAR), *operations])
        self.log.append(Record(1, (), digest, text))
        self.log.snapshot_bytes = self.log.bytes
        self.digest, self.version = digest, 1
        self._show(operations)

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
        removes = (batch.Verb.DEL, batch.Verb.CLEAR)
        if self.use.control and any(o.verb not in removes for o in operations):
            raise self._no_words()
        kept = text if text.endswith("\n") else f"{text}\n"
        return self._commit(operations, name, request, self.digest, kept, dry_run=dry_run)

    def load(self, path: str, request: str, *, dry_run: bool) -> Changed:
        """Change the table to what a file says. Raises: DpsupError."""
        if request in self._requests:
            return self._changed([], dry_run=False)
        if self.use.control:
            raise self._no_words()
        entries, digest = self.read_file(path)
        if path != self.source:
            digest = self.digest
        # What workers have learned stays, but where the file has something to say of it.
        known = {k: v for k, v in self.entries.items() if k not in self._learned}
        operations = [
            Operation(batch.Verb.SET, o.key, o.value) if o.key in self._learned else o
            for o in batch.diff(known, entries)
        ]
        if operations and operations[0].verb is batch.Verb.CLEAR and self._learned:
            operations = [Operation(batch.Verb.DEL, key) for key in sorted(known)]
        text = batch.text(self.table, operations, self.names)
        return self._commit(operations, path, request, digest, text, dry_run=dry_run)

    def tell(self, text: str, request: str) -> Told:
        """One more of an operator's words. Raises: DpsupError."""
        size = len(text.encode(errors="surrogatepass"))
        is_text = "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
        if not 0 < size <= TELL_BYTES or not is_text:
            raise UsageError(
                f"the text has {size} bytes" if is_text else "the text has a NUL, or is no UTF-8",
                code="E0536",
                why=f"control() of a plugin gets 1 to {TELL_BYTES} bytes without a NUL",
                help="say it shorter, or put it into a table or a file",
            )
        there, controlled = self.region.controlled()
        if there and not controlled:
            raise DpsupError(
                f"the plugin of group {self.group} has no control()",
                code="E0537",
                why="no worker would do anything about the text",
                help="give the plugin one (dpsup_plugin.h), and `dpsup rollout` it",
            )
        if request not in self._requests:
            at = self._free_place()
            kept = self.table.show_value(
                (self.version + 1).to_bytes(8, "little") + text.encode().ljust(TELL_BYTES, b"\0"),
                self.names,
            )
            line = f"set {at} {kept}\n"
            operations = self._parse(line)
            self._commit(operations, "", request, self.digest, line, dry_run=False)
        return {
            "group": self.group,
            "number": self.version,
            "kept": len(self.entries),
            "workers": there,
        }

    def _no_words(self) -> DpsupError:
        return UsageError(
            f"{self.group}/{self.table.name} takes words of `dpsup tell` alone",
            code="E0536",
            why="workers carry them out in the order of their numbers",
            help=f'write dpsup tell {self.group} "TEXT"; `del` and `clear` remove texts',
        )

    def _free_place(self) -> int:
        """The number of one more text; else the oldest one's."""
        for n in range(self.table.entries):
            if Key(n.to_bytes(4, "big"), 32) not in self.entries:
                return n
        numbers = {
            int.from_bytes(cast(bytes, value)[:8], "little"): key
            for key, value in self.entries.items()
        }
        return int.from_bytes(numbers[min(numbers)].data, "big")

    # --- what workers tell -----------------------------------------------------------------------

    def learn(self, now: float) -> None:
        """Carry out what was told, unless a worker still reads the other copy; and forget what
        was not told again."""
        oldest = next(iter(self._learned.values()), now)
        is_aged = self.use.age > 0 and now - oldest > self.use.age
        if not (self.told or is_aged) or self.region.readers_of_other(self.index):
            return
        told, self.told = self.told, []
        found = self.region.learned(self.index)
        found.told += len(told)
        operations: dict[Key, Operation] = {}
        room = self.table.entries - len(self.entries)
        for data, number in told:
            operation = self._operation(data, number)
            if operation is None or operation.key is None:
                found.refused += 1
                continue
            key = operation.key
            is_new = key not in self.entries and key not in operations
            is_known = self.entries.get(key) == operation.value and key not in operations
            is_of_others = key in self.entries and key not in self._learned
            if is_known and not is_of_others:
                self._keep(key, now)
            elif (is_new and room == 0) or (is_of_others and not is_known):
                found.refused += 1
            elif not is_known:
                room -= is_new
                operations[key] = operation
        for key, at in self._learned.items():
            if not self.use.age or now - at <= self.use.age:
                break
            if key not in operations:
                operations[key] = Operation(batch.Verb.DEL, key)
                found.aged += 1
        done = list(operations.values())
        if done:
            self._commit_learned(done, found)
        self._count_learned()

    def _commit_learned(self, operations: list[Operation], found: Any) -> None:
        text = batch.text(self.table, operations, self.names)
        try:
            self._commit(operations, "", "", self.digest, text, dry_run=False, learned=True)
        except DpsupError:  # a full disk, which an operator's next change tells
            found.refused += len(operations)
        else:
            found.learned += sum(o.verb is not batch.Verb.DEL for o in operations)

    def _operation(self, data: bytes, number: int) -> Operation | None:
        """What a worker told, if it is an entry of this table: it may have written anything."""
        table = self.table
        key = Key(data[: self.shape.key_bytes], 8 * self.shape.key_bytes)
        try:
            if number >> 8 * self.shape.value_bytes:
                return None
            words = table.show_key(key, self.names), table.show_value(number, self.names)
            if table.read_key(words[0], self.names) != key:
                return None
            table.read_value(words[1], self.names)
        except Unreadable:
            return None
        return Operation(batch.Verb.SET, key, number)

    def _keep(self, key: Key, now: float) -> None:
        self._learned[key] = now
        self._learned.move_to_end(key)

    def _note_learned(self, operations: list[Operation], *, learned: bool) -> None:
        """Which entries are whose, after a batch."""
        now = time.monotonic()
        for verb, key, _, _ in operations:
            if key is None:
                self._learned.clear()
            elif learned and verb is not batch.Verb.DEL:
                self._keep(key, now)
            else:
                self._learned.pop(key, None)

    def _count_learned(self) -> None:
        if self.use.learns:
            self.region.learned(self.index).entries = len(self._learned)

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
        learned: bool = False,
    ) -> Changed:
        found, undo = batch.change(self.entries, operations, self.table, self.names, name)
        if found:
            raise refusal(found)
        if dry_run and self._own is None:
            batch.restore(self.entries, undo)
            return self._changed(operations, dry_run=True)
        if not operations and digest == self.digest:
            return self._changed([], dry_run=dry_run)
        try:
            # Before it is true: a batch that no worker could be shown is refused.
            self._wait()
            if self._own is not None and operations:
                self._make(operations)
            if dry_run:
                batch.restore(self.entries, undo)
                return self._changed(operations, dry_run=True)
            requests = (request,) if request else ()
            self.log.append(Record(self.version + 1, requests, digest, text, learned))
        except OSError as e:
            batch.restore(self.entries, undo)
            raise DpsupError(
                f"the change cannot be kept: {e.strerror}",
                code="E0525",
                why="what the runtime directory has no room for would be lost with this process",
                help="free some space there, and try again",
            ) from None
        except DpsupError:
            batch.restore(self.entries, undo)
            raise
        try:
            self.version += 1
            self.digest = digest
            self._requests.extend(requests)
            self._note_learned(operations, learned=learned)
            self._show(operations)
            if self.log.is_long:
                self._compact()
        except Exception as e:
            # It is true, and this process cannot show it: the next one rebuilds the copy. What
            # answers requests would go on after any other exception.
            traceback.print_exc()
            raise SystemExit(1) from e
        return self._changed(operations, dry_run=False)

    def _compact(self) -> None:
        learned = {k: v for k, v in self.entries.items() if k in self._learned}
        known = {k: v for k, v in self.entries.items() if k not in learned}
        text, more = (
            batch.text(self.table, batch.diff({}, part), self.names) for part in (known, learned)
        )
        records = [Record(self.version, tuple(self._requests), self.digest, text)]
        if more:
            records.append(Record(self.version, (), self.digest, more, learned=True))
        try:
            self.log.replace(*records)
        except OSError:
            self.log.snapshot_bytes = self.log.bytes  # tried again when it is twice as long

    def _show(self, operations: list[Operation]) -> None:
        """To the workers. No worker reads the other copy."""
        other = 1 - self.region.which(self.index)
        if self._own is None:
            packed = self.shape.pack(operations)
            copy = self.region.copy(self.index, other)
            self.shape.apply(copy, self._lacking)
            self.shape.apply(copy, packed)
            self._lacking = packed
        elif not operations and self.version > self.region.version(self.index):
            self.region.renew(self.index)  # only the file's digest is another
        self.region.note_version(self.index, other, self.version)
        self.region.publish(self.index)

    def _make(self, operations: list[Operation]) -> None:
        """Let the plugin lay out the other copy, which no worker reads, as the entries are now.
        Raises: DpsupError."""
        assert self._own is not None
        owns.lay_out(self._own, self.region, self.index, operations, self.entries)

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
            "persists": self._persists,
            "learned": self.learning(),
        }

    def learning(self) -> Learned | None:
        if not self.use.learns:
            return None
        found = self.region.learned(self.index)
        return {
            "age": self.use.age,
            "entries": len(self._learned),
            "told": int(found.told),
            "learned": int(found.learned),
            "refused": int(found.refused),
            "aged": int(found.aged),
            "lost": self.region.lost(self.index),
        }

    def _text(self) -> str:
        """The table's file, which says what workers have learned."""
        text = file.text(self.table, self.entries, self.names)
        if not self._learned:
            return text
        rows = zip(sorted(self.entries), text.splitlines(), strict=True)
        return "".join(f"{row}{LEARNED * (key in self._learned)}\n" for key, row in rows)

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
            text = self._text()
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
