# SPDX-License-Identifier: BSD-3-Clause
"""Real instances: real EAL, real processes, real hugepages; and nothing left when they end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpsup import DpsupError, connect
from dpsup.cli import root
from dpsup.errors import NotRunning
from dpsup.instance import history

# Never `-m dpsup`: in the source folder that would be the sources, not what was installed.
DPSUP = [str(Path(sys.executable).with_name("dpsup"))]
PATIENCE = 60.0  # seconds, to catch what hangs
LONG = os.environ.get("DPSUP_LONG") == "1"

HEAD = """
version = 1
name = "{name}"
[host]
shared_cores = true
quarantine_dir = "quarantine"
[mempools.default]
mbufs = 16383
"""

# Two ports that receive as fast as they are polled, one flow, and two workers.
NULL = """
[[ports]]
name = "wan"
vdev = "net_null0"
[[ports]]
name = "lan"
vdev = "net_null1"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "macswap"
args = { map = { wan = "lan", lan = "wan" } }
input = ["wan", "lan"]
count = 2
max = 4
restart = { intensity = 100, backoff = { initial = "10ms", factor = 1 } }
"""

# The same without packets, for what is about processes: the CPUs are left to these.
CALM = re.sub(r"(net_null\d)", r"\1,no-rx=1", NULL).replace(
    'cores = "1"', 'cores = "1"\nidle = "adaptive"'
)


def run(
    *args: str, check: bool = False, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """`dpsup ARGS`, its output captured."""
    # To start Python for each command takes a third of a second of CPU. A test of what only a
    # process can do (a terminal, signals, open files) starts it with DPSUP.
    on_main = threading.current_thread() is threading.main_thread()
    done = here(*args) if on_main and not ALONE & {*args} else process(*args, timeout=timeout)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr + done.stdout
    if check:
        assert done.returncode == 0, f"dpsup {' '.join(args)}: {done.returncode}\n{done.stderr}"
    return done


# These start processes that are to have nothing of the test's own.
ALONE = {"start", "bench", "chaos"}


def process(*args: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DPSUP, *args], capture_output=True, text=True, timeout=timeout, check=False
    )


def here(*args: str) -> subprocess.CompletedProcess[str]:
    """The same, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    before, sys.argv = sys.argv, ["dpsup", *args]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            root.main()
    except SystemExit as e:
        code = int(e.code or 0)
    finally:
        sys.argv = before
    said = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(["dpsup", *args], code, *said)


def seed() -> int:
    """Of what a test draws: the same in each run, another one with --long."""
    drawn = random.randrange(1 << 32) if LONG else 1
    print(f"seed {drawn}")
    return drawn


class Late(AssertionError):
    """What had to come did not come in time."""


def wait_for(what: Callable[[], Any], timeout: float = PATIENCE, step: float = 0.02) -> Any:
    """The first true value of `what`. Raises: Late."""
    deadline = time.monotonic() + timeout
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Late(f"waited {timeout} s in vain")
        time.sleep(step)


def again(what: Callable[[], Any]) -> Any:
    """Asked a second time if the supervisor died meanwhile: then what is left answers."""
    try:
        return what()
    except NotRunning:
        return what()


def at_rest(what: Callable[[], Any]) -> Any:
    """What it comes to once it stays the same: fds of the dead are closed a little later."""
    seen: list[Any] = []

    def still() -> bool:
        seen.append(what())
        return seen[-5:] == [seen[-1]] * 5

    wait_for(still, step=0.1)
    return seen[-1]


