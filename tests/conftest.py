# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `long` has a shorter sibling that shows the same; only --long runs it."""
    if os.environ.get("DPSUP_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="a long target: deploy/test --long"))
