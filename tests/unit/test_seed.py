# SPDX-License-Identifier: BSD-3-Clause
"""The seed's life: replaced for ever, its way cleared; a new generation is the last resort."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run

from dpsup.bus.sockets import Gone
from dpsup.errors import DpsupError, ShimError
from dpsup.host.process import Identity
from dpsup.supervisor import fsm, seed
from dpsup.supervisor.policy import Pace
from dpsup.supervisor.seed import REFUSED_S, STUCK_MOST

HELLO = {"dpdk": "22.11", "generation": 3, "pid": 400, "start": 7, "abi": 1}
FREE = {"released": {}, "left": {}, "blocked": [], "held": {}, "alive": [], "strangers": []}


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def end(fd: int, number: int) -> None:
        assert number == signal.SIGKILL
        found.append(fd)

    monkeypatch.setattr(seed.process, "signal_pidfd", end)
    monkeypatch.setattr(seed, "STEP_S", 0.0)
    return found


@pytest.fixture
def parts(tmp_path: Path, killed: list[int]) -> Parts:
    one = Parts(tmp_path)
    one.model.hello = HELLO
    one.model.seed.pidfd, one.model.primary.pidfd = 41, 42
    return one


def opens(parts: Parts, error: Exception | None = None) -> None:
    def open_orders() -> None:
        if error is not None:
            raise error
        parts.sitters._seed = object()  # type: ignore[assignment]

    parts.sitters.open_orders = open_orders  # type: ignore[method-assign]
    parts.sitters.drop_orders = lambda: setattr(parts.sitters, "_seed", None)  # type: ignore[method-assign]


def test_every_action_of_the_table_is_here(parts: Parts) -> None:
    assert set(parts.attach.actions()) == fsm.ACTIONS["seed"]


# --- start ----------------------------------------------------------------------------------------


def test_a_seed_is_started_for_this_primary(parts: Parts) -> None:
    started: list[Any] = []

    def spawn(*args: Any) -> Identity:
        started.append(args)
        return Identity(500, 1)

    parts.children.spawn = spawn  # type: ignore[method-assign]
    parts.attach.spawn(parts.model.seed)
    ((_, argv, ready_s),) = started
    options = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert (options["--primary"], options["--primary-start"]) == ("400", "7")
    assert options["--generation"] == "3" and options["--socket"].endswith("seed.sock")
    assert ready_s == Pace.MOST and parts.attach.pid == 500


def test_a_seed_that_cannot_be_had_is_tried_later(parts: Parts) -> None:
    def spawn(*_: Any) -> Identity:
        raise OSError(24, "Too many open files")

    parts.children.spawn = spawn  # type: ignore[method-assign]
    parts.attach.spawn(parts.model.seed)
    assert parts.core.timers == [(REFUSED_S, parts.core.fire, (parts.model.seed, "died"))]
    assert parts.core.events.of("error")


def test_a_seed_that_is_ready_forks_whom_the_groups_want(parts: Parts) -> None:
    opens(parts)
    filled: list[int] = []
    parts.attach.after_fill = lambda: filled.append(1)
    parts.worker.state = "starting"  # its order went with the last seed
    parts.attach.fill(parts.model.seed)
    assert parts.worker.forking
    assert parts.core.fired == [("fw/1", "start")], "of four slots two are wanted"
    assert [w.wanted for w in parts.group.workers] == [True, True, False, False]
    assert filled
    parts.core.drop()


def test_a_seed_that_takes_no_orders_is_ended(parts: Parts, killed: list[int]) -> None:
    opens(parts, ConnectionRefusedError())
    parts.attach.fill(parts.model.seed)
    assert killed == [41] and not parts.core.fired and parts.core.events.of("seed")


def test_a_seed_that_is_ready_too_late_forks_nobody(parts: Parts) -> None:
    opens(parts)
    parts.model.state = "stopping"
    parts.attach.fill(parts.model.seed)
    assert not parts.core.fired and not parts.sitters.can_fork


# --- death ----------------------------------------------------------------------------------------


def replaced(parts: Parts, refused: str = "") -> float:
    """After how long another one starts; -1: never."""
    parts.core.timers.clear()
    parts.model.seed.refused = refused
    parts.attach.replace(parts.model.seed)
    return parts.core.timers[0][0] if parts.core.timers else -1


def test_a_seed_that_dies_is_replaced_for_ever(parts: Parts) -> None:
    delays = [replaced(parts) for _ in range(100)]
    assert delays[0] == seed.POLICY.initial and max(delays) == seed.POLICY.most
    assert not parts.core.failed


@pytest.mark.parametrize(
    ("refused", "delay", "message"),
    [
        ("102 another DPDK", REFUSED_S, "another DPDK"),
        ("111 busy", seed.POLICY.initial, "busy"),
        ("garbage", seed.POLICY.initial, "garbage"),
        ("² x", seed.POLICY.initial, "² x"),
        ("99999999999 x", seed.POLICY.initial, "99999999999 x"),
    ],
)
def test_a_seed_that_refuses_is_tried_again(
    parts: Parts, refused: str, delay: float, message: str
) -> None:
    assert replaced(parts, refused) == delay
    assert parts.core.events.of("seed")[0]["message"] == f"refused: {message}"
    assert not parts.core.failed


def first(parts: Parts) -> None:
    parts.model.state = "starting"
    parts.model.plan = dataclasses.replace(parts.model.plan, generation=1)


def test_a_first_start_does_not_wait_for_what_will_not_come(parts: Parts) -> None:
    first(parts)
    assert replaced(parts, "102 another DPDK") == -1
    (error,) = parts.core.failed
    assert isinstance(error, DpsupError) and error.code == "E0803"


def test_a_first_start_gives_up_on_seeds_that_die(parts: Parts) -> None:
    first(parts)
    while replaced(parts) >= 0:
        assert not parts.core.failed
    (error,) = parts.core.failed
    assert isinstance(error, DpsupError) and error.code == "E0804"


@pytest.mark.parametrize("why", ["primary", "instance"])
def test_no_seed_follows_into_the_end(parts: Parts, why: str) -> None:
    if why == "primary":
        parts.model.primary.state = "lost"
    else:
        parts.model.state = "stopping"
    assert replaced(parts) == -1
    parts.attach.start_anew()
    assert not parts.core.tasks


def test_a_seed_that_is_stuck_gives_the_next_one_longer(parts: Parts, killed: list[int]) -> None:
    parts.attach.pace = Pace(slowest=0.04)
    parts.model.seed.state = "attaching"
    parts.attach.kill(parts.model.seed)
    assert killed == [41] and parts.attach.pace.late == 1
    parts.model.seed.state, parts.model.seed.pidfd = "stopping", -1
    parts.attach.kill(parts.model.seed)
    assert killed == [41] and parts.attach.pace.late == 1


def test_a_seed_is_asked_to_quit_and_then_ended(parts: Parts) -> None:
    parts.attach.quit(parts.model.seed)
    assert parts.core.timers[0][2] == (parts.model.seed, "late")
    parts.model.seed.identity = Identity(1, 1)
    parts.attach.report(parts.model.seed)
    assert parts.model.seed.identity is None


# --- the way --------------------------------------------------------------------------------------


def anew(parts: Parts, *locks: Any) -> None:
    """`locks`: what the primary finds, look by look."""
    looks = list(locks)
    parts.core.answers["locks"] = lambda **_: looks.pop(0) if len(looks) > 1 else looks[0]
    parts.attach.start_anew()
    run(parts.core.settle())


def test_a_seed_waits_for_the_live_tables(parts: Parts) -> None:
    """The heir of a supervisor that died while a builder read its files forked workers at once:
    none found its tables, and each was held."""
    waited: list[str] = []

    async def laid_out() -> None:
        assert not parts.core.fired
        waited.append("laid out")

    parts.attach.laid_out = laid_out
    anew(parts, FREE)
    assert waited and parts.core.fired == [("seed", "start")]
    parts.core.fired.clear()

    async def ended() -> None:
        parts.model.state = "stopping"

    parts.attach.laid_out = ended
    anew(parts, FREE)
    assert not parts.core.fired


def test_a_seed_starts_where_nothing_is_held(parts: Parts) -> None:
    for free in (None, FREE):
        parts.core.fired.clear()
        anew(parts, free)
        assert parts.core.fired == [("seed", "start")]
    assert not parts.core.events.entries


def test_a_seed_waits_for_locks_that_are_held_rightly(parts: Parts) -> None:
    anew(parts, {**FREE, "blocked": ["memory"]}, {**FREE, "blocked": ["memory"]}, FREE)
    assert parts.core.fired == [("seed", "start")]
    assert len(parts.core.events.of("locks")) == 1, "said once"


def test_a_lock_that_the_dead_left_ends_the_generation(parts: Parts, killed: list[int]) -> None:
    anew(parts, {**FREE, "blocked": ["memory"], "left": {"memory": -1}})
    assert killed == [42] and not parts.core.fired
    assert "last resort" in parts.core.events.of("locks")[-1]["message"]


def test_seeds_that_are_stuck_on_and_on_end_the_generation(parts: Parts, killed: list[int]) -> None:
    parts.attach.pace = Pace(0.04, late=STUCK_MOST)
    anew(parts, None)
    assert killed == [42] and not parts.core.asked and parts.attach.pace == Pace()


@pytest.mark.parametrize("error", [ShimError("locks", 5, "no"), Gone("x"), OSError("x")])
def test_a_way_that_cannot_be_looked_at_is_tried_again(parts: Parts, error: Exception) -> None:
    anew(parts, error)
    assert parts.core.timers == [(seed.POLICY.most, parts.attach.start_anew, ())]
    assert not parts.core.fired and parts.core.events.of("error")


def test_an_end_meanwhile_starts_nothing(parts: Parts) -> None:
    def stop(**_: Any) -> None:
        parts.model.state = "stopping"

    parts.core.answers["locks"] = stop
    parts.attach.start_anew()
    run(parts.core.settle())
    assert not parts.core.fired


def test_what_an_outsider_left_is_said_once(parts: Parts) -> None:
    left = {**FREE, "left": {"memory": -1}, "strangers": [99]}
    looks = iter([left, left, FREE, left, {**FREE, "released": {"memory": 1}}, None])
    parts.core.answers["locks"] = lambda **_: next(looks)
    for _ in range(6):
        run(parts.attach.read_locks())
    messages = [e["message"] for e in parts.core.events.of("locks")]
    assert len(messages) == 3 and "given back: memory" in messages[-1]


def test_a_seed_that_was_ready_during_the_stop_is_ended_at_once(
    parts: Parts, killed: list[int]
) -> None:
    """Nobody connected to it, so it hears of no end: the stop waited ten seconds for it."""
    parts.model.state = "stopping"
    opens(parts)
    parts.attach.fill(parts.model.seed)
    parts.model.seed.state = "stopping"
    parts.attach.quit(parts.model.seed)
    assert killed == [41]
