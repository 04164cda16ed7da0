# SPDX-License-Identifier: BSD-3-Clause
"""Everything that changes a running group, at random, one on top of the other, under load."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from harness import Run, wait_for
from jobs import Job, accounted, out
from traffic import compare
from versions import many, plugin, start, unmarked

from dpsup.errors import DpsupError

pytestmark = pytest.mark.beside

MOST = 4  # workers, of start's 3


def reload(job: Job, instance: Run, rng: random.Random, versions: list[str]) -> None:
    text = instance.file.read_text()
    text = re.sub(r"\ncount = \d+", f"\ncount = {rng.randrange(1, MOST + 1)}", text)
    text = re.sub(r"\nspares = \d+", f"\nspares = {rng.randrange(3)}", text)
    if rng.random() < 0.3:
        text = re.sub(r'plugin = "[^"]*"', f'plugin = "{rng.choice(versions)}"', text)
    instance.file.write_text(text)
    job.instance.reload(partial=True)


@pytest.mark.fault(42, 48)
@pytest.mark.parametrize(
    ("packets", "least", "seed"),
    [(150_000, 40, 5), pytest.param(4_000_000, 2000, 6, marks=pytest.mark.long)],
)
@pytest.mark.timeout(7200)
def test_scale_kill_rollout_and_reload(
    instance: Run, tmp_path: Path, packets: int, least: int, seed: int
) -> None:
    """Nothing is lost, twice, changed by half or out of order; no group stays half changed."""
    sent = many(packets, seed=seed)
    versions = [plugin(tmp_path, v) for v in (1, 2, 3)]
    # So dear that packets are left for all of this on a fast machine too.
    job = start(instance, sent, versions[0], args="cycles = 300000", more="spares = 1\n")
    rng = random.Random(seed)
    done: Counter[str] = Counter()

    def signal_one(signum: int) -> None:
        pids = [w["pid"] for w in job.instance.status()["groups"][0]["workers"] if w["pid"]]
        if pids:  # none of a group of 0
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(pids), signum)

    def scale() -> None:
        job.instance.scale("fw", rng.randrange(MOST + 1), wait=rng.random() < 0.5)

    def rollout() -> None:
        to = rng.choice(versions)
        unavailable = rng.randrange(1, 3)
        wait = rng.random() < 0.7
        job.instance.rollout("fw", to, judge=0, max_unavailable=unavailable, wait=wait)

    steps = {
        "scale": scale,
        "kill": lambda: signal_one(signal.SIGKILL),
        "stop": lambda: signal_one(signal.SIGSTOP),
        "continue": lambda: signal_one(signal.SIGCONT),
        "rollout": rollout,
        "undo": lambda: job.instance.rollout_undo("fw"),
        "reload": lambda: reload(job, instance, rng, versions),
        "rebalance": lambda: job.instance.rebalance("fw", 0.05),
    }
    weights = [4, 6, 1, 2, 3, 1, 2, 1]
    wanted = {"scale", "kill", "rollout", "reload"}
    while job.process.poll() is None and not (sum(done.values()) >= least and wanted <= {*done}):
        (step,) = rng.choices(list(steps), weights)
        # Refused while another is under way, or with nothing to go back to: as it should be.
        with contextlib.suppress(DpsupError):
            steps[step]()
            done[step] += 1
        time.sleep(rng.random() * 0.05)
    print(dict(done), job.sent())
    with contextlib.suppress(DpsupError):
        job.instance.scale("fw", MOST)
    for worker in job.instance.status()["groups"][0]["workers"]:
        if worker["pid"]:
            with contextlib.suppress(ProcessLookupError):  # a rollout may have ended it
                os.kill(worker["pid"], signal.SIGCONT)
    wait_for(lambda: job.instance.rollout_status("fw")["groups"][0]["phase"] == "idle")
    view = wait_for(lambda: settled(job))
    assert {*view["workers"].values()} == {view["revision"]}
    doc, received = job.cut(sent, 1000)
    accounted(doc, len(received))
    compare(received, (unmarked(f) for f in out(instance)))
    assert doc["deaths"] >= 1


def settled(job: Job) -> dict[str, dict[str, int]] | None:
    view = job.instance.rollout_status("fw")["groups"][0]
    return view if {*view["workers"].values()} == {view["revision"]} else None
