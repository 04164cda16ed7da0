# SPDX-License-Identifier: BSD-3-Clause
"""A flood of connections where the limit of open files is low and may not be raised: ZeroMQ aborts
a process that has no descriptor left for one more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CALM, DPSUP, PATIENCE, Run, wait_for
from system.conftest import started_by

pytestmark = pytest.mark.beside

FEW = 1024  # the hard limit of most containers

# As many connections as it can have, again and again, to each of the sockets that are named.
CROWD = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
ends = time.monotonic() + float(sys.argv[1])
made = 0
while time.monotonic() < ends:
    held = []
    for _ in range(3000):
        for path in sys.argv[2:]:
            one = socket.socket(socket.AF_UNIX)
            try:
                one.connect(path)
                made += 1
            except OSError:
                pass
            held.append(one)
    for one in held:
        one.close()
print(made)
"""


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with started_by("fewfiles", tmp_path_factory.mktemp("few")) as one:
        file = one.write(CALM)
        subprocess.run(
            ["setpriv", "--bounding-set=-sys_resource", "prlimit", f"--nofile={FEW}:{FEW}",
             *DPSUP, "start", str(file), "--detach"],
            check=True, timeout=PATIENCE * 2, capture_output=True,
        )  # fmt: skip
        yield one


@pytest.mark.fault(20, 43)
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_a_flood_of_connections_ends_no_process(few: Run) -> None:
    doc = few.status()
    pids = [doc["supervisor"]["pid"], doc["primary"]["pid"]]
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = [one for one in limits.splitlines() if one.startswith("Max open files")]
        assert line.split()[3:5] == [str(FEW), str(FEW)]
    where = Path("/run/dpsup", few.name)
    sockets = [str(where / name) for name in ("control.sock", "events.sock", "primary.sock")]
    crowds = [
        subprocess.Popen(
            [sys.executable, "-c", CROWD, "1", *paths], stdout=subprocess.PIPE, text=True
        )
        for paths in (sockets[:2], sockets[2:])
    ]
    made = [int(one.communicate(timeout=PATIENCE)[0]) for one in crowds]
    assert min(made) > 2 * FEW
    after = wait_for(few.status)
    assert [after["supervisor"]["pid"], after["primary"]["pid"]] == pids
    assert after["state"] == "running" and after["recovery"]["deaths"] == 0
    few.do("scale", "fw", "3")
    assert few.until(lambda s: s["groups"][0]["ready"] == 3)
    print(made)
