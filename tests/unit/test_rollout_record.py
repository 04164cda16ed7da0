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
from unit.fakehost import FILE, MINIMAL, machine

from dpsup.errors import DpsupError, UsageError
from dpsup.plan.place import make_plan
from dpsup.supervisor import rollout
from dpsup.supervisor.judge import Margins
from dpsup.supervisor.rollout import Ledger, Options, Revision, Rollout
from dpsup.topology.load import load


def supervisor(folder: Path) -> Any:
    """As much of one as a record knows."""
    text = MINIMAL
    topology, _ = load(FILE, machine(text))
    assert topology is not None
    plan = make_plan(topology, machine(text), 3)
    groups = [
        SimpleNamespace(plan=g, index=i, version=0, workers=[], spares=[])
        for i, g in enumerate(plan.groups)
    ]
    events: list[dict[str, Any]] = []
    sup = SimpleNamespace(
        plan=plan,
        groups=groups,
        rollouts=[Ledger.begin(g) for g in plan.groups],
        runtime=SimpleNamespace(path=folder),
        events=SimpleNamespace(add=lambda **e: events.append(e), log=events),
        state="running",
        started=[],
        _sitters={1: SimpleNamespace(berth=7, version=0), 2: SimpleNamespace(berth=9, version=0)},
        _changed=asyncio.Event(),
    )

    async def insist(verb: str, **args: Any) -> Any:
        assert verb == "versions"
        return [{7: 1, 9: 0}[b] for b in args["berths"]]

    def task(coroutine: Any) -> None:
        coroutine.close()
        sup.started.append(True)

    sup.insist, sup._task = insist, task
    return sup


def half_way(folder: Path, phase: str) -> Any:
    sup = supervisor(folder)
    ledger = sup.rollouts[0]
    target = Revision(2, "/x/fw-2.so", "/x/fw-2.so", (("a", "b"),), "d", 5.0, "rolling")
    ledger.add(target)
    options = Options(canary=2, judge=9.0, margins=Margins(0.5, 0.5, 3.0))
    one = Rollout(sup, sup.groups[0], ledger, target, options, 0, 1)
    one.phase, ledger.running, ledger.slots = phase, one, [1, 2]
    rollout.write(sup)
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
    after = supervisor(tmp_path)
    asyncio.run(rollout.resume(after))
    ledger = after.rollouts[0]
    assert ledger.revisions == before.rollouts[0].revisions
    assert ledger.slots == [1, 2]
    one = ledger.running
    assert one is not None and after.started == [True]
    assert (one.old, one.new, one.phase) == (0, 1, phase)
    assert one.options == before.rollouts[0].running.options
    assert bool(one.failed) == goes_back
    assert one.target is ledger.revisions[1]
    assert [s.version for s in after._sitters.values()] == [1, 0]


def test_what_was_done_is_known_too(tmp_path: Path) -> None:
    sup = half_way(tmp_path, "closing")
    sup.rollouts[0].revisions[0].state = "replaced"
    sup.rollouts[0].revisions[1].state = "current"
    sup.rollouts[0].running = None
    sup.groups[0].version = 1
    rollout.write(sup)
    after = supervisor(tmp_path)
    asyncio.run(rollout.resume(after))
    assert after.groups[0].version == 1 and not after.started
    assert after.groups[0].plan.plugin == after.plan.groups[0].plugin == "/x/fw-2.so"
    assert after.groups[0].plan.args == (("a", "b"),)
    # The plan's record says it as well, for those who only look.
    rollout.write(after)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["groups"][0]["plugin_path"] == "/x/fw-2.so"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"groups": 3}', '{"groups": {"fw": {}}}'])
def test_a_record_that_is_none_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rollout.json").write_text(text)
    sup = supervisor(tmp_path)
    asyncio.run(rollout.resume(sup))
    assert not sup.started and len(sup.rollouts[0].revisions) == 1


def test_a_record_of_another_generation_says_nothing(tmp_path: Path) -> None:
    half_way(tmp_path, "rolling")
    sup = supervisor(tmp_path)
    sup.plan = dataclasses.replace(sup.plan, generation=4)
    asyncio.run(rollout.resume(sup))
    assert not sup.started


def test_history_is_bounded_and_keeps_what_runs() -> None:
    ledger = Ledger([Revision(1, "a", "", (), "", 0.0, "current")])
    for i in range(2, 100):
        ledger.add(Revision(i, "b", "", (), "", 0.0, "undone"))
    assert ledger.current.number == 1 and len(ledger.revisions) == rollout.KEPT
    ledger.revisions[0].state = "replaced"
    ledger.add(Revision(100, "c", "", (), "", 0.0, "current"))
    assert len(ledger.revisions) == rollout.KEPT and ledger.current.number == 100


def test_orders_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    sup = supervisor(tmp_path)
    group = sup.groups[0]
    for options in (
        Options(canary=-1), Options(max_unavailable=0), Options(judge=-1), Options(judge=1e9),
        Options(margins=Margins(-1)),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            rollout.begin(sup, group, "forward", None, options)
    with pytest.raises(UsageError, match="no built-in plugin"):
        rollout.begin(sup, group, "nonesuch", None, Options())
    with pytest.raises(UsageError, match="room for"):
        rollout.begin(sup, group, None, {"k": "v" * 9000}, Options())
    with pytest.raises(DpsupError, match="cannot read plugin"):
        rollout.begin(sup, group, "/no/such.so", None, Options())
    assert rollout.begin(sup, group, group.plan.plugin, None, Options()) is None
