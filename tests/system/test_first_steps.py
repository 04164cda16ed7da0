# SPDX-License-Identifier: BSD-3-Clause
"""A newcomer's first commands, typed as the tool says to type them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness import DPSUP, Run, run

from dpsup.doctor import CHECKS
from dpsup.packets.pcap import scan

pytestmark = pytest.mark.beside


def do(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DPSUP, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_job_that_init_writes_runs_and_forwards_every_packet(instance: Run) -> None:
    made = do(instance.folder, "init", "--template", "ci", "--name", instance.name, "job.toml")
    assert made.returncode == 0, made.stderr
    *_, last = made.stdout.splitlines()
    assert last.split()[0] == "dpsup"
    done = do(instance.folder, *last.split()[1:])
    assert done.returncode == 0, done.stderr
    out = scan((instance.folder / "out.pcap").read_bytes(), 1518)
    there = scan((instance.folder / "in.pcap").read_bytes(), 1518)
    assert out is not None
    assert there is not None
    assert out.packets == there.packets == 256


def test_the_plugin_that_init_writes_survives_a_kill(instance: Run) -> None:
    name = instance.name
    made = do(instance.folder, "init", "--template", "plugin", "--name", name, "t.toml")
    assert made.returncode == 0, made.stderr
    build = next(line for line in made.stdout.splitlines() if line.startswith("  cc "))
    path = f"{Path(DPSUP[0]).parent}:{os.environ['PATH']}"
    subprocess.run(
        build, shell=True, cwd=instance.folder, check=True, env={**os.environ, "PATH": path}
    )
    assert do(instance.folder, "check", "t.toml").returncode == 0
    assert do(instance.folder, "start", "t.toml", "--detach").returncode == 0
    run("kill", "fw/0", "-n", name, check=True)
    assert "ipv4" in run("stats", "-n", name, check=True).stdout
    # Its workers are completed, by name.
    env = {
        **os.environ, "COMP_WORDS": f"dpsup -n {name} kill ", "COMP_CWORD": "4",
        "_DPSUP_COMPLETE": "bash_complete",
    }  # fmt: skip
    done = subprocess.run(DPSUP, env=env, capture_output=True, text=True, check=False)
    assert "plain,fw/0" in done.stdout
    # Doctor sees it run, and counts its hugepages as its own.
    doc = json.loads(do(instance.folder, "doctor", "t.toml", "-o", "json").stdout)
    assert doc["ok"]
    assert any("is running" in c["message"] for c in doc["checks"] if c["id"] == "D03")
    run("stop", "-n", name, check=True)


def test_doctor_on_this_machine(instance: Run) -> None:
    done = run("doctor", "-o", "json")
    doc = json.loads(done.stdout)
    assert {c["id"] for c in doc["checks"]} == set(CHECKS)
    assert done.returncode == (0 if doc["ok"] else 6)
    script = instance.folder / "fix.sh"
    script.write_text(run("doctor", "--fix-script").stdout)
    subprocess.run(["sh", "-n", str(script)], check=True)
    empty = instance.folder / "empty"
    empty.mkdir()
    assert run("doctor", "--sysroot", str(empty)).returncode == 6
    assert run("doctor", str(instance.folder / "no.toml")).returncode == 78


def test_an_error_names_its_code_and_explain_knows_it() -> None:
    done = run("status", "-n", "nobody-of-that-name")
    assert done.returncode == 3
    assert done.stderr.startswith("error[E0003]: ")
    assert "dpsup explain E0003" in done.stderr
    assert "no such instance" in run("explain", "E0003", check=True).stdout
    assert run("explain", "E9999").returncode == 4
