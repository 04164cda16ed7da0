# SPDX-License-Identifier: BSD-3-Clause
"""The entries of live tables, kept as they are while others change them too."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from dpsup.instance.client import TABLE_BYTES, Instance

Text = dict[str, str]  # values by keys, as the file of a table has them


class Entries:
    """The tables of a group; `there` has them, by name."""

    def __init__(self, instance: Instance, group: str, names: Collection[str], file: Path) -> None:
        """`file`: that it may write, for the builder to read: what is too long for a message."""
        self._instance, self._group, self._file = instance, group, file
        self.there: dict[str, Text] = {}
        self.versions: dict[str, int] = {}
        rows = instance.tables()["tables"]
        self.most = {
            row["table"]: row["most"]
            for row in rows
            if row["group"] == group and row["table"] in names
        }

    def refresh(self) -> bool:
        """Read what another hand has changed. False: nothing. Raises: DpsupError."""
        found = False
        for row in self._instance.tables()["tables"]:
            name = row["table"]
            if row["group"] != self._group or name not in self.most:
                continue
            if self.versions.get(name) != row["version"]:
                self._read(name)
                found = True
        return found

    def _read(self, name: str) -> None:
        entries: Text = {}
        version = 0
        for page in self._instance.table_pages(f"{self._group}/{name}"):
            version = page["version"]
            for line in page["text"].splitlines():
                key, value = line.split("  # ")[0].split(maxsplit=1)
                entries[key] = value
        self.there[name], self.versions[name] = entries, version

    def change(self, name: str, lines: Sequence[str]) -> None:
        """One batch, however long: packets see all of it, or nothing. Raises: DpsupError, OSError;
        the tables are then to be read again."""
        table = f"{self._group}/{name}"
        text = "".join(f"{line}\n" for line in lines)
        if len(text) <= TABLE_BYTES:
            doc = self._instance.table_change(table, text)
        else:
            self._file.write_text(text)
            try:
                doc = self._instance.table_batch(table, str(self._file))
            finally:
                self._file.unlink(missing_ok=True)
        if doc["version"] == self.versions[name] + 1:
            self.versions[name] += 1  # else `refresh` finds what another hand has done
        entries = self.there[name]
        for line in lines:
            verb, key, *value = line.split()
            if verb == "del":
                del entries[key]
            else:
                entries[key] = value[0]
