# SPDX-License-Identifier: BSD-3-Clause
"""The tables of a group as its workers see them: a file with two copies of each, and the lines in
which workers say which they work with. The one module that knows `dpsup._builder`.

abi.h describes the layout. Only the builder that holds the lock writes here.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from dpsup._builder import ffi, lib
from dpsup.errors import DpsupError
from dpsup.tables.batch import Operation, Verb
from dpsup.tables.model import Match, Table

KINDS = {
    Match.EXACT: 1,
    Match.IPV4: 2,
    Match.IPV6: 3,
    Match.ARRAY: 4,
    Match.OWN: 5,
}  # dpsup_plugin.h
_WHAT = {Verb.ADD: 1, Verb.REPLACE: 1, Verb.SET: 1, Verb.DEL: 2, Verb.CLEAR: 3}
_READERS_BYTES = lib.DPS_MAX_SLOTS * int(ffi.sizeof("struct dps_table_reader"))
_ZEROES = bytes(1 << 20)
EACH = 32  # messages of a slot that are taken in one turn
_TELLS_BYTES = lib.DPS_MAX_SLOTS * int(ffi.sizeof("struct dps_tells"))
_TOLD_BYTES = _TELLS_BYTES + lib.DPS_TABLES * int(ffi.sizeof("struct dps_learned"))
AGAIN_S = 1.0  # until a worker tells the builder the same again, or a part of its table's age
AGAIN_OF_AGE = 0.25


class Use(NamedTuple):
    """What a table is for, beside lookups."""

    control: bool = False  # an operator's words
    learns: bool = False
    age: float = 0.0  # seconds without being told until an entry goes, 0: never

    @classmethod
    def read(cls, words: str) -> Use:
        """As the plan has it: values.DeclaredTable."""
        learn, _, age = words.partition(" ")
        return cls(learn == "control", learn == "learn", float(age or 0))

    @property
    def again(self) -> float:
        return min(AGAIN_S, self.age * AGAIN_OF_AGE) if self.age else AGAIN_S


class Shape:
    """What a table takes in memory."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.kind = KINDS[table.match]
        self.value_bytes = sum(part.size for part in table.value)
        widths = {Match.IPV4: 4, Match.IPV6: 16, Match.ARRAY: 4}
        self.key_bytes = widths.get(table.match) or sum(part.size for part in table.key)
        self.bytes = table.bytes or int(
            lib.builder_bytes(self.kind, self.key_bytes, self.value_bytes, table.entries)
        )

    def begin(self, copy: Any) -> None:
        """An empty table in a copy, which is zero."""
        if self.table.match is Match.OWN:
            return  # the plugin makes of it what it wants
        ret = lib.builder_begin(
            copy, self.bytes, self.kind, self.key_bytes, self.value_bytes, self.table.entries
        )
        if ret:
            raise AssertionError(f"{self.table.name}: begin returned {ret}")

    def pack(self, operations: Iterable[Operation]) -> list[bytes]:
        """Operations as the C side reads them."""
        blank = bytes(self.key_bytes + self.value_bytes)
        packed = []
        for verb, key, value, _ in operations:
            if key is None:
                packed.append(bytes((_WHAT[verb], 0)) + blank)
                continue
            if value is None:
                data = bytes(self.value_bytes)
            elif isinstance(value, int):
                data = value.to_bytes(self.value_bytes, "little")
            else:
                data = value
            length = 0 if self.kind in (1, 4) else key.length
            packed.append(bytes((_WHAT[verb], length)) + key.data + data)
        return packed

    def changes(self, operations: Iterable[Operation]) -> bytes:
        """The same for a plugin's table_apply, as workers/apply.c reads them."""
        found = []
        for verb, key, value, _ in operations:
            assert key is not None, "a table that is cleared begins anew"
            data = bytes(self.value_bytes) if value is None else cast(bytes, value)
            found.append(bytes((verb is not Verb.DEL,)) + key.data + data)
        return len(found).to_bytes(8, "little") + b"".join(found)

    def apply(self, copy: Any, packed: Sequence[bytes]) -> None:
        data = b"".join(packed)
        done = lib.builder_apply(
            copy, self.kind, self.key_bytes, self.value_bytes, data, len(packed)
        )
        if done != len(packed):
            raise AssertionError(f"{self.table.name}: operation {done} of {len(packed)} failed")


