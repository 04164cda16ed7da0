# SPDX-License-Identifier: BSD-3-Clause
"""One piece of advice: measurement, reason, changes, effect. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpsup.view.columns import si

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents import advice as documents
    from dpsup.documents.advice import Change, Predicted
Where = tuple[
    str | int, ...
]  # place of a key in the file; tables of an array by name, [[io]] by number

LOSING = "losing"  # packets are lost
RISK = "risk"  # packets may be lost
FASTER = "faster"  # no loss, but more is possible
LEVELS = (LOSING, RISK, FASTER)


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the topology file, and its new value. It takes effect at the next start."""

    where: Where
    value: Any
    old: Any

    def text(self) -> str:
        *table, key = self.where
        kind, name = table[0], table[1]
        if kind == "io":
            head = "[[io]]" if name == 0 else f"[[io]] number {int(name) + 1}"
        else:
            head = f"[mempools.{name}]" if kind == "mempools" else f"[[{kind}]] {name}"
        inner = ".".join(map(str, (*table[2:], key)))
        return f"{head}: {inner} = {toml_value(self.value)} (now {toml_value(self.old)})"

    def document(self) -> Change:
        return {
            "kind": "toml", "path": list(self.where), "value": self.value, "old": self.old,
            "text": self.text(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A command to type; it takes effect at once."""

    argv: tuple[str, ...]

    def text(self) -> str:
        return " ".join(self.argv)

    def document(self) -> Change:
        text = self.text()
        return {"kind": "command", "argv": list(self.argv), "command": text, "text": text}


@dataclass(frozen=True, slots=True)
class Effect:
    """The present and the predicted value of a measurement (a path in "measured")."""

    metric: tuple[str, ...]
    unit: str
    now: float
    then: float

    def text(self) -> str:
        def written(value: float) -> str:
            return f"{value:.0%}" if self.unit == "share" else si(value)

        unit = "" if self.unit == "share" else f" {self.unit}"
        return f"{' '.join(self.metric)}: {written(self.now)} -> {written(self.then)}{unit}"

    def document(self) -> Predicted:
        return {
            "metric": list(self.metric), "unit": self.unit, "now": self.now, "then": self.then,
            "text": self.text(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    kind: str
    level: str
    about: str  # "mempool default", "group fw", "io/0", "port wan"
    title: str
    seen: str  # numbers with units
    why: str
    changes: tuple[Key | Command, ...]
    effect: Effect
    numbers: Mapping[str, Any] = field(default_factory=dict)  # the numbers in `seen`, for programs

    def document(self, memory_bytes: int = 0) -> documents.Piece:
        return {
            "kind": self.kind,
            "level": self.level,
            "about": self.about,
            "title": self.title,
            "seen": self.seen,
            "numbers": self.numbers,
            "why": self.why,
            "changes": [c.document() for c in self.changes],
            "predicted": self.effect.document(),
            "memory_bytes": memory_bytes,
        }
