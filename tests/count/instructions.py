#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Instructions per packet of the io core's and the worker's loops, counted by callgrind.

    python tests/count/instructions.py [--write] [--keep FOLDER]

Builds count.c with the product's flags, runs each of its cases under valgrind, and prints what
dpsup's own code executes for a packet beside baseline.json. --write makes these the baseline of
this compiler, DPDK and -march; the commit that moves it says why. --keep leaves callgrind's files:
`callgrind_annotate FOLDER/CASE.out` shows them by source line.

The counts are of dpsup's code alone, DPDK's inline functions in it included. What it calls in
libraries (drivers, the pool, memcpy) differs with their version; there the calls are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("baseline.json")
TURNS = 500
LOOPS = {"io": "io_turn", "worker": "loop_turn"}
TOLERANCE = 0.05
LEAST = 0.02  # a packet: less is a call or two a burst, and rounding
CALLERS = 16  # deeper than any stack below measure(): so each cost knows its loop

Figures = dict[str, float]


class Unable(Exception):
    """The counts cannot be had here; the text says what to do."""


@dataclass(frozen=True)
class Counted:
    """One case: what it was built with, and per packet the instructions and calls by loop."""

    toolchain: str
    figures: Figures


def tool(name: str, package: str) -> str:
    """The path of a tool; a venv's own come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        raise Unable(f"no {name}: {package}, or deploy/host-setup --tests")
    return found


def valgrind() -> str:
    return tool("valgrind", "apt-get install valgrind")


def call(*words: str, env: dict[str, str] | None = None) -> str:
    """What a command prints."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise Unable(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> Path:
    """The program count. As the product, but for the line numbers, which change no instruction."""
    valgrind()  # what is missing is said before the work begins
    meson = tool("meson", "pip install meson")
    env = {k: v for k, v in os.environ.items() if k not in ("CFLAGS", "CPPFLAGS", "LDFLAGS")}
    env["PATH"] = os.pathsep.join([str(Path(meson).parent), env.get("PATH", "")])
    call(meson, "setup", str(folder), str(ROOT), "-Ddebug=true", env=env)
    call(meson, "compile", "-C", str(folder), "count", env=env)
    return folder / "count"


def cases(program: Path) -> list[str]:
    return call(str(program)).split()


def march() -> str:
    """What DPDK tells its users to compile for."""
    pkg_config = tool("pkg-config", "apt-get install pkgconf")
    found = re.search(r"-march=(\S+)", call(pkg_config, "--cflags", "libdpdk"))
    return found[1] if found else "any"


def add_up(text: str, program: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Of a callgrind.out: by loop, the instructions of the program itself, and how often it calls
    out of it. Each function's name goes on with those of its callers."""
    instructions = dict.fromkeys(LOOPS, 0)
    calls = dict.fromkeys(LOOPS, 0)
    own = str(program)
    total = other = 0
    loop = ob = cob = ""
    is_callee = False
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "ob":
            ob = value
        elif key == "fn":
            callers = value.split("'")
            loop = next((name for name, top in LOOPS.items() if top in callers), "")
            if not loop and len(callers) >= CALLERS:
                raise Unable(f"more than {CALLERS} callers, nobody knows whose cost: {value}")
        elif key == "cob":
            cob = value
        elif key == "calls":
            if loop and ob == own and cob not in ("", own):
                calls[loop] += int(value.split()[0])
            cob = ""
            is_callee = True  # what the next line says is counted where the callee is
        elif line.startswith("summary:"):
            total = int(line.split()[1])
        elif line[:1].isdigit():
            cost = 0 if is_callee else int(line.split()[1])
            is_callee = False
            if loop and ob == own:
                instructions[loop] += cost
            else:
                other += cost
    if sum(instructions.values()) + other != total:
        raise Unable(f"callgrind's file does not add up to its own {total} instructions")
    return instructions, calls


def count(program: Path, case: str, folder: Path) -> Counted:
    """Run a case under callgrind."""
    out = folder / f"{case}.out"
    said = call(
        valgrind(),
        "--tool=callgrind",
        f"--callgrind-out-file={out}",
        "--toggle-collect=measure*",
        f"--separate-callers={CALLERS}",
        "--compress-strings=no",
        "--compress-pos=no",
        str(program),
        case,
        str(TURNS),
        env={"PATH": os.environ.get("PATH", ""), "LD_BIND_NOW": "1"},
    )
    facts = dict(line.split(" ", 1) for line in said.splitlines())
    packets = int(facts["packets"])
    instructions, calls = add_up(out.read_text(), program)
    figures = {loop: round(n / packets, 2) for loop, n in instructions.items()}
    figures |= {f"{loop} calls": round(n / packets, 2) for loop, n in calls.items()}
    return Counted(f"{facts['toolchain']} {march()}", figures)


def baseline(toolchain: str) -> dict[str, Figures]:
    """By case; empty where none was recorded."""
    known: dict[str, dict[str, Figures]] = json.loads(BASELINE.read_text())
    return known.get(toolchain, {})


def write(toolchain: str, now: dict[str, Figures]) -> None:
    known = json.loads(BASELINE.read_text())
    known[toolchain] = now
    BASELINE.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


def moved(was: float | None, now: float | None) -> bool:
    """Less is a change too: what was won must not be lost again unseen."""
    if was is None or now is None:
        return True
    return abs(now - was) > max(TOLERANCE * was, LEAST)


def table(before: dict[str, Figures], now: dict[str, Figures], only_moved: bool = False) -> str:
    """Lines of case, figure, baseline, now and change; "" if none is to be shown."""
    lines = []
    for case in now | before:
        was, is_ = before.get(case, {}), now.get(case, {})
        for name in is_ | was:
            a, b = was.get(name), is_.get(name)
            if only_moved and not moved(a, b):
                continue
            texts = ["-" if x is None else f"{x:.2f}" for x in (a, b)]
            change = f"{(b - a) / a:+.1%}" if a and b is not None else ""
            lines.append(f"{case:<16} {name:<14} {texts[0]:>9} {texts[1]:>9} {change:>8}")
    if not lines:
        return ""
    head = f"{'case':<16} {'per packet':<14} {'baseline':>9} {'now':>9} {'change':>8}"
    return "\n".join([head, *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions per packet, by callgrind.")
    parser.add_argument("--write", action="store_true", help="make these counts the baseline")
    parser.add_argument("--keep", type=Path, help="leave callgrind's files in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder = args.keep or Path(tmp)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            program = build(Path(tmp) / "build")
            counted = {case: count(program, case, folder) for case in cases(program)}
        except Unable as e:
            print(e, file=sys.stderr)
            return 1
    toolchain = next(iter(counted.values())).toolchain
    now = {case: c.figures for case, c in counted.items()}
    print(f"{toolchain}\n{table(baseline(toolchain), now)}")
    if args.write:
        write(toolchain, now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
