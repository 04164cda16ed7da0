# SPDX-License-Identifier: BSD-3-Clause
"""One call for several hosts: deadlines, partial results, exit codes, one host after the other."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from dpsup.errors import DpsupError, NotPermitted, NotRunning
from dpsup.instance import fleet
from dpsup.instance.fleet import Answer
from dpsup.view import answers
from dpsup.view.sections import Screen


def test_hosts_are_asked_at_once() -> None:
    """Each waits for all others."""
    all_there = threading.Barrier(8)

    def work(host: str) -> str:
        all_there.wait(60)
        return host.upper()

    hosts = [f"h{n}" for n in range(8)]
    assert [one.value for one in fleet.ask(hosts, work, 60)] == [h.upper() for h in hosts]


def test_more_hosts_than_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "AT_ONCE", 3)
    hosts = [f"h{n}" for n in range(20)]
    assert [one.host for one in fleet.ask(hosts, str.upper, 60)] == hosts


def test_a_host_that_is_late_costs_the_others_nothing() -> None:
    over = threading.Event()

    def work(host: str) -> str:
        if host == "late":
            over.wait(60)
        if host == "bad":
            raise NotPermitted("no", code="E0470")
        if host == "old":
            raise KeyError("a field that an older dpsup lacks")
        return host

    begun = time.monotonic()
    found = fleet.ask(["a", "late", "bad", "old", "b"], work, 0.5)
    assert time.monotonic() - begun < 30
    over.set()
    codes = [one.error.code if one.error else "" for one in found]
    assert codes == ["", "E0904", "E0470", "E0001", ""]
    assert [one.value for one in found] == ["a", None, None, None, "b"]


GOOD, BAD = Answer("a", 1), Answer("b", error=NotRunning("gone"))


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([GOOD], 0),
        ([GOOD, BAD], 3),
        ([BAD, BAD, GOOD], 3),
        ([BAD, Answer("c", error=NotPermitted("no"))], 1),
        ([GOOD, Answer("d", "degraded")], 5),
        ([BAD, Answer("d", "degraded")], 1),
        ([], 0),
    ],
)
def test_the_exit_code_is_that_of_what_failed(found: list[Answer], code: int) -> None:
    def of(value: Any) -> int:
        return 5 if value == "degraded" else 0

    assert fleet.exit_code(found, of) == code
    doc = fleet.document(found, of)
    assert [one["exit_code"] for one in doc["hosts"]] == [
        {"a": 0, "b": 3, "c": 7, "d": 5}[one.host] for one in found
    ]


@pytest.mark.parametrize("bad", ["refuses", "goes back"])
def test_one_by_one_ends_at_the_first_that_is_not_good(bad: str) -> None:
    begun: list[str] = []

    def work(host: str) -> str:
        begun.append(host)
        if host == "b" and bad == "refuses":
            raise DpsupError("no")
        return "undone" if host == "b" else "done"

    found = fleet.one_by_one(["a", "b", "c", "d"], work, lambda phase: phase == "done")
    assert begun == ["a", "b"]
    assert [one.value for one in found] == ["done", None if bad == "refuses" else "undone"] + [
        None
    ] * 2
    assert [one.error.code for one in found[2:] if one.error] == ["E0476"] * 2
    assert "b did not" in found[2].error.message if found[2].error else False


def test_a_host_without_an_answer_has_a_line() -> None:
    found = fleet.document([Answer("edge1", error=NotRunning("it is gone"))])
    lines = answers.hosts(found, Screen(None, ascii_only=True))
    text = "".join(span for span, _ in lines[1])
    assert "edge1" in text and "no answer" in text and "E0003: it is gone" in text
