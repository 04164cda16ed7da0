# SPDX-License-Identifier: BSD-3-Clause
"""Probes the backends of one group, round after round, and has the builder change its table `down`.

It holds nothing that outlives it but counts of probes in a row: its successor reads the table, and
goes on from there. So it may die at any moment; the marks then stay as they are.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpsup.errors import DpsupError
from dpsup.instance.client import Instance
from dpsup.instance.entries import Entries
from dpsup.instance.helper import Said, begin, say
from dpsup.instance.runtime_dir import TABLES
from dpsup.plan import rights
from dpsup.probe.ask import Question, ask
from dpsup.probe.judge import Change, Judge, addresses_of

AT_ONCE = 100  # connections
LOOK_S = 2.0  # between two looks whether another hand has changed a table
AGAIN_S = 0.5  # after a failure


async def answers(question: Question, addresses: Mapping[str, str]) -> dict[str, str]:
    """By name, why a backend does not answer; "": it does. Raises: OSError."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(address: str) -> str:
        async with free:
            return await ask(question, address)

    found = await asyncio.gather(*(one(address) for address in addresses.values()))
    return dict(zip(addresses, found, strict=True))


class Group:
    """The tables of the group, and what is judged of its backends."""

    def __init__(self, instance: Instance, group: str, plan: Any, file: Path) -> None:
        """`file`: that it may write, for the builder to read."""
        self._tables = Entries(instance, group, ("backends", "down"), file)
        self._judge = Judge(plan["rise"], plan["fall"], plan["mark"])
        self._untold: list[Change] = []
        self._looked = 0.0

    def refresh(self) -> dict[str, str]:
        """The backends' addresses, read again where another hand may have changed a table."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._tables.refresh()
            self._looked = time.monotonic()
        addresses = addresses_of(self._tables.there["backends"])
        self._judge.know(addresses, self._tables.there["down"])
        return addresses

    def judge(self, addresses: Mapping[str, str], found: Mapping[str, str]) -> list[Change]:
        """What has changed, once the table says it. Raises: DpsupError; then it is told later."""
        for name, fault in found.items():
            if change := self._judge.found(name, addresses[name], fault):
                self._untold.append(change)
        if lines := self._judge.operations(self._tables.there["down"]):
            self._looked = 0.0
            self._tables.change("down", lines)
        told, self._untold = self._untold, []
        return told


def _turns(group: Group, plan: Any, notify: int, said: Said) -> None:
    """Until something fails."""
    words = ("kind", "port", "path", "host", "timeout", "netns")
    question = Question(**{word: plan[word] for word in words})
    while True:
        began = time.monotonic()
        addresses = group.refresh()
        for change in group.judge(addresses, asyncio.run(answers(question, addresses))):
            say(notify, f"{'UP' if change.is_up else 'DOWN'} {change.backend} {change.why}")
        said("")
        time.sleep(max(0.01, began + plan["interval"] - time.monotonic()))


def main(argv: list[str]) -> int:
    if (begun := begin(argv, rights.probe)) is None:
        return 1
    where, group, plan, notify = begun
    (its,) = (one["probe"] for one in plan["groups"] if one["name"] == group)
    file = Path(where.file(TABLES), f"{group}:probe")
    said = Said(notify, "all backends are probed")
    while True:
        try:
            with Instance(where) as instance:
                _turns(Group(instance, group, its, file), its, notify, said)
        except (DpsupError, OSError) as e:
            said(e.message if isinstance(e, DpsupError) else f"no backend is probed: {e}")
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
