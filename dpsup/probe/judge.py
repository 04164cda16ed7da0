# SPDX-License-Identifier: BSD-3-Clause
"""Which backends are down, by what came of the last probes of each, and which changes of the table
`down` say so. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MARKS = ("down", "gone")  # of a probe; an operator's are other words, and stay


class Change(NamedTuple):
    backend: str
    is_up: bool
    why: str


@dataclass
class _Backend:
    is_up: bool
    streak: int = 0  # probes in a row that say otherwise
    why: str = ""


class Judge:
    def __init__(self, rise: int, fall: int, mark: str) -> None:
        self._rise, self._fall, self._mark = rise, fall, mark
        self._known: dict[str, _Backend] = {}

    def know(self, addresses: Mapping[str, str], marks: Mapping[str, str]) -> None:
        """The backends that are probed. A new one is as its mark says, which a process before this
        one has left; one with another address is a new one."""
        known = {}
        for name, address in addresses.items():
            key = f"{name} {address}"
            known[key] = self._known.get(key) or _Backend(marks.get(name) not in MARKS)
        self._known = known

    def found(self, name: str, address: str, fault: str) -> Change | None:
        """What came of one probe; "": it answered. What it changes."""
        one = self._known.get(f"{name} {address}")
        if one is None:
            return None
        if one.is_up == (not fault):
            one.streak = 0
            return None
        one.streak += 1
        if one.streak < (self._fall if one.is_up else self._rise):
            return None
        one.is_up, one.streak, one.why = not one.is_up, 0, fault
        return Change(name, one.is_up, fault)

    def operations(self, marks: Mapping[str, str]) -> list[str]:
        """They make the table say what is judged; the words of an operator stay."""
        down = {key.partition(" ")[0] for key, one in self._known.items() if not one.is_up}
        ours = {name for name, mark in marks.items() if mark in MARKS}
        return [f"del {name}" for name in sorted(ours - down)] + [
            f"set {name} {self._mark}"
            for name in sorted(down)
            if marks.get(name) != self._mark and marks.get(name, "") in ("", *MARKS)
        ]


def addresses_of(entries: Mapping[str, str]) -> dict[str, str]:
    """The IP addresses in the table `backends`, by name. One that is all zeros is not probed."""
    found = {name: value.rpartition(",")[2] for name, value in entries.items()}
    return {name: one for name, one in found.items() if one.strip("0.:")}
