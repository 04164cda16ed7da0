# SPDX-License-Identifier: BSD-3-Clause
"""Workers and io cores that the kernel took off their CPUs.

It does so where a CPU goes offline or out of a cpuset, to whatever CPUs are left, and never puts
them back. A thread that is on one other CPU, although it could be on its own, was put there on
purpose, and is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from dpsup.documents.requests import Notice
from dpsup.text import ranges

EVERY_S = 2.0

Thread = tuple[str, int, int]  # what runs, its thread, the CPU that is planned for it


class Pinning:
    """`read` and `pin` are the kernel's, for a thread."""

    def __init__(
        self,
        read: Callable[[int], Iterable[int]] = os.sched_getaffinity,
        pin: Callable[[int, Iterable[int]], None] = os.sched_setaffinity,
    ) -> None:
        self._read, self._pin = read, pin
        self._astray: dict[str, int] = {}  # by what runs
        self._seen: set[int] = set()  # threads: a new one may be on its way to its CPU
        self._moved: set[int] = set()  # threads that a person put elsewhere
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        due = now >= self._next
        if due:
            self._next = now + EVERY_S
        return due

    def observe(self, threads: Iterable[Thread]) -> list[Notice]:
        """Puts back what can be; events of type "cpu"."""
        found: list[Notice] = []
        seen = set()
        threads = list(threads)
        for name, tid, cpu in threads:
            seen.add(name)
            try:
                runs = sorted(self._read(tid))
                if runs == [cpu]:
                    self._moved.discard(tid)
                    if self._astray.pop(name, None) is not None:
                        found.append({"name": name, "message": f"runs on CPU {cpu} again"})
                    continue
                if tid not in self._seen or self._is_moved(name, tid, runs, cpu):
                    continue
            except OSError:  # it has ended
                continue
            try:
                self._pin(tid, {cpu})
            except OSError as e:
                if name not in self._astray:
                    self._astray[name] = tid
                    said = (
                        f"cannot run on CPU {cpu}, offline or outside of its cpuset ({e.strerror})"
                    )
                    found.append({"name": name, "message": f"{said}: runs on {ranges(runs)}"})
                continue
            self._astray.pop(name, None)
            found.append({"name": name, "message": f"runs on CPU {cpu} again"})
        for name in self._astray.keys() - seen:
            del self._astray[name]
        self._seen = {tid for _, tid, _ in threads}
        self._moved &= self._seen
        return found

    def _is_moved(self, name: str, tid: int, runs: list[int], cpu: int) -> bool:
        """By a person: it is on one CPU, and may be on its own. The kernel leaves it on one where
        no more are left, and says which of those that it is asked for are. Raises: OSError."""
        if len(runs) > 1 or name in self._astray:
            self._moved.discard(tid)
            return False
        if tid not in self._moved:
            self._pin(tid, {*runs, cpu})
            may = cpu in self._read(tid)
            self._pin(tid, runs)
            if may:
                self._moved.add(tid)
        return tid in self._moved
