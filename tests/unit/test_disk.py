# SPDX-License-Identifier: BSD-3-Clause
"""Work aside: its result, its error, and a thread that does not begin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dpsup.supervisor import disk


def test_the_result_and_the_error_are_those_of_the_work() -> None:
    def fails() -> int:
        raise ZeroDivisionError

    assert asyncio.run(disk.aside(lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        asyncio.run(disk.aside(fails))


@pytest.mark.fault(19)
def test_a_thread_that_does_not_begin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies_at_birth(_: Callable[[], None]) -> None:
        """As one that finds no memory for its first Python frame."""

    monkeypatch.setattr(disk.threads, "begin", dies_at_birth)
    monkeypatch.setattr(disk, "BEGIN_S", 0.01)
    with pytest.raises(MemoryError):
        asyncio.run(disk.aside(lambda: 7))
