# SPDX-License-Identifier: BSD-3-Clause
"""The figures that dpsup set out to reach, each as a row: value, at least, aim, reached. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dpsup.bench.model import Figure, Regime
from dpsup.bench.stats import Summary, in_regime

BOTH = (Regime.NEAR, Regime.FAR)


@dataclass(frozen=True, slots=True)
class Target:
    """A figure, or its ratio to another. `part` says which number of the figure is meant."""

    name: str
    figure: str
    against: str  # "": the figure itself
    better: str
    unit: str
    least: dict[Regime, float]  # at least (at most, where lower is better)
    aim: dict[Regime, float]
    part: str = "median"
    doubt: bool = False  # so small that noise may hide it: then the row says so
    against_part: str = "median"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    regime: Regime
    value: float | None
    least: float
    aim: float
    better: str
    unit: str
    reached: str  # aim | yes | no | unclear | not measured
    spread: float = 0.0
    tainted: bool = False


def _both(value: float) -> dict[Regime, float]:
    return dict.fromkeys(BOTH, value)


def _two(near: float, far: float) -> dict[Regime, float]:
    return {Regime.NEAR: near, Regime.FAR: far}


HOP = "lane/none/burst32/ring1024/cycles"

TARGETS = (
    Target("forward against client_server_mp", "path/forward", "others/client_server_mp",
           "higher", "×", _two(1.3, 3.5), _two(2.0, 7.0)),
    Target("forward against testpmd io on one core", "path/forward", "others/testpmd_io",
           "higher", "×", _two(0.6, 0.4), _two(0.9, 0.7)),
    Target("macswap against testpmd macswap on one core", "path/macswap", "others/testpmd_macswap",
           "higher", "×", _two(0.7, 0.45), _two(1.0, 0.7)),
    Target("forward: slowest tenth of windows against the median window",
           "path/forward/slowest_tenth", "", "higher", "×", _both(0.85), _both(0.95)),
    Target("macswap: slowest tenth of windows against the median window",
           "path/macswap/slowest_tenth", "", "higher", "×", _both(0.85), _both(0.95)),
    Target("cycles of a lane hop at burst 32 against ring_perf_autotest SP/SC",
           HOP, "others/ring_perf/spsc_bulk32", "lower", "×", _both(1.0), _both(0.7)),
    Target("hop latency at half load, p50, against an empty lane's round trip",
           "latency/load50/p50", "latency/empty", "lower", "×", _both(4), _both(2)),
    Target("hop latency at half load, p99, against an empty lane's round trip",
           "latency/load50/p99", "latency/empty", "lower", "×", _both(40), _both(15)),
    Target("crash-safe against not, a plugin that reads",
           "cost/read", "", "lower", "×", _both(1.03), _both(1.0)),
    Target("crash-safe against not, a plugin that rewrites",
           "cost/rewrite", "", "lower", "×", _both(1.1), _both(1.03)),
    Target("four workers of a group on one core against one worker",
           "shared/flows/four of a group", "shared/flows/one", "higher", "×",
           _both(0.7), _both(0.9)),
    Target("four groups on one core against one worker",
           "shared/null/four groups", "shared/null/one", "higher", "×", _both(0.7), _both(0.9)),
    Target("the group that gets least of them, against a quarter",
           "shared/null/four groups/least", "", "higher", "×", _both(0.5), _both(0.9)),
    Target("loss with 3 subscribers at 10 Hz beyond the readers' CPU time",
           "bus/loss_beyond", "", "lower", "", _both(0.005), _both(0.001), doubt=True),
    Target("CPU of an idle instance", "idle/cpu", "", "lower", "", _both(0.03), _both(0.01)),
    Target("wake-up of an idle instance, p99",
           "idle/wake", "", "lower", "us", _both(200), _both(60), part="p99"),
    Target("the same after a second without a packet, p99",
           "idle/wake_1s", "", "lower", "us", _both(200), _both(60), part="p99"),
    Target("dpsup start (2 workers) to the first packet, p50",
           "start/first_packet", "", "lower", "ms", _both(1000), _both(500)),
    Target("dpsup --help, p50",
           "start/command/help", "", "lower", "ms", _both(200), _both(150)),
    Target("dpsup status of an idle instance, p50",
           "start/command/status", "", "lower", "ms", _both(350), _both(250)),
    Target("a worker forked to ready, p50",
           "start/fork_ready", "", "lower", "ms", _both(5), _both(2)),
    Target("10⁶ routes, random destinations: with `look` against without",
           "sdk/look/gain", "", "higher", "×", _both(1.8), _both(3.0)),
    Target("one emission of 64 bytes a packet against none",
           "sdk/emit/cost", "", "lower", "×", _both(1.6), _both(1.3)),
    Target("a copy to a second port, beyond sending it",
           "sdk/copy/cycles", "", "lower", "cycles", _both(25), _both(25)),
    Target("10,000 bucket ticks a second: loss",
           "sdk/ticks/loss", "", "lower", "", _both(0.005), _both(0.005), doubt=True),
    Target("what 10,000 changes a second of a table cost its readers",
           "sdk/readers", "", "lower", "", _both(0.01), _both(0.001), doubt=True),
    Target("one change of a table to visible at all workers, p50",
           "sdk/change", "", "lower", "ms", _both(2), _both(0.5)),
    Target("changes of a table in a batch",
           "sdk/changes", "", "higher", "1/s", _both(2e5), _both(1e6)),
    Target("a plugin in Python, forward",
           "python/forward", "", "higher", "Mpps", _both(0.3), _both(0.3)),
)  # fmt: skip


def _part(summary: Summary, part: str) -> float | None:
    value: float | None = getattr(summary, part)
    return value


def _judge(value: float, least: float, aim: float, better: str) -> str:
    def reaches(bound: float) -> bool:
        return value >= bound if better == "higher" else value <= bound

    return "aim" if reaches(aim) else "yes" if reaches(least) else "no"


def _row(target: Target, regime: Regime, figures: Mapping[str, Figure]) -> Row:
    least, aim = target.least[regime], target.aim[regime]
    mine = in_regime(figures.get(target.figure), regime)
    other = in_regime(figures.get(target.against), regime) if target.against else None
    value = _part(mine, target.part) if mine else None
    spread, tainted = (mine.spread, mine.tainted) if mine else (0.0, False)
    if target.against:
        base = _part(other, target.against_part) if other else None
        value = value / base if value is not None and base else None
        if other:
            # The spread of a quotient: both spreads, as independent.
            spread = (spread**2 + other.spread**2) ** 0.5
            tainted = tainted or other.tainted
    reached = "not measured" if value is None else _judge(value, least, aim, target.better)
    if value is not None and mine and target.doubt and mine.error > abs(least - value):
        reached = "unclear"
    return Row(
        target.name, regime, value, least, aim, target.better, target.unit, reached,
        spread, tainted,
    )  # fmt: skip


def rows(figures: Mapping[str, Figure]) -> list[Row]:
    """Every target, in each regime that it was measured in; once if in none."""
    made = []
    for target in TARGETS:
        mine = [_row(target, regime, figures) for regime in BOTH]
        have = [row for row in mine if row.value is not None]
        made += have or mine[:1]
    return made
