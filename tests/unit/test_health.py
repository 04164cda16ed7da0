# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup health`: what is asked, what the supervisor answers, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from unit.fakecore import TWO, model

from dpsup.cli.root import cli
from dpsup.instance import health
from dpsup.instance.places import HEALTH, PRIMARY_LOCK
from dpsup.supervisor import health as answers
from dpsup.supervisor.model import Model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory of instances, with one that is called edge."""
    monkeypatch.setattr(health, "roots", lambda: [str(tmp_path), str(tmp_path / "none")])
    monkeypatch.delenv("DPSUP_NAME", raising=False)
    (tmp_path / "edge").mkdir(mode=0o700)
    return tmp_path / "edge"


@contextlib.contextmanager
def saying(directory: Path, line: bytes | None) -> Iterator[None]:
    """A supervisor that says this; None: nothing, though it takes the connection."""
    held = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / HEALTH))
        server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                one, _ = server.accept()
                held.append(one)
                if line is not None:
                    one.sendall(line)
                    one.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(timeout=10)
        for one in held:
            one.close()


def quick(*words: str) -> tuple[int | None, str]:
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = health.quick(list(words))
    return code, out.getvalue()


def test_ready_and_live_and_started(home: Path) -> None:
    for state, why, codes in (
        ("running", "", (0, 0, 0)),
        ("degraded", "", (0, 0, 0)),
        ("degraded", "no worker of group fw is ready", (0, 5, 0)),
        ("starting", "it is starting, and takes no packets", (0, 5, 5)),
    ):
        found = []
        for question in ("--live", "--ready", "--started"):
            with saying(home, health.encode(state, why, ready=not why)):
                code, said = quick(question)
            found.append(code)
            assert said.startswith("edge: ") and said.count("\n") == 1 and why in said
            (home / HEALTH).unlink()
        assert tuple(found) == codes, state


def test_a_supervisor_that_hangs_is_not_live(home: Path) -> None:
    with saying(home, None):
        answer = health.ask("edge", timeout=0.05)
    assert (answer.state, answer.live, answer.ready) == ("silent", False, False)


@pytest.mark.parametrize("line", [b"", b"\n", b"running\n", b"running 2 x\n", b"\xff\xfe\n"])
def test_what_is_no_answer_is_none(home: Path, line: bytes) -> None:
    with saying(home, line):
        assert health.ask("edge").state == "absent"


def test_a_data_plane_without_supervisor_is_live_and_not_ready(home: Path) -> None:
    """A restart would end what forwards."""
    fd = os.open(home / PRIMARY_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    assert quick("--live")[0] == 5, "nothing holds the lock"
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert quick("--live")[0] == 0
    code, said = quick("--ready")
    assert code == 5 and "headless" in said
    os.close(fd)


def test_of_several_the_only_live_one_is_meant(home: Path) -> None:
    (home.parent / "dead").mkdir()
    with saying(home, health.encode("running", "", ready=True)):
        assert quick("--live")[0] == 0
    (home.parent / "dead" / HEALTH).touch()
    code, said = quick("--live")
    assert code == 5 and "several run (" in said
    (home / HEALTH).unlink()
    with saying(home, health.encode("running", "", ready=True)):
        assert quick("--live", "-n", "edge")[0] == 0
    assert quick("--live", "-n", "none") == (5, "none: not live, absent: no instance runs\n")


def test_a_full_queue_of_connections_is_silence(home: Path) -> None:
    fd = os.open(home / PRIMARY_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)  # it would be live, if there were no supervisor
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as held:
        server.bind(str(home / HEALTH))
        server.listen(0)
        held.enter_context(socket.socket(socket.AF_UNIX)).connect(str(home / HEALTH))
        assert health.ask("edge", timeout=0.05).state == "silent"
    os.close(fd)


def test_the_variable_names_it_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.parent / "b").mkdir()
    (home.parent / "b" / HEALTH).touch()
    monkeypatch.setenv("DPSUP_NAME", "edge")
    with saying(home, health.encode("running", "", ready=True)):
        assert quick("--ready")[0] == 0


def test_another_users_answer_is_not_believed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(path, *args, **kwargs)
        return SimpleNamespace(st_uid=4711, st_mode=found.st_mode)

    # Root asks about an instance of user 4711, and root's own process answers: as good as theirs.
    monkeypatch.setattr(health.os, "stat", stat)
    monkeypatch.setattr(health.struct, "unpack", lambda *_: (1, 4712, 4712))
    with saying(home, health.encode("running", "", ready=True)):
        assert health.ask("edge").state in ("silent", "absent")


@pytest.mark.parametrize(
    "words",
    [[], ["--help"], ["--ready", "--live"], ["--ready", "-o", "json"], ["--ready", "-n"], ["-n"]],
)
def test_other_words_are_for_the_parser(home: Path, words: list[str]) -> None:
    assert quick(*words)[0] is None


def test_the_command_says_the_same_as_a_document(home: Path) -> None:
    with saying(home, health.encode("degraded", "port wan: no link", ready=False)):
        done = CliRunner().invoke(cli, ["health", "--ready", "-o", "json"])
    doc = json.loads(done.stdout)
    assert done.exit_code == 5
    assert (doc["name"], doc["state"], doc["live"], doc["ready"], doc["started"], doc["why"]) == (
        "edge", "degraded", True, False, True, "port wan: no link",
    )  # fmt: skip
    (home / HEALTH).unlink()
    with saying(home, health.encode("running", "", ready=True)):
        done = CliRunner().invoke(cli, ["-n", "edge", "health"])
    assert (done.exit_code, done.stdout) == (0, "edge: live, running\n")


COST = """
import sys
sys.argv = ["dpsup", "health", "--ready", "-n", "none"]
from dpsup import __main__
try:
    __main__.main()
