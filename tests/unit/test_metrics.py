# SPDX-License-Identifier: BSD-3-Clause
"""Metrics: conventions, completeness, and what Prometheus and Grafana make of them."""

from __future__ import annotations

import copy
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from unit import looks

from dpsup.instance import openmetrics
from dpsup.instance.openmetrics import Source
from dpsup.supervisor.histograms import Failovers

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is in Debian's package prometheus"
)


def registry(look: dict[str, Any] | None) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(Source(lambda: look))
    return made


def exposed(look: dict[str, Any] | None) -> str:
    return generate_latest(registry(look)).decode()


def samples(text: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = re.split(r"[ {]", line)[0], line.rsplit(" ", 1)[1]
            found.setdefault(name, []).append(float(value))
    return found


def numbers(value: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from numbers(one, f"{path}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from numbers(one, f"{path}.{i}")
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, value


def test_every_counter_of_status_is_a_metric() -> None:
    look = looks.edge(5.0)
    doc = look["status"]
    # Those that say who, when and how fast, not how much; cycles, which are shown as seconds; sums
    # of other metrics; and what nobody counts.
    told = re.compile(
        r"duplicated|pid|at_ns|since_ns|started_ns|core|\.io\.|histograms|move_pause|link_mbps|in_flight"
        r"|totals"
    )
    wanted = {}
    for n, (path, _) in enumerate(numbers(copy.deepcopy(doc), "")):
        if told.search(path):
            continue
        # A value of its own for each, so that a missing one cannot hide behind another's.
        *parents, last = path.lstrip(".").split(".")
        at: Any = doc
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at[key]
        at[last] = wanted[path] = 1_000_003 + 7919 * n
    found = {v for values in samples(exposed(look)).values() for v in values}
    assert {path for path, value in wanted.items() if float(value) not in found} == set()
    assert len(wanted) > 50


def test_counters_of_lanes_and_io_cores_are_metrics() -> None:
    found = samples(exposed(looks.edge(5.0)))
    assert found["dpsup_lane_full_packets_total"][:2] == [1250, 0]
    assert found["dpsup_io_busy_seconds_total"] == [2.5, 2.5]
    assert found["dpsup_worker_busy_seconds_total"][0] == pytest.approx(5000 * 200 / looks.HZ)
    assert found["dpsup_worker_bursts_total"] == [125, 250, 375]
    assert found["dpsup_plugin_count_total"] == [5000, 10000, 15000]
    assert found["dpsup_plugin_gauge"] == [-2]
    assert found["dpsup_worker_policy_dropped_packets_total"] == [0, 20, 0]


def test_names_and_units_follow_the_conventions() -> None:
    text = exposed(looks.edge(5.0))
    kinds = dict(re.findall(r"# TYPE (\S+) (\w+)", text))
    assert len(kinds) > 50
    for name, kind in kinds.items():
        assert re.fullmatch(r"dpsup_[a-z0-9_]+", name)
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|us|ns|mbps|bits|cycles|percent)(_|$)", name), name
    helps = re.findall(r"# HELP (\S+) (.*)", text)
    assert len(helps) == len(kinds)
    assert all(words.endswith(".") for _, words in helps)
    assert open_metrics(registry(looks.edge(5.0))).decode().endswith("# EOF\n")


def test_an_instance_that_does_not_answer_says_so() -> None:
    assert samples(exposed(None))["dpsup_up"] == [0]
    found = samples(exposed(looks.headless(5.0)))
    assert found["dpsup_up"] == [1]
    assert found["dpsup_supervisor_up"] == [0]
    assert samples(exposed(looks.starting()))["dpsup_primary_up"] == [0]


def test_an_instance_and_its_host_have_names() -> None:
    host = socket.gethostname()
    text = exposed(looks.edge(5.0))
    assert f'dpsup_instance_info{{host="{host}",name="edge"}} 1.0' in text


def test_failovers_are_a_histogram() -> None:
    failovers = Failovers()
    for took in (60e-6, 0.0004, 7.0, 99.0):
        failovers.first_packet(took)
    times = {"noticed_ns": 1000, "repaired_ns": 31_000, "seated_ns": 0}
    failovers.hear({"type": "death", "times": times})
    failovers.hear({"type": "state"})
    look = looks.edge(5.0)
    look["status"]["recovery"]["histograms"] = failovers.document()
    text = exposed(look)
    found = samples(text)
    assert found["dpsup_failover_seconds_count"] == [4]
    assert found["dpsup_failover_seconds_sum"] == [pytest.approx(106.00046)]
    assert 'dpsup_failover_seconds_bucket{le="0.0005"} 2.0' in text
    assert 'dpsup_failover_seconds_bucket{le="10.0"} 3.0' in text
    assert found["dpsup_repair_seconds_count"] == [1]
    assert found["dpsup_takeover_seconds_count"] == [0]


def test_many_scrapes_are_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, now = [], [1000.0]
    monkeypatch.setattr(openmetrics.time, "monotonic", lambda: now[0])
    made = CollectorRegistry()
    # A registry asks once for the names.
    made.register(Source(lambda: asked.append(1) or looks.edge(5.0)))  # type: ignore[func-returns-value]
    for looked in (1, 2):
        for _ in range(50):
            generate_latest(made)
        assert len(asked) == looked
        now[0] += openmetrics.FRESH_S


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bdpsup_[a-z0-9_]+\b", text))


def expressions() -> dict[str, str]:
    dashboard = json.loads((DEPLOY / "grafana/dpsup.json").read_text())
    found = {
        f"panel {panel['title']}": " ".join(t["expr"] for t in panel["targets"])
        for panel in dashboard["panels"]
    }
    found["annotations"] = " ".join(a["expr"] for a in dashboard["annotations"]["list"])
    found["variables"] = " ".join(str(v["query"]) for v in dashboard["templating"]["list"])
    for path in sorted((DEPLOY / "prometheus").glob("dpsup.rules*.yml")):
        lines = [n for n in path.read_text().splitlines() if not n.lstrip().startswith("#")]
        found[path.name] = "\n".join(lines)
    return found


@pytest.mark.parametrize("where", expressions())
def test_dashboard_and_alerts_use_metrics_that_exist(where: str) -> None:
    known = set(samples(exposed(looks.edge(5.0))))
    used = names_in(expressions()[where])
    assert used or where in ("variables",)
    assert used <= known


def test_panels_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "grafana/dpsup.json").read_text())
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@needs_promtool
def test_promtool_finds_nothing_to_lint() -> None:
    for look in (looks.edge(5.0), looks.headless(5.0), looks.starting(), None):
        done = subprocess.run(
            [str(PROMTOOL), "check", "metrics"],
            input=exposed(look), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_promtool
@pytest.mark.parametrize("words", [["check", "rules", "dpsup.rules.yml"],
                                   ["test", "rules", "dpsup.rules.test.yml"]])  # fmt: skip
def test_alert_rules_fire_when_they_should(words: list[str]) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *words], cwd=DEPLOY / "prometheus", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_workers_told_is_metrics() -> None:
    found = samples(exposed(looks.edge(5.0)))
    for name, n in (
        ("learned_entries", 7), ("told_messages_total", 20), ("lost_messages_total", 1),
        ("refused_messages_total", 3), ("learned_changes_total", 9), ("aged_entries_total", 2),
    ):  # fmt: skip
        assert found[f"dpsup_table_{name}"] == [n], name
