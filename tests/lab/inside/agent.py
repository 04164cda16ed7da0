# SPDX-License-Identifier: BSD-3-Clause
"""Started by systemd in a machine of the lab: asks outside what to run, runs it, says the code.

Standard library only. What is to outlive the machine goes to /out, which is the host's.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PYTEST = "/dpsup/.venv/bin/pytest"
TESTS = Path("/repo/tests/lab/inside")


class Agent:
    """The line to the host."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/virtio-ports/lab.agent", os.O_RDWR)

    def say(self, **word: Any) -> None:
        os.write(self._fd, json.dumps(word).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"\n"):
            data += os.read(self._fd, 65536)
        word: dict[str, Any] = json.loads(data)
        return word


def save(boot: int) -> None:
    """What the machine itself wrote down of this boot."""
    for name, command in (
        ("journal", ["journalctl", "-b", "-o", "short-monotonic", "--no-pager"]),
        ("kernel", ["dmesg"]),
    ):
        with Path(f"/out/{name}-{boot}.txt").open("w") as out:
            subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)


def carry_out(agent: Agent, order: dict[str, Any]) -> None:
    boot = order["boot"]
    # /repo is cached, and was perhaps edited since.
    Path("/proc/sys/vm/drop_caches").write_text("3")
    command = [PYTEST, "-c", "/repo/pyproject.toml", "--rootdir", "/repo", "-p", "no:cacheprovider",
               "-o", "timeout=1800", f"--junit-xml=/out/junit-{boot}.xml", "-v", "--durations=10",
               *order["arguments"]]  # fmt: skip
    with Path(f"/out/pytest-{boot}.txt").open("w") as out:
        code = subprocess.run(
            command, cwd=TESTS, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False,
            env=dict(os.environ, DPSUP_LAB_INSIDE="1", PYTHONUNBUFFERED="1",
                     HYPOTHESIS_STORAGE_DIRECTORY="/tmp/hypothesis"),
        ).returncode  # fmt: skip
    save(boot)
    os.sync()
    agent.say(done=code)


def main() -> None:
    agent = Agent()
    agent.say(hello=Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    # One order a boot; another one comes where a person tries tests, or the power is cut.
    while True:
        carry_out(agent, agent.hear())


if __name__ == "__main__":
    main()
