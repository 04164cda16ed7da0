# SPDX-License-Identifier: BSD-3-Clause
"""Events and log lines: the recorded ones, new ones, and the choice among them.

The record (instance.record) is read from the runtime directory, so that it can be read without a
supervisor too: of a headless instance, and of a dead one whose remains were not removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

from dpsup.documents.events import TYPES
from dpsup.errors import NoSuchObject, NotRunning, Unsupervised, UsageError
from dpsup.instance import record, runtime_dir
from dpsup.instance.client import Instance, find
from dpsup.instance.runtime_dir import Runtime
from dpsup.text import suggest

MOST = 1000  # entries shown without --since

Entry = dict[str, Any]  # documents.events.Event or documents.printed.LogLine


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries to show: by default all of them."""

    since: float | None = None  # seconds ago
    types: Collection[str] = ()
    names: Collection[str] = ()

    def takes(self, entry: Entry, now: float) -> bool:
        return (
            (self.since is None or entry["at"] >= now - self.since)
            and (not self.types or entry.get("type") in self.types)
            and (not self.names or entry.get("name") in self.names)
        )

    def some(self, entries: list[Entry], now: float) -> list[Entry]:
        found = [e for e in entries if self.takes(e, now)]
        return found if self.since is not None else found[-MOST:]


def parse_types(text: str) -> frozenset[str]:
    """ "death,scale" as a set. Raises: UsageError for a type that does not exist."""
    found = frozenset(word.strip() for word in text.split(",") if word.strip())
    for word in sorted(found - TYPES.keys()):
        close = suggest(word, TYPES)
        raise UsageError(
            f'no event is of type "{word}"',
            code="E0722",
            help=f'did you mean "{close}"?' if close else f"there are: {', '.join(TYPES)}",
        )
    return found


def recorded(name: str | None) -> Runtime | None:
    """A dead instance that left a record: the named one, or the only one."""
    found = [
        one
        for known, one in runtime_dir.instances().items()
        if (not name or known == name) and any((one.path / n).exists() for n in record.NAMES)
    ]
    return found[0] if len(found) == 1 else None


def _live(instance: Instance, topic: str, since: int) -> list[Entry]:
    """All that the instance remembers after that number, page by page."""
    found: list[Entry] = []
    while True:
        page = instance.events(since) if topic == "event" else instance.logs(since=since)
        if not page:
            return found
        found += cast(list[Entry], page)
        since = page[-1]["seq"]


def _join(record: list[Entry], live: list[Entry]) -> list[Entry]:
    """Both, each number once: on a full disk the record has gaps."""
    by_number = {e["seq"]: e for e in record}
    by_number.update((e["seq"], e) for e in live)
    return [by_number[n] for n in sorted(by_number)]


def _demand_names(instance: Instance, names: Collection[str], known: set[str]) -> None:
    groups = instance.status()["groups"]
    known |= {"primary", "seed", "metrics"} | {w["id"] for g in groups for w in g["workers"]}
    known |= {f"{g['name']}/spare" for g in groups}
    for name in names:
        if name not in known:
            close = suggest(name, known)
            raise NoSuchObject(
                f'no worker "{name}"',
                code="E0702",
                help=f'did you mean "{close}"?' if close else f"there are: {', '.join(known)}",
            )


def past(name: str | None, topic: str, wanted: Wanted) -> tuple[list[Entry], str]:
    """Past entries to show, and a note on their source, "" if it is the running instance."""
    now = time.time()
    try:
        where = find(name)
    except NotRunning as e:
        dead = recorded(name)
        if dead is None:
            raise
        dead.demand_access()
        word = f"{e.message}: this is its record"
        return wanted.some(record.read(dead.path, topic), now), word
    with Instance(where) as instance:
        entries = record.read(where.path, topic)
        try:
            entries = _join(entries, _live(instance, topic, 0))
        except Unsupervised:
            word = f'instance "{where.name}" has no supervisor: this is the record up to its end'
            return wanted.some(entries, now), word
        found = wanted.some(entries, now)
        if wanted.names and not found:
            _demand_names(instance, wanted.names, {str(e.get("name")) for e in entries})
        return found, ""


def follow(name: str | None, topic: str, wanted: Wanted, show: Callable[[Entry], None]) -> None:
    """Show past entries, then new ones, until the instance ends."""
    with Instance(find(name)) as instance:
        if instance.headless:
            raise NotRunning(
                f'instance "{instance.name}" has no supervisor: no new events will come',
                code="E0607",
                help=f"`dpsup -n {instance.name} events` shows the record",
            )
        following = instance.follow(topic)
        now = time.time()
        entries = _join(record.read(instance.runtime.path, topic), _live(instance, topic, 0))
        seen = entries[-1]["seq"] if entries else 0
        for entry in wanted.some(entries, now):
            show(entry)
        wanted = Wanted(None, wanted.types, wanted.names)
        for publication in following:
            if publication.seq <= seen:
                continue
            if publication.seq > seen + 1:
                # Missed between the snapshot and the subscription, or because this process is slow.
                for entry in _live(instance, topic, seen):
                    if entry["seq"] < publication.seq and wanted.takes(entry, now):
                        show(entry)
            seen = publication.seq
            entry = {**publication.data, "seq": publication.seq}
            if wanted.takes(entry, now):
                show(entry)
