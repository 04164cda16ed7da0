# SPDX-License-Identifier: BSD-3-Clause
"""Random faults under load, by the product's own injector: the books balance, every time."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import DPSUP, NULL, Run, here, leftovers, run, wait_for

from dpsup.chaos.schedule import schedule

pytestmark = pytest.mark.timeout(600)
WITHOUT_LOSS = "kill,segv,stop,hang,spare-kill,seed"


def chaos(faults: str, rate: int, seed: int, seconds: int, *more: str) -> dict[str, Any]:
    done = run(
        "chaos", "--faults", faults, "--rate", f"{rate}/s", "--seed", str(seed), "--for",
        f"{seconds}s", "-o", "json", *more, timeout=seconds * 10 + 200,
    )  # fmt: skip
    assert done.stdout, done.stderr
    doc = json.loads(done.stdout)
    assert done.returncode == (0 if doc["ok"] else 1)
    print(doc["injected"], doc["recovery_us"].get("all"), doc["traffic"])
    assert doc["ok"], doc["problems"]
    assert doc["audit"]["leaked"] == 0
    assert doc["audit"]["times"] > 1
    return doc


def exact(doc: dict[str, Any]) -> None:
    traffic = doc["traffic"]
    assert traffic["sequences_checked"]
    # Two workers hung on each of these.
    kept = traffic["dropped"].pop("quarantine", 0)
    assert 2 * kept <= doc["injected"].get("hang", 0)
    assert traffic["sent"] - kept == traffic["arrived"] > 10_000
    wrong = {k: traffic[k] for k in ("lost", "duplicated", "reordered", "damaged")}
    assert wrong == dict.fromkeys(wrong, 0)
    assert not traffic["dropped"]


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    ("faults", "seconds"),
    [
        (250, 5),
        pytest.param(
            10_000,
            180,
            marks=[pytest.mark.long, pytest.mark.timeout(3600)],
        ),
    ],
)
def test_random_faults_under_load(faults: int, seconds: int) -> None:
    doc = chaos(WITHOUT_LOSS, 60, 7, seconds)
    exact(doc)
    # Where all are dead already, the next fault waits: all of them happen.
    assert sum(doc["injected"].values()) >= faults
    assert set(doc["injected"]) == set(WITHOUT_LOSS.split(","))
    died = sum(doc["injected"][k] for k in ("kill", "segv", "spare-kill"))
    assert doc["deaths"] >= died * 0.95, "deaths without a warden's story"
    phases = doc["recovery_us"]["all"]
    assert set(phases) == {"noticed", "repaired", "claimed", "seated", "first_packet", "total"}
    assert doc["recovery_us"]["hang"]["noticed"]["p50"] > phases["noticed"]["p50"]
    assert doc["outage_us"]["seed"]["n"] >= 1
    assert doc["generations"] == 1
    assert len(doc["throughput"]) > 5
    assert [f[1] for f in doc["faults"]][:20] == [
        f.kind for f in schedule(7, tuple(WITHOUT_LOSS.split(",")), 60.0, seconds)
    ][:20]


@pytest.mark.fault(14)
def test_a_primarys_death_loses_what_was_in_flight_and_nothing_else() -> None:
    doc = chaos("kill,primary", 5, 3, 5)
    assert doc["injected"]["primary"] >= 1
    assert doc["generations"] == 1 + doc["injected"]["primary"]
    assert doc["traffic"]["lost"] == doc["traffic"]["duplicated"] == 0
    assert doc["outage_us"]["primary"]["n"] == doc["injected"]["primary"]


@pytest.mark.long
def test_a_supervisors_death() -> None:
    doc = chaos("kill,supervisor", 5, 3, 10)
    assert doc["injected"]["supervisor"] >= 1
    assert doc["traffic"]["lost"] == doc["traffic"]["duplicated"] == 0
    assert doc["outage_us"]["supervisor"]["n"] == doc["injected"]["supervisor"]


@pytest.mark.long
def test_an_instance_that_runs_is_checked_by_its_counters(instance: Run, tmp_path: Path) -> None:
    instance.start(NULL)
    plot = tmp_path / "chaos.svg"
    options = ("-n", instance.name, "--plot", str(plot))
    doc = chaos("kill,segv,spare-kill", 10, 1, 5, *options)
    assert not doc["traffic"]["sequences_checked"]
    assert doc["traffic"]["lost"] is None
    assert doc["traffic"]["sent"] > 0
    assert doc["deaths"] >= 10
    assert "<svg" in plot.read_text()
    assert instance.status()["state"] == "running"


@pytest.mark.beside
def test_its_instance_ends_with_it(tmp_path: Path) -> None:
    # It is killed, and leaves a directory, which the next one would remove.
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    chaos = subprocess.Popen([*DPSUP, "chaos", "--for", "60s"], stderr=subprocess.DEVNULL, env=env)
    name = f"chaos{chaos.pid}"
    try:
        wait_for(lambda: run("status", "-n", name).returncode == 0, step=0.2)
    finally:
        chaos.kill()
        chaos.wait()
    wait_for(lambda: not leftovers(name), step=0.2)


@pytest.mark.beside
@pytest.mark.parametrize(
    "options",
    [
        ("--faults", "kil"),
        ("--rate", "fast"),
        ("-n", "one", "two.toml"),
        ("-n", "one", "--faults", "hang"),
        ("--plot", "/no/such/folder/a.svg"),
    ],
)
def test_what_cannot_be_done_is_said_first(options: tuple[str, ...]) -> None:
    done = here("chaos", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error[")
    assert not done.stdout


def test_an_instance_as_people_have_it_is_hurt_and_never_held(instance: Run) -> None:
    """The usual faults, far more than its restart policy puts up with."""
    instance.start(re.sub(r"restart = .*", "spares = 1", NULL))
    done = run(
        "chaos", "-n", instance.name, "--rate", "40/s", "--seed", "1", "--for", "2s", "-o", "json",
        timeout=300,
    )  # fmt: skip
    doc = json.loads(done.stdout)
    assert done.returncode == 0 and doc["ok"], doc["problems"]
    assert doc["injected"]["kill"] >= 2 and sum(doc["held_back"].values()) > 10
    assert instance.status()["state"] == "running"
    assert not [e for e in instance.events() if e["type"] == "held"]
