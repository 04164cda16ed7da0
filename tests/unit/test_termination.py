# SPDX-License-Identifier: BSD-3-Clause
"""Why a start failed, in the file that Kubernetes shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dpsup.cli import root, termination
from dpsup.cli.termination import MOST, file_of, text_of


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["start", "x.toml", "--termination-log", "/a"], "/a"),
        (["start", "--termination-log=/b", "x.toml"], "/b"),
        (["-n", "edge", "start", "x.toml"], "/env"),
        (["start", "x.toml", "--termination-log"], "/env"),
        (["status"], ""),
        (["health", "--ready"], ""),
        ([], ""),
    ],
)
def test_only_a_start_tells(words: list[str], found: str) -> None:
    assert file_of(words, {"DPSUP_TERMINATION_LOG": "/env"}) == found


def test_the_text_is_cut_at_a_character() -> None:
    long = text_of("é" * 5000, 78)
    assert MOST - 1 <= len(long) <= MOST
    assert long.decode().endswith("é\nexit code 78\n")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dpsup", *words])
    with pytest.raises(SystemExit) as raised:
        root.main()
    assert isinstance(raised.value.code, int)
    return raised.value.code


def test_a_bad_topology_is_told_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, file = tmp_path / "log", tmp_path / "edge.toml"
    log.write_text("something longer than what comes now" * 1000)
    file.write_text("version = 2\n")
    assert run(monkeypatch, "start", str(file), "--termination-log", str(log)) == 78
    told = log.read_text()
    assert told.startswith("error[E01") and "edge.toml:1" in told
    assert told.endswith("exit code 78\n")
    assert "error[E01" in capsys.readouterr().err


def test_wrong_usage_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSUP_TERMINATION_LOG", str(tmp_path / "log"))
    assert run(monkeypatch, "start", "--no-such-option") == 2
    assert "error[E0002]: No such option" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "absent"])
def test_a_log_that_cannot_be_written_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    log = tmp_path / "log"
    if kind == "directory":
        log.mkdir()
    elif kind == "link":
        log.symlink_to(tmp_path / "other")
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log = tmp_path / "none" / "log"
    monkeypatch.setenv("DPSUP_TERMINATION_LOG", str(log))
    assert run(monkeypatch, "start", str(tmp_path / "none.toml")) == 78
    said = capsys.readouterr().err
    assert "warning[E0482]" in said and "error[E0100]" in said
    assert not (tmp_path / "other").exists()
    assert termination.VARIABLE in said
