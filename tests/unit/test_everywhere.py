# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup list`: instances in whatever state, by their runtime directories."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from unit import looks

from dpsup.cli.look import list_
from dpsup.cli.root import cli
from dpsup.host import process
from dpsup.instance import everywhere, runtime_dir
from dpsup.instance.runtime_dir import LOCK, STATE, Runtime, State
from dpsup.view import answers
from dpsup.view.columns import plain
from dpsup.view.sections import Screen


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found = [tmp_path / "usual", tmp_path / "other"]
    for one in found:
        one.mkdir(mode=0o755)
    monkeypatch.setattr(runtime_dir, "roots", lambda: found)
    monkeypatch.setattr(everywhere, "ANSWER_S", 0.05)
    return found


def put(root: Path, name: str, **more: Any) -> Runtime:
    """A runtime directory of the third generation."""
    (root / name).mkdir(mode=0o700)
    where = Runtime(str(root / name), name)
    where.write_state(State(name, 3, "p", "/huge", "/etc/dpsup/edge.toml", **more))
    return where


@pytest.fixture
def held() -> Iterator[Callable[[Runtime], None]]:
    """Hold an instance's lock, as its supervisor does."""
    fds = []

    def hold(where: Runtime) -> None:
        fds.append(os.open(where.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600))
        fcntl.flock(fds[-1], fcntl.LOCK_EX)

    yield hold
    for fd in fds:
        os.close(fd)


def only() -> Any:
    (one,) = everywhere.look()["instances"]
    return one


def test_what_a_dead_one_left(roots: list[Path]) -> None:
    put(roots[0], "edge", primary=process.Identity(1 << 22, 5))
    one = only()
    assert (one["name"], one["state"], one["generation"]) == ("edge", "dead", 3)
    assert (one["primary"], one["supervisor"], one["ports"]) == (None, None, None)
    assert one["topology_file"] == "/etc/dpsup/edge.toml"
    assert one["directory"] == str(roots[0] / "edge")
    assert "events" in one["why"] and one["user"]


def test_one_without_a_supervisor(roots: list[Path]) -> None:
    put(roots[0], "edge", primary=process.own())
    one = only()
    assert (one["state"], one["primary"]) == ("headless", os.getpid())
    assert one["up_s"] > 0


def test_supervisors_that_start_or_do_not_answer(
    roots: list[Path], held: Callable[[Runtime], None]
) -> None:
    where = put(roots[0], "edge", supervisor=process.own())
    held(where)
    one = only()
    assert (one["state"], one["supervisor"]) == ("starting", os.getpid())
    (where.path / runtime_dir.CONTROL).touch()
    one = only()
    assert one["state"] == "silent" and "does not answer within 0.05 s" in one["why"]


def test_one_that_answers(
    roots: list[Path], held: Callable[[Runtime], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    held(put(roots[0], "edge", supervisor=process.own()))
    docs = [looks.edge(4.0)["status"], looks.broken(4.0)["status"], looks.headless(4.0)["status"]]
    monkeypatch.setattr(everywhere.Instance, "status", lambda *_, **__: docs.pop(0))
    one = only()
    assert (one["state"], one["generation"], one["up_s"]) == ("running", 1, 94.0)
    assert (one["supervisor"], one["primary"]) == (100, 200)
    assert [one[k] for k in ("ports_up", "ports", "workers_ready", "workers")] == [2, 2, 3, 3]
    one = only()
    assert one["state"] == "degraded"
    assert [one[k] for k in ("ports_up", "ports", "workers_ready", "workers")] == [1, 3, 1, 3]
    assert only()["supervisor"] is None


def test_what_this_user_may_not_look_at_is_said(
    roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(roots[0], "open").path.chmod(0o777)
    one = only()
    assert one["state"] == "unknown" and "other users can write to it" in one["why"]

    def refused(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Runtime, "at", refused)
    assert (only()["state"], only()["why"]) == ("unknown", "Permission denied")


def test_directories_of_instances_that_are_not_believed(roots: list[Path]) -> None:
    put(roots[1], "edge")
    roots[1].chmod(0o777)
    found = everywhere.look()
    assert found["instances"] == []
    (skipped,) = found["skipped"]
    assert skipped["directory"] == str(roots[1]) and "open to every user" in skipped["why"]
    done = CliRunner().invoke(list_, [])
    assert done.exit_code == 0
    assert "there is no instance" in done.stdout and str(roots[1]) in done.stderr
    roots[0].rmdir()  # one that is not there is no reason for a word
    assert len(everywhere.look()["skipped"]) == 1


def test_a_name_in_two_places_is_listed_twice(roots: list[Path]) -> None:
    put(roots[0], "edge")
    put(roots[1], "edge")
    first, second = everywhere.look()["instances"]
    assert (first["named"], second["named"]) == (True, False)
    assert Path(first["directory"]).parent == roots[0]
    assert everywhere.look("wide")["instances"] == []
    assert len(everywhere.look("edge")["instances"]) == 2
    # That is the one that `-n edge` means.
    assert runtime_dir.instances()["edge"].path.parent == roots[0]


def test_a_link_is_no_second_instance(roots: list[Path], tmp_path: Path) -> None:
    put(tmp_path, "edge")
    for root in roots:
        (root / "edge").symlink_to(tmp_path / "edge")
    assert only()["directory"] == str(tmp_path / "edge")


def test_what_is_no_instance_is_not_listed(roots: list[Path]) -> None:
    (roots[0] / "empty").mkdir()
    (roots[0] / "else").mkdir()
    (roots[0] / "else" / "notes.txt").touch()
    (roots[0] / "file").touch()
    assert everywhere.look()["instances"] == []


@pytest.mark.parametrize("damage", ["", "[]", '{"name": 5}', "\0"])
def test_a_damaged_record_keeps_nothing_from_being_listed(roots: list[Path], damage: str) -> None:
    put(roots[0], "edge")
    put(roots[0], "wide").write(STATE, damage)
    assert [one["state"] for one in everywhere.look()["instances"]] == ["dead", "dead"]


def test_the_table_fits(roots: list[Path]) -> None:
    put(roots[0], "edge")
    found = everywhere.look()
    for width in (80, None):
        shown = plain(answers.instances(found, Screen(width, ascii_only=True)))
        assert "edge" in shown and "dead" in shown and shown.isascii()
        assert width is None or all(len(line) <= width for line in shown.splitlines())


def test_the_command_has_its_name() -> None:
    assert cli.commands["list"] is list_
    done = CliRunner().invoke(cli, ["list", "-o", "json"])
    assert json.loads(done.stdout)["kind"] == "Instances"
