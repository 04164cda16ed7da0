# SPDX-License-Identifier: BSD-3-Clause
"""The entries of live tables, kept as they are while others change them too."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from dpsup.instance.client import Instance

Text = dict[str, str]  # values by keys, as the file of a table has them
BYTES = 44 << 10  # of a request: bus.messages' limit is above it


class Entries:
    """The tables of a group; `there` has them, by name."""

    def __init__(self, instance: Instance, group: str, names: Collection[str]) -> None:
        self._instance, self._group = instance, group
        self.there: dict[str, Text] = {}
        self.versions: dict[str, int] = {}
        rows = instance.tables()["tables"]
        self.most = {
            row["table"]: row["most"]
            for row in rows
            if row["group"] == group and row["table"] in names
        }

    def refresh(self) -> None:
        """Read what another hand has changed. Raises: DpsupError."""
        for row in self._instance.tables()["tables"]:
            name = row["table"]
            if row["group"] != self._group or name not in self.most:
                continue
            if self.versions.get(name) != row["version"]:
                self._read(name)

    def _read(self, name: str) -> None:
        entries: Text = {}
        version = 0
        for page in self._instance.table_pages(f"{self._group}/{name}"):
            version = page["version"]
            for line in page["text"].splitlines():
                key, value = line.split("  # ")[0].split(maxsplit=1)
                entries[key] = value
        self.there[name], self.versions[name] = entries, version


def parts(lines: list[str]) -> Iterator[list[str]]:
    """Operations, each with the end of its line, in requests of a size that is taken."""
    part: list[str] = []
    size = 0
    for line in lines:
        if size + len(line) + 1 > BYTES:
            yield part
            part, size = [], 0
        part.append(line + "\n")
        size += len(line) + 1
    if part:
        yield part
