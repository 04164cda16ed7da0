# SPDX-License-Identifier: BSD-3-Clause
"""The audit runs beside the thread that opens and closes ports."""

from __future__ import annotations

from typing import Any

import pytest

from dpsup.primary import audit


@pytest.mark.parametrize(
    ("turns", "unexplained", "takes"),
    [
        ([0, 0], [7], 1),  # nothing moved: they are lost
        ([0, 2, 2, 2], [7, 0], 2),  # a port was closed meanwhile
        ([1, 2, 2], [7, 7], 2),  # one was being opened
        ([1, 3], [0], 1),
        ([1] * 99, [7] * 99, 1 + audit.AGAIN),  # a driver that opens for minutes
    ],
)
def test_a_port_that_opens_or_closes_is_no_leak(
    monkeypatch: pytest.MonkeyPatch, turns: list[int], unexplained: list[int], takes: int
) -> None:
    monkeypatch.setattr(audit, "AGAIN_S", 0.0)
    taken = 0

    def take() -> list[dict[str, Any]]:
        nonlocal taken
        taken += 1
        return [{"unexplained": 0}, {"unexplained": unexplained[taken - 1]}]

    one = audit.Audit(None, lambda: turns.pop(0))  # type: ignore[arg-type]
    one._take = take  # type: ignore[method-assign, assignment]
    (_, pool) = one.take()
    assert taken == takes
    assert pool["unexplained"] == unexplained[takes - 1]
