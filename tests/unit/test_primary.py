# SPDX-License-Identifier: BSD-3-Clause
"""The primary's life: started, met, swept up after, and followed by the next generation."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run, sitter

from dpsup.bus.messages import as_error
from dpsup.errors import DpsupError, Exit, HostError
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import Runtime
from dpsup.supervisor import fsm, primary

PORT = {
    "name": "wan", "link_mbps": 0, "rx_queues": 1, "tx_queues": 1, "link_up": False,
    "driver": "net_null", "note": "",
}  # fmt: skip


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(primary, "AGAIN_S", 0.0)
    one = Parts(tmp_path)
    one.model.runtime.sweep = lambda: []  # type: ignore[method-assign]
    return one


def test_every_action_of_the_table_is_here(parts: Parts) -> None:
    assert set(parts.generation.actions()) == fsm.ACTIONS["primary"]


def test_a_primary_is_started_by_its_plan(parts: Parts, tmp_path: Path) -> None:
    argv: list[list[str]] = []
    parts.children.spawn = lambda _, words, __: argv.append(words)  # type: ignore
    parts.generation.spawn(parts.model.primary)
    assert argv[0][-2:] == ["dpsup.primary", str(tmp_path / "plan.json")]
    assert json.loads((tmp_path / "plan.json").read_text())["generation"] == 3


def test_a_primary_that_cannot_be_had_has_refused(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "plan.json.new").mkdir()  # as good as a full disk
    primary = parts.model.primary
    parts.generation.spawn(primary)
    assert parts.core.timers == [(0, parts.core.fire, (primary, "died"))]
    parts.generation.report(primary)
    (error,) = parts.core.failed
    assert isinstance(error, DpsupError)
    assert "could not be started" in error.message and error.code == "E0801"


def test_a_later_generation_waits_for_room(parts: Parts, tmp_path: Path) -> None:
    """The disk was full when the primary died: the instance ended."""
    (tmp_path / "plan.json").mkdir()
    one, parts.model.primary_deaths = parts.model.primary, 1
    one.state = "starting"
    for _ in range(3):
        parts.generation.spawn(one)
        assert not parts.core.fired and not parts.core.failed and not one.refused
        ((after, again, args),) = parts.core.timers
        assert after == primary.SPAWN_AGAIN_S
        parts.core.timers.clear()
    started: list[Any] = []
    parts.children.spawn = lambda *a: started.append(a)  # type: ignore
    (tmp_path / "plan.json").rmdir()
    again(*args)
    assert len(started) == 1
    one.state = "stopping"  # meanwhile: there is no process whose death would end it
    again(*args)
    assert parts.core.fired[-1] == ("primary", "died") and len(started) == 1


def test_without_its_directory_an_instance_is_not_tried_again(parts: Parts, tmp_path: Path) -> None:
    """No command finds it there: a supervisor without an instance was left, for ever."""
    runtime = parts.model.runtime = Runtime(str(tmp_path / "edge"), "edge")
    one, parts.model.primary_deaths = parts.model.primary, 1
    parts.generation.spawn(one)
    assert parts.core.timers == [(0, parts.core.fire, (one, "died"))]
    parts.generation.report(one)
    (error,) = parts.core.failed
    assert isinstance(error, DpsupError) and f"{runtime.path} was removed" in error.why


def test_a_primary_that_is_ready_is_met_and_the_seed_follows(parts: Parts) -> None:
    said: list[str] = []
    parts.model.progress = said.append
    parts.model.told = 9
    parts.model.primary.identity = Identity(400, 1)
    parts.core.answers["hello"] = {"dpdk": "22.11", "ports": [PORT], "notes": ["no MTU"]}
    parts.generation.actions()["announce"](parts.model.primary)
    run(parts.core.settle())
    assert parts.core.fired == [("seed", "start")] and parts.core.is_open
    assert parts.model.told == 0, "its stories are numbered anew"
    assert parts.core.events.of("warning")[0]["message"] == "no MTU"
    assert any("pid 400" in line for line in said) and any("wan" in line for line in said)


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_no_seed_is_forked_into_an_end_that_came_meanwhile(parts: Parts, state: str) -> None:
    """Live tables may be read for minutes: Ctrl-C in that time forked a seed all the same."""

    async def laid_out() -> None:
        parts.model.state = state

    parts.generation.laid_out = laid_out
    parts.model.primary.identity = Identity(400, 1)
    parts.core.answers["hello"] = {"dpdk": "22.11", "ports": [], "notes": []}
    parts.generation.actions()["announce"](parts.model.primary)
    run(parts.core.settle())
    assert not parts.core.fired


def test_a_primary_is_asked_to_stop_and_has_so_long(parts: Parts) -> None:
    parts.core.answers["stop"] = DpsupError("no")
    parts.generation.quit(parts.model.primary)
    run(parts.core.settle())
    assert parts.core.verbs() == ["stop"]
    assert parts.core.timers[0][2] == (parts.model.primary, "late")
    assert not parts.core.events.of("error")


# --- the end of one -------------------------------------------------------------------------------


def sweep(parts: Parts) -> None:
    parts.generation.actions()["sweep"](parts.model.primary)
    run(parts.core.settle())


def test_nothing_of_a_generation_outlives_its_primary(parts: Parts) -> None:
    with subprocess.Popen(["sleep", "60"]) as seed, subprocess.Popen(["sleep", "60"]) as worker:
        parts.model.seed.identity = process.identify(seed.pid)
        one = parts.seat(0, worker.pid)
        parts.model.living = lambda: [one]  # type: ignore[method-assign]
        parts.group.spares.append(sitter(7))
        parts.core.is_open = True
        sweep(parts)
        assert (seed.wait(), worker.wait()) == (-9, -9)
    names = [w.name for w in parts.group.workers]
    assert parts.core.fired == [*((name, "lost") for name in names), ("primary", "swept")]
    assert not parts.group.spares and not parts.model.sitters
    assert parts.model.primary_deaths == 1 and parts.model.primary.identity is None


def test_an_end_that_was_asked_for_is_no_death(parts: Parts) -> None:
    parts.core.is_open = True
    parts.model.state = "stopping"
    sweep(parts)
    assert parts.model.primary_deaths == 0


def test_what_was_under_way_is_lost(parts: Parts) -> None:
    parts.core.is_open = True
    parts.model.counters = {
        "slots": [{"outstanding": 3}],
        "io": [{"held": 2, "xfer": 0, "tx_waiting": 0}],
    }
    sweep(parts)
    assert parts.model.lost == 5


def test_the_next_generation_does_not_depend_on_descriptors_or_files(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = process.wait_gone, 2

    def exhausted(*args: Any) -> bool:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(24, "Too many open files")
        return real(*args)

    def denied() -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(primary.process, "wait_gone", exhausted)
    parts.model.runtime.sweep = denied  # type: ignore[method-assign]
    sweep(parts)
    assert parts.core.fired[-1] == ("primary", "swept")
    assert len(parts.core.events.of("error")) == 3


# --- what follows ---------------------------------------------------------------------------------


def reported(parts: Parts, refused: str = "") -> Any:
    parts.model.primary.refused = refused
    parts.generation.report(parts.model.primary)
    return parts.core.failed[-1] if parts.core.failed else None


def test_an_end_that_was_asked_for_is_the_instance_s(parts: Parts) -> None:
    parts.model.state = "stopping"
    assert reported(parts) is None and parts.core.fired == [("edge", "gone")]


def test_a_primary_that_ran_is_followed(parts: Parts) -> None:
    parts.model.primary_deaths = 1
    assert reported(parts) is None and parts.core.fired == [("edge", "primary_lost")]


def test_a_primary_that_never_ran_ends_the_instance_with_its_last_words(parts: Parts) -> None:
    parts.core.log.add(name="primary", line="EAL: no hugepages", type="")
    error = reported(parts)
    assert "before it was ready" in error.message and "no hugepages" in error.why
    assert parts.core.fired == [("edge", "gone")]


def test_a_panic_is_said_and_not_its_backtrace(parts: Parts) -> None:
    lines = ["EAL: probing", "PANIC in eth_dev_prepare():", "Cannot allocate ethdev shared data"]
    for line in (*lines, *(f"{n}: /usr/lib/librte_eal.so (+0x1) [0x2]" for n in range(9))):
        parts.core.log.add(name="primary", line=line, type="")
    why = reported(parts).why
    assert "Cannot allocate ethdev shared data" in why and "librte_eal" not in why
    assert "PANIC" in why and "probing" not in why


def test_a_refusal_is_the_exception_that_it_was(parts: Parts) -> None:
    error = reported(parts, json.dumps(as_error(HostError("no memory", why="w", help="h"))))
    assert (error.message, error.why, error.help) == ("no memory", "w", "h")
    assert error.exit_code == Exit.HOST


@pytest.mark.parametrize("text", ["abc", "[]", "7", '{"code": []}', "[" * 4000, "null", '{"a'])
def test_a_refusal_that_is_garbage_is_said_as_it_is(parts: Parts, text: str) -> None:
    parts.model.primary_deaths = 3
    assert isinstance(reported(parts, text), DpsupError)


def test_the_next_generation_starts_after_a_while_but_not_for_ever(parts: Parts) -> None:
    for _ in range(5):
        parts.generation.again()
    delays = [seconds for seconds, _, _ in parts.core.timers]
    assert delays == sorted(delays) and delays[0] > 0 and not parts.core.failed
    parts.generation.again()
    (error,) = parts.core.failed
    assert isinstance(error, DpsupError) and error.code == "E0802" and len(parts.core.timers) == 5


def test_the_next_generation_keeps_what_was_changed(parts: Parts) -> None:
    model = parts.model
    plan = model.plan
    model.replan = lambda generation: dataclasses.replace(plan, generation=generation)
    parts.group.plan = dataclasses.replace(parts.group.plan, plugin="macswap")
    parts.group.version = 1
    parts.generation.again()
    ((_, call, args),) = parts.core.timers
    call(*args)
    assert not parts.core.fired, "an instance that runs, or ends, is not started"
    model.state = "starting"
    call(*args)
    assert (model.plan.generation, model.plan.groups[0].plugin) == (4, "macswap")
    assert parts.group.version == 0
    assert parts.core.fired == [("primary", "start")]
