# SPDX-License-Identifier: BSD-3-Clause
"""Programs that a bench starts: each ends with the bench and leaves no files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from dpsup.errors import DpsupError
from dpsup.host import eal
from dpsup.host.mounts import hugetlbfs

PREFIX = "dpsup-bench"  # of names that a bench creates; its pid follows
END_S = 10.0


def tied(argv: list[str], sig: signal.Signals) -> list[str]:
    """The command, which the kernel ends with `sig` if this process dies (PR_SET_PDEATHSIG)."""
    setpriv = shutil.which("setpriv")  # of util-linux
    return [setpriv, "--pdeathsig", sig.name.removeprefix("SIG"), "--", *argv] if setpriv else argv


def spawn(
    argv: list[str],
    *,
    core: int | None = None,
    sig: signal.Signals = signal.SIGKILL,
    pass_fds: tuple[int, ...] = (),
    output: IO[bytes] | int = subprocess.DEVNULL,
    stdin: int = subprocess.DEVNULL,
    env: dict[str, str] | None = None,
    new_session: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that a Ctrl-C reaches us alone."""
    command = tied(argv, sig)
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=pass_fds,
        start_new_session=new_session,
        env=env,
    )


def end(
    child: subprocess.Popen[bytes],
    sig: signal.Signals = signal.SIGTERM,
    patience: float = END_S,
) -> None:
    """End it, by SIGKILL if it does not end in time, and reap it."""
    if child.poll() is None:
        child.send_signal(sig)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A second Ctrl-C must not interrupt cleaning up."""
    old = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def wait_for(what: Callable[[], bool], timeout: float, doing: str, step: float = 0.005) -> None:
    """Wait until `what` is true. Raises: DpsupError that says what was waited for."""
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            raise DpsupError(f"waited {timeout:g} s for {doing}")
        time.sleep(step)


def sweep(prefix: str) -> None:
    """Remove what EAL leaves of a program that ran with this --file-prefix, a private one."""
    shutil.rmtree(eal_directory(prefix), ignore_errors=True)
    for mount in hugetlbfs():
        for page in mount.glob(f"{prefix}map_*"):
            page.unlink(missing_ok=True)


def is_dead(name: str, pattern: str) -> bool:
    """Does this name belong to a bench that has ended? `pattern` has the pid in it."""
    found = re.match(pattern, name)
    return found is not None and not Path(f"/proc/{found[1]}").exists()


def sweep_dead(prefix: str = PREFIX) -> None:
    """Remove what a killed program with this prefix left: EAL's files, temporary directories."""
    for path in eal_directory(prefix).parent.glob(f"{prefix}*"):
        if is_dead(path.name, rf"{prefix}(\d+)-"):
            sweep(path.name)
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if is_dead(path.name, rf"{prefix}(\d+)-"):
            shutil.rmtree(path, ignore_errors=True)


def eal_directory(prefix: str) -> Path:
    """EAL's files of a program with this --file-prefix, which has this process's environment."""
    return Path(eal.runtime_dir(os.environ, is_root=os.geteuid() == 0), prefix)
