# SPDX-License-Identifier: BSD-3-Clause
"""Commands in another PID namespace see none of an instance's processes, and harm none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from harness import DPSUP, NULL, Run, dies, supervisor

APART = ["unshare", "--pid", "--fork", "--mount-proc"]


def _can_leave() -> bool:
    return subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.beside,
    pytest.mark.skipif(not _can_leave(), reason="no PID namespace of its own"),
]


def apart(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*APART, *DPSUP, *args], capture_output=True, text=True, timeout=120, check=False
    )


def files(instance: Run) -> set[str]:
    """Of the instance, on this machine: sockets, EAL's directory, hugepages."""
    found = {str(one) for one in Path("/run/dpsup", instance.name).rglob("*")}
    for folder in ("/var/run/dpdk", "/dev/hugepages"):
        found |= {str(one) for one in Path(folder).glob(f"dpsup-{instance.name}-g*")}
        found |= {str(one) for one in Path(folder).glob(f"dpsup-{instance.name}-g*/*")}
    return found


def test_a_live_instance_without_supervisor_survives_commands_from_elsewhere(
    instance: Run,
) -> None:
    instance.start(NULL)
    primary = instance.status()["primary"]["pid"]
    dies(supervisor(instance))
    before = files(instance)
    assert any("hugepages" in one for one in before)
    sent = instance.status()["ports"][0]["tx_packets"]
    # `start` there would begin a second data plane in this one's files, `stop` cannot end this one.
    for words in (("clean", "-n", instance.name), ("stop", "-n", instance.name),
                  ("start", str(instance.file), "--detach")):  # fmt: skip
        done = apart(*words)
        assert "Traceback" not in done.stderr
        assert files(instance) >= before, (words, done.stderr)
        assert Path(f"/proc/{primary}").exists(), (words, done.stderr)
        if words[0] != "clean":
            assert done.returncode != 0, words
    instance.until(lambda s: s["ports"][0]["tx_packets"] > sent)
    instance.start()
    doc = instance.status()
    assert doc["primary"]["pid"] == primary and doc["state"] in ("running", "degraded")
    assert os.getpid() != primary
