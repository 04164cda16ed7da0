# SPDX-License-Identifier: BSD-3-Clause
"""The steps of a case: each runs once a round, between the steps of other cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dpsup.bench.host import Cores
from dpsup.bench.model import Reading
from dpsup.bench.probe import Watch


@dataclass(slots=True)
class Setup:
    """The options of this bench, for all cases."""

    cores: Cores
    seconds: float = 2.0  # of a run of a throughput
    runs: int = 5
    testpmd: str = ""  # paths; "": none
    dpdk_test: str = ""
    client_server_mp: str = ""  # a directory with mp_server and mp_client
    notes: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    run: Callable[[Watch], list[Reading]]
    rounds: int = 0  # most rounds that it takes part in; 0: all
