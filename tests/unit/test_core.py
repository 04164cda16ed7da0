# SPDX-License-Identifier: BSD-3-Clause
"""The protocols of the core: the engine and the fake have their verbs, with their arguments."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from unit.fakecore import FakeCore

from dpsup.supervisor.core import Core, Link
from dpsup.supervisor.deaths import Crashing
from dpsup.supervisor.engine import Engine

PROTOCOLS = (Core, Link, Crashing)
VERBS = sorted(
    {(one, name) for one in PROTOCOLS for name, _ in inspect.getmembers(one, inspect.isfunction)}
    - {(one, name) for one in PROTOCOLS for name in ("__init__", "__subclasshook__")},
    key=str,
)


def shape(function: Any, wanted: Any) -> list[tuple[str, Any]]:
    """The arguments that the protocol has."""
    has = inspect.signature(function).parameters
    return [(name, has[name].kind if name in has else None) for name in wanted]


@pytest.mark.parametrize("owner", [Engine, FakeCore])
@pytest.mark.parametrize(("protocol", "verb"), VERBS)
def test_each_verb_is_there_with_its_arguments(owner: type, protocol: type, verb: str) -> None:
    wanted, found = getattr(protocol, verb), getattr(owner, verb)
    parameters = inspect.signature(wanted).parameters
    assert shape(found, parameters) == [(name, one.kind) for name, one in parameters.items()]
    assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted)
    required = [
        name
        for name, one in inspect.signature(found).parameters.items()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    assert set(required) <= parameters.keys()
