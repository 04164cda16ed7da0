# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

LONG = os.environ.get("DPSUP_LONG") == "1"
# How long an example takes says how busy the machine is, not whether the code is right. Each run
# sees the same examples; --long looks for new ones.
settings.register_profile(
    "dpsup", deadline=None, derandomize=not LONG, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dpsup")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `long` has a shorter sibling that shows the same; only --long runs it."""
    if LONG:
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="a long target: deploy/test --long"))
