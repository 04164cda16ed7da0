# SPDX-License-Identifier: BSD-3-Clause
"""Who may still hold a lock of EAL's, and which ones are given back."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dpsup.primary import eal_locks
from dpsup.primary.eal_locks import Attachments, lock_names, takes_connections
from dpsup.supervisor.policy import Pace

READ, WRITE = 4, 2
NAMES = lock_names(8)


class Eal:
    """Locks by name, and who has EAL's configuration mapped."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words = dict.fromkeys(NAMES, 0)
        self.mapped: set[int] = set()
        self.rests = True
        self.sums = {"memory": 1, "memzone": 1}
        self.folder = folder
        monkeypatch.setattr(eal_locks, "mappers", lambda _: self.mapped)
        monkeypatch.setattr(eal_locks, "at_rest", lambda: self.rests)
        self.of = Attachments(folder, Path("/bin/true"), self.read, self.release, self.guarded)

    def read(self) -> list[int]:
        return [self.words[n] for n in NAMES]

    def release(self, lock: int, word: int) -> bool:
        assert self.words[NAMES[lock]] == word
        self.words[NAMES[lock]] = 0
        return True

    def guarded(self, lock: int) -> int:
        return self.sums[NAMES[lock]]

    def dead_socket(self, pid: int) -> Path:
        path = self.folder / f"mp_socket_{pid}_abc"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.bind(str(path))
        return path


@pytest.fixture
def eal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eal:
    return Eal(tmp_path, monkeypatch)


def test_what_the_dead_seed_held_is_given_back(eal: Eal) -> None:
    eal.words |= {"memory": 3 * READ, "memzone": WRITE, "zones": READ}
    path = eal.dead_socket(7)
    found = eal.of.put_right(seed=7)
    assert found["released"] == {"memory": 3 * READ, "memzone": WRITE, "zones": READ}
    assert not any(eal.read())
    assert found["blocked"] == found["alive"] == []
    assert not path.exists()


def test_nothing_is_given_back_while_an_outsider_lives(eal: Eal) -> None:
    eal.words["memory"] = READ
    eal.mapped = {99}
    found = eal.of.put_right(seed=7)
    assert found["alive"] == [99]
    assert eal.words["memory"] == READ
    # A seed's attach only reads what that lock guards.
    assert found["held"] == {"memory": READ}
    assert found["blocked"] == []


def test_nor_while_a_thread_of_the_primary_is_awake(eal: Eal) -> None:
    eal.words["memzone"] = READ
    eal.rests = False
    found = eal.of.put_right(seed=7)
    assert found["released"] == {}
    assert found["blocked"] == ["memzone"]


@pytest.mark.parametrize("name", ["memory", "memzone", "zones", "segments 1"])
def test_what_an_outsider_may_have_left_half_done_stays(eal: Eal, name: str) -> None:
    eal.words[name] = WRITE
    eal.sums |= {"memory": 2, "memzone": 2}
    eal.dead_socket(99)
    found = eal.of.put_right(seed=7)
    assert found["left"] == {name: WRITE}
    assert found["blocked"] == [name]
    assert found["strangers"] == [99]
    assert eal.words[name] == WRITE


@pytest.mark.parametrize("name", ["memory", "memzone"])
def test_what_an_outsider_wrote_nothing_under_is_given_back(eal: Eal, name: str) -> None:
    eal.sums[name] = 2  # somebody wrote, and gave it back
    assert eal.of.review(seed=7) is None
    eal.words[name] = WRITE
    eal.dead_socket(99)
    assert eal.of.review(seed=7) is None
    found = eal.of.review(seed=7)
    assert found is not None
    assert (found["released"], found["left"]) == ({name: WRITE}, {})


def test_an_array_of_zones_half_changed_has_no_sum(eal: Eal) -> None:
    eal.words |= {"memzone": WRITE, "zones": WRITE}
    eal.dead_socket(99)
    assert eal.of.put_right(seed=7)["left"] == {"memzone": WRITE, "zones": WRITE}


def test_what_somebody_writes_is_not_remembered(eal: Eal) -> None:
    eal.words["memzone"] = WRITE
    eal.mapped = {99}
    eal.sums["memzone"] = 2
    assert eal.of.review(seed=7) is None
    eal.mapped = set()
    eal.dead_socket(99)
    found = eal.of.review(seed=7)
    assert found is not None
    assert found["left"] == {"memzone": WRITE}


def test_a_dead_outsider_is_absolved_once_nothing_is_held(eal: Eal) -> None:
    path = eal.dead_socket(99)
    assert eal.of.review(seed=7) is None
    assert not path.exists()
    eal.words["memzone"] = WRITE
    assert eal.of.put_right(seed=7)["released"] == {"memzone": WRITE}


def test_only_what_stays_held_is_looked_at_closely(eal: Eal) -> None:
    eal.words["memory"] = READ
    assert eal.of.review(seed=7) is None
    found = eal.of.review(seed=7)
    assert found is not None
    assert found["released"] == {"memory": READ}


def test_a_lock_that_was_taken_anew_is_left_alone(tmp_path: Path, eal: Eal) -> None:
    refusing = Attachments(
        tmp_path, Path("/bin/true"), eal.read, lambda _lock, _word: False, eal.guarded
    )
    eal.words["memory"] = READ
    assert refusing.put_right(seed=7)["released"] == {}


def test_a_socket_takes_connections_until_its_owner_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "mp_socket_1_a"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(path))
        assert takes_connections(path)
    assert not takes_connections(path)
    path.unlink()
    assert not takes_connections(path)


def test_a_deadline_follows_what_is_measured() -> None:
    pace = Pace()
    assert pace.deadline() == Pace.MOST
    pace = pace.ready(0.04)
    assert pace.deadline() == Pace.LEAST
    assert pace.missed().deadline() == 2 * Pace.LEAST
    assert pace.missed().missed().missed().missed().deadline() == Pace.MOST
    assert pace.missed().ready(0.2).deadline() == pytest.approx(0.2 * Pace.MARGIN)