def _aligned(n: int) -> int:
    return -(-n // 4096) * 4096


def _create(path: Path, size: int) -> int:
    """An open file of so many bytes that are there, whatever else fills the disk. Raises:
    OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.close(fd)
        path.unlink()
        raise
    return fd


class Region:
    """The tables of one group. `lives(pid, start)`: is that process there? Of the lines and rings
    of all slots, only those of the group's `slots` are looked at."""

    def __init__(
        self,
        path: Path,
        tables: Sequence[Table],
        lives: Callable[[int, int], bool],
        uses: Sequence[Use] = (),
        slots: range = range(lib.DPS_MAX_SLOTS),
    ):
        self._slots = slots
        self.uses = tuple(uses) or (Use(),) * len(tables)
        self._learns = any(use.learns for use in self.uses)
        self._told_at = path.with_name(f"{path.name}:told")
        self.shapes = [Shape(table) for table in tables]
        self._lives = lives
        self._readers_at = path.with_name(f"{path.name}:readers")
        at = _aligned(int(ffi.sizeof("struct dps_tables")))
        self._places = []
        for shape in self.shapes:
            self._places.append((at, at + _aligned(shape.bytes)))
            at += 2 * _aligned(shape.bytes)
        self.bytes = at
        self._path = path
        # An older builder of this instance has laid it out, or died before it had.
        self.is_new = not self._open(path)
        if self.is_new:
            self._begin(path)

    def _open(self, path: Path) -> bool:
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        size = os.fstat(fd).st_size
        if size != self.bytes:
            os.close(fd)
            raise DpsupError(
                f"{path} has {size} bytes, not {self.bytes}: another program changed it",
                code="E0528",
                why=f"it holds the live tables of group {path.name}, and its workers map it",
                help="nothing but dpsup may write below the runtime directory: `dpsup stop`, and"
                " start the instance again",
            )
        self._map(fd)
        readers = os.open(self._readers_at, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._map_readers(readers)
        if self._learns:
            self._map_told(os.open(self._told_at, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
        return True

    def _begin(self, path: Path) -> None:
        new = self._new
        for old in (new, self._readers_at, self._told_at):
            old.unlink(missing_ok=True)
        try:
            if self._learns:
                self._map_told(_create(self._told_at, _TOLD_BYTES))
            self._map_readers(_create(self._readers_at, _READERS_BYTES))
            self._map(_create(new, self.bytes))
        except OSError as e:
            raise DpsupError(
                f"cannot reserve {self.bytes >> 20} MiB for the tables of group {path.name}:"
                f" {e.strerror}",
                code="E0525",
                why=f"they lie in {path.parent}, twice, and are reserved as a whole",
                help="give the tables fewer `entries`, or set [host] runtime_dir to a directory"
                " with more room, as below /dev/shm",
            ) from None
        for i, shape in enumerate(self.shapes):
            place, table = self._head.table[i], shape.table
            place.name = table.name.encode()
            place.kind = shape.kind
            place.key_bytes = shape.key_bytes if shape.table.key else 0
            place.value_bytes = shape.value_bytes
            use = self.uses[i]
            place.use = lib.DPS_TABLE_LEARNS * use.learns | lib.DPS_TABLE_CONTROL * use.control
            place.again_ns = int(use.again * 1e9)
            place.entries, place.bytes = table.entries, shape.bytes
            for copy in (0, 1):
                place.at[copy] = self._places[i][copy]
                shape.begin(self.copy(i, copy))
        self._head.n_tables = len(self.shapes)
        self._head.bytes = self.bytes
        self._head.abi_version = lib.DPS_ABI_VERSION
        lib.builder_publish(ffi.addressof(self._head, "holds"), 1 << lib.DPS_TABLES_SEQ)
        self._head.magic = lib.DPS_TABLES_MAGIC

    @property
    def _new(self) -> Path:
        """Its name until its tables say what they should: no worker finds half of it."""
        return self._path.with_name(f"{self._path.name}:new")

    def appear(self) -> None:
        """Workers may map it. Raises: OSError."""
        if self.is_new:
            self._new.replace(self._path)
            self.is_new = False

    def _map(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, self.bytes)
        os.close(fd)
        self._at = ffi.from_buffer(self._memory)
        self._head = ffi.cast("struct dps_tables *", self._at)

    def _map_readers(self, fd: int) -> None:
        self._lines = mmap.mmap(fd, _READERS_BYTES)
        os.close(fd)
        self._readers = ffi.cast("struct dps_table_reader *", ffi.from_buffer(self._lines))

    def _map_told(self, fd: int) -> None:
        self._told_memory = mmap.mmap(fd, _TOLD_BYTES)
        os.close(fd)
        at = ffi.from_buffer(self._told_memory)
        self._tells = ffi.cast("struct dps_tells *", at)
        self._learned = ffi.cast("struct dps_learned *", at + _TELLS_BYTES)
        self._taken = ffi.new("uint64_t[]", lib.DPS_MAX_SLOTS)
        for i in range(lib.DPS_MAX_SLOTS):
            self._taken[i] = self._tells[i].taken
        self._some = ffi.new("struct dps_told[]", len(self._slots) * EACH)

    # --- what workers tell -----------------------------------------------------------------------

    def told(self) -> list[tuple[int, bytes, int]]:
        """Messages that are taken from the slots in turn: table, key, value, as workers wrote
        them."""
        first, some = self._slots.start, self._some
        tells, taken = self._tells + first, self._taken + first
        n = lib.builder_told(tells, len(self._slots), taken, EACH, some)
        return [(some[i].table, bytes(some[i].key), some[i].value) for i in range(n)]

    def learned(self, i: int) -> Any:
        """What has become of the messages about table i: struct dps_learned, written here alone."""
        return self._learned + i

    def lost(self, i: int) -> int:
        """Messages about table i for which a ring had no room."""
        return sum(int(self._tells[n].lost[i]) for n in self._slots)

    def controlled(self) -> tuple[int, int]:
        """How many workers are there, and how many of them have a control()."""
        found = [
            int(self._readers[n].controls)
            for n in self._slots
            if self._lives(int(self._readers[n].pid), int(self._readers[n].start))
        ]
        return len(found), sum(found)

    # --- copies ----------------------------------------------------------------------------------

    def copy(self, i: int, which: int) -> Any:
        return self._at + self.offset(i, which)

    def offset(self, i: int, which: int) -> int:
        """Bytes of a copy in the file, a multiple of a page."""
        return self._places[i][which]

    @property
    def file(self) -> Path:
        return self._new if self.is_new else self._path

    def begin_anew(self, i: int, which: int) -> None:
        """A copy that no worker reads is zero."""
        copy, size = self.copy(i, which), self.shapes[i].bytes
        for at in range(0, size, len(_ZEROES)):
            ffi.memmove(copy + at, _ZEROES, min(len(_ZEROES), size - at))

    def note_layout(self, i: int, layout: int) -> None:
        """Say which layout a table of the plugin's own kind has, before workers may map it."""
        self._head.table[i].layout = layout

    def layout(self, i: int) -> int:
        return int(self._head.table[i].layout)

    @property
    def holds(self) -> int:
        return int(lib.builder_load(ffi.addressof(self._head, "holds")))

    def which(self, i: int) -> int:
        """The copy of table i that holds."""
        return self.holds >> i & 1

    def version(self, i: int) -> int:
        """Batches that workers see."""
        return int(self._head.table[i].version[self.which(i)])

    def note_version(self, i: int, which: int, version: int) -> None:
        self._head.table[i].version[which] = version

    def renew(self, i: int) -> None:
        """Rebuild the copy that does not hold from the one that does."""
        which = self.which(i)
        size = self.shapes[i].bytes
        ffi.memmove(self.copy(i, 1 - which), self.copy(i, which), size)
        self.note_version(i, 1 - which, self.version(i))

    def publish(self, i: int) -> None:
        """The other copy of table i holds: one store."""
        value = (self.holds ^ 1 << i) + (1 << lib.DPS_TABLES_SEQ)
        lib.builder_publish(ffi.addressof(self._head, "holds"), value)

    def readers_of_other(self, i: int) -> list[int]:
        """The pids that still work with the copy of table i that does not hold."""
        other = 1 - self.which(i)
        found = []
        for n in self._slots:
            line = self._readers[n]
            seen = int(lib.builder_load(ffi.addressof(line, "seen")))
            if seen and seen >> i & 1 == other:
                pid, start = int(line.pid), int(line.start)
                if self._lives(pid, start):
                    found.append(pid)
        return found
