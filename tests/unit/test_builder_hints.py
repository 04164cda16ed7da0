# SPDX-License-Identifier: BSD-3-Clause
"""What `dpsup status` says of a builder of live tables that does not do its work."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from unit import looks

from dpsup.instance.rates import picture
from dpsup.view import sections


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        (None, ""),
        ({"pid": 5, "state": "ready", "trouble": ""}, ""),
        ({"pid": 5, "state": "starting", "trouble": ""}, ""),
        ({"pid": 5, "state": "stopped", "trouble": ""}, "`kill -CONT 5`"),
        (
            {"pid": None, "state": "absent", "trouble": "ended (SIGBUS), and is started again"},
            "live tables cannot be changed, the builder ended (SIGBUS)",
        ),
    ],
)  # fmt: skip
def test_a_builder_in_trouble_is_a_hint(builder: dict[str, Any] | None, said: str) -> None:
    before, after = looks.edge(), copy.deepcopy(looks.edge(1.0))
    after["status"]["builder"] = builder
    found = [h for h in sections.hints(picture(before, after)) if "builder" in h]  # type: ignore[arg-type]
    assert len(found) == bool(said)
    assert all(said in one for one in found)
