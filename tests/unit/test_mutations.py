# SPDX-License-Identifier: BSD-3-Clause
"""Topologies that somebody, or something, spoiled: `dpsup check` answers each, and soon.

Every example of deploy/ and every template of `dpsup init`, with some lines and bytes changed at
random, goes through the command itself. Some hundreds always, 10,000 with DPSUP_LONG=1. A failure
names its seed: DPSUP_SEED=N repeats that one alone.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dpsup.cli.root import cli
from dpsup.errors import DpsupError
from dpsup.host import machine
from dpsup.topology import templates

ROOT = Path(__file__).resolve().parents[2]
CODES = {0, 6, 7, 78}
SOON = 10.0  # seconds for one file on a busy machine: to catch what hangs
WORDS = [
    "[", "]", "{", "}", "[[", "]]", '"', '"""', "'", "=", ",", ".", "#", "\n", "\\", "\0", "\x7f",
    "é", "🐟", "\\u0000", "-1", "0", "1e999", "nan", "inf", "true", "99999999999999999999",
    "[[ports]]", "[host]", 'name = "wan"', "max = 0", 'cores = "0-99999999"', 'pci = "x"',
    "1979-05-27", "wan", 'vdev = "net_pcap0,rx_pcap=/dev/zero"', 'plugin = "/"',
    'scale = { max = "a" }', "path = [1]",
]  # fmt: skip


def examples() -> list[str]:
    found = [p.read_text() for p in sorted((ROOT / "deploy" / "examples").glob("*.toml"))]
    for template in templates.TEMPLATES:
        files = templates.make(template, "edge", "t.toml", [0, 1]).files
        found.append(files["t.toml"].decode())
    return found


def spoiled(text: str, chance: random.Random) -> str:
    """Some changes of lines, words and letters."""
    for _ in range(chance.randint(1, 8)):
        lines = text.split("\n")
        i = chance.randrange(len(lines))
        match chance.randrange(8):
            case 0:
                del lines[i]
            case 1:
                lines.insert(chance.randrange(len(lines) + 1), lines[i])
            case 2:
                j = chance.randrange(len(lines))
                lines[i], lines[j] = lines[j], lines[i]
            case 3 if "=" in lines[i]:
                lines[i] = f"{lines[i].partition('=')[0]}= {chance.choice(WORDS)}"
            case 4:
                lines.insert(i, chance.choice(WORDS))
            case 5:
                lines = lines[: i + 1] if chance.random() < 0.2 else lines
            case _:
                at, cut = chance.randint(0, len(lines[i])), chance.randint(0, 4)
                lines[i] = lines[i][:at] + chance.choice(WORDS) + lines[i][at + cut :]
        text = "\n".join(lines) or "\n"
    return text


def seeds(n: int) -> Iterator[int]:
    one = os.environ.get("DPSUP_SEED")
    yield from [int(one)] if one else range(n)


@pytest.fixture(autouse=True)
def drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which drivers are installed takes a tenth of a second to read, and stays as it is."""
    monkeypatch.setattr(machine, "read_pmds", functools.cache(machine.read_pmds))


def check_all(n: int, folder: Path) -> dict[int, int]:
    """How often each exit code came."""
    known, found = examples(), dict.fromkeys(CODES, 0)
    file = folder / "t.toml"
    for seed in seeds(n):
        chance = random.Random(seed)
        file.write_text(spoiled(chance.choice(known), chance), encoding="utf-8")
        words = ["check", str(file), *(["-o", "json"] if chance.random() < 0.5 else [])]
        begun = time.monotonic()
        faulthandler.dump_traceback_later(6 * SOON, exit=True)
        done = CliRunner().invoke(cli, words)
        faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - begun < SOON, f"DPSUP_SEED={seed} took too long"
        error = done.exception
        # What `main` shows as an error for people; all else would be a traceback.
        code = int(error.exit_code) if isinstance(error, DpsupError) else done.exit_code
        if not isinstance(error, DpsupError | SystemExit | None):
            raise AssertionError(f"DPSUP_SEED={seed}: {error!r}") from error
        assert code in CODES, f"DPSUP_SEED={seed}: exit code {code}"
        if "json" in words:
            assert json.loads(done.stdout)["ok"] == (code == 0), f"DPSUP_SEED={seed}"
        elif code:
            assert str(error).startswith(("error[", "warning[")), f"DPSUP_SEED={seed}: {error}"
        found[code] += 1
    return found


def test_mutated_topologies_are_judged_without_a_traceback(tmp_path: Path) -> None:
    some_are_sound(check_all(300, tmp_path), 300)


def some_are_sound(found: dict[int, int], n: int) -> None:
    """Some are sound all the same, most are not: the changes are neither too tame nor too wild."""
    if "DPSUP_SEED" not in os.environ:
        assert n / 3 < found[78] < n


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_topologies(tmp_path: Path) -> None:
    some_are_sound(check_all(10_000, tmp_path), 10_000)