def leftovers(name: str) -> list[str]:
    """Whatever an instance of that name left on this machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if re.search(rf"dpsup-{re.escape(name)}-g\d|dpsup-worker: {re.escape(name)} ", words) or (
            any(f"dpsup.{part}" in words for part in ("primary", "builder", "follow", "probe"))
            and re.search(rf"/{re.escape(name)}[/ ]", words)
        ):
            found.append(f"{process.parent.name}: {words}")
    for folder in ("/run/dpsup", "/var/run/dpdk", "/dev/hugepages"):
        # Another instance that ends takes an empty folder along.
        with contextlib.suppress(FileNotFoundError):
            found += [
                str(one)
                for one in Path(folder).iterdir()
                if one.name == name or re.match(rf"dpsup-{re.escape(name)}-g\d", one.name)
            ]
    return found


def free_port() -> int:
    """Of this machine, for TCP."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def pids_of(program: str, name: str) -> list[int]:
    """The processes of an instance that run one of dpsup's modules."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (one / "cmdline").read_bytes().decode(errors="replace")
            if program in words and re.search(rf"/{name}[/\0]", words):
                found.append(int(one.name))
    return found


def held_by(pid: int) -> list[str]:
    """What its descriptors lead to; without those with which it looks at itself now and then."""
    found = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(one.readlink()))
    return [one for one in found if one not in (f"/proc/{pid}/fd", f"/proc/{pid}/statm")]


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def left_by_the_dead() -> set[str]:
    """Names of instances of test runs that were killed; a name begins with the run's pid."""
    words = [p.name for p in Path("/run/dpsup").glob("t*")]
    for folder in ("/var/run/dpdk", "/dev/hugepages"):
        words += [p.name for p in Path(folder).glob("dpsup-t*")]
    found = (re.match(r"(?:dpsup-)?(t(\d+)[a-z][a-z0-9]*)(?:-g\d|$)", word) for word in words)
    return {one[1] for one in found if one and not lives(int(one[2]))}


class Run:
    """One instance under test."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.file = folder / "topology.toml"
        self.process: subprocess.Popen[str] | None = None

    def write(self, text: str) -> Path:
        """A topology: the usual head (name, a mempool), then `text`."""
        self.file.write_text(HEAD.format(name=self.name) + textwrap.dedent(text))
        return self.file

    def start(self, text: str | None = None) -> Run:
        """Start detached and wait until it runs."""
        if text is not None:
            self.write(text)
        run("start", str(self.file), "--detach", check=True, timeout=120)
        return self

    def foreground(self, text: str | None = None, *options: str) -> subprocess.Popen[str]:
        if text is not None:
            self.write(text)
        self.process = subprocess.Popen(
            [*DPSUP, "start", str(self.file), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def job(self, text: str, idle: str = "500ms", timeout: float = 300.0) -> dict[str, Any]:
        """Run a pcap job to its end; its final account. It must end with everything accounted."""
        self.write(text)
        done = run("start", str(self.file), "--exit-when-idle", idle, "-o", "json", timeout=timeout)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def do(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(args[0], "-n", self.name, *args[1:], check=check)

    # In this process: to start Python for each answer takes a third of a second of CPU, on the CPUs
    # that the instance under test has.

    def ask(self, verb: str) -> Any:
        def answer() -> Any:
            with connect(self.name) as live:
                return getattr(live, verb)()

        return again(answer)

    def status(self) -> dict[str, Any]:
        return self.ask("status")

    def audit(self) -> dict[str, Any]:
        """As the command does: what moves between io cores settles, a leak stays."""
        for _ in range(5):
            doc = self.ask("audit")
            if not any(pool["unexplained"] for pool in doc["pools"]):
                break
            time.sleep(0.05)
        return doc

    def stats(self) -> dict[str, Any]:
        return self.ask("stats")

    def events(self) -> list[dict[str, Any]]:
        """As the command shows them: an earlier supervisor's and a dead instance's too."""
        return again(lambda: history.past(self.name, "event", history.Wanted())[0])

    def worker(self, worker: str) -> dict[str, Any]:
        group = worker.split("/", maxsplit=1)[0]
        for g in self.status()["groups"]:
            for w in g["workers"]:
                if g["name"] == group and w["id"] == worker:
                    return w
        raise AssertionError(f"no worker {worker}")

    def until(self, condition: Callable[[dict[str, Any]], Any], timeout: float = PATIENCE) -> Any:
        """Wait until the status fulfils a condition."""
        return wait_for(lambda: condition(self.status()), timeout, 0.05)

    def until_running(self) -> None:
        """Wait for a start in the foreground."""

        def running() -> bool:
            with contextlib.suppress(DpsupError):
                return self.status()["state"] == "running"
            return False

        wait_for(running, step=0.05)

    def stop(self) -> None:
        self.do("stop")


def supervisor(instance: Run) -> int:
    return int(instance.status()["supervisor"]["pid"])


def builder(instance: Run) -> int:
    """The pid of its builder, once there is one."""

    def find() -> int:
        for one in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (one / "cmdline").read_bytes()
                if b"dpsup.builder" in words and f"/{instance.name}/".encode() in words:
                    return int(one.name)
        return 0

    return int(wait_for(find, step=0.005))


def dies(pid: int) -> None:
    """SIGKILL, and wait until the kernel has let go of its lock."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)


def kill_all(pids: list[int]) -> None:
    """One after the other; those that end with the one before are gone by themselves."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
