# SPDX-License-Identifier: BSD-3-Clause
"""What a rollout leaves for whoever supervises next, and what is made of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.fakecore import FakeCore, model, sitter

from dpsup.errors import DpsupError, UsageError
from dpsup.supervisor.revisions import KEPT, Ledger, Revision
from dpsup.supervisor.rollout import Hands, Options, Rollout
from dpsup.supervisor.rollout_judge import Margins
from dpsup.supervisor.rollouts import Rollouts


class Supervisor:
    """As much of one as a record knows."""

    def __init__(self, folder: Path) -> None:
        self.model = model(folder)
        self.model.sitters = {1: sitter(1, 7), 2: sitter(2, 9)}
        self.core = FakeCore(versions=lambda berths: [{7: 1, 9: 0}[b] for b in berths])
        parts: Any = None
        spares: Any = SimpleNamespace()
        self.rollouts = Rollouts(self.core, self.model, parts, spares, parts)
        self.hands = Hands(self.core, self.model, parts, spares, parts, self.rollouts.write)
        self.group, self.ledger = self.model.groups[0], self.model.ledgers[0]

    def resume(self) -> bool:
        """Whether a rollout goes on."""
        asyncio.run(self.rollouts.resume())
        started = bool(self.core.tasks)
        self.core.drop()
        return started


def half_way(folder: Path, phase: str) -> Supervisor:
    sup = Supervisor(folder)
    target = Revision(2, "/x/fw-2.so", "/x/fw-2.so", (("a", "b"),), "d", 5.0, "rolling")
    sup.ledger.add(target)
    options = Options(canary=2, judge=9.0, margins=Margins(0.5, 0.5, 3.0))
    one = Rollout(sup.hands, sup.group, sup.ledger, target, options, 0, 1)
    one.phase, sup.ledger.running, sup.ledger.slots = phase, one, [1, 2]
    sup.rollouts.write()
    return sup


@pytest.mark.parametrize(
    ("phase", "goes_back"),
    [("preparing", True), ("canary", True), ("rolling", True), ("closing", False)],
)
def test_the_next_supervisor_goes_on_from_the_record(
    tmp_path: Path, phase: str, goes_back: bool
) -> None:
    """Back; or on, where every slot had been changed over and judged."""
    before = half_way(tmp_path, phase)
    after = Supervisor(tmp_path)
    assert after.resume()
    ledger = after.ledger
    assert ledger.revisions == before.ledger.revisions
    assert ledger.slots == [1, 2]
    one = ledger.running
    assert one is not None and before.ledger.running is not None
    assert (one.old, one.new, one.phase) == (0, 1, phase)
    assert one.describe() == {**before.ledger.running.describe(), "why": one.failed}
    assert bool(one.failed) == goes_back
    assert one.target is ledger.revisions[1]
    assert [s.version for s in after.model.sitters.values()] == [1, 0]


def test_what_was_done_is_known_too(tmp_path: Path) -> None:
    sup = half_way(tmp_path, "closing")
    sup.ledger.revisions[0].state = "replaced"
    sup.ledger.revisions[1].state = "current"
    sup.ledger.running = None
    sup.group.version = 1
    sup.rollouts.write()
    after = Supervisor(tmp_path)
    assert not after.resume()
    assert after.group.version == 1
    assert after.group.plan.plugin == after.model.plan.groups[0].plugin == "/x/fw-2.so"
    assert after.group.plan.args == (("a", "b"),)
    # The plan's record says it as well, for those who only look.
    after.rollouts.write()
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["groups"][0]["plugin_path"] == "/x/fw-2.so"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"groups": 3}', '{"groups": {"fw": {}}}'])
def test_a_record_that_is_none_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rollout.json").write_text(text)
    sup = Supervisor(tmp_path)
    assert not sup.resume() and len(sup.ledger.revisions) == 1
    assert sup.core.events.of("fault"), "skipped, and said"


def test_a_record_of_another_generation_says_nothing(tmp_path: Path) -> None:
    half_way(tmp_path, "rolling")
    sup = Supervisor(tmp_path)
    sup.model.plan = dataclasses.replace(sup.model.plan, generation=4)
    assert not sup.resume()


def test_history_is_bounded_and_keeps_what_runs() -> None:
    ledger = Ledger([Revision(1, "a", "", (), "", 0.0, "current")])
    for i in range(2, 100):
        ledger.add(Revision(i, "b", "", (), "", 0.0, "undone"))
    assert ledger.current.number == 1 and len(ledger.revisions) == KEPT
    ledger.revisions[0].state = "replaced"
    ledger.add(Revision(100, "c", "", (), "", 0.0, "current"))
    assert len(ledger.revisions) == KEPT and ledger.current.number == 100


def test_orders_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    sup = Supervisor(tmp_path)
    group = sup.group
    for options in (
        Options(canary=-1), Options(max_unavailable=0), Options(judge=-1), Options(judge=1e9),
        Options(margins=Margins(-1)),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            asyncio.run(sup.rollouts.begin(group, "forward", None, options))
    with pytest.raises(UsageError, match="no built-in plugin"):
        asyncio.run(sup.rollouts.begin(group, "nonesuch", None, Options()))
    with pytest.raises(UsageError, match="room for"):
        asyncio.run(sup.rollouts.begin(group, None, {"k": "v" * 9000}, Options()))
    with pytest.raises(DpsupError, match="cannot read plugin"):
        asyncio.run(sup.rollouts.begin(group, "/no/such.so", None, Options()))
    assert asyncio.run(sup.rollouts.begin(group, group.plan.plugin, None, Options())) is None
