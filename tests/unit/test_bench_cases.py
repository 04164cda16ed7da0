# SPDX-License-Identifier: BSD-3-Clause
"""What the cases make of what they read: other programs' output, windows, topologies, options."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpsup.bench import capacity, large, others, plot, run, sdk
from dpsup.bench.host import Cores, choose_cores
from dpsup.bench.meter import SEGMENT, Segment, segments
from dpsup.bench.model import Conditions, Reading, Report
from dpsup.bench.path import throughput
from dpsup.bench.step import Setup, Step
from dpsup.errors import HostError, UsageError
from dpsup.tables.file import parse
from dpsup.tables.model import declare

RING_PERF = """
### Testing empty bulk deq ###
legacy APIs: SP/SC: bulk (size: 8): 4.85
### Testing using two physical cores ###
legacy APIs: SP/SC: bulk (size: 8): 14.08
legacy APIs: MP/MC: bulk (size: 8): 31.99
legacy APIs: SP/SC: bulk (size: 32): 15.85
legacy APIs: MP/MC: bulk (size: 32): 28.47

### Testing using all worker nodes ###
### Testing using two physical cores ###
elem APIs: element size 16B: SP/SC: bulk (size: 32): 6.67
"""


def test_more_workers_do_more_up_to_what_the_io_core_hands_out() -> None:
    done = [capacity.modelled(2.5e6, 30e6, n) for n in (1, 4, 12, 16)]
    assert done == [2.5e6, 10e6, 30e6, 30e6]


def test_the_curve_says_what_is_a_model() -> None:
    report = Report({"cpus": 2, "cpu_model": "some", "date": "2026-11-23"}, {})
    for n in (1, 2):
        report.add(Reading(f"capacity/{n} on one core", 2.0, "Mpps"), Conditions())
        report.add(Reading(f"{capacity.MODEL}/{n} on {n} cores", 2.0 * n, "Mpps"), Conditions())
    drawn = plot.svg(report)
    assert "measured: all on one core" in drawn
    assert "model: each on a core of its own" in drawn


def test_ring_perf_is_read_where_two_cores_are_used() -> None:
    assert others.ring_lines(RING_PERF) == {
        "spsc_bulk8": 14.08, "mpmc_bulk8": 31.99, "spsc_bulk32": 15.85, "mpmc_bulk32": 28.47,
    }  # fmt: skip
    half = RING_PERF[: RING_PERF.index("legacy APIs: SP/SC: bulk (size: 32)")]
    assert len(others.ring_lines(half)) == 2
    assert others.ring_lines("RTE>>ring_perf_autotest") == {}


def test_programs_are_looked_for_or_named(tmp_path: Path) -> None:
    program = tmp_path / "dpdk-testpmd"
    with pytest.raises(UsageError, match="no program"):
        others.find("dpdk-testpmd", str(program))
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert others.find("dpdk-testpmd", str(program)) == str(program)
    assert others.find("no-such-program-anywhere", "auto") == ""
    with pytest.raises(UsageError, match="mp_server"):
        others.find_example(str(tmp_path))


def test_cores_are_the_last_two_and_python_has_another() -> None:
    assert choose_cores(None, frozenset({0, 1})) == Cores(1, 0, 0)
    assert choose_cores(None, frozenset({0, 1, 2, 3})) == Cores(3, 2, 0)
    assert choose_cores("1,2", frozenset({0, 1, 2, 3})) == Cores(1, 2, 0)
    assert choose_cores("0,1", frozenset({0, 1})) == Cores(0, 1, 1)
    with pytest.raises(HostError):
        choose_cores(None, frozenset({3}))
    for wrong in ("1", "1,1", "1,9", "a,b", "1,2,3"):
        with pytest.raises(UsageError):
            choose_cores(wrong, frozenset({0, 1, 2, 3}))


def test_cases_are_chosen_in_the_order_of_the_list() -> None:
    assert run.choose(["path", "distance"]) == ["distance", "path"]
    assert "large" not in run.choose([])
    assert run.choose(["large"]) == ["large"]
    with pytest.raises(UsageError, match="no case") as refused:
        run.choose(["pathh"])
    assert 'did you mean "path"?' in str(refused.value)


def test_windows_lie_between_looks_at_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    distances = iter([90.0, 91.0, None, 340.0])

    def look() -> float | None:
        now[0] += 5.0  # its time counts nowhere
        return next(distances)

    found = segments(lambda: (now[0], round(now[0] * 1e6)), 1.2, look)
    assert [len(s.rates) for s in found] == [SEGMENT, SEGMENT, 2]
    assert [s.distance_ns for s in found] == [(90.0, 91.0), (91.0,), (340.0,)]
    assert all(r == pytest.approx(1e6) for s in found for r in s.rates)


def test_a_run_is_split_by_regime() -> None:
    found = throughput(
        "path/forward",
        [
            Segment((90.0, 91.0), (80e6, 82e6)),
            Segment((91.0, 340.0), (60e6,)),
            Segment((340.0, 345.0), (40e6, 20e6)),
            Segment((345.0, 344.0), (40e6,)),
        ],
    )
    medians = [r for r in found if r.name == "path/forward"]
    assert [r.value for r in medians] == [81, 60, 40]
    assert medians[2].apart == (340.0, 345.0, 345.0, 344.0)
    tenths = [r.value for r in found if r.name == "path/forward/slowest_tenth"]
    assert tenths == pytest.approx([80 / 81, 1, 0.5])


@pytest.mark.parametrize("size", [large.TOP, *(s for each in large.SERIES.values() for s in each)])
def test_large_topologies_are_valid(size: large.Size) -> None:
    from dpsup import limits
    from dpsup.bench.rigs import HEAD
    from dpsup.topology.load import parse

    text = HEAD.format(name="x", supervisor=0) + large.topology(size, Cores(1, 0, 0))
    assert parse(text, "x.toml", "/x.toml").problems == []
    assert size.workers <= size.slots <= limits.SLOTS
    assert size.io <= limits.IO_CORES
    assert size.ports <= limits.PORTS


def test_large_reaches_every_limit() -> None:
    from dpsup import limits

    assert large.TOP.slots == limits.SLOTS
    assert large.TOP.io == limits.IO_CORES
    assert large.TOP.ports == limits.PORTS


def test_where_nothing_can_be_measured_the_first_reason_is_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(step: Step, cores: Cores, report: Report) -> str:
        raise HostError("39 hugepages of 2 MiB needed", help="reserve them")

    said: list[str] = []
    setup = Setup(Cores(0, 0, 0), runs=2, say=said.append)
    monkeypatch.setattr(run, "_steps", lambda names, setup: [Step("path/forward", lambda _: [])])
    monkeypatch.setattr(run, "_once", refuse)
    monkeypatch.setattr(run.os, "geteuid", lambda: 0)
    with pytest.raises(HostError, match="39 hugepages"):
        run.bench(["path"], setup, [])
    assert said == ["1/2 path/forward failed: 39 hugepages of 2 MiB needed"]


@pytest.mark.parametrize(
    "flags",
    [(), ("-DLOOK",), ("-DFIND",), ("-DALSO",), ("-DEMITS",), ("-DSTATE", "-DTICK_US=51200")],
)
def test_the_plugin_of_the_case_sdk_builds(tmp_path: Path, flags: tuple[str, ...]) -> None:
    sdk.build(tmp_path, ("-Wall", "-Wextra", "-Werror", *flags))
    assert (tmp_path / "sdk.so").exists()


def test_the_routes_of_the_case_sdk_are_a_table() -> None:
    table = declare("routes", "ipv4", 1000)
    reading = parse(sdk.routes_text(1000), table)
    assert not reading.problems
    assert len(reading.entries) == 1000