except SystemExit as e:
    assert e.code == 5, e.code
heavy = {"click", "zmq", "psutil", "pydantic", "cffi", "json", "asyncio", "tomllib", "pathlib"}
heavy |= {"typing", "dataclasses"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_a_probe_imports_nothing_that_takes_long() -> None:
    words = [sys.executable, "-P", "-c", COST]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


# --- what the supervisor answers ----------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Model:
    one = model(tmp_path, TWO)
    one.state, one.rx_on = "running", True
    for worker in one.groups[0].workers:
        worker.state, worker.wanted = "running", True
    return one


def test_a_group_without_a_worker_is_not_ready(running: Model) -> None:
    assert answers.trouble(running) == ""
    running.state = "degraded"
    running.groups[0].workers[0].state = "held"
    assert answers.trouble(running) == "", "one is left"
    for worker in running.groups[0].workers:
        worker.state = "held"
    assert answers.trouble(running) == "no worker of group fw is ready"
    running.groups[0].desired = 0
    assert answers.trouble(running) == "", "scaled to 0, as was wished"


def test_without_packets_coming_in_it_is_not_ready(running: Model) -> None:
    running.rx_on = False
    assert "takes no packets" in answers.trouble(running)
    running.rx_on = True
    for state in ("stopped", "starting", "stopping"):
        running.state = state
        assert state in answers.trouble(running)


def test_a_port_in_trouble_counts_if_it_is_required(running: Model) -> None:
    running.troubles = {"wan": "no link"}
    assert answers.trouble(running) == "port wan: no link"
    ports = tuple(replace(port, required=False) for port in running.plan.ports)
    running.plan = replace(running.plan, ports=ports)
    assert answers.trouble(running) == ""


def test_the_event_loop_answers_many_at_once(
    running: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.runtime.path.mkdir(parents=True, exist_ok=True)
    path = running.runtime.file(HEALTH)
    # What a supervisor that was killed has left.
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    def visit() -> bytes:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            return s.recv(100)

    def flood() -> list[bytes]:
        with contextlib.ExitStack() as held:
            for _ in range(200):  # that never read
                held.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            return [visit() for _ in range(20)]

    async def life() -> list[bytes]:
        serving = asyncio.create_task(answers.serve(running))
        while not await asyncio.to_thread(_is_open, path):
            await asyncio.sleep(0.01)
        found = await asyncio.to_thread(flood)
        serving.cancel()
        return found

    assert asyncio.run(life()) == [b"running 1 \n"] * 20
    assert Path(path).stat().st_mode & 0o077 == 0


def _is_open(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(path) == 0
