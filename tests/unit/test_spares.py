# SPDX-License-Identifier: BSD-3-Clause
"""Spares: as many as the group should have, and not for ever where they refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run, sitter

from dpsup.errors import DpsupError
from dpsup.supervisor import spares
from dpsup.supervisor.model import Sitter
from dpsup.supervisor.sitters import SEATED, STARTING


class Nest(Parts):
    """`forks` are the spares that were forked; `noted` hears what they say."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, spare={"berth": 3, "ticket": 4})
        self.forks: list[Sitter] = []
        self.noted: Callable[[Sitter, str], None]
        self.fails: Exception | None = None
        seams: Any = self.sitters
        seams.fork = self._fork
        seams._seed = object()  # it takes orders
        self.group.spare_due_at = 0.0

    async def _fork(self, name: str, berth: Any, noted: Any, version: int) -> Sitter:
        assert berth == self.core.answers["spare"]
        if self.fails is not None:
            raise self.fails
        self.noted = noted
        self.forks.append(sitter(600 + len(self.forks), 3, version=version))
        self.forks[-1].name = name
        return self.forks[-1]

    def refill(self) -> int:
        """How many are forked."""
        before = len(self.forks)
        self.spares.refill(self.group)
        self.spares.refill(self.group)
        run(self.core.settle())
        return len(self.forks) - before


@pytest.fixture
def nest(tmp_path: Path) -> Nest:
    return Nest(tmp_path)


def test_a_group_has_the_spares_that_it_should(nest: Nest) -> None:
    assert nest.refill() == 1 and nest.refill() == 0
    assert nest.group.spares == nest.forks and nest.core.recorded
    nest.group.plan = dataclasses.replace(nest.group.plan, spares=3)
    assert nest.refill() == 2


def test_a_spare_of_an_old_version_does_not_count(nest: Nest) -> None:
    nest.refill()
    nest.group.version = 1
    assert nest.refill() == 1 and nest.forks[-1].version == 1


@pytest.mark.parametrize("why", ["closed", "no seed", "held", "none wanted"])
def test_none_is_forked_where_none_can_be(nest: Nest, why: str) -> None:
    if why == "closed":
        nest.model.state = "starting"
    elif why == "no seed":
        nest.sitters._seed = None
    elif why == "held":
        nest.group.spares_held = "refused"
    else:
        nest.group.plan = dataclasses.replace(nest.group.plan, spares=0)
    assert nest.refill() == 0 and not nest.group.filling


def test_a_fork_that_fails_is_tried_again(nest: Nest) -> None:
    nest.fails = DpsupError("no memory")
    with pytest.raises(DpsupError):
        nest.refill()
    assert not nest.group.filling
    nest.fails = None
    assert nest.refill() == 1


def test_a_spare_says_that_it_is_ready(nest: Nest) -> None:
    nest.refill()
    nest.noted(nest.forks[0], "READY")
    assert nest.forks[0].ready
    nest.noted(nest.forks[0], "garbage")


def test_a_plugin_that_refuses_is_not_tried_for_ever(nest: Nest) -> None:
    nest.refill()
    nest.noted(nest.forks[0], "REFUSED 108 no table")
    assert nest.group.spares_held == "no table"
    assert len(nest.core.events.of("held")) == 1
    nest.noted(nest.forks[0], "REFUSED 108 no table either")
    assert nest.group.spares_held == "no table" and len(nest.core.events.of("held")) == 1
    nest.spares.take_out(nest.forks[0])
    assert nest.refill() == 0
    nest.spares.forgive(nest.group)
    run(nest.core.settle())
    assert len(nest.forks) == 2 and nest.group.spares_held == ""


@pytest.mark.parametrize("said", ["REFUSED 111 busy", "REFUSED x", "REFUSED 99999999999 x"])
def test_what_may_pass_holds_nobody(nest: Nest, said: str) -> None:
    nest.refill()
    nest.noted(nest.forks[0], said)
    assert not nest.group.spares_held and nest.core.events.of("spare")


def test_a_refusal_may_be_a_rollout_s_affair(nest: Nest) -> None:
    nest.refill()
    nest.spares.on_refusal = lambda *_: True
    nest.noted(nest.forks[0], "REFUSED 108 no table")
    assert not nest.group.spares_held


def died(nest: Nest, **spare: Any) -> None:
    one = sitter(700, **spare)
    nest.group.spares.append(one)
    assert nest.spares.take_out(one) is nest.group
    nest.spares.died(nest.group, one)
    nest.core.drop()
    nest.group.filling = False


def test_spares_that_die_young_come_less_and_less_often(nest: Nest) -> None:
    waits = []
    for _ in range(6):
        before = nest.group.spare_history.at
        died(nest)
        waits.append(nest.group.spare_due_at - nest.group.spare_history.at)
        assert nest.group.spare_history.at >= before
    assert waits[-1] > 4 * waits[0]
    for _ in range(20):
        died(nest)
    assert not nest.group.spares_held, "but for ever"
    assert len(nest.core.events.of("spare")) == 26


@pytest.mark.parametrize("spare", [{"ready": True}, {"asked": True}, {"version": 1}])
def test_who_was_ready_or_asked_costs_no_delay(nest: Nest, spare: dict[str, Any]) -> None:
    died(nest, **spare)
    assert nest.group.spare_due_at == 0.0
    assert bool(nest.core.events.of("spare")) != bool(spare.get("asked"))


def test_who_is_no_spare_is_taken_out_of_nothing(nest: Nest) -> None:
    assert nest.spares.take_out(sitter(1)) is None


def test_the_retired_are_asked_before_they_end(nest: Nest, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, bool]] = []
    one, gone = sitter(1), sitter(2)
    one.pidfd = 41
    monkeypatch.setattr(
        spares.process, "signal_pidfd", lambda fd, _: told.append((fd, bool(nest.core.recorded)))
    )
    nest.spares.retire([one, gone])
    assert told == [(41, True)] and one.asked and gone.asked


def test_a_fork_that_comes_too_late_is_retired(nest: Nest) -> None:
    nest.model.state = "stopping"
    run(nest.spares.fork(nest.group, 0))
    assert nest.forks[0].asked


def test_an_adopted_spare_is_asked_after_until_it_is_ready(
    nest: Nest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "LOOK_S", 0.0)
    hands = iter([STARTING, STARTING, SEATED])
    nest.core.answers["sitters"] = lambda: {"sitters": [{"pid": 700, "hand": next(hands)}]}
    one = sitter(700)
    one.pidfd = 41
    nest.spares.take_up(nest.group, one)
    run(nest.core.settle())
    assert one.ready and one in nest.group.spares and len(nest.core.timers) == 1
    nest.spares.take_up(nest.group, sitter(701, ready=True))
    assert len(nest.core.timers) == 1 and not nest.core.tasks


def test_a_spare_that_took_over_before_its_fork_was_known_is_none(nest: Nest) -> None:
    early = sitter(700, 3)
    nest.worker.sitter = early
    seams: Any = nest.sitters

    async def fork(*_: Any) -> Sitter:
        return early

    seams.fork = fork
    run(nest.spares.fork(nest.group, 0))
    assert not nest.group.spares


def test_a_plugin_that_writes_refusals_without_end_is_told_once(nest: Nest) -> None:
    """Each was an event: they pushed all others out of the journal."""
    nest.refill()
    for _ in range(1000):
        nest.noted(nest.forks[0], "REFUSED abc")
    nest.noted(nest.forks[0], "REFUSED 108 no table")
    assert len(nest.core.events.of("spare")) == 1
    assert nest.group.spares_held == "no table", "what the worker itself says counts"
