# SPDX-License-Identifier: BSD-3-Clause
"""What a terminal is sent, and what a pipe."""

from __future__ import annotations

import io

import pytest

from dpsup.view import terminal
from dpsup.view.columns import Line

LINES: list[Line] = [[("one", "bad"), (" two", "")], [("x" * 99, "dim")]]


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def tty(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """Called in the test itself: pytest puts a stdout of its own there before."""
    out = Tty()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return out


def test_a_pipe_gets_no_escape_sequence_and_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.screen().width is None
    terminal.print_lines(LINES)
    with terminal.live() as draw:
        draw(LINES[:1])
        draw(LINES[:1])
    assert capsys.readouterr().out == f"one two\n{'x' * 99}\none two\n\none two\n\n"


def test_colours_and_their_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    out = tty(monkeypatch)
    terminal.print_lines(LINES[:1])
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.print_lines(LINES[:1])
    monkeypatch.setenv("TERM", "dumb")
    terminal.print_lines(LINES[:1])
    assert out.getvalue().splitlines() == [
        "\x1b[1;31mone\x1b[0m two", "\x1b[1mone\x1b[0m two", "one two",
    ]  # fmt: skip


def test_what_is_drawn_in_place_fits_and_leaves_the_screen_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = tty(monkeypatch)
    monkeypatch.setattr(terminal.Console, "size", (10, 2))
    with pytest.raises(KeyboardInterrupt), terminal.live() as draw:
        draw([*LINES, *LINES])
        raise KeyboardInterrupt
    out = written.getvalue()
    assert out.startswith("\x1b[?1049h")
    assert out.endswith("\x1b[?1049l")
    assert out.count("\n") == 1
    assert out.count("x") == 10


def test_tables_of_documents(capsys: pytest.CaptureFixture[str]) -> None:
    pool = {
        "name": "default", "size": 4095, "free": 4000, "cached": 0, "rx_rings": 64, "tx_rings": 0,
        "lanes": 31, "io": 0, "quarantine": 0, "unexplained": 0, "strays": [],
        "places": [{"io": 0, "place": "lane", "of": "fw/0", "mbufs": 31}],
    }  # fmt: skip
    terminal.print_audit({"pools": [pool]}, detail=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "SIZE", "FREE", "CACHED", "RX", "TX", "LANES", "IO", "QUAR", "UNEXPLAINED"],
        ["default", "4095", "4000", "0", "64", "0", "31", "0", "0", "0"],
        ["NAME", "IO", "PLACE", "OF", "MBUFS"],
        ["default", "0", "lane", "fw/0", "31"],
    ]
    assert all(line == line.rstrip() for line in lines)


def test_a_log_line_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = tty(monkeypatch)
    terminal.print_log({"at": 0.0, "name": "fw/0", "line": "a\x1b[2Jb"})
    assert "a?[2Jb" in out.getvalue()
