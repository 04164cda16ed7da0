# SPDX-License-Identifier: BSD-3-Clause
"""A plan as JSON has the fields of the plan's classes."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import pytest

from dpsup.documents import plan as documents
from dpsup.documents import state
from dpsup.instance.runtime_dir import State
from dpsup.plan import model
from dpsup.supervisor.rollout import Options
from dpsup.supervisor.rollout_judge import Margins


@pytest.mark.parametrize(
    ("document", "of"),
    [
        (documents.Io, model.IoPlan),
        (documents.Pool, model.PoolPlan),
        (documents.Port, model.PortPlan),
        (documents.Scale, model.ScalePlan),
        (documents.Group, model.GroupPlan),
        (documents.Chain, model.ChainPlan),
        (documents.Memory, model.MemoryPlan),
        (documents.Plan, model.Plan),
        (state.State, State),
        (state.Options, Options),
        (state.Margins, Margins),
    ],
)
def test_a_document_has_the_fields_of_its_class(document: type, of: type) -> None:
    assert list(get_type_hints(document)) == [one.name for one in fields(of)]
