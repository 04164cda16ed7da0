# SPDX-License-Identifier: BSD-3-Clause
"""Start, status, kill, scale, restart, stop: an instance's life."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
from harness import CALM, NULL, Run, leftovers, run, wait_for

pytestmark = pytest.mark.beside


def test_status_has_the_keys_that_scripts_rely_on(instance: Run) -> None:
    instance.start(NULL)
    doc = instance.until(lambda s: s["state"] == "running" and s["ports"][1]["tx_packets"] and s)
    assert doc["apiVersion"] == "dpsup/v1"
    assert doc["kind"] == "Status"
    assert doc["name"] == instance.name
    assert doc["generation"] == 1
    assert doc["supervisor"]["pid"] > 1
    assert doc["primary"] == {"pid": doc["primary"]["pid"], "state": "running"}
    port = doc["ports"][0]
    assert {"name", "rx_packets", "tx_packets", "rx_missed", "tx_dropped"} <= port.keys()
    pool = doc["mempools"][0]
    assert {"name", "size", "in_use", "low_water", "alloc_failures"} <= pool.keys()
    group = doc["groups"][0]
    assert (group["name"], group["plugin"], group["desired"], group["ready"]) == (
        "fw", "macswap", 2, 2,
    )  # fmt: skip
    assert "spares_ready" in group
    assert [w["id"] for w in group["workers"]] == ["fw/0", "fw/1"]
    keys = {"id", "pid", "core", "state", "rx_packets", "tx_packets", "dropped", "restarts"}
    assert keys | {"last_exit"} <= group["workers"][0].keys()
    recovery = {"deaths", "lost", "duplicated", "quarantined", "last_failover_us"}
    assert recovery <= doc["recovery"].keys()
    instance.stop()
    assert leftovers(instance.name) == []


def test_audit_is_exact_while_packets_flow(instance: Run) -> None:
    instance.start(NULL)
    for _ in range(15):
        doc = instance.audit()
        pool = doc["pools"][0]
        assert pool["unexplained"] == 0, pool
        parts = ("free", "cached", "rx_rings", "tx_rings", "lanes", "io", "quarantine")
        assert sum(pool[k] for k in parts) == pool["size"] == 16383


def test_killed_worker_comes_back(instance: Run) -> None:
    instance.start(NULL)
    before = instance.worker("fw/0")
    instance.do("kill", "fw/0")
    after = instance.until(
        lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running" and s
    )["groups"][0]["workers"][0]
    assert after["pid"] != before["pid"]
    assert after["restarts"] == 1
    assert after["last_exit"]["how"] == "SIGKILL"
    assert after["last_exit"]["signal"] == signal.SIGKILL
    assert instance.audit()["pools"][0]["unexplained"] == 0
    death = next(e for e in instance.events() if e["type"] == "death")
    assert death["name"] == "fw/0"


def test_scale_up_and_down(instance: Run) -> None:
    instance.start(NULL)
    for n in (4, 1, 3, 0, 2):
        assert (
            json.loads(instance.do("scale", "workers", str(n), "-o", "json").stdout)["ready"] == n
        )
        group = instance.status()["groups"][0]
        assert (group["desired"], group["ready"]) == (n, n)
    assert instance.audit()["pools"][0]["unexplained"] == 0
    done = instance.do("scale", "fw", "5", check=False)
    assert done.returncode == 2
    assert "max = 5" in done.stderr
    assert instance.do("scale", "fx", "2", check=False).returncode == 4


def test_restart_is_rolling_and_keeps_the_others(instance: Run) -> None:
    instance.start(CALM)
    before = [w["pid"] for w in instance.status()["groups"][0]["workers"]]
    instance.do("restart", "fw/1")
    after = [w["pid"] for w in instance.status()["groups"][0]["workers"]]
    assert after[0] == before[0]
    assert after[1] != before[1]
    instance.do("restart")
    last = [w["pid"] for w in instance.status()["groups"][0]["workers"]]
    assert not set(last) & set(before + after)
    assert instance.status()["recovery"]["deaths"] == 0


@pytest.mark.fault(36)
def test_second_start_says_who_is_running(instance: Run) -> None:
    instance.start(CALM)
    pid = instance.status()["supervisor"]["pid"]
    done = run("start", str(instance.file))
    assert done.returncode == 1
    assert str(pid) in done.stderr
    assert instance.status()["state"] == "running"


def test_foreground_ends_on_sigint_with_the_account(instance: Run) -> None:
    process = instance.foreground(NULL)
    instance.until_running()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "lost 0" in out
    assert "mbufs unexplained 0" in out
    assert leftovers(instance.name) == []


@pytest.mark.fault(46)
def test_second_signal_ends_at_once(instance: Run) -> None:
    process = instance.foreground(CALM)
    instance.until_running()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert leftovers(instance.name) == []


@pytest.mark.fault(18)
def test_dead_seed_is_replaced_and_workers_live_on(instance: Run) -> None:
    instance.start(CALM)
    doc = instance.status()
    seed, pids = doc["seed"]["pid"], [w["pid"] for w in doc["groups"][0]["workers"]]
    os.kill(seed, signal.SIGKILL)
    doc = instance.until(
        lambda s: s["seed"]["state"] == "running" and s["seed"]["pid"] != seed and s
    )
    assert [w["pid"] for w in doc["groups"][0]["workers"]] == pids
    # The orphans are reaped, repaired and replaced like any other.
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
    assert instance.worker("fw/0")["last_exit"]["how"] == "SIGKILL"
    assert instance.audit()["pools"][0]["unexplained"] == 0


@pytest.mark.fault(14)
def test_dead_primary_takes_its_workers_along_and_a_new_generation_runs(instance: Run) -> None:
    instance.start(CALM)
    doc = instance.status()
    old = [w["pid"] for w in doc["groups"][0]["workers"]]
    os.kill(doc["primary"]["pid"], signal.SIGKILL)
    doc = instance.until(lambda s: s["generation"] == 2 and s["state"] == "running" and s)
    assert not any(_lives(pid) for pid in old)
    assert doc["primary"]["pid"] != old
    assert instance.audit()["pools"][0]["unexplained"] == 0


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:  # noqa: PTH123
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.fault(16)
def test_headless_instance_forwards_and_can_be_stopped(instance: Run) -> None:
    instance.start(NULL)
    os.kill(instance.status()["supervisor"]["pid"], signal.SIGKILL)
    done = wait_for(
        lambda: (d := instance.do("status", "-o", "json", check=False)).returncode == 5 and d
    )
    doc: dict[str, Any] = json.loads(done.stdout)
    assert doc["state"] == "degraded"
    assert doc["supervisor"]["pid"] is None
    received = doc["ports"][0]["rx_packets"]
    instance.until(lambda s: s["ports"][0]["rx_packets"] > received)
    assert instance.audit()["pools"][0]["unexplained"] == 0
    instance.stop()
    assert wait_for(lambda: not leftovers(instance.name))


def test_start_over_a_headless_instance(instance: Run) -> None:
    instance.start(NULL)
    os.kill(instance.status()["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: instance.do("status", check=False).returncode == 5)
    instance.start()
    doc = instance.status()
    assert doc["generation"] == 1
    assert doc["state"] == "running"


@pytest.mark.fault(11)
@pytest.mark.long
def test_worker_that_always_dies_is_held_and_restart_frees_it(instance: Run) -> None:
    text = NULL.replace("intensity = 100", "intensity = 2")
    instance.start(text)
    for _ in range(3):
        instance.until(lambda s: s["groups"][0]["workers"][0]["state"] == "running")
        instance.do("kill", "fw/0", check=False)
        wait_for(lambda: instance.worker("fw/0")["state"] != "running" or
                 instance.worker("fw/0")["last_exit"])  # fmt: skip
    doc = instance.until(lambda s: s["groups"][0]["workers"][0]["state"] == "held" and s)
    assert doc["state"] == "degraded"
    assert instance.do("status", check=False).returncode == 5
    assert "restart" in instance.do("status", check=False).stdout
    # The other one has its buckets meanwhile.
    assert instance.audit()["pools"][0]["unexplained"] == 0
    instance.do("restart", "fw/0")
    assert instance.status()["state"] == "running"


def test_plugin_that_refuses_ends_the_start(instance: Run) -> None:
    instance.write(
        NULL.replace('"macswap"', '"crash"').replace("args = {", 'args = { init = "no thanks",')
    )
    done = run("start", str(instance.file))
    assert done.returncode == 78
    assert "no thanks" in done.stderr
    assert leftovers(instance.name) == []
